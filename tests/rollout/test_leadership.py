"""One controller leads; the others stand by, take over in time, and a deposed one writes nothing."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import pytest
from rollout.simulated_plane import Quality
from rollout.simulated_registry import LEASE_S, MODEL, FakeClock, FakeRegistry, Fuse
from rollout.simulator import World

from kfm_mlflow.errors import ConflictError, StorageError
from kfm_mlflow.rollout.leadership import Leadership, name_process
from kfm_mlflow.rollout.state import Phase

BAD = Quality(error_ratio=0.5)


def two_controllers(**facts):
    """Return a world under way, its leader and a second controller that stands by."""
    world = World(production=1, canary=2, **facts)
    world.tick()
    return world, world.controller, world.start_controller()


def everything(world):
    """Return all that a controller can change."""
    plane = world.plane
    return (world.registry._journal, world.registry.held, plane.split, set(plane.up))


def test_of_two_controllers_one_acts_and_the_other_touches_nothing():
    world, leader, other = two_controllers()
    calls = []
    for _ in range(8):
        world.plane.send(100)
        before, asked = everything(world), len(world.fuse.calls)
        assert other.reconcile_once() is None
        calls += world.fuse.calls[asked:]
        assert everything(world) == before
        assert leader.reconcile_once() is not None
        world.clock.sleep(1.0)
    # One question per pass, and no look at the plane.
    assert calls == ["hold_lease"] * 8
    assert world.violations == []


def test_a_leader_asks_for_its_lease_once_per_pass():
    world, leader, _ = two_controllers()
    asked = len(world.fuse.calls)
    for _ in range(3):
        leader.reconcile_once()
    assert world.fuse.calls[asked:].count("hold_lease") == 3


def test_standing_by_is_said_once_and_so_is_leading(caplog):
    caplog.set_level(logging.INFO, "kfm_mlflow.rollout.leadership")
    world, _, other = two_controllers()
    for _ in range(3):
        other.reconcile_once()
    (said,) = (record.message for record in caplog.records)
    assert said.startswith(f"rollout of {MODEL}: standing by; controller-1 leads until")
    world.clock.sleep(LEASE_S)
    other.reconcile_once()
    other.reconcile_once()
    assert [record.message for record in caplog.records[1:]] == [f"rollout of {MODEL}: leading"]


@pytest.mark.parametrize("quality", [Quality(), BAD], ids=["good", "bad"])
def test_the_other_takes_over_from_a_dead_leader_within_one_lease_to_the_same_end(quality):
    alone = World(production=1, canary=2)
    alone.plane.quality[2] = quality
    alone.run_to_rest()
    world, _, other = two_controllers()
    world.plane.quality[2] = quality
    died_at_s = world.clock.monotonic_s() - 1.0  # The tick ended with a second of sleep.
    world.controller = other
    while not world.led:
        world.tick(wait_s=0.25)
    world.clock.sleep(-0.25)
    assert world.clock.monotonic_s() - died_at_s <= LEASE_S
    world.run_to_rest()
    assert world.outcome == alone.outcome
    assert world.violations == []


def test_a_leader_that_stops_lets_the_other_go_on_at_once():
    world, leader, other = two_controllers()
    stops = iter([False, True])
    leader.run(lambda: next(stops), 0.0)
    assert world.registry.lease.holder == ""
    assert other.reconcile_once() is not None


# -- paused leaders --------------------------------------------------------------------------------


def paused_at(call, *, quality=BAD):
    """Pause a leader in the middle of a call of its pass, long enough for the other to finish."""
    world, leader, other = two_controllers()
    world.plane.quality[2] = quality
    seen = {}

    def pause():
        world.clock.sleep(2 * LEASE_S)
        world.plane.send(100)
        other.reconcile_once()
        seen["left"] = everything(world)

    world.plane.send(100)
    world.fuse.rival_in, world.fuse.rival, world.fuse.rival_at = call, pause, 0
    # Where it had read nothing yet, it finds that there is nothing to do.
    with suppress(ConflictError):
        leader.reconcile_once()
    assert world.fuse.rival is None
    return world, leader, seen["left"]


@pytest.mark.parametrize("call", ["load_journal", "levels", "orders", "observe", "save_journal"])
def test_a_leader_that_was_paused_changes_nothing_when_it_wakes_up(call):
    world, leader, left = paused_at(call)
    assert everything(world) == left
    assert leader.reconcile_once() is None
    assert everything(world) == left
    assert world.state.phase is Phase.ROLLED_BACK
    assert world.violations == []


def test_a_deposed_leader_does_not_touch_traffic_when_the_registry_goes_away():
    world, leader, other = two_controllers()
    world.clock.sleep(LEASE_S)
    other.reconcile_once()
    assert leader.reconcile_once() is None
    world.plane.quality[2] = BAD
    world.plane.send(100)
    world.registry.reachable = False
    before = world.plane.split
    with pytest.raises(StorageError):
        leader.reconcile_once()
    assert world.plane.split == before
    with pytest.raises(StorageError):
        other.reconcile_once()
    assert world.plane.split.canary is None


def test_a_leader_that_is_cut_off_leaves_traffic_alone_once_another_has_routed_it():
    """It last saw a canary; meanwhile the other promoted it, and its former stable is old."""
    world, leader, other = two_controllers()
    world.clock.sleep(LEASE_S)
    world.controller = other
    while world.plane.split.stable != 2:
        world.tick()
    routed = world.plane.split
    world.plane.quality[2] = BAD
    world.plane.send(500)
    world.registry.reachable = False
    with pytest.raises(StorageError):
        leader.reconcile_once()
    assert world.plane.split == routed


def test_a_leader_that_is_cut_off_leaves_a_restarted_cluster_to_who_has_the_journal():
    """Its split would have the very number that the journal gives to another one."""
    world, leader, other = two_controllers()
    world.clock.sleep(LEASE_S)
    world.controller = other
    while world.plane.split.stable != 2:
        world.tick()
    world.registry.reachable = False
    world.plane.restart()
    world.clock.sleep(3600)  # For long enough to give any step up.
    with pytest.raises(StorageError):
        leader.reconcile_once()
    assert world.plane.split.generation == 0
    world.registry.reachable = True
    world.run_to_rest()
    assert world.plane.split.stable == world.registry.held.production == 2


def test_a_registrys_clock_set_ahead_deposes_a_leader_before_its_next_act():
    world, leader, other = two_controllers()
    world.registry.jumped_s = 3600.0
    assert other.reconcile_once() is not None
    before = everything(world)
    assert leader.reconcile_once() is None
    assert everything(world) == before


# -- renewal ---------------------------------------------------------------------------------------


class Beats(FakeClock):
    """A clock on which a background thread wakes up when it is told to."""

    def __init__(self):
        super().__init__()
        self.beat, self.slept = threading.Semaphore(0), threading.Semaphore(0)

    def wait(self, event, at_most_s):  # noqa: ARG002, D102 - as the clock's protocol has it
        self.slept.release()
        self.beat.acquire()
        return event.is_set()


def test_a_pass_that_outlasts_the_lease_keeps_it():
    clock = Beats()
    registry = FakeRegistry(Fuse(), clock=clock)
    mine, other = (
        Leadership(registry, clock, MODEL, holder=name, lease_s=3.0) for name in ("mine", "other")
    )
    with mine.kept():
        clock.slept.acquire()
        assert mine.take()
        for _ in range(5):
            clock.sleep(1.0)
            clock.beat.release()
            clock.slept.acquire()
            mine.require()
            assert not other.take()
        clock.beat.release(2)
    assert other.take()
    with pytest.raises(ConflictError, match="ended in the middle of a pass"):
        mine.require()


def test_a_lease_that_the_registry_can_not_renew_ends_by_the_clock_that_nobody_sets():
    clock = FakeClock()
    registry = FakeRegistry(Fuse(), clock=clock)
    mine = Leadership(registry, clock, MODEL, holder="mine", lease_s=3.0)
    assert mine.take()
    registry.reachable = False
    clock.jump(86400)
    with pytest.raises(StorageError):
        mine.take()
    mine.require()
    clock.jump(-2 * 86400)
    clock.sleep(3.0)
    with pytest.raises(ConflictError):
        mine.require()


def test_a_process_has_a_name_of_its_own_each_time():
    names = {name_process() for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) <= 128 and name.isprintable() for name in names)
