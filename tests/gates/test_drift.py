"""The gate on drift: which claims of a validator count, and what they mean."""

import pytest
from gates import made_evidence as made

_PASS, _FAIL = ({"check": "distribution", "verdict": verdict} for verdict in ("PASS", "FAIL"))
_OPEN = {"check": "distribution", "verdict": "INCONCLUSIVE"}
_OTHER = f"sha256:{'7' * 64}"


def ask(policy=None, **changes):
    claims = made.validation_claims(drift=made.drift_claims(**changes))
    evidence = made.make_evidence(policy, attestations=(made.make_validation(claims=claims),))
    return made.ask("drift", evidence, policy)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("PASS", "DRIFT_NONE")),
        ({"verdict": "FAIL", "checks": [_FAIL]}, ("FAIL", "DRIFT_FOUND")),
        ({"verdict": "INCONCLUSIVE", "checks": [_OPEN]}, ("INCONCLUSIVE", "DRIFT_INCONCLUSIVE")),
        # A whole that is better than its parts, or has none, is not believed.
        ({"checks": [_PASS, _FAIL]}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"checks": [_PASS, _OPEN]}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"checks": []}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"checks": [{"check": "range", "verdict": "PASS"}]}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"checks": [_PASS, "x"]}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"checks": None}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"verdict": "FAIL", "checks": [_PASS]}, ("FAIL", "DRIFT_FOUND")),
        ({"verdict": None}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"verdict": ["PASS"]}, ("INCONCLUSIVE", "DRIFT_UNCLEAR")),
        ({"baseline_digest": _OTHER}, ("INCONCLUSIVE", "DRIFT_MISSING")),
        ({"baseline_digest": ""}, ("INCONCLUSIVE", "DRIFT_MISSING")),
        ({"plan": {"false_alarm_ratio": 1e-9}}, ("INCONCLUSIVE", "DRIFT_MISSING")),
    ],
)
def test_a_claim_counts_only_whole_and_for_this_baseline_and_plan(changes, expected):
    assert ask(**changes) == (expected[0], [expected[1]])


def test_a_policy_with_another_plan_asks_for_another_check():
    stricter = made.changed_policy(gates={"drift": {"plan": {"detect_distance": 0.2}}})
    assert ask(stricter) == ("INCONCLUSIVE", ["DRIFT_MISSING"])


def test_a_release_without_a_baseline_has_no_check():
    bare = made.make_manifest("MLmodel", "model.pt")
    verdict, codes = made.ask("drift", made.make_evidence(manifest=bare))
    assert (verdict, codes) == ("FAIL", ["VALIDATION_INVALID"])


def test_a_validation_that_is_silent_on_drift_is_no_evidence():
    claims = made.validation_claims()
    del claims["drift"]
    evidence = made.make_evidence(attestations=(made.make_validation(claims=claims),))
    assert made.ask("drift", evidence) == ("INCONCLUSIVE", ["DRIFT_MISSING"])
