"""What may no longer be served is taken off traffic and level within one pass, kept or killed."""

from dataclasses import replace

import pytest
from rollout.simulated_plane import Quality
from rollout.simulated_registry import MODEL, Fuse
from rollout.simulator import World
from rollout.step_cases import NOW, PLAN_

from kfm_mlflow.rollout.actions import Deploy, SetSplit
from kfm_mlflow.rollout.inputs import Levels, Regression, Standing, StepInputs
from kfm_mlflow.rollout.state import AskedSplit, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.step import step


def promoted(fuse=None):
    """Return a world in which v2 followed v1 to Production and all is at rest."""
    world = World(production=1, canary=2, **({} if fuse is None else {"fuse": fuse}))
    world.run_to_rest()
    assert world.state.phase is Phase.SUCCEEDED
    return world


def test_vetoed_canary_is_taken_back_and_the_conflict_is_written():
    world = World(production=1, canary=2)
    while world.plane.split.canary is None:
        world.tick()
    world.registry.recalls[2] = "region north: its authority vetoed"
    world.tick()
    assert (world.plane.split.stable, world.plane.split.canary) == (1, None)
    assert (world.registry.held.production, world.registry.held.canary) == (1, None)
    assert world.state.trigger is Trigger.VETO
    conflict = world.registry.reports[2]["sovereignty_conflict.json"]
    assert conflict["applicable"] is True
    assert "region north" in conflict["reason"]


def test_vetoed_canary_never_gets_traffic():
    world = World(production=1, canary=2)
    world.registry.recalls[2] = "vetoed"
    world.run_to_rest()
    assert all(canary is None for _, canary, _ in world.plane.moves)
    assert world.registry.held.canary is None


def test_production_at_rest_is_recalled_within_one_pass_for_a_version_that_may_be_served():
    world = promoted()
    world.registry.recalls[2] = "region north: consent withdrawn"
    world.tick()
    assert world.plane.split.stable == 1
    assert world.registry.held.production == 1
    report = world.registry.reports[2]["rollback_report.json"]
    assert (report["rolled_back_version"], report["restored_version"]) == (2, 1)
    world.run(3)
    assert (world.plane.split.stable, world.registry.held.production) == (1, 1)
    assert world.violations == []


def test_without_a_version_that_may_be_served_traffic_is_withheld_and_stays_so():
    world = promoted()
    world.registry.recalls.update({1: "consent withdrawn", 2: "its authority vetoed"})
    world.tick()
    assert (world.plane.split.stable, world.plane.split.canary) == (None, None)
    assert world.registry.held.production is None
    assert world.registry.reports[2]["rollback_report.json"]["restored_version"] is None
    world.run(3)
    assert world.plane.split.stable is None


def test_after_traffic_was_withheld_a_new_release_gets_through():
    world = promoted()
    world.registry.recalls.update({1: "vetoed", 2: "vetoed"})
    world.tick()
    world.registry.set_levels(production=None, canary=3)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert world.plane.split.stable == 3


def test_recalled_production_under_a_canary_ends_the_rollout_and_serves_the_fallback():
    world = promoted()
    world.registry.set_levels(production=2, canary=3)
    while world.plane.split.canary is None:
        world.tick()
    before = len(world.plane.moves)
    world.registry.recalls[2] = "region north: its authority vetoed"
    world.tick()
    assert world.plane.split.stable == 1
    assert all(2 not in (stable, canary) for stable, canary, _ in world.plane.moves[before:])
    assert world.registry.held.production == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_level_that_goes_after_a_failed_rollback_is_reported_anew(when):
    def tell(fuse):
        world = World(production=None, canary=2, fuse=fuse)
        while world.registry.held.production is None:
            world.tick()
        world.registry.vetoed.add(2)
        world.run(3)
        assert world.state.phase is Phase.ROLLBACK_FAILED
        assert world.registry.reports[2]["rollback_report.json"]["registry_restored_at"] is None
        begun = len(world.fuse.calls)
        world.registry.recalls[2] = "its authority vetoed"
        world.run(4)
        return world, begun

    undisturbed, begun = tell(Fuse())
    for index in range(begun, len(undisturbed.fuse.calls)):
        world, _ = tell(Fuse(at=index, when=when))
        assert world.registry.held.production is None
        assert world.registry.unreported == set(), undisturbed.fuse.calls[index]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fallback", [1, None])
