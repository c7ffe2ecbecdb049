"""The controller's loop on fakes that keep the real promises."""

import json

import pytest
from rollout.simulated_plane import Quality
from rollout.simulated_registry import Fuse
from rollout.simulator import World, build_plan

from kfm_mlflow.errors import ConflictError, StorageError
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import Phase, Trigger

BAD = Quality(outside_ratio=0.9)


def test_good_canary_goes_from_ten_percent_to_production():
    world = World(production=1, canary=2)
    state = world.run_to_rest()
    assert state.phase is Phase.SUCCEEDED
    assert (world.registry.held.production, world.registry.held.canary) == (2, None)
    assert world.plane.moves == [(1, None, 0.0), (1, 2, 0.1), (2, None, 0.0)]
    assert set(world.plane.up) == {2}
    assert [verdict["verdict"] for verdict in world.registry.verdicts] == ["PASS"]
    assert world.violations == []
    assert world.errors == []


def test_worse_canary_is_taken_back_traffic_first_then_registry_then_reports():
    world = World(production=1, canary=2)
    world.plane.quality[2] = BAD
    world.tick(request_count=0)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.ANALYSIS)
    assert (world.registry.held.production, world.registry.held.canary) == (1, None)
    assert world.plane.moves == [(1, None, 0.0), (1, 2, 0.1), (1, None, 0.0)]
    calls = world.fuse.calls
    traffic = len(calls) - calls[::-1].index("set_split")
    after = [calls.index(name) for name in ("move", "publish_verdict", "publish_reports")]
    assert [traffic, *after] == sorted([traffic, *after])
    assert [verdict["verdict"] for verdict in world.registry.verdicts] == ["FAIL"]
    report = world.registry.reports[2]["rollback_report.json"]
    assert (report["rolled_back_version"], report["restored_version"]) == (2, 1)
    assert report["detected_at"] <= report["traffic_restored_at"]
    assert report["traffic_restored_at"] <= report["registry_restored_at"]
    assert world.violations == []
    assert world.plane.unanswered == 0


def test_rollback_needs_no_more_than_the_pass_that_finds_the_harm():
    world = World(production=1, canary=2)
    world.plane.quality[2] = BAD
    while world.plane.split.canary is None:
        world.tick()
    while world.plane.split.canary is not None:
        world.tick()
    assert world.registry.held.canary is None
    assert 2 in world.registry.reports


def test_production_without_a_rollout_gets_all_traffic():
    world = World(production=4)
    world.run(2)
    assert world.plane.moves == [(4, None, 0.0)]
    assert world.state.phase is Phase.IDLE


def test_production_moved_by_a_person_is_followed_and_the_old_version_removed_late():
    world = World(production=1)
    world.run(2)
    world.registry.set_levels(production=7, canary=None)
    world.tick()
    assert world.plane.split.stable == 7
    assert set(world.plane.up) == {1, 7}
    world.run(4)
    assert set(world.plane.up) == {7}


def test_first_release_meets_traffic_without_a_stable_one():
    world = World(production=None, canary=1)
    state = world.run_to_rest()
    assert state.phase is Phase.SUCCEEDED
    assert world.plane.moves == [(None, 1, 0.1), (1, None, 0.0)]
    kinds = {metric["verdict"] for metric in world.registry.verdicts[0]["metrics"]}
    assert kinds == {"PASS", "NOT_APPLICABLE"}


def test_first_release_that_fails_leaves_no_traffic_and_no_level():
    world = World(production=None, canary=1)
    world.plane.quality[1] = Quality(error_ratio=0.5)
    state = world.run_to_rest()
    assert (state.phase, state.stable) == (Phase.ROLLED_BACK, None)
    assert world.plane.split.canary_ratio == 0
    assert (world.registry.held.production, world.registry.held.canary) == (None, None)
    assert world.registry.reports[1]["rollback_report.json"]["restored_version"] is None


def test_candidate_with_broken_bytes_never_gets_traffic():
    world = World(production=1, canary=2)
    world.registry.corrupt.add(2)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.INTEGRITY)
    assert all(canary is None for _, canary, _ in world.plane.moves)
    assert world.registry.held.canary is None


