"""The CARE gate vetoes whatever a screening did not find free of conflict."""

from dataclasses import replace

import pytest
from gates import made_evidence as made
from pydantic import ValidationError

from kfm_mlflow.care.screen import Check, Screening, Status

EXPECTED = {
    Status.NO_KNOWN_CONFLICT: "PASS",
    Status.STALE: "INCONCLUSIVE",
    Status.NEEDS_AUTHORITY: "INCONCLUSIVE",
    Status.CONFLICT: "FAIL",
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("findings", [(), ("region a: too fine", "region b: too fine")])
def test_only_no_known_conflict_passes(status, findings):
    screening = made.make_screening(Check("masking", status, findings, "do less"))
    verdict, codes = made.ask("care", made.make_evidence(screening=screening))
    assert verdict == EXPECTED[status]
    assert set(codes) == {"CARE_MASKING"}


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.NO_KNOWN_CONFLICT])
def test_one_bad_check_outweighs_any_number_of_good_ones(status):
    good = tuple(Check(f"check-{i}", Status.NO_KNOWN_CONFLICT) for i in range(5))
    screening = made.make_screening(*good, Check("consent", status, ("a",)), *good)
    assert made.ask("care", made.make_evidence(screening=screening))[0] == EXPECTED[status]


def test_what_was_not_screened_does_not_pass():
    assert made.ask("care", made.make_evidence(screening=None)) == ("ERROR", ["CARE_UNSCREENED"])
    no_checks = Screening(Status.NO_KNOWN_CONFLICT, (), made.RELEASE_ID)
    assert made.ask("care", made.make_evidence(screening=no_checks))[0] == "INCONCLUSIVE"


def test_a_status_that_nobody_knows_is_an_error():
    screening = made.make_screening()
    odd = replace(screening, checks=(Check("masking", "approved"),))  # type: ignore[arg-type]
    assert made.ask("care", made.make_evidence(screening=odd))[0] == "ERROR"


def test_a_text_that_cannot_be_screened_is_refused():
    content = made.with_problem(made.make_content(), "texts", "notes.txt: is not UTF-8")
    verdict, codes = made.ask("care", made.make_evidence(content=content))
    assert (verdict, codes[0]) == ("FAIL", "TEXT_UNREADABLE")


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_the_veto_cannot_be_switched_off(mode):
    with pytest.raises(ValidationError):
        made.changed_policy(gates={"care": {"mode": mode}})