def test_recall_killed_at_any_call_ends_the_same(fallback, when):
    def tell(fuse):
        world = World(production=2, fuse=fuse)
        world.registry.history.append((1, "production"))
        world.registry.recalls[2] = "vetoed"
        if fallback is None:
            world.registry.recalls[1] = "vetoed"
        world.run(4)
        return world

    undisturbed = tell(Fuse())
    for index in range(len(undisturbed.fuse.calls)):
        world = tell(Fuse(at=index, when=when))
        assert world.registry.held.production == fallback, undisturbed.fuse.calls[index]
        assert world.plane.split.stable == fallback
        assert 2 in world.registry.reports


# -- a rollback target, which holds no level yet ---------------------------------------------------


def rolling_back(*, former=(1,)):
    """Return a world whose v2 was found bad: v1 has its traffic, the registry refuses the move."""
    world = World(production=1, canary=2)
    world.run_to_rest()
    for version in reversed(former[1:]):
        world.registry.history.insert(0, (version, "production"))
    world.registry.unrestorable[1] = "STAC item is invalid"
    world.registry.regressions[2] = Regression("validation", "nrmse is 0.5", "sha256:aa")
    world.run(3)
    assert (world.plane.split.stable, world.registry.held.production) == (1, 2)
    return world


def test_recalled_rollback_target_loses_its_traffic_to_what_is_at_production():
    world = rolling_back()
    world.registry.recalls[1] = "region north: its authority vetoed"
    world.tick()
    assert (world.plane.split.stable, world.registry.held.production) == (2, 2)
    assert world.state.phase is Phase.ROLLBACK_FAILED
    assert "v1 does not come back: region north" in world.state.reason
    assert world.violations == []


def test_recalled_rollback_target_gives_way_to_another_former_version():
    world = rolling_back(former=(1, 8))
    world.registry.recalls[1] = "region north: its authority vetoed"
    world.run_to_rest()
    assert (world.plane.split.stable, world.registry.held.production) == (8, 8)
    report = world.registry.reports[2]["rollback_report.json"]
    assert (report["restored_version"], report["trigger"]) == (8, "validation")
    assert world.violations == []


def test_with_no_version_that_may_be_served_a_rollback_target_loses_its_traffic_to_nothing():
    world = rolling_back()
    world.registry.recalls.update({1: "vetoed", 2: "vetoed"})
    world.run_to_rest()
    assert (world.plane.split.stable, world.registry.held.production) == (None, None)
    assert world.violations == []


def test_watched_production_is_not_given_up_because_its_predecessor_may_not_be_served():
    world = World(production=1, canary=2)
    while world.registry.held.production == 1:
        world.tick()
    world.registry.recalls[1] = "region north: its authority vetoed"
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert world.registry.held.production == 2


def test_harm_after_the_predecessor_was_recalled_does_not_route_to_it():
    world = World(production=1, canary=2)
    while world.registry.held.production == 1:
        world.tick()
    world.registry.recalls[1] = "region north: its authority vetoed"
    before = len(world.plane.moves)
    world.plane.quality[2] = Quality(error_ratio=0.9)
    world.run(4)
    assert world.state.phase is Phase.ROLLBACK_FAILED
    assert 1 not in {stable for stable, _, _ in world.plane.moves[before:]}


def test_step_takes_traffic_off_what_may_not_be_served_and_asks_once():
    asked = AskedSplit(1, None, 0.0, 5)
    state = RolloutState(MODEL, Phase.IDLE, NOW, NOW, split=asked)
    seen = StepInputs(
        levels=Levels(production=2), applied_generation=5, standing=Standing({1: "vetoed"})
    )
    state, actions = step(PLAN_, state, seen, NOW)
    assert actions == (SetSplit(None, None, 0.0, 6, 0.0), Deploy(2))
    state, actions = step(PLAN_, state, replace(seen, applied_generation=6), NOW)
    assert actions == (Deploy(2),)
