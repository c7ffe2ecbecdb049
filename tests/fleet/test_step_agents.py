"""Stories of agents: warm, swapped, isolated, silent, lost and back; and of loops that are killed."""

import json
from dataclasses import replace

import pytest
from fleet.stories import PLACES, at_rest, run_to, run_until, served, swapping, world
from soak.fleet_world import GOOD, POLICY, Quality, Running, release_id

from kfm_mlflow.fleet.actions import SetRoutes
from kfm_mlflow.fleet.observed import FleetInputs
from kfm_mlflow.fleet.state import RESTING, UNWINDING, FleetPhase, FleetState
from kfm_mlflow.fleet.step import step, wants_standing_of
from kfm_mlflow.rollout.inputs import Levels, Orders


def succeeded(fleet=None):
    made = world(fleet)
    run_to(made, FleetPhase.SUCCEEDED)
    return made


def roll_back(made, to_version, version=2):
    made.orders = Orders(
        operator="rollback", order_id=7, version=version, to_version=to_version, operator_name="ann"
    )


def test_a_rollback_to_a_warm_release_moves_all_agents_at_once():
    made = succeeded()
    roll_back(made, 1)
    ticks = run_until(made, lambda _: all(v == {1} for v in served(made).values()))
    # One pass takes the order, one verifies the target, one moves the routes.
    assert ticks <= 3
    run_to(made, FleetPhase.ROLLED_BACK)
    assert made.levels.production == 1
    assert made.state.stables == (1,)
    assert made.lost_tasks == 0
    assert made.violations == []


def test_a_rollback_to_a_cold_release_starts_it_first_and_loses_no_task():
    made = succeeded()
    made.quality[3] = GOOD
    made.levels = replace(made.levels, canary=3)
    run_until(made, lambda s: s.phase is FleetPhase.SUCCEEDED and s.candidate == 3)
    for _ in range(3):
        made.tick()
    assert all(set(versions) == {2, 3} for versions in made.instances.values())
    made.lost_tasks = 0
    roll_back(made, 1, version=3)
    run_to(made, FleetPhase.ROLLED_BACK)
    assert all(versions == {1} for versions in served(made).values())
    assert made.lost_tasks == 0
    assert made.violations == []


def test_a_rollback_that_the_registry_refuses_leaves_the_fleet_as_it_was():
    made = succeeded()
    made.restores = False
    roll_back(made, 1)
    run_to(made, FleetPhase.ROLLBACK_FAILED)
    for _ in range(5):
        made.tick()
    assert "not restorable" in made.state.reason
    assert all(versions == {2} for versions in served(made).values())
    assert made.levels.production == 2
    made.orders = Orders(operator="resume", order_id=8)
    run_to(made, FleetPhase.IDLE)
    assert made.lost_tasks == 0


UNABLE = {
    "does not start": Quality(fails=True),
    "hangs": Quality(start_ticks=None),
    "is not what was verified": Quality(lies_of=True),
}


@pytest.mark.parametrize("fault", UNABLE)
def test_a_stable_release_that_cannot_run_again_is_the_loudest_state(fault):
    made = succeeded()
    made.quality[1] = UNABLE[fault]
    for versions in made.instances.values():
        versions.pop(1, None)
    roll_back(made, 1)
    run_to(made, FleetPhase.ROLLBACK_FAILED)
    for _ in range(10):
        made.tick()
    assert made.state.phase is FleetPhase.ROLLBACK_FAILED
    assert all(versions == {2} for versions in served(made).values())
    assert made.levels.production == 2
    assert made.lost_tasks == 0
    assert made.violations == []


def test_the_last_stable_releases_stay_warm_and_older_ones_are_stopped():
    made = succeeded()
    for _ in range(3):
        made.tick()
    assert all(set(versions) == {1, 2} for versions in made.instances.values())
    made.quality[3] = GOOD
    made.levels = replace(made.levels, canary=3)
    run_until(made, lambda s: s.phase is FleetPhase.SUCCEEDED and s.candidate == 3)
    for _ in range(3):
        made.tick()
    assert all(set(versions) == {2, 3} for versions in made.instances.values())


