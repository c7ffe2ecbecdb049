"""What operators order: each once, only for the version that it names; a rollback in every phase."""

from __future__ import annotations

import pytest
from rollout.simulated_plane import Quality
from rollout.simulator import World, build_plan

from kfm_mlflow.rollout.inputs import Regression
from kfm_mlflow.rollout.state import Phase, Trigger

WATCH_S = 20


def promoted(*, watched=False, **changes):
    """Return a world in which v2 followed v1 to Production."""
    plan = build_plan(postPromotionWatch_s=WATCH_S) if watched else None
    world = World(production=1, canary=2, plan=plan, **changes)
    if not watched:
        world.run_to_rest()
        return world
    while world.plane.split.stable != 2:
        world.tick()
    world.tick()
    assert world.state.phase is Phase.SOAKING
    return world


def roll_back(world, to=1, version=2):
    world.registry.give_order("rollback", version=version, to_version=to)


def of(world):
    """Return what is at Production, what has the traffic, and how that came about."""
    state = world.state
    return world.registry.held.production, world.plane.split.stable, state.phase, state.trigger


BACK = (1, 1, Phase.ROLLED_BACK, Trigger.OPERATOR)


# -- a rollback, from where ever it is ordered ------------------------------------------------------


def test_rollback_at_rest_deploys_the_former_version_then_traffic_registry_and_reports():
    world = promoted()
    assert set(world.plane.up) == {2}
    before, unanswered = len(world.fuse.calls), world.plane.unanswered
    roll_back(world)
    world.run_to_rest()
    assert of(world) == BACK
    wanted = ("admits_restore", "fetch", "deploy", "set_split", "move", "publish_reports")
    assert [name for name in world.fuse.calls[before:] if name in wanted][:6] == list(wanted)
    reports = world.registry.reports[2]
    assert set(reports) == {
        "rollback_report.json", "drift_summary.json", "sovereignty_conflict.json",
    }  # fmt: skip
    report = reports["rollback_report.json"]
    assert (report["rolled_back_version"], report["restored_version"]) == (2, 1)
    assert report["trigger"] == "operator"
    assert report["reason"] == "rolled back to v1 by an operator"
    assert reports["drift_summary.json"]["applicable"] is False
    assert (world.violations, world.errors, world.plane.unanswered) == ([], [], unanswered)


def test_rollback_while_watched_is_verified_again_though_its_target_is_still_up():
    world = promoted(watched=True)
    assert 1 in world.plane.up
    before = len(world.fuse.calls)
    roll_back(world)
    world.run_to_rest()
    assert of(world) == BACK
    calls = world.fuse.calls[before:]
    assert calls.index("admits_restore") < calls.index("fetch") < calls.index("set_split")


@pytest.mark.parametrize("ticks", range(1, 12))
def test_rollback_at_any_moment_of_a_canary_takes_it_off_first_and_then_starts_it_anew(ticks):
    world = promoted()
    world.registry.admit = False
    world.registry.set_levels(production=2, canary=3)
    world.run(ticks)
    before = len(world.plane.moves)
    roll_back(world)
    world.tick()
    assert world.registry.held.production == 1
    # From then on v3 has traffic only beside v1.
    assert all(canary is None or stable == 1 for stable, canary, _ in world.plane.moves[before:])
    world.registry.admit = True
    world.run_to_rest()
    assert world.registry.held.production == 3
    assert world.violations == []


def test_rollback_of_a_paused_canarys_production_is_obeyed():
    world = promoted()
    world.registry.set_levels(production=2, canary=3)
    while world.plane.split.canary is None:
        world.tick()
    world.registry.give_order("pause", version=3)
    world.tick()
    assert world.state.phase is Phase.PAUSED
    roll_back(world)
    world.tick()
    assert world.registry.held.production == 1


def test_rollback_goes_to_the_version_that_is_named():
    world = promoted()
    world.registry.set_levels(production=2, canary=3)
    world.run_to_rest()
    roll_back(world, to=1, version=3)
    world.run_to_rest()
    assert of(world) == BACK


def test_the_version_that_was_rolled_back_does_not_come_back_by_itself():
    world = promoted()
    roll_back(world)
    world.run_to_rest()
    world.run(20)
    assert of(world) == BACK
    world.registry.set_levels(production=1, canary=2)
    assert world.run_to_rest().phase is Phase.SUCCEEDED, "a new decision brings it back"


