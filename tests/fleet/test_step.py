"""Stories of releases and fleets, told to the real step by a world in memory."""

from dataclasses import replace

import pytest
from fleet.stories import FIRST, PLACES, at_rest, run_to, run_until, served, world
from soak.fleet_world import POLICY, Quality

from kfm_mlflow.fleet.state import FleetPhase
from kfm_mlflow.rollout.inputs import Levels, Orders, Regression, Standing
from kfm_mlflow.rollout.state import Trigger


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
