"""Copies that a router dropped are counted, and evidence of nothing."""

import pytest

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.rollout import AnalysisPolicy
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.counts import find_fault, minus, plus
from kfm_mlflow.rollout.plane import ArmCounts

POLICY = AnalysisPolicy.model_validate({"limits": {"error_ratio": 0.05}})


@pytest.mark.parametrize("dropped_count", [0, 1, 10**6])
def test_however_many_were_dropped_nothing_passes_without_samples(dropped_count):
    found, _ = analyse(
        POLICY,
        Memory(canary_seen=ArmCounts(), stable_seen=ArmCounts()),
        canary=ArmCounts(dropped_count=dropped_count),
        stable=ArmCounts(),
        has_stable=True,
        min_samples=20,
    )
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.metrics[0].sample_count == 0


def test_their_count_adds_up_may_exceed_the_requests_and_never_shrinks():
    two, five = ArmCounts(1, dropped_count=2), ArmCounts(1, dropped_count=5)
    assert (plus(two, five).dropped_count, minus(five, two).dropped_count) == (7, 3)
    assert find_fault(two, five) == ""
    assert find_fault(five, two) == "dropped_count shrank"
    assert find_fault(None, ArmCounts(dropped_count=-1)) == "dropped_count is not a count"