def test_canary_does_not_begin_when_the_rollback_target_is_broken():
    world = World(production=1)
    world.run(2)
    world.registry.corrupt.add(1)
    world.registry.set_levels(production=1, canary=2)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.NO_TARGET)
    assert all(canary is None for _, canary, _ in world.plane.moves)


def test_candidate_that_does_not_become_ready_is_given_up():
    world = World(production=1, canary=2)
    world.plane.unready.add(2)
    state = world.run_to_rest()
    assert state.trigger is Trigger.NOT_READY
    assert world.plane.split.stable == 1


def test_canary_without_traffic_is_given_up_at_the_deadline():
    world = World(production=1, canary=2)
    state = world.run_to_rest(request_count=0)
    assert state.trigger is Trigger.DEADLINE
    assert "0 of 20 samples" in state.reason
    assert world.registry.held == world.registry.held.__class__(1, None, world.registry.held.head)


def test_votes_that_never_come_end_the_canary_at_the_deadline():
    world = World(production=1, canary=2)
    world.registry.admit = False
    state = world.run_to_rest()
    assert state.trigger is Trigger.DEADLINE
    assert "votes 1 of 3" in state.reason
    assert world.registry.held.production == 1


def test_votes_that_come_late_let_the_canary_through():
    world = World(production=1, canary=2)
    world.registry.admit = False
    world.run(12)
    assert world.state.phase is Phase.AWAITING_ADMISSION
    world.registry.admit = True
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_harm_seen_while_waiting_for_votes_still_aborts():
    world = World(production=1, canary=2)
    world.registry.admit = False
    world.run(12)
    world.plane.quality[2] = BAD
    assert world.run_to_rest().trigger is Trigger.ANALYSIS


def test_harm_seen_after_promotion_restores_production_and_traffic():
    world = World(production=1, canary=2, plan=build_plan(postPromotionWatch_s=20))
    while not (world.plane.moves and world.plane.split.stable == 2):
        world.tick()
    world.plane.quality[2] = Quality(error_ratio=0.5)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.ANALYSIS)
    assert world.registry.held.production == 1
    assert world.plane.split.stable == 1
    assert world.registry.reports[2]["rollback_report.json"]["observations"]["was_promoted"]


def first_release_at_production(**changes):
    world = World(production=None, canary=1, plan=build_plan(postPromotionWatch_s=20), **changes)
    while world.plane.split.stable != 1:
        world.tick()
    return world


def test_first_release_that_turns_bad_at_production_has_nothing_to_go_back_to_and_says_so():
    """The registry lets Production go for a successor only, so traffic stays where it is."""
    world = first_release_at_production()
    world.plane.quality[1] = Quality(error_ratio=0.5)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLBACK_FAILED, Trigger.ANALYSIS)
    assert "there is nothing to go back to" in state.reason
    assert (world.registry.held.production, world.plane.split.stable) == (1, 1)
    assert world.registry.reports[1]["rollback_report.json"]["restored_version"] is None
    assert world.errors == []


def test_repair_of_a_first_release_that_turned_bad_gets_through():
    world = first_release_at_production()
    world.plane.quality[1] = Quality(error_ratio=0.5)
    world.run_to_rest()
    world.registry.set_levels(production=1, canary=2)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert (world.registry.held.production, world.plane.split.stable) == (2, 2)


def test_canary_that_comes_in_the_pass_in_which_production_is_found_bad_hides_nothing():
    world = first_release_at_production()
    world.plane.quality[1] = Quality(error_ratio=0.5)
    world.plane.unready.add(2)
    world.registry.set_levels(production=1, canary=2)
    world.run_to_rest()
    assert [v["verdict"] for v in world.registry.verdicts if v["version"] == 1][-1] == "FAIL"
    report = world.registry.reports[1]["rollback_report.json"]
    assert (report["trigger"], report["restored_version"]) == ("analysis", None)
    assert world.registry.reports[2]["rollback_report.json"]["trigger"] == "not-ready"


def test_first_release_that_may_not_be_served_loses_its_traffic_though_not_its_level():
    world = first_release_at_production()
    world.registry.vetoed.add(1)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLBACK_FAILED, Trigger.VETO)
    assert (world.registry.held.production, world.plane.split.stable) == (1, None)
    world.registry.set_levels(production=1, canary=2)
    world.run(5)
    assert world.plane.split.stable is None, "as the stable release it would have traffic again"
    world.registry.recalls[1] = "its authority vetoed"
    world.tick()
    assert world.registry.held.production is None