def test_agents_without_room_swap_while_their_fallback_answers():
    made = world(swapping())
    run_to(made, FleetPhase.SUCCEEDED)
    assert all(versions == {2} for versions in served(made).values())
    assert all(set(versions) == {2} for versions in made.instances.values())
    assert made.lost_tasks == 0
    assert made.violations == []


def test_agents_without_room_go_back_without_losing_a_task():
    made = succeeded(swapping())
    roll_back(made, 1)
    run_until(made, lambda _: all(v == {1} for v in served(made).values()))
    assert FleetPhase.ROLLBACK_FAILED not in {event.phase for event in made.state.events}
    assert made.lost_tasks == 0
    assert made.violations == []


def test_an_agent_that_answers_wrongly_is_isolated_and_returns():
    made = succeeded()
    honest = made.true_quality
    made.true_quality = lambda agent, version: (
        Quality(agreement=0.0) if agent == "a0005" else honest(agent, version)
    )
    run_until(made, lambda s: s.instances["a0005"][2].is_isolated)
    assert served(made)["a0005"] == set()
    assert made.state.instances["a0005"][2].coherence < POLICY.health.isolate_below
    made.true_quality = honest
    run_until(made, lambda s: not s.instances["a0005"][2].is_isolated)
    assert made.state.instances["a0005"][2].coherence >= POLICY.health.return_at
    assert served(made)["a0005"] == {2}
    assert made.state.phase is FleetPhase.SUCCEEDED


def test_tasks_of_a_silent_agent_go_to_others_of_its_specialty():
    made = succeeded()
    made.silent.add("a0005")
    run_until(made, lambda _: served(made)["a0005"] == set())
    assert made.state.unplaced == {"a0005": "answers nothing"}
    made.silent.clear()
    run_until(made, lambda _: served(made)["a0005"] == {2})


def test_the_last_agents_of_a_specialty_keep_their_tasks_when_all_fall_silent():
    made = succeeded()
    made.silent |= {agent.name for agent in made.agents}
    for _ in range(4):
        made.tick()
    assert all(versions == {2} for versions in served(made).values())


def test_an_agent_that_comes_back_with_an_old_version_gets_no_tasks_before_it_runs_the_present():
    made = succeeded()
    made.instances["a0007"] = {1: Running(1, 0, release_id(1))}
    seen = []
    for _ in range(6):
        made.tick()
        seen.append((served(made)["a0007"], set(made.instances["a0007"])))
    assert all(1 not in versions for versions, _ in seen)
    assert seen[-1][0] == {2}


def test_an_agent_that_runs_what_was_not_verified_gets_no_tasks_and_is_started_anew():
    made = succeeded()
    made.instances["a0007"] = {2: Running(2, 0, "sha256:other")}
    made.tick()
    assert served(made)["a0007"] == set()
    run_until(made, lambda _: served(made)["a0007"] == {2})
    assert made.instances["a0007"][2].release_id == release_id(2)


def test_a_node_lost_in_the_middle_of_a_batch_fails_the_batch():
    made = world()
    run_until(made, PLACES["a later batch"])
    made.lose_node(made.node_of[made.state.batch[0]])
    made.tick()
    assert made.state.phase in UNWINDING
    assert "was lost in its batch" in made.state.reason
    made.down_nodes.clear()
    run_to(made, FleetPhase.ROLLED_BACK)


def test_a_node_lost_elsewhere_is_repaired_and_the_release_goes_on():
    made = world()
    run_until(made, PLACES["first batch watched"])
    made.lose_node(made.node_of["a0011"])
    made.tick()
    assert made.state.phase is FleetPhase.WATCHING
    made.down_nodes.clear()
    run_to(made, FleetPhase.SUCCEEDED)
    assert served(made)["a0011"] == {2}


