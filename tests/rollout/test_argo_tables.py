"""Argo Rollouts' truth tables beside ours: each row says what Argo does, what we do, and why.

Source: Argo Rollouts 1.9/1.10, ``utils/evaluate/evaluate.go``, ``analysis/analysis.go`` and
``rollout/analysis.go``. A row without ``deviates`` must agree; a row with it must differ.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from rollout.simulator import World, build_plan

from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.policy.rollout import AnalysisPolicy
from kfm_mlflow.rollout.actions import SetSplit
from kfm_mlflow.rollout.analysis import Analysis, Memory, MetricAnalysis, analyse
from kfm_mlflow.rollout.inputs import Levels, Orders, StepInputs
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import AskedSplit, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.step import step

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR = "Successful", "Failed", "Inconclusive", "Error"
OURS = {
    Verdict.PASS: SUCCESSFUL,
    Verdict.FAIL: FAILED,
    Verdict.INCONCLUSIVE: INCONCLUSIVE,
    Verdict.ERROR: ERROR,
}
LIMIT = AnalysisPolicy.model_validate({"limits": {"error_ratio": 0.05}})
COMPARE = AnalysisPolicy.model_validate({"compare": ["error_ratio"]})
LATENCY = AnalysisPolicy.model_validate({"limits": {"p95_latency_ms": 100}})
MARKED = Memory(canary_seen=ArmCounts(), stable_seen=ArmCounts())
STABLE = ArmCounts(request_count=900, error_count=9)


@dataclass(frozen=True)
class Row:
    """One line of a table; ``deviates`` says why we differ."""

    argo: str
    ours: str
    deviates: str = ""


def holds(row, found):
    assert found == row.ours
    assert (row.argo != row.ours) == bool(row.deviates), "a deviation is marked, and only that"


def outcome(policy, canary, stable=STABLE, memory=MARKED):
    found, _ = analyse(
        policy, memory, canary=canary, stable=stable, has_stable=True, min_samples=100
    )
    return OURS[found.verdict]


def counted(requests, errors=0):
    return ArmCounts(request_count=requests, error_count=errors)


# One measurement. Ours always have both conditions: failure (limit exceeded, test rejects) and
# success (enough samples, and no failure).
@pytest.mark.parametrize(
    ("policy", "canary", "row"),
    [
        (LIMIT, counted(100, 6), Row(FAILED, FAILED)),
        (LIMIT, counted(100, 5), Row(SUCCESSFUL, SUCCESSFUL)),
        (COMPARE, counted(100, 60), Row(FAILED, FAILED)),
        (COMPARE, counted(100, 1), Row(SUCCESSFUL, SUCCESSFUL)),
        (LIMIT, counted(99), Row(INCONCLUSIVE, INCONCLUSIVE)),
        (COMPARE, counted(99), Row(INCONCLUSIVE, INCONCLUSIVE)),
        (LIMIT, counted(50, 60), Row(ERROR, ERROR)),
        (
            LIMIT,
            counted(math.nan),
            Row(INCONCLUSIVE, ERROR, "NaN is a broken measurement, not too little evidence"),
        ),
        (
            LIMIT,
            counted(0),
            Row(ERROR, INCONCLUSIVE, "no traffic is no evidence; the measurement is sound"),
        ),
    ],
    ids=[
        "both: failure true",
        "both: success true",
        "both: failure true, sequential",
        "both: success true, sequential",
        "both: neither",
        "both: neither, sequential",
        "evaluation error",
        "NaN with both conditions",
        "nil or empty",
    ],
)
def test_measurement(policy, canary, row):
    holds(row, outcome(policy, canary))


def test_measurement_of_a_success_condition_alone_needs_samples_to_be_false_or_true():
    # Argo, success condition alone: true -> Successful, false -> Failed, at any number of samples.
    holds(Row(SUCCESSFUL, INCONCLUSIVE, "minSamples"), outcome(LIMIT, counted(1)))
    holds(Row(FAILED, INCONCLUSIVE, "minSamples"), outcome(LIMIT, counted(3, 1)))
    holds(Row(FAILED, FAILED), outcome(LIMIT, counted(50, 6)))


def test_measurement_of_a_failure_condition_alone_does_not_succeed_without_evidence():
    # Argo, failure condition alone: true -> Failed, false -> Successful.
    holds(Row(FAILED, FAILED), outcome(COMPARE, counted(20, 20)))
    holds(Row(SUCCESSFUL, INCONCLUSIVE, "minSamples"), outcome(COMPARE, counted(20)))


def test_measurement_without_any_condition_is_refused_where_argo_succeeds():
    with pytest.raises(ValidationError, match="nothing measured can never pass"):
        AnalysisPolicy.model_validate({})


def test_answers_of_which_none_has_a_time_do_not_pass_a_latency_limit():
    assert outcome(LATENCY, counted(500)) == INCONCLUSIVE


# One metric over many measurements: a list of looks, each ok, bad, broken or empty.
LOOKS = {"ok": (100, 0), "bad": (50, 40), "empty": (0, 0)}


def over_looks(looks):
    """Return the verdict of the first failure, or of the last look."""
    memory, requests, errors = MARKED, 0, 0
    found = None
    for look in looks:
        if look == "broken":
            canary = counted(math.nan)
        else:
            requests, errors = requests + LOOKS[look][0], errors + LOOKS[look][1]
            canary = counted(requests, errors)
        found, memory = analyse(
            LIMIT, memory, canary=canary, stable=STABLE, has_stable=True, min_samples=100
        )
        if found.verdict is Verdict.FAIL:
            break
    return OURS[found.verdict]


@pytest.mark.parametrize(
    ("looks", "row"),
    [
        (["ok", "ok"], Row(SUCCESSFUL, SUCCESSFUL)),
        (["ok", "bad"], Row(FAILED, FAILED)),
        (["empty"], Row(INCONCLUSIVE, INCONCLUSIVE)),
        (["ok", *["broken"] * 5], Row(ERROR, ERROR)),
        (
            ["ok", *["broken"] * 4],
            Row(SUCCESSFUL, ERROR, "consecutiveErrorLimit 4 forgives; here nothing passes blind"),
        ),
        (["broken", "ok"], Row(SUCCESSFUL, SUCCESSFUL)),
        ([*["broken"] * 3, "bad"], Row(FAILED, FAILED)),
        (
            [],
            Row(SUCCESSFUL, INCONCLUSIVE, "trap 1: terminated before the first measurement"),
        ),
        (
            ["broken"],
            Row(SUCCESSFUL, ERROR, "trap 2: a run of errors alone, reported Successful (#4479)"),
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_metric(looks, row):
    holds(row, over_looks(looks) if looks else outcome(LIMIT, None))


# A run is the worst of its metrics; Running and Pending are our INCONCLUSIVE.
ORDER = [SUCCESSFUL, INCONCLUSIVE, ERROR, FAILED]


@pytest.mark.parametrize("left", list(Verdict))
@pytest.mark.parametrize("right", list(Verdict))
def test_run_is_the_worst_of_its_metrics_in_argos_order(left, right):
    expected = max(OURS[left], OURS[right], key=ORDER.index)
    assert OURS[worst([left, right])] == expected


def test_run_without_metrics_does_not_succeed():
    assert worst([]) is not Verdict.PASS


# What a run does to the rollout.
GOES_ON, ABORTS, PAUSES = "goes on", "aborts", "pauses"
PLAN = build_plan()


def look(verdict, seconds, phase=Phase.CANARY):
    metric = MetricAnalysis("error_ratio", "compare", verdict, reason="because")
    state = RolloutState(
        "m", phase, NOW, NOW, candidate=2, stable=1, step_index=1, plan_digest=PLAN.digest,
        split=AskedSplit(1, 2, 0.1, 5), verified=(1, 2), published=True,
    )  # fmt: skip
    facts = StepInputs(Levels(1, 2, 9), frozenset({1, 2}), 5, Analysis(verdict, (metric,), 0.05))
    return step(PLAN, state, facts, NOW + timedelta(seconds=seconds))


def effect(verdict, seconds):
    state, actions = look(verdict, seconds)
    if state.phase is Phase.ABORTING:
        assert actions[0] == SetSplit(1, None, 0.0, 6)
        return ABORTS
    return GOES_ON if state.step_index == 2 else PAUSES


@pytest.mark.parametrize(
    ("verdict", "seconds", "row"),
    [
        (Verdict.PASS, 1, Row(GOES_ON, GOES_ON)),
        (Verdict.FAIL, 1, Row(ABORTS, ABORTS)),
        (Verdict.INCONCLUSIVE, 1, Row(PAUSES, PAUSES)),
        (Verdict.INCONCLUSIVE, 30, Row(PAUSES, ABORTS, "a wait has a deadline")),
        (
            Verdict.ERROR,
            1,
            Row(ABORTS, PAUSES, "a gap in the telemetry has its own, longer deadline"),
        ),
        (Verdict.ERROR, 30, Row(ABORTS, ABORTS)),
    ],
)
def test_effect_of_a_run_on_the_rollout(verdict, seconds, row):
    holds(row, effect(verdict, seconds))


def test_progress_deadline_aborts_where_argos_default_only_tells():
    # progressDeadlineAbort is false in Argo.
    world = World(production=1, canary=2)
    world.plane.unready.add(2)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.NOT_READY)


def test_aborted_rollout_moves_the_registry_back_where_argos_spec_still_says_new():
    world = World(production=1, canary=2)
    world.run(2)
    world.registry.give_order("abort")
    world.run_to_rest()
    assert (world.registry.held.production, world.registry.held.canary) == (1, None)
    assert world.plane.split.stable == 1


def test_initial_deploy_runs_its_steps_and_analysis_where_argo_skips_both():
    world = World(production=None, canary=1)
    world.run_to_rest()
    assert (None, 1, 0.1) in world.plane.moves
    assert [verdict["verdict"] for verdict in world.registry.verdicts] == ["PASS"]


def test_rollback_replays_no_steps_as_argo_within_its_rollback_window():
    world = World(production=1, canary=2, plan=build_plan(postPromotionWatch_s=20))
    while world.plane.split.stable != 2:
        world.tick()
    world.registry.give_order("abort")
    world.run_to_rest()
    assert world.plane.moves[-2:] == [(2, None, 0.0), (1, None, 0.0)]


def test_hot_fix_replaces_the_canary_and_the_target_stays_the_last_stable_as_in_argo():
    world = World(production=13, canary=14)
    world.run(2)
    world.registry.set_levels(production=13, canary=15)
    world.tick()
    assert (world.state.candidate, world.state.stable) == (15, 13)


def test_defaults_that_are_argos_own():
    fields = type(PLAN).model_fields
    assert fields["scale_down_delay_s"].default == 30
    orders = Orders()
    assert (orders.operator, orders.order_id) == (None, 0)