def test_rollback_that_was_ordered_for_another_production_is_dropped():
    world = promoted()
    world.registry.set_levels(production=7, canary=None)
    world.run(2)
    roll_back(world, version=2)
    world.run(3)
    assert world.registry.held.production == 7
    world.registry.set_levels(production=2, canary=None)
    world.run(3)
    assert world.registry.held.production == 2, "an order from before was obeyed late"


@pytest.mark.parametrize("when", ["before", "after"])
def test_rollback_killed_at_any_call_ends_the_same(when):
    def tell(index=None):
        world = World(production=2)
        world.registry.history.insert(0, (1, "production"))
        world.run(2)
        started, world.fuse.when = len(world.fuse.calls), when
        world.fuse.at = None if index is None else started + index
        roll_back(world)
        world.run(4)
        return world, world.fuse.calls[started:]

    undisturbed, calls = tell()
    assert of(undisturbed) == BACK
    for index, name in enumerate(calls):
        world, _ = tell(index)
        assert of(world) == BACK, name
        assert world.violations == []


# -- a target that is not sound --------------------------------------------------------------------


def refused(world):
    world.registry.unrestorable[1] = "STAC item is invalid"


def corrupted(world):
    world.registry.corrupt.add(1)


@pytest.mark.parametrize(
    ("spoil", "words"), [(refused, "STAC"), (corrupted, "not what was signed")]
)
@pytest.mark.parametrize("watched", [False, True])
def test_target_that_does_not_verify_fails_the_rollback_and_traffic_stays(spoil, words, watched):
    world = promoted(watched=watched)
    spoil(world)
    unanswered = world.plane.unanswered
    roll_back(world)
    world.run(5)
    assert of(world) == (2, 2, Phase.ROLLBACK_FAILED, Trigger.OPERATOR)
    assert words in world.state.reason
    assert 1 not in {stable for stable, _, _ in world.plane.moves[3:]}, "v1 had traffic"
    assert world.registry.reports[2]["rollback_report.json"]["restored_version"] is None
    assert world.plane.unanswered == unanswered


def test_registry_that_refuses_the_move_itself_gets_the_traffic_back_where_it_says():
    world = promoted(watched=True)
    asked = world.registry.admits_restore

    def spoiled_right_after(model_name, version):
        answer = asked(model_name, version)
        refused(world)
        return answer

    world.registry.admits_restore = spoiled_right_after
    roll_back(world)
    world.run(3)
    assert of(world) == (2, 2, Phase.ROLLBACK_FAILED, Trigger.OPERATOR)


def test_failed_rollback_is_said_until_somebody_decides():
    world = promoted()
    refused(world)
    roll_back(world)
    world.run(200)
    assert world.state.phase is Phase.ROLLBACK_FAILED
    generation = world.state.generation
    world.run(5)
    assert world.state.generation == generation, "nothing changes, so nothing is written"
    world.registry.unrestorable.clear()
    world.run(3)
    assert world.registry.held.production == 2, "the order was obeyed once"
    roll_back(world)
    world.run_to_rest()
    assert of(world) == BACK


def test_canary_that_was_overtaken_by_a_failed_rollback_waits_and_a_new_one_does_not():
    world = promoted()
    world.registry.set_levels(production=2, canary=3)
    world.run(2)
    refused(world)
    roll_back(world)
    world.run(30)
    assert (world.state.phase, world.plane.split.canary) == (Phase.ROLLBACK_FAILED, None)
    world.registry.set_levels(production=2, canary=4)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert world.registry.held.production == 4


def test_resume_takes_production_as_it_is_after_a_failed_rollback():
    world = promoted()
    refused(world)
    roll_back(world)
    world.run(3)
    world.registry.give_order("resume", version=2)
    world.run(2)
    assert of(world)[:3] == (2, 2, Phase.IDLE)
    assert "kept by an operator" in world.state.reason


def test_recall_of_what_a_failed_rollback_kept_takes_its_traffic_away():
    world = promoted()
    refused(world)
    roll_back(world)
    world.run(3)
    world.registry.recalls.update({1: "its authority vetoed", 2: "its authority vetoed"})
    world.tick()
    assert (world.plane.split.stable, world.registry.held.production) == (None, None)


