"""Gates of one kind: each asks the validator's signed metrics for its own limits, and no others."""

from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.regression import find_regression
from kfm_mlflow.policy.models import LIMIT_GATES

OWN = LIMIT_GATES[1:]


def evidence_of(**metrics):
    claims = made.validation_claims()
    claims["metrics"] = {**claims["metrics"], **metrics}
    others = [r for r in made.make_evidence().attestations if r.kind != "validation"]
    return made.make_evidence(attestations=(*others, made.make_validation(claims=claims)))


@pytest.mark.parametrize("gate", OWN)
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.5, "METRIC_WITHIN"),
        (0.4999, "METRIC_OUTSIDE"),
        ("NaN", "METRIC_OUTSIDE"),
        ("-Infinity", "METRIC_OUTSIDE"),
        (True, "METRIC_MISSING"),
        (None, "METRIC_MISSING"),
    ],
)
def test_a_limit_is_inclusive_and_what_is_no_number_never_keeps_it(gate, value, code):
    verdict, codes = made.ask(gate, evidence_of(**{f"{gate}_of_it": value}))
    assert codes == [code]
    assert (verdict == "PASS") == (code == "METRIC_WITHIN")


@pytest.mark.parametrize("gate", OWN)
def test_one_broken_limit_fails_its_own_gate_and_no_other(gate):
    report = evaluate(evidence_of(**{f"{gate}_of_it": 0.0}), made.base_policy(), made.make_move())
    assert [result.gate for result in report.gates if str(result.verdict) != "PASS"] == [gate]


@pytest.mark.parametrize("gate", OWN)
def test_a_newer_validation_that_breaks_a_limit_is_a_regression(gate):
    evidence = evidence_of(**{f"{gate}_of_it": 0.0})
    found = find_regression(evidence, made.base_policy(), made.make_move(), read_before=())
    assert found is not None
    assert [(name, finding.code) for name, finding in found.findings] == [(gate, "METRIC_OUTSIDE")]


@pytest.mark.parametrize("gate", OWN)
def test_a_gate_that_only_warns_takes_nothing_down(gate):
    policy = made.changed_policy(gates={gate: {"mode": "warn"}})
    evidence = evidence_of(**{f"{gate}_of_it": 0.0})
    assert find_regression(evidence, policy, replace(made.make_move()), read_before=()) is None
