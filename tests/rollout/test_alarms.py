"""Alarms that answers raise: one too many gives a release up, before and after promotion."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rollout.simulated_plane import Quality
from rollout.simulator import PLAN, World, build_plan

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.rollout import AnalysisPolicy, lint_rollout
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.counts import find_fault
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import Phase, Trigger

ALARMS = {"narrative-safety": Trigger.NARRATIVE, "fusion-collapse": Trigger.FUSION}


def policy_of(**alarms):
    named = {name.replace("_", "-"): limit for name, limit in alarms.items()}
    return AnalysisPolicy.model_validate({"limits": {"error_ratio": 0.5}, "alarms": named})


def judged(policy, request_count, **alarm_count):
    counts = {name.replace("_", "-"): count for name, count in alarm_count.items()}
    canary = ArmCounts(
        request_count=request_count, alarm_count=counts, latency_ms_buckets={1e3: request_count}
    )
    memory = Memory(canary_seen=ArmCounts())
    return analyse(policy, memory, canary=canary, stable=None, has_stable=False, min_samples=100)[0]


@pytest.mark.parametrize(
    ("limit", "request_count", "count", "verdict"),
    [
        ({"maxCount": 0}, 100, 0, Verdict.PASS),
        ({"maxCount": 0}, 99, 0, Verdict.INCONCLUSIVE),
        ({"maxCount": 0}, 1, 1, Verdict.FAIL),
        ({"maxCount": 0}, 500, 1, Verdict.FAIL),
        ({"maxCount": 3}, 500, 3, Verdict.PASS),
        ({"maxCount": 3}, 50, 3, Verdict.INCONCLUSIVE),
        ({"maxCount": 3}, 50, 4, Verdict.FAIL),
        ({"maxCount": 0, "mode": "audit"}, 500, 9, None),
    ],
)
def test_a_limit_is_kept_or_not_whatever_else_is_seen(limit, request_count, count, verdict):
    analysis = judged(policy_of(narrative_safety=limit), request_count, narrative_safety=count)
    metric = next(metric for metric in analysis.metrics if metric.kind == "alarm")
    assert (metric.name, metric.verdict, metric.value) == ("narrative-safety", verdict, count)
    assert analysis.alarm == ("narrative-safety" if verdict is Verdict.FAIL else "")


def test_an_alarm_without_a_limit_decides_nothing():
    analysis = judged(policy_of(narrative_safety={}), 500, fusion_collapse=9)
    assert analysis.verdict is Verdict.PASS


@given(st.integers(1, 300), st.integers(0, 299), st.integers(0, 5))
def test_one_alarm_more_never_makes_a_verdict_better(request_count, count, most):
    policy = policy_of(fusion_collapse={"maxCount": most})
    count = min(count, request_count - 1)
    order = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL]
    before = judged(policy, request_count, fusion_collapse=count)
    after = judged(policy, request_count, fusion_collapse=count + 1)
    assert order.index(after.verdict) >= order.index(before.verdict)


@pytest.mark.parametrize("name", ALARMS)
@pytest.mark.parametrize("when", ["before promotion", "after promotion"])
def test_an_alarm_gives_a_candidate_up_by_its_own_name(name, when):
    plan = build_plan(
        analysis={**PLAN["analysis"], "alarms": {name: {"maxCount": 0}}}, postPromotionWatch_s=20
    )
    world = World(production=1, canary=2, plan=plan)
    is_late = when == "after promotion"
    world.plane.quality[2] = (
        Quality(full_alarm=name) if is_late else Quality(alarm_ratio={name: 0.2})
    )
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, ALARMS[name])
    assert f"{name}: " in state.reason
    assert ((2, "production") in world.registry.history) == is_late
    assert (world.registry.held.production, world.plane.split.stable) == (1, 1)
    assert world.registry.reports[2]["rollback_report.json"]["trigger"] == name
    assert world.violations == []


def test_a_candidate_without_alarms_is_promoted_and_one_in_audit_is_only_told_of():
    alarms = {"narrative-safety": {"maxCount": 0, "mode": "audit"}, "fusion-collapse": {}}
    plan = build_plan(analysis={**PLAN["analysis"], "alarms": alarms}, postPromotionWatch_s=20)
    world = World(production=1, canary=2, plan=plan)
    world.plane.quality[2] = Quality(alarm_ratio={"narrative-safety": 0.5})
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert any("narrative-safety.mode is audit" in note for note in lint_rollout(plan))


@pytest.mark.parametrize(
    "alarms",
    [{"whatever": {}}, {"narrative-safety": {"maxCount": -1}}, {"fusion-collapse": {"x": 1}}],
)
def test_alarms_that_nobody_raises_and_limits_that_are_none_are_refused(alarms):
    with pytest.raises(ValidationError):
        AnalysisPolicy.model_validate({"limits": {"error_ratio": 0.5}, "alarms": alarms})


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"alarm_count": {"narrative-safety": 2}}, "shrank"),
        ({"alarm_count": {"narrative-safety": 11}}, "more answers than there were requests"),
        ({"signal_count": {"attention_entropy": 11}}, "more answers than there were requests"),
        ({"signal_ppm": {"attention_entropy": 0.5}}, "not a count"),
        ({"signal_ppm": {"attention_entropy": 5}}, "shrank"),
    ],
)
def test_counts_of_alarms_and_signals_that_can_not_be_true_are_faults(changed, fault):
    seen = ArmCounts(
        request_count=10,
        alarm_count={"narrative-safety": 3},
        signal_count={"attention_entropy": 4},
        signal_ppm={"attention_entropy": 9},
    )
    assert find_fault(seen, seen) == ""
    assert fault in find_fault(seen, replace(seen, **changed))
