"""Validation, metrics and canary: signed, fresh, by somebody else, and within limits."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from gates import made_evidence as made

from kfm_mlflow.trust.signing import SignatureReport

INF, NAN = math.inf, math.nan


def ask_validation(*reports, gate="validation", policy=None, **changes):
    return made.ask(gate, made.make_evidence(attestations=reports, **changes), policy)


@pytest.mark.parametrize(
    ("age_s", "verdict", "code"),
    [
        (0, "PASS", "VALIDATED"),
        (made.MAX_AGE_S, "PASS", "VALIDATED"),
        (made.MAX_AGE_S + 0.001, "FAIL", "VALIDATION_EXPIRED"),
        (10 * made.MAX_AGE_S, "FAIL", "VALIDATION_EXPIRED"),
    ],
)
def test_validation_may_be_exactly_as_old_as_allowed(age_s, verdict, code):
    report = made.make_validation(at=made.NOW - timedelta(seconds=age_s))
    assert ask_validation(report) == (verdict, [code])


def test_validation_of_no_known_time_is_expired():
    assert ask_validation(made.make_validation(issued_at=None)) == ("FAIL", ["VALIDATION_EXPIRED"])


@pytest.mark.parametrize(
    ("determinism", "passes"),
    [
        ({"identical": True}, True),
        ({"identical": False}, False),
        ({"identical": 1}, False),
        ({"identical": "true"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_inference_must_have_been_seen_to_be_deterministic(determinism, passes):
    report = made.make_validation(claims=made.validation_claims(determinism=determinism))
    expected = ("PASS", ["VALIDATED"]) if passes else ("FAIL", ["NOT_DETERMINISTIC"])
    assert ask_validation(report) == expected
    lenient = made.changed_policy(gates={"validation": {"require_deterministic": False}})
    assert ask_validation(report, policy=lenient)[0] == "PASS"


def test_the_signer_cannot_validate_its_own_release():
    policy = made.changed_policy(
        trust={"validators": [made.trusted("validator"), made.trusted("trainer")]}
    )
    report = made.make_validation(signed_by="trainer")
    assert ask_validation(report, policy=policy) == ("FAIL", ["SELF_VALIDATED"])


def test_the_signer_cannot_validate_under_a_second_name():
    twice = {**made.trusted("trainer"), "name": "validation-team"}
    policy = made.changed_policy(trust={"validators": [made.trusted("validator"), twice]})
    own = made.make_validation(signed_by="validation-team")
    assert ask_validation(own, policy=policy) == ("FAIL", ["SELF_VALIDATED"])
    assert ask_validation(made.make_validation(), policy=policy)[0] == "PASS"
    both = replace(own, signers=("validator", "validation-team"))
    assert ask_validation(both, policy=policy) == ("FAIL", ["SELF_VALIDATED"])


def test_validation_is_judged_without_a_signature_too():
    assert ask_validation(made.make_validation(), signature=None)[0] == "PASS"
    unsigned = SignatureReport(ok=False, signer=None, problems=("foreign",))
    assert ask_validation(made.make_validation(), signature=unsigned)[0] == "PASS"


def test_a_missing_and_a_broken_validation_are_told_apart():
    assert ask_validation() == ("INCONCLUSIVE", ["VALIDATION_MISSING"])
    unread = made.make_validation(ok=False, problems=("signed by a foreign key",))
    foreign = replace(unread, kind=None, statement=None, binding=None, claims=None)
    assert ask_validation(foreign) == ("FAIL", ["VALIDATION_INVALID"])
    expired = made.make_validation(ok=False, problems=("expired",))
    assert ask_validation(expired) == ("FAIL", ["VALIDATION_INVALID"])


def test_the_newest_good_validation_counts():
    old = made.make_validation(
        claims=made.validation_claims(metrics={"nrmse": 0.1, "nbias": 0.0}),
        at=made.NOW - timedelta(seconds=60),
    )
    new = made.make_validation(claims=made.validation_claims(metrics={"nrmse": 0.9, "nbias": 0.0}))
    broken = replace(new, ok=False, problems=("expired",))
    assert ask_validation(old, new, gate="metrics")[0] == "FAIL"
    assert ask_validation(new, old, gate="metrics")[0] == "FAIL"
    assert ask_validation(old, broken, gate="metrics")[0] == "PASS"


# nrmse at most 0.2; nbias from -0.02 to 0.02: inclusive.
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("nrmse", 0.2, "METRIC_WITHIN"),
        ("nrmse", math.nextafter(0.2, 1), "METRIC_OUTSIDE"),
        ("nrmse", 0, "METRIC_WITHIN"),
        ("nrmse", -5, "METRIC_WITHIN"),
        ("nbias", 0.02, "METRIC_WITHIN"),
        ("nbias", -0.02, "METRIC_WITHIN"),
        ("nbias", math.nextafter(0.02, 1), "METRIC_OUTSIDE"),
        ("nbias", math.nextafter(-0.02, -1), "METRIC_OUTSIDE"),
        ("nrmse", NAN, "METRIC_OUTSIDE"),
        ("nrmse", -INF, "METRIC_OUTSIDE"),
        ("nrmse", INF, "METRIC_OUTSIDE"),
        ("nrmse", "NaN", "METRIC_OUTSIDE"),
        ("nrmse", "-Infinity", "METRIC_OUTSIDE"),
        ("nrmse", "Infinity", "METRIC_OUTSIDE"),
        ("nrmse", "0.1", "METRIC_MISSING"),
        ("nrmse", "nan", "METRIC_MISSING"),
        ("nrmse", False, "METRIC_MISSING"),
        ("nbias", False, "METRIC_MISSING"),
        ("nrmse", None, "METRIC_MISSING"),
        ("nrmse", [0.1], "METRIC_MISSING"),
    ],
)
def test_a_metric_is_judged_on_both_sides_of_its_limit(name, value, code):
    measured = {"nrmse": 0.1, "nbias": 0.0}
    good = made.make_validation(claims=made.validation_claims(metrics=measured))
    # JSON holds no NaN; a report in memory could.
    claims = {**good.claims, "metrics": {**measured, name: value}}
    verdict, codes = ask_validation(replace(good, claims=claims), gate="metrics")
    expected = {"METRIC_WITHIN": "PASS", "METRIC_OUTSIDE": "FAIL", "METRIC_MISSING": "INCONCLUSIVE"}
    assert verdict == expected[code]
    assert codes == ([code, "METRIC_WITHIN"] if name == "nrmse" else ["METRIC_WITHIN", code])


def test_metrics_that_nobody_signed_are_missing():
    assert ask_validation(gate="metrics") == ("INCONCLUSIVE", ["VALIDATION_MISSING"])
    without = made.make_validation(claims={"determinism": {"identical": True}})
    assert ask_validation(without, gate="metrics") == ("INCONCLUSIVE", ["METRIC_MISSING"] * 2)


@pytest.mark.parametrize(
    ("claims", "verdict", "code"),
    [
        ({"verdict": "PASS", "epoch": made.EPOCH}, "PASS", "CANARY_PASSED"),
        ({"verdict": "FAIL", "epoch": made.EPOCH}, "FAIL", "CANARY_NOT_PASSED"),
        ({"verdict": "INCONCLUSIVE", "epoch": made.EPOCH}, "FAIL", "CANARY_NOT_PASSED"),
        ({"verdict": "pass", "epoch": made.EPOCH}, "FAIL", "CANARY_NOT_PASSED"),
        ({"verdict": True, "epoch": made.EPOCH}, "FAIL", "CANARY_NOT_PASSED"),
        ({"epoch": made.EPOCH}, "FAIL", "CANARY_NOT_PASSED"),
        ({"verdict": "PASS", "epoch": made.EPOCH - 1}, "FAIL", "CANARY_VERDICT_INVALID"),
        ({"verdict": "PASS"}, "FAIL", "CANARY_VERDICT_INVALID"),
        # A move of epoch 1 is not of epoch True.
        ({"verdict": "PASS", "epoch": True}, "FAIL", "CANARY_VERDICT_INVALID"),
        ({"verdict": "PASS", "epoch": "1"}, "FAIL", "CANARY_VERDICT_INVALID"),
    ],
)
def test_canary(claims, verdict, code):
    report = made.make_canary(made.base_policy(), claims=claims)
    found = ask_validation(report, gate="canary")
    assert found == (verdict, [code])


def test_a_canary_that_was_not_measured_is_missing():
    assert ask_validation(gate="canary") == ("INCONCLUSIVE", ["CANARY_VERDICT_MISSING"])


def test_a_later_failure_of_the_canary_outweighs_an_earlier_pass():
    policy = made.base_policy()
    passed = made.make_canary(policy, at=made.NOW - timedelta(seconds=9))
    failed = made.make_canary(policy, claims={"verdict": "FAIL", "epoch": made.EPOCH})
    assert ask_validation(passed, failed, gate="canary")[0] == "FAIL"
    assert ask_validation(failed, passed, gate="canary")[0] == "FAIL"
