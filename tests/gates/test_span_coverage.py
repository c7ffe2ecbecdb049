"""The telemetry gate on the way to Production: how many of the canary's answers have a span."""

import pytest
from gates import made_evidence as made

from kfm_mlflow.policy.levels import Level

POLICY = made.changed_policy(gates={"telemetry": {"min_span_ratio": 0.99}})


def ask(telemetry, policy=POLICY, move=None, epoch=made.EPOCH):
    claims = {"verdict": "PASS", "epoch": epoch, "sample_count": 400}
    if telemetry is not None:
        claims["telemetry"] = telemetry
    report = made.make_canary(policy, claims=claims)
    evidence = made.make_evidence(policy, attestations=(report,))
    return made.ask("telemetry", evidence, policy, move)


def spans(request_count, span_count):
    return {"request_count": request_count, "span_count": span_count}


@pytest.mark.parametrize(
    ("telemetry", "verdict", "code"),
    [
        (spans(100, 100), "PASS", "SPANS_COMPLETE"),
        (spans(100, 99), "PASS", "SPANS_COMPLETE"),
        (spans(1000, 989), "FAIL", "SPANS_INCOMPLETE"),
        (spans(100, 0), "FAIL", "SPANS_INCOMPLETE"),
        (spans(100, 101), "FAIL", "SPANS_INCOMPLETE"),
        (spans(0, 0), "INCONCLUSIVE", "SPANS_UNKNOWN"),
        ({"request_count": True, "span_count": True}, "INCONCLUSIVE", "SPANS_UNKNOWN"),
        (spans("100", 100), "INCONCLUSIVE", "SPANS_UNKNOWN"),
        (spans(100, -1), "INCONCLUSIVE", "SPANS_UNKNOWN"),
        ({"request_count": 100}, "INCONCLUSIVE", "SPANS_UNKNOWN"),
        ([100, 100], "INCONCLUSIVE", "SPANS_UNKNOWN"),
        (None, "INCONCLUSIVE", "SPANS_UNKNOWN"),
    ],
)
def test_a_canary_whose_answers_have_too_few_spans_is_refused(telemetry, verdict, code):
    assert ask(telemetry)[0] == verdict
    assert code in ask(telemetry)[1]


@pytest.mark.parametrize("epoch", [made.EPOCH - 1, None])
def test_a_verdict_of_an_earlier_epoch_says_nothing(epoch):
    assert ask(spans(100, 100), epoch=epoch)[0] == "INCONCLUSIVE"


def test_spans_are_asked_for_on_the_way_to_production_and_where_the_policy_says_so():
    below = made.make_move(from_level=Level.STAGING, to_level=Level.CANARY)
    assert ask(None, move=below)[0] == "PASS"
    assert ask(None, made.base_policy())[0] == "PASS"
