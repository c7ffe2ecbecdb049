"""Stories of releases and fleets, told to the real step by a world in memory."""

import json
from dataclasses import replace

import pytest
from soak.fleet_world import GOOD, POLICY, SPECIALTIES, Quality, Running, World, release_id

from kfm_mlflow.fleet.actions import SetRoutes
from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.observed import FleetInputs
from kfm_mlflow.fleet.state import RESTING, UNWINDING, FleetPhase, FleetState
from kfm_mlflow.fleet.step import step, wants_standing_of
from kfm_mlflow.rollout.inputs import Levels, Orders, Regression, Standing
from kfm_mlflow.rollout.state import Trigger

FIRST = ("a0000", "a0001", "a0002")


def agents(count=12):
    return tuple(Agent(f"a{k:04d}", SPECIALTIES[k % 3]) for k in range(count))


def swapping(count=12):
    """Return agents without room for two; each names the next of its specialty as fall-back."""
    return tuple(
        Agent(f"a{k:04d}", SPECIALTIES[k % 3], side_by_side=False,
              fallback=f"a{(k + 3) % count:04d}")
        for k in range(count)
    )  # fmt: skip


def world(fleet=None, *, candidate=GOOD, is_first=False):
    """Return a fleet at rest whose registry has a canary."""
    made = World(0, fleet or agents(), 4, is_first=is_first)
    for _ in range(3):
        made.tick()
    made.lost_tasks = 0
    made.quality[2] = candidate
    made.levels = replace(made.levels, canary=2)
    return made


def run_until(made, condition, limit=150):
    """Let ticks go by until something is true; return how many."""
    for count in range(limit):
        if condition(made.state):
            return count
        made.tick()
    raise AssertionError(f"never: {made.state.phase} {made.state.reason}")


def run_to(made, *phases):
    return run_until(made, lambda state: state.phase in phases)


def at_rest(state):
    return state.phase in RESTING and state.candidate is not None


def served(made):
    """Return agent -> versions that have its tasks."""
    return {r.agent: {v for v in (r.version, r.canary) if v} for r in made.applied.routes}


def test_a_sound_release_goes_from_one_agent_per_specialty_to_all_of_them_batch_by_batch():
    made = world()
    batches, shares, levels = [], set(), []
    for _ in range(150):
        made.tick()
        state = made.state
        if state.batch and state.batch not in batches:
            batches.append(state.batch)
        if not levels or levels[-1] != (made.levels.production, made.levels.canary):
            levels.append((made.levels.production, made.levels.canary))
        if state.batch_index == 0:
            shares |= {r.canary_ratio for r in made.applied.routes if r.canary}
        if state.phase is FleetPhase.SUCCEEDED:
            break
    assert batches[0] == FIRST
    assert [len(batch) for batch in batches] == [3, 4, 4, 1]
    assert sorted(name for batch in batches for name in batch) == sorted(served(made))
    assert shares == {0.1}
    assert levels == [(1, 2), (2, None)]
    assert set(map(frozenset, served(made).values())) == {frozenset({2})}
    assert made.state.stables == (2, 1)
    assert made.violations == []


def test_no_agent_of_the_next_batch_starts_before_the_one_before_was_watched():
    made = world()
    run_until(made, lambda state: state.batch_index == 1)
    began = made.now
    held = set()
    while made.state.batch_index < 2:
        held = {name for name, versions in made.instances.items() if 2 in versions}
        made.tick()
    assert (made.now - began).total_seconds() >= POLICY.watch_s
    assert held == set(made.state.moved)


DEGRADED = {
    "errors": (Quality(error_ratio=0.1), Trigger.ANALYSIS, "error ratio 0."),
    "slow": (Quality(latency_ms=201), Trigger.ANALYSIS, "p95 latency"),
    "not coherent": (Quality(agreement=0.7), Trigger.ANALYSIS, "coherence 0.70 is not above 0.7"),
    "isolated": (Quality(agreement=0.29), Trigger.ANALYSIS, "isolated"),
    "unsafe": (Quality(held_ratio=0.6), Trigger.ANALYSIS, "safety score"),
    "no consensus": (Quality(agreement=0.8), Trigger.ANALYSIS, "consensus rate 0.000"),
    "hangs": (Quality(start_ticks=None), Trigger.DEADLINE, "not ready within 25 s"),
    "crashes": (Quality(fails=True), Trigger.NOT_READY, "does not start"),
    "other bytes": (Quality(lies_of=True), Trigger.INTEGRITY, "was not verified"),
}


@pytest.mark.parametrize("fault", DEGRADED)
def test_a_bad_release_reaches_the_first_batch_alone_and_every_agent_is_back(fault):
    quality, trigger, reason = DEGRADED[fault]
    made = world(candidate=quality)
    reached = set()
    for _ in range(80):
        made.tick()
        reached |= {name for name, versions in served(made).items() if 2 in versions}
        if at_rest(made.state):
            break
    assert reached <= set(FIRST)
    state = made.state
    assert (state.phase, state.trigger) == (FleetPhase.ROLLED_BACK, trigger)
    assert reason in state.reason
    assert set(map(frozenset, served(made).values())) == {frozenset({1})}
    assert made.levels == Levels(1, None, made.levels.head)
    assert made.reports == [(2, 1)]
    assert all(set(versions) == {1} for versions in made.instances.values())
    assert made.violations == []


