"""Each way in which a candidate can be bad, through both kinds of plan, to its one end."""

import pytest
from rollout.simulated_plane import Quality
from rollout.simulator import PLAN, World, build_plan

from kfm_mlflow.rollout.state import Phase, Trigger

SAMPLES = {"analysis": {"minSamples": 20, "deadline_s": 30}}
PLANS = {
    "canary": PLAN["steps"],
    "shadow": [{"setMirrorRoute": {"percentage": 100}}, SAMPLES, *PLAN["steps"]],
}
KINDS = {
    "answers slowly": (Quality(latency_ms=4000), Trigger.ANALYSIS),
    "answers rubbish": (Quality(outside_ratio=0.9), Trigger.ANALYSIS),
    "answers with errors": (Quality(error_ratio=0.6), Trigger.ANALYSIS),
    "fails only at 100 %": (Quality(full_error_ratio=0.6), Trigger.ANALYSIS),
    "never becomes ready": (None, Trigger.NOT_READY),
    "has other bytes than were signed": (None, Trigger.INTEGRITY),
}


def world_of(kind, plan):
    world = World(
        production=1, canary=2, plan=build_plan(steps=PLANS[plan], postPromotionWatch_s=20)
    )
    quality, trigger = KINDS[kind]
    if quality is not None:
        world.plane.quality[2] = quality
    elif trigger is Trigger.NOT_READY:
        world.plane.unready.add(2)
    else:
        world.registry.corrupt.add(2)
    return world, trigger


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_bad_candidate_ends_with_stable_alone_in_registry_and_traffic(kind, plan):
    world, trigger = world_of(kind, plan)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, trigger)
    assert (world.registry.held.production, world.registry.held.canary) == (1, None)
    assert (world.plane.split.stable, world.plane.split.canary) == (1, None)
    assert set(world.plane.up) == {1}
    assert set(world.registry.reports) == {2}
    assert world.violations == []
    # Only what fails at 100 % alone gets so far.
    assert ((2, "production") in world.registry.history) == (kind == "fails only at 100 %")


@pytest.mark.parametrize("kind", ["answers slowly", "answers rubbish", "answers with errors"])
def test_what_copies_show_to_be_bad_never_answers_a_client(kind):
    world, _ = world_of(kind, "shadow")
    world.run_to_rest()
    assert {ratio for _, canary, ratio in world.plane.moves if canary == 2} == {0.0}
