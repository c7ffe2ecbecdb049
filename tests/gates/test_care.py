"""The CARE gate vetoes whatever a screening did not find free of conflict."""

from dataclasses import replace

import pytest
from gates import made_evidence as made
from pydantic import ValidationError

from kfm_mlflow.care.score import CARE_PARTS, FAIR_PARTS, score
from kfm_mlflow.care.screen import CareFinding, Check, Screening, Status
from kfm_mlflow.gates.care import care

EXPECTED = {
    Status.NO_KNOWN_CONFLICT: "PASS",
    Status.STALE: "INCONCLUSIVE",
    Status.NEEDS_AUTHORITY: "INCONCLUSIVE",
    Status.CONFLICT: "FAIL",
}


NAMES = [name for part in CARE_PARTS.values() for name in part if name != "telemetry-present"]


def screened(**bad):
    """Return a screening in which only the named checks say something."""
    checks = [
        bad.get(name.replace("-", "_"), Check(name, Status.NO_KNOWN_CONFLICT)) for name in NAMES
    ]
    return made.make_screening(*checks)


def one(status, *found):
    findings = tuple(CareFinding(status, text, "S-F01", observed="9", unit="km") for text in found)
    return Check("masking", status, findings, "do less")


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("found", [(), ("too fine", "also too fine")])
def test_only_no_known_conflict_passes(status, found):
    evidence = made.make_evidence(screening=screened(masking=one(status, *found)))
    verdict, codes = made.ask("care", evidence)
    assert verdict == EXPECTED[status]
    assert codes.count("CARE_MASKING") == max(len(found) * (EXPECTED[status] != "PASS"), 1)


def test_a_finding_keeps_its_rule_numbers_and_unit():
    evidence = made.make_evidence(screening=screened(masking=one(Status.CONFLICT, "too fine")))
    policy = made.base_policy()
    (finding,) = [f for f in care(evidence, policy, made.make_move()) if f.code == "CARE_MASKING"]
    assert (finding.observed, finding.unit, finding.remedy) == ("9", "km", "do less")
    assert finding.detail.startswith("S-F01: too fine")


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.NO_KNOWN_CONFLICT])
def test_one_bad_check_outweighs_any_number_of_good_ones(status):
    evidence = made.make_evidence(screening=screened(masking=one(status, "a")))
    assert made.ask("care", evidence)[0] == EXPECTED[status]


def test_care_below_its_floor_is_a_veto_whatever_the_score():
    policy = made.changed_policy(gates={"care": {"min_care_pct": 95, "min_score_pct": 50}})
    stale = Check("labels", Status.STALE)
    evidence = made.make_evidence(screening=screened(labels=stale))
    found = {f.code: f for f in care(evidence, policy, made.make_move())}
    assert found["FAIR_CARE_SCORE"].verdict == "PASS"
    assert found["CARE_BELOW_FLOOR"].verdict == "FAIL"
    assert "labels" in found["CARE_BELOW_FLOOR"].remedy


def test_a_score_below_its_limit_is_refused():
    policy = made.changed_policy(gates={"care": {"min_score_pct": 99}})
    verdict, codes = made.ask("care", made.make_evidence(screening=screened()), policy)
    assert (verdict, codes[-1]) == ("FAIL", "FAIR_CARE_SCORE")


@pytest.mark.parametrize("part", ["require_invariance", "require_training_rows"])
def test_measurements_that_the_policy_asks_for_and_nobody_signed_refuse(part):
    policy = made.changed_policy(gates={"care": {part: True}})
    assert made.ask("care", made.make_evidence(screening=screened()), policy)[0] == "INCONCLUSIVE"


def test_every_check_of_the_score_is_one_that_somebody_makes():
    held = {
        name: True for part in (FAIR_PARTS, CARE_PARTS) for names in part.values() for name in names
    }
    assert score(held).score_pct == pytest.approx(100)


def test_what_was_not_screened_does_not_pass():
    assert made.ask("care", made.make_evidence(screening=None)) == ("ERROR", ["CARE_UNSCREENED"])
    no_checks = Screening(Status.NO_KNOWN_CONFLICT, (), made.RELEASE_ID)
    assert made.ask("care", made.make_evidence(screening=no_checks))[0] == "INCONCLUSIVE"


def test_a_status_that_nobody_knows_is_an_error():
    screening = screened()
    said = Check("masking", "approved")  # type: ignore[arg-type]
    odd = replace(screening, checks=tuple(said if c.id == said.id else c for c in screening.checks))
    assert made.ask("care", made.make_evidence(screening=odd))[0] == "ERROR"


def test_a_text_that_cannot_be_screened_is_refused():
    content = made.with_problem(made.make_content(), "texts", "notes.txt: is not UTF-8")
    verdict, codes = made.ask("care", made.make_evidence(content=content))
    assert (verdict, codes[0]) == ("FAIL", "TEXT_UNREADABLE")


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_the_veto_cannot_be_switched_off(mode):
    with pytest.raises(ValidationError):
        made.changed_policy(gates={"care": {"mode": mode}})
