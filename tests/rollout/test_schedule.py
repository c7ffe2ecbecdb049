"""Any order of failures and interventions ends with registry and traffic in agreement."""

from hypothesis import given, settings
from hypothesis import strategies as st
from rollout.simulated_plane import Quality
from rollout.simulated_registry import Fuse
from rollout.simulator import World

from kfm_mlflow.rollout.state import Phase, Trigger

DRIFTING = 3
QUALITIES = {
    DRIFTING: Quality(outside_ratio=0.9),
    5: Quality(error_ratio=1.0),
    6: Quality(latency_ms=4e3),
}
CORRUPT = 4
SOUND = {1, 2, 7}

events = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("kill"), st.tuples(st.integers(0, 12), st.sampled_from(["before", "after"]))),
    st.tuples(st.just("canary"), st.sampled_from([None, 2, 3, CORRUPT, 5, 6, 7])),
    st.tuples(st.just("order"), st.sampled_from(["pause", "resume", "abort", "promote"])),
    st.tuples(st.just("veto"), st.sampled_from([2, 3, 7])),
    st.tuples(st.just("admit"), st.booleans()),
    st.tuples(st.just("reachable"), st.booleans()),
    st.tuples(st.just("failures"), st.integers(1, 3)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 60)),
)


def happen(world, name, value):  # noqa: C901 - one branch per kind of event
    if name == "tick":
        for _ in range(value):
            world.tick()
    elif name == "kill":
        world.fuse.at, world.fuse.when = len(world.fuse.calls) + value[0], value[1]
    elif name == "canary":
        held = world.registry.held
        if value != held.production:
            world.registry.set_levels(production=held.production, canary=value)
    elif name == "order":
        world.registry.give_order(value)
    elif name == "veto":
        world.registry.vetoed.add(value)
    elif name == "admit":
        world.registry.admit = value
    elif name == "reachable":
        world.registry.reachable = value
    elif name == "failures":
        world.plane.failures = value
    elif name == "restart":
        world.plane.restart()
    elif name == "wait":
        world.clock.sleep(value)


@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(events, max_size=25), first=st.sampled_from([None, 1]))
def test_registry_and_traffic_agree_in_the_end_whatever_happened(schedule, first):
    world = World(production=first, canary=2, fuse=Fuse())
    world.plane.quality = QUALITIES
    world.registry.corrupt.add(CORRUPT)
    for name, value in schedule:
        happen(world, name, value)
        assert world.plane.split.canary != CORRUPT
    world.fuse.at, world.plane.failures = None, 0
    world.registry.reachable = world.registry.admit = True
    state = world.run_to_rest()
    assert world.violations == []
    if world.is_stuck:
        # Only a first release has nothing to go back to.
        assert (first, state.trigger) == (None, Trigger.VETO)
        assert world.plane.split.stable is None
        return
    assert state.phase in {Phase.IDLE, Phase.SUCCEEDED, Phase.ROLLED_BACK}
    held, split = world.registry.held, world.plane.split
    assert (split.stable, split.canary, split.canary_ratio) == (held.production, None, 0.0)
    assert held.canary is None
    # Drift is only known against a stable release: a first one can not be found to drift.
    assert held.production in {*SOUND, None, *([DRIFTING] if first is None else [])}
    assert set(world.plane.up) == {held.production} - {None}