def test_order_during_a_rollback_for_harm_changes_the_target_and_not_the_reason():
    world = promoted(watched=True)
    world.registry.history.insert(0, (8, "production"))
    world.plane.unready.add(1)
    world.plane.up.pop(1)
    world.plane.quality[2] = Quality(error_ratio=0.9)
    while world.state.phase is Phase.SOAKING:
        world.tick()
    roll_back(world, to=8)
    world.run(3)
    state = world.state
    assert (world.registry.held.production, state.trigger) == (8, Trigger.ANALYSIS)
    assert "error_ratio" in state.reason
    assert "rolled back to v8" in state.reason


def found_bad(world, trigger):
    """Have v2 at Production found bad while there is nothing to go back to."""
    world.registry.regressions[1] = Regression("validation", "nrmse is 0.5", "sha256:aa")
    if trigger is Trigger.VALIDATION:
        world.registry.regressions[2] = Regression("validation", "nrmse is 0.5", "sha256:bb")
    else:
        world.plane.quality[2] = Quality(error_ratio=0.9)
    while world.state.phase is not Phase.ROLLBACK_FAILED:
        world.tick()


def recalled(world):
    world.registry.recalls[1] = "its authority vetoed"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(refused, "STAC"), (corrupted, "not what was signed"), (recalled, "authority vetoed")],
)
def test_target_that_does_not_verify_gets_no_traffic_though_production_regressed(spoil, words):
    world = promoted()
    found_bad(world, Trigger.VALIDATION)
    before = len(world.plane.moves)
    spoil(world)
    roll_back(world)
    world.run(5)
    assert of(world) == (2, 2, Phase.ROLLBACK_FAILED, Trigger.VALIDATION)
    assert words in world.state.reason
    assert 1 not in {stable for stable, _, _ in world.plane.moves[before:]}
    assert world.violations == []


def test_sound_target_comes_back_though_production_regressed_and_the_reason_stays():
    world = promoted()
    found_bad(world, Trigger.VALIDATION)
    roll_back(world)
    world.run(3)
    assert (world.registry.held.production, world.state.trigger) == (1, Trigger.VALIDATION)


@pytest.mark.parametrize("spoil", ["refused", "corrupt", "recalled"])
def test_order_to_an_unsound_target_leaves_traffic_where_harm_took_it(spoil):
    world = promoted(watched=True)
    world.registry.history.insert(0, (8, "production"))
    refused(world)
    world.plane.quality[2] = Quality(error_ratio=0.9)
    while world.plane.split.stable != 1:
        world.tick()
    if spoil == "corrupt":
        world.registry.corrupt.add(8)
    else:
        kind = world.registry.recalls if spoil == "recalled" else world.registry.unrestorable
        kind[8] = "not to be served"
    before = len(world.plane.moves)
    roll_back(world, to=8)
    world.run(3)
    assert {stable for stable, _, _ in world.plane.moves[before:]} <= {1}
    assert world.plane.split.stable == 1
    assert world.state.phase is Phase.ROLLBACK_FAILED
    world.registry.unrestorable.clear()
    world.run_to_rest()
    assert (world.registry.held.production, world.state.trigger) == (1, Trigger.ANALYSIS)
    assert world.violations == []


# -- orders to the version under way ----------------------------------------------------------------


@pytest.mark.parametrize("order", ["pause", "abort", "promote", "resume"])
def test_order_for_another_version_is_not_obeyed_now_nor_later(order):
    world = World(production=1, canary=2)
    world.run(2)
    world.registry.give_order(order, version=7)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    world.registry.set_levels(production=2, canary=7)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert world.registry.held.production == 7


@pytest.mark.parametrize("at_rest", [True, False])
def test_abort_that_comes_too_late_does_not_reach_the_next_rollout_of_the_version(at_rest):
    world = World(production=1, canary=2)
    world.plane.quality[2] = Quality(error_ratio=1.0)
    if at_rest:
        world.run_to_rest()
    else:
        while world.plane.split.canary is None:
            world.tick()
        world.plane.failures = 99  # Traffic can not be taken back for now.
        world.run(3)
        assert world.state.phase is Phase.ABORTING
    world.registry.give_order("abort", version=2)
    world.run(2)
    world.plane.failures = 0
    world.run_to_rest()
    world.plane.quality[2] = Quality()
    world.registry.set_levels(production=1, canary=2)
    assert world.run_to_rest().phase is Phase.SUCCEEDED


def test_pause_that_comes_with_its_canary_holds_the_first_step():
    world = World(production=1)
    world.run_to_rest()
    world.registry.set_levels(production=1, canary=2)
    world.registry.give_order("pause", version=2)
    world.run(3)
    assert (world.state.phase, world.state.step_index) == (Phase.PAUSED, 0)
