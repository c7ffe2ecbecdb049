"""States and facts from which the tests of the step set out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rollout.simulator import build_plan

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.analysis import Analysis, MetricAnalysis
from kfm_mlflow.rollout.inputs import Levels, StepInputs
from kfm_mlflow.rollout.state import (
    AskedSplit,
    Phase,
    RolloutState,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANUAL = build_plan(promotion="manual")
PLAN_ = build_plan()
ANALYSIS, GATE, END = 1, 2, 3


def after(seconds):
    return NOW + timedelta(seconds=seconds)


def found(verdict):
    metric = MetricAnalysis("error_ratio", "compare", verdict, reason="because")
    return Analysis(verdict, (metric,), 0.05)


def in_canary(step_index=ANALYSIS, phase=Phase.CANARY, plan=PLAN_, **changes):
    state = RolloutState(
        model_name="m",
        phase=phase,
        entered_at=NOW,
        step_entered_at=NOW,
        candidate=2,
        stable=1,
        step_index=step_index,
        plan_digest=plan.digest,
        split=AskedSplit(1, 2, 0.1, 5),
        verified=(1, 2),
    )
    return replace(state, **changes)


FACTS = StepInputs(
    levels=Levels(1, 2, 9),
    deployed=frozenset({1, 2}),
    applied_generation=5,
    analysis=found(Verdict.INCONCLUSIVE),
)


def see(**changes):
    return replace(FACTS, **changes)