def test_at_the_limits_a_release_is_still_good():
    made = world(candidate=Quality(error_ratio=0.0, latency_ms=200, held_ratio=1.0))
    run_to(made, FleetPhase.SUCCEEDED)


def veto(made):
    made.orders = Orders(veto="no")


def abort(made):
    made.orders = Orders(operator="abort", order_id=1)


def recall(made):
    made.standing = Standing(recalls={2: "consent withdrawn"}, fallback=1)


def recall_by_authority(made):
    made.standing = Standing(recalls={2: "region"}, vetoed=frozenset({2}), fallback=1)


def regress(made):
    found = Regression("validation", "worse", "sha256:1")
    made.standing = Standing(regressions={2: found}, fallback=1)


def lose_level(made):
    made.levels = replace(made.levels, canary=None)


CUTS = {
    veto: Trigger.VETO,
    abort: Trigger.OPERATOR,
    recall: Trigger.SOVEREIGNTY,
    recall_by_authority: Trigger.VETO,
    regress: Trigger.VALIDATION,
}
PLACES = {
    "starting": lambda s: s.phase is FleetPhase.STARTING,
    "first batch watched": lambda s: s.phase is FleetPhase.WATCHING,
    "a later batch": lambda s: s.phase is FleetPhase.WATCHING and s.batch_index == 1,
    "soaking": lambda s: s.phase is FleetPhase.SOAKING,
}


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_harm_and_people_take_every_touched_agent_back_in_any_phase(cut, place):
    made = world()
    run_until(made, PLACES[place])
    cut(made)
    made.tick()
    assert made.state.trigger is CUTS[cut]
    # Routes first: what is warm answers in the same pass.
    assert all(versions == {1} for versions in served(made).values())
    run_to(made, FleetPhase.ROLLED_BACK)
    assert (made.levels.production, made.levels.canary) == (1, None)
    assert made.reports == [(2, 1)]
    assert made.violations == []


def test_a_release_that_loses_its_level_is_taken_back():
    made = world()
    run_to(made, FleetPhase.WATCHING)
    lose_level(made)
    run_to(made, FleetPhase.ROLLED_BACK)
    assert made.state.trigger is Trigger.REGISTRY


def test_votes_that_never_come_end_at_their_deadline():
    made = world()
    made.admits, made.refusal = False, "votes 1 of 3"
    run_to(made, FleetPhase.AWAITING_ADMISSION)
    began = made.now
    run_to(made, FleetPhase.ROLLED_BACK)
    assert (made.now - began).total_seconds() >= POLICY.votes_deadline_s
    assert "votes 1 of 3" in made.state.reason
    assert made.levels.production == 1


def test_votes_that_come_late_promote():
    made = world()
    made.admits, made.refusal = False, "votes 1 of 3"
    run_to(made, FleetPhase.AWAITING_ADMISSION)
    for _ in range(5):
        made.tick()
    assert made.levels.production == 1
    made.admits = True
    run_to(made, FleetPhase.SUCCEEDED)


def test_without_tasks_nothing_passes_and_the_deadline_ends_it():
    made = world()
    made._answer = lambda *_: None
    run_to(made, FleetPhase.ROLLED_BACK)
    assert made.state.trigger is Trigger.DEADLINE
    assert "0 of 20 tasks" in made.state.reason
    assert made.levels.production == 1


def test_a_bad_first_release_is_stopped_and_nothing_is_routed():
    made = world(candidate=Quality(error_ratio=0.5), is_first=True)
    run_to(made, FleetPhase.ROLLED_BACK)
    assert all(not versions for versions in served(made).values())
    assert all(not versions for versions in made.instances.values())
    assert (made.levels.production, made.levels.canary) == (None, None)
    assert made.reports == [(2, None)]


def test_a_first_release_that_degrades_after_promotion_is_called_a_failed_rollback():
    made = world(candidate=Quality(error_ratio=0.5, from_batch=True), is_first=True)
    run_to(made, FleetPhase.ROLLBACK_FAILED)
    for _ in range(5):
        made.tick()
    assert "nothing to go back to" in made.state.reason
    assert made.levels.production == 2
    # Tasks stay on what is healthy, and on nothing else.
    assert {name for name, versions in served(made).items() if versions} == set(FIRST)
    assert made.reports[-1] == (2, None)


def test_a_release_that_was_given_up_and_kept_is_brought_to_no_other_agent():
    made = world(candidate=Quality(error_ratio=0.5, from_batch=True), is_first=True)
    run_to(made, FleetPhase.ROLLBACK_FAILED)
    made.quality[3] = Quality(error_ratio=0.5)
    made.levels = replace(made.levels, canary=3)
    run_until(made, lambda s: s.candidate == 3 and s.phase is FleetPhase.ROLLED_BACK)
    for _ in range(5):
        made.tick()
    assert {name for name, versions in served(made).items() if 2 in versions} == set(FIRST)
    assert made.violations == []


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