def test_an_agent_on_a_lost_node_neither_stops_a_release_nor_misses_it():
    made = world()
    made.lose_node(made.node_of["a0011"])
    run_to(made, FleetPhase.SUCCEEDED)
    assert "a0011" in made.state.unplaced
    made.down_nodes.clear()
    run_until(made, lambda s: not s.unplaced)
    assert served(made)["a0011"] == {2}


def test_a_new_candidate_restarts_against_the_last_stable_release():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    made.quality[3] = GOOD
    made.levels = replace(made.levels, canary=3)
    made.tick()
    assert (made.state.candidate, made.state.stable) == (3, 1)
    assert (made.state.phase, made.state.batch_index) == (FleetPhase.STARTING, 0)
    assert all(2 not in versions for versions in served(made).values())
    run_to(made, FleetPhase.SUCCEEDED)
    assert all(2 not in versions for versions in made.instances.values())


def test_without_a_registry_only_the_routes_of_a_degraded_batch_go_back():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    made.is_registry_away = True
    before, levels = made.journal, made.levels
    made.quality[2] = Quality(error_ratio=0.9)
    run_until(made, lambda s: s.phase is FleetPhase.ABORTING)
    assert all(versions == {1} for versions in served(made).values())
    assert (made.journal, made.levels, made.reports) == (before, levels, [])
    made.is_registry_away = False
    run_to(made, FleetPhase.ROLLED_BACK)


def test_without_a_registry_a_sound_batch_is_left_alone():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    made.is_registry_away = True
    for _ in range(20):
        made.tick()
    assert made.state.phase is FleetPhase.WATCHING
    assert made.levels == Levels(1, 2, 0)


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize("quality", [GOOD, Quality(error_ratio=0.3)], ids=["good", "bad"])
def test_killed_between_any_two_actions_it_comes_to_the_same_end(every, quality):
    made = world(candidate=quality)
    for count in range(300):
        if count % every == 0:
            made.kill_after = count % 3
        made.tick()
        if at_rest(made.state) and made.levels.canary is None:
            break
    expected = 2 if quality is GOOD else 1
    assert made.levels.production == expected
    run_until(made, lambda _: all(v == {expected} for v in served(made).values()))
    assert made.violations == []


def test_what_is_moved_to_production_by_somebody_else_is_served_without_losing_a_task():
    made = succeeded()
    made.lost_tasks = 0
    for versions in made.instances.values():
        versions.pop(1, None)
    made.levels = replace(made.levels, production=1)
    run_until(made, lambda _: all(v == {1} for v in served(made).values()))
    assert made.state.phase in RESTING
    assert made.lost_tasks == 0


def test_a_lost_journal_takes_no_tasks_away():
    made = succeeded()
    made.lost_tasks = 0
    fresh = FleetState("fleet", FleetPhase.IDLE, made.now)
    made.state = made.saved = fresh
    made.journal = json.dumps(fresh.to_dict())
    for _ in range(6):
        made.tick()
    assert made.lost_tasks == 0
    assert made.violations == []


def test_the_same_facts_give_the_same_decision():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    inputs = FleetInputs(levels=made.levels, observation=made.observe())
    once = step(POLICY, made.agents, made.state, inputs, made.now)
    read = FleetState.from_dict(json.loads(json.dumps(made.state.to_dict())))
    assert step(POLICY, made.agents, read, inputs, made.now) == once


def test_dispatchers_that_forgot_their_routes_are_told_again():
    made = succeeded()
    inputs = FleetInputs(levels=made.levels, observation=replace(made.observe(), generation=0))
    _, actions = step(POLICY, made.agents, made.state, inputs, made.now)
    asked = next(action for action in actions if isinstance(action, SetRoutes))
    assert asked.table.routes == made.applied.routes
    assert asked.table.generation > made.applied.generation


def test_the_standing_of_everything_that_has_tasks_is_wanted():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    inputs = FleetInputs(levels=Levels(None, None, 0))
    assert wants_standing_of(made.state, inputs) == (1, 2)
