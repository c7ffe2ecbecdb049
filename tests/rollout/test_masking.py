"""Failed masking takes a candidate back at once, whatever else was counted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rollout.simulator import World, build_plan

from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.rollout.actions import Deploy, SetSplit
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.counts import find_fault, minus, plus
from kfm_mlflow.rollout.inputs import Levels, StepInputs
from kfm_mlflow.rollout.plane import ArmCounts, MaskingOrder
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.rollout.state import UNDER_ANALYSIS, AskedSplit, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.step import step

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLAN = build_plan()
GOOD = ArmCounts(500, latency_ms_buckets={100.0: 500}, masked_count=400, withheld_count=3)
BAD = replace(GOOD, mask_failure_count=1)


def judge(canary, memory=None):
    return analyse(
        PLAN.analysis,
        memory or Memory(canary_seen=GOOD, stable_seen=GOOD),
        canary=canary,
        stable=GOOD,
        has_stable=True,
        min_samples=10,
    )


@pytest.mark.parametrize(
    "canary",
    [BAD, ArmCounts(1, mask_failure_count=1), ArmCounts(0, error_count=9, mask_failure_count=2)],
    ids=["one of many", "the only one", "with counters that cannot be true"],
)
def test_one_failure_is_a_fail_before_anything_else_is_known(canary):
    found, memory = judge(canary, Memory())
    assert (found.verdict, found.is_unmasked) == (Verdict.FAIL, True)
    assert memory.canary_seen == canary


def test_masked_and_withheld_answers_are_no_errors():
    more = replace(GOOD, request_count=600, latency_ms_buckets={100.0: 600}, withheld_count=103)
    found, _ = judge(more)
    assert not found.is_unmasked
    assert found.verdict is not Verdict.FAIL


@pytest.mark.parametrize("phase", sorted(UNDER_ANALYSIS))
def test_in_every_phase_traffic_goes_back_with_trigger_sovereignty(phase):
    production = 2 if phase is Phase.SOAKING else 1
    state = RolloutState(
        "m",
        phase,
        NOW,
        NOW,
        candidate=2,
        stable=1,
        step_index=len(PLAN.steps) if phase is Phase.SOAKING else 1,
        plan_digest=PLAN.digest,
        split=AskedSplit(1, 2, 0.1, 5),
        verified=(1, 2),
        promoted=phase is Phase.SOAKING,
    )
    facts = StepInputs(
        levels=Levels(production, 2, 9),
        deployed=frozenset({1, 2}),
        applied_generation=5,
        analysis=judge(BAD)[0],
    )
    decided, actions = step(PLAN, state, facts, NOW + timedelta(seconds=1))
    assert (decided.trigger, decided.phase) == (Trigger.SOVEREIGNTY, Phase.ABORTING)
    assert decided.reason == "masking: masking failed in 1 of 500 requests"
    assert isinstance(actions[0], SetSplit)
    assert (actions[0].stable, actions[0].canary) == (1, None)


def fail_to_mask(world, version, count):
    """Have a version go wrong in masking; its other counters go on."""
    arm = world.plane._counts[version]
    world.plane.lie(version, replace(arm, mask_failure_count=count))


@pytest.mark.parametrize("ending", [None, "restart"])
def test_failure_of_production_at_rest_brings_its_former_version_back(ending):
    world = World(production=1, canary=2)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    if ending == "restart":
        world.controller = world.start_controller()
        world.clock.sleep(60)
    fail_to_mask(world, 2, 1)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.SOVEREIGNTY)
    assert state.reason.startswith("at rest, masking: masking failed in 1 of ")
    assert (world.registry.held.production, world.plane.split.stable) == (1, 1)
    conflict = world.registry.reports[2]["sovereignty_conflict.json"]
    assert [found["kind"] for found in conflict["conflicts"]] == ["masking"]
    assert conflict["masking"]["failure_count"] == 1
    assert world.violations == []


def test_failure_at_rest_takes_the_traffic_away_before_the_former_version_is_up():
    state = RolloutState(
        *("m", Phase.SUCCEEDED, NOW, NOW),
        candidate=2,
        stable=1,
        split=AskedSplit(2, None, 0.0, 5),
        promoted=True,
    )
    facts = StepInputs(
        levels=Levels(2, None, 9),
        deployed=frozenset({2}),
        applied_generation=5,
        analysis=judge(BAD)[0],
    )
    _, actions = step(PLAN, state, facts, NOW)
    assert [type(action) for action in actions] == [SetSplit, Deploy]
    assert (actions[0].stable, actions[1].version) == (None, 1)


@pytest.mark.parametrize(
    ("levels", "version"),
    [({"production": None, "canary": 1}, 1), ({"production": 1}, 1)],
    ids=["a first release that succeeded", "a production that no rollout brought"],
)
def test_failure_at_rest_without_a_former_version_recalls_nothing_and_is_said_once(levels, version):
    world = World(**levels)
    world.run_to_rest()
    fail_to_mask(world, version, 1)
    said = world.run_to_rest()
    assert "no former version is known to go back to" in said.reason
    assert said.trigger is None
    assert (world.registry.held.production, world.plane.split.stable) == (version, version)
    fail_to_mask(world, version, 7)
    assert world.run_to_rest() == said
    world.registry.set_levels(production=version, canary=version + 1)
    assert world.run_to_rest().phase is Phase.SUCCEEDED, "a repair may begin"
    assert world.registry.held.production == version + 1
    assert world.violations == []


def test_what_came_back_has_no_former_version_that_failed_before_it():
    world = World(production=1, canary=2)
    world.run_to_rest()
    fail_to_mask(world, 2, 1)
    world.run_to_rest()
    fail_to_mask(world, 1, 1)
    state = world.run_to_rest()
    assert world.registry.held.production == 1
    assert "no former version is known" in state.reason


@pytest.mark.parametrize("name", ["masked_count", "withheld_count", "mask_failure_count"])
def test_the_new_counters_are_added_subtracted_and_doubted_like_the_others(name):
    five, two = (ArmCounts(9, **{name: count}) for count in (5, 2))
    assert getattr(minus(five, two), name) == 3
    assert getattr(plus(five, two), name) == 7
    assert find_fault(five, two) == f"{name} shrank"
    assert find_fault(None, ArmCounts(4, **{name: 5})) == f"{name} is above request_count"
    assert find_fault(None, ArmCounts(4, **{name: -1})) == f"{name} is not a count"


def test_the_policys_regions_go_with_a_release_and_its_digest_stays(tmp_path):
    policy = load_policies(None).policy("climate")
    named = policy.model_copy(
        update={"regions_file": "/srv/regions.geojson", "regions_digest": "sha256:1"}
    )
    here, there = RemoteRegistry("http://server"), tmp_path / "regions.geojson"
    elsewhere = RemoteRegistry("http://server", regions_file=there)
    assert here._masking(policy) == MaskingOrder()
    assert here._masking(named).regions_file == Path("/srv/regions.geojson")
    assert elsewhere._masking(named) == MaskingOrder(there, "sha256:1")
    with pytest.raises(InputError, match="names no regions file"):
        elsewhere._masking(policy)