def test_person_who_moves_production_back_while_it_soaks_is_followed():
    world = World(production=1, canary=2, plan=build_plan(postPromotionWatch_s=20))
    while world.plane.split.stable != 2:
        world.tick()
    world.registry.set_levels(production=1, canary=None)
    state = world.run_to_rest()
    assert (state.phase, world.plane.split.stable) == (Phase.IDLE, 1)
    assert world.registry.reports == {}


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.SOAKING, Phase.SUCCEEDED])
def test_while_the_plane_is_away_the_journal_says_so_once_and_nothing_is_decided(phase):
    world = World(production=1, canary=2)
    while world.registry._journal is None or world.state.phase is not phase:
        world.tick()
    held, state = world.registry.held, world.state
    world.plane.restart()
    world.plane.reachable = False
    world.run(10)
    away = world.state
    assert (away.phase, away.trigger, world.registry.held) == (phase, None, held)
    assert "the cluster's head is away" in away.plane_problem
    assert away.generation == state.generation + 1, "it is written once"
    told = json.loads(world.registry._journal)[NARRATIVE_KEY]
    assert told["is_loud"] is True
    assert told["reason"] == away.plane_problem
    world.plane.reachable = True
    world.tick()
    assert world.state.plane_problem == ""
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert (world.plane.split.stable, world.registry.held.production) == (2, 2)
    assert world.violations == []


def test_order_for_one_rollout_is_not_obeyed_in_the_next():
    world = World(production=1, canary=2)
    world.run(2)
    world.registry.give_order("abort")
    assert world.run_to_rest().trigger is Trigger.OPERATOR
    world.registry.set_levels(production=1, canary=7)
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_canary_replaced_while_the_plane_restarts_gets_no_traffic_before_stable_is_up():
    world = World(production=1, canary=2)
    world.run(2)
    world.plane.restart()
    world.registry.set_levels(production=1, canary=7)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert world.violations == []


def test_veto_aborts_at_once_and_writes_the_conflict():
    world = World(production=1, canary=2)
    world.run(2)
    world.registry.vetoed.add(2)
    state = world.run_to_rest()
    assert state.trigger is Trigger.VETO
    assert world.registry.reports[2]["sovereignty_conflict.json"]["applicable"] is True


def test_pause_holds_resume_goes_on_and_each_order_is_obeyed_once():
    world = World(production=1, canary=2)
    world.tick()
    world.registry.give_order("pause")
    world.run(10)
    assert world.state.phase is Phase.PAUSED
    assert world.plane.split.canary_ratio == 0.1
    world.registry.give_order("resume")
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_pause_that_nobody_ends_aborts():
    world = World(production=1, canary=2)
    world.tick()
    world.registry.give_order("pause")
    assert world.run_to_rest().trigger is Trigger.DEADLINE


def test_operator_abort_takes_the_canary_back():
    world = World(production=1, canary=2)
    world.run(2)
    world.registry.give_order("abort")
    assert world.run_to_rest().trigger is Trigger.OPERATOR


def test_manual_promotion_waits_for_an_order():
    world = World(production=1, canary=2, plan=build_plan(promotion="manual"))
    world.run(12)
    assert world.state.phase is Phase.AWAITING_ADMISSION
    world.registry.give_order("promote")
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_new_canary_during_a_rollout_replaces_it_and_keeps_the_last_stable_as_target():
    world = World(production=1, canary=2)
    world.run(2)
    assert world.plane.split.canary == 2
    world.registry.set_levels(production=1, canary=3)
    world.plane.quality[3] = BAD
    state = world.run_to_rest()
    assert (state.candidate, state.stable, state.phase) == (3, 1, Phase.ROLLED_BACK)
    after = world.plane.moves[world.plane.moves.index((1, 2, 0.1)) :]
    assert after == [(1, 2, 0.1), (1, None, 0.0), (1, 3, 0.1), (1, None, 0.0)]


