"""A gap in what is measured, end to end: the real controller on fakes that keep the real promises."""

import pytest
from rollout.simulator import World, build_plan

from kfm_mlflow.errors import PlaneError
from kfm_mlflow.rollout.state import Phase, Trigger


def silence(world):
    """Let the routers stop telling what they counted; they still take splits."""

    def observe():
        raise PlaneError("the routers did not answer 'counts'")

    world.controller._plane.observe = observe


def begin(**changes):
    """Return a world whose plan gives up after ten blind seconds, before any deadline."""
    return World(production=1, canary=2, plan=build_plan(telemetryGap_s=10, **changes))


def until_canary(world):
    for _ in range(20):
        world.tick(request_count=0)
        if world.state.phase is Phase.CANARY and world.plane.split.canary == 2:
            return
    pytest.fail("the canary got no traffic")


@pytest.mark.parametrize("requests", [0, 100])
def test_a_canary_is_given_up_when_the_plane_stops_answering(requests):
    world = begin()
    until_canary(world)
    if requests:
        world.plane.send(requests)
    silence(world)
    for _ in range(20):
        world.tick(request_count=requests)
        if world.state.phase is Phase.ROLLED_BACK:
            break
    assert (world.state.phase, world.state.trigger) == (Phase.ROLLED_BACK, Trigger.TELEMETRY)
    assert "the plane says nothing" in world.state.reason
    assert (world.plane.split.stable, world.plane.split.canary) == (1, None)
    assert (world.registry.held.production, world.registry.held.canary) == (1, None)
    report = world.registry.reports[2]["rollback_report.json"]
    assert report["trigger"] == "telemetry-gap"
    assert world.violations == []
    assert world.plane.unanswered == 0


def test_a_canary_is_given_up_when_its_counters_are_gone():
    world = begin()
    until_canary(world)
    world.tick(request_count=50)
    world.plane.lies[2] = "vanish"
    for _ in range(20):
        world.tick(request_count=10)
        if world.state.phase is Phase.ROLLED_BACK:
            break
    assert (world.state.phase, world.state.trigger) == (Phase.ROLLED_BACK, Trigger.TELEMETRY)
    assert "vanished" in world.state.reason
    assert world.registry.held.canary is None


def test_a_short_silence_gives_nobody_up_and_passes_nobody():
    world = begin()
    until_canary(world)
    observe = world.controller._plane.observe
    silence(world)
    for _ in range(5):
        world.tick(request_count=100)
        assert world.state.phase is Phase.CANARY
    assert world.state.blind_since is not None
    world.controller._plane.observe = observe
    state = world.run_to_rest()
    assert (state.phase, world.registry.held.production) == (Phase.SUCCEEDED, 2)


def test_production_that_is_watched_is_taken_back_when_nothing_is_measured():
    world = begin(postPromotionWatch_s=60)
    for _ in range(60):
        world.tick()
        if world.state.phase is Phase.SOAKING:
            break
    assert world.registry.held.production == 2
    silence(world)
    for _ in range(80):
        world.tick()
        if world.state.phase is Phase.ROLLED_BACK:
            break
    assert (world.state.phase, world.state.trigger) == (Phase.ROLLED_BACK, Trigger.TELEMETRY)
    assert (world.plane.split.stable, world.registry.held.production) == (1, 1)


def test_a_silent_plane_at_rest_changes_nothing():
    world = World(production=1)
    world.run(3)
    before, moves = world.state, list(world.plane.moves)
    silence(world)
    world.run(5)
    assert world.plane.moves == moves
    assert world.state.phase is before.phase