def test_shrinking_counters_never_promote():
    world = World(production=1, canary=2)
    world.run(2)
    world.plane.lie(2, ArmCounts())
    world.plane.quality[2] = Quality()
    state = world.run_to_rest(request_count=0)
    assert state.trigger is Trigger.DEADLINE
    assert "shrank" in state.reason


def test_plane_that_lost_everything_is_rebuilt_and_the_rollout_goes_on():
    world = World(production=1, canary=2)
    world.run(2)
    world.plane.restart()
    state = world.run_to_rest()
    assert state.phase is Phase.SUCCEEDED
    assert world.violations == []


def test_router_that_does_not_acknowledge_is_asked_again():
    world = World(production=1, canary=2)
    world.plane.failures = 3
    state = world.run_to_rest()
    assert state.phase is Phase.SUCCEEDED
    assert len(world.errors) == 3
    assert world.violations == []


def test_registry_that_is_down_does_not_keep_traffic_on_a_bad_canary():
    world = World(production=1, canary=2)
    world.tick()
    assert world.plane.split.canary == 2
    world.plane.quality[2] = BAD
    world.registry.reachable = False
    world.run(6)
    assert world.plane.split.canary is None
    assert all(isinstance(error, StorageError) for error in world.errors)
    assert world.registry.held.canary == 2
    world.clock.sleep(1)
    back_at = world.clock.now()
    world.registry.reachable = True
    state = world.run_to_rest()
    assert state.detected_at <= state.traffic_restored_at < back_at <= state.registry_restored_at
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.ANALYSIS)
    assert world.registry.held.canary is None
    assert 2 in world.registry.reports


def test_registry_that_is_down_promotes_nobody():
    world = World(production=1, canary=2)
    world.tick()
    world.registry.reachable = False
    world.run(10)
    assert world.plane.split.canary_ratio == 0.1
    world.registry.reachable = True
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_rollback_that_can_not_reach_stable_is_called_failed_and_ends_when_it_can():
    world = World(production=1, canary=2)
    world.run(2)
    world.plane.quality[2] = BAD
    world.plane.up.pop(1)
    world.plane.unready.add(1)
    world.registry.vetoed.add(2)
    world.run(15)
    assert world.state.phase is Phase.ROLLBACK_FAILED
    assert world.plane.split.canary is None
    world.plane.unready.clear()
    assert world.run_to_rest().phase is Phase.ROLLED_BACK
    assert world.plane.split.stable == 1


def test_second_controller_loses_the_race_and_does_nothing():
    world = World(production=1, canary=2)
    world.run(1)
    stale = world.registry._journal
    world.run(1)
    current, world.registry._journal = world.registry._journal, stale
    other = world.start_controller()
    state = other._load()
    world.registry._journal = current
    moves = list(world.plane.moves)
    with pytest.raises(ConflictError):
        other._save(state)
    assert world.plane.moves == moves


def test_loop_keeps_the_error_backs_off_and_recovers():
    world = World(production=1)
    waits = []
    world.clock.sleep = waits.append
    world.registry.reachable = False
    seen = []

    def stop():
        seen.append(world.controller.last_error)
        world.registry.reachable = len(seen) > 7
        return len(seen) > 9

    world.controller.run(stop, 1.0)
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 1.0, 1.0]
    assert isinstance(seen[1], StorageError)
    assert seen[-1] is None


STORIES = {
    "good": {},
    "bad": {"quality": BAD},
    "first": {"production": None},
    "first-bad": {"production": None, "quality": Quality(error_ratio=0.5)},
    "slow": {"quality": Quality(latency_ms=5000)},
    "corrupt": {"corrupt": True},
}


def tell(story, fuse):
    facts = STORIES[story]
    world = World(production=facts.get("production", 1), canary=2, fuse=fuse)
    world.plane.quality[2] = facts.get("quality", Quality())
    if facts.get("corrupt"):
        world.registry.corrupt.add(2)
    world.run_to_rest()
    return world


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_controller_killed_at_any_call_resumes_to_the_same_end(story, when):
    undisturbed = tell(story, Fuse())
    for index in range(len(undisturbed.fuse.calls)):
        world = tell(story, Fuse(at=index, when=when))
        assert world.kills == 1
        assert world.outcome == undisturbed.outcome, (index, undisturbed.fuse.calls[index])
        assert world.violations == []
        assert world.registry.held.production == world.plane.split.stable
