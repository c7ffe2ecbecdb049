"""The fleet's simulation at reduced size, and that its laws find what is planted."""

import pytest
from soak import fleet_world
from soak.fleet import SIZES, main, run_seed
from soak.fleet_schedules import run_schedule

import kfm_mlflow.fleet.step as steps
from kfm_mlflow.fleet import interrupt, observed, routing
from kfm_mlflow.fleet.state import FleetPhase

CALM_SEED = 10
"""A schedule without failures."""

UNHEALTHY_SEED = 26
"""From here on a release that is bad in later batches comes soon."""


def test_no_schedule_of_the_reduced_simulation_finds_a_violation():
    results = [run_seed(seed) for seed in range(SIZES["small"])]
    assert [(r.seed, r.violations) for r in results if r.violations] == []
    seen = frozenset().union(*(result.phases for result in results))
    # A simulation in which nothing happens finds nothing, either.
    assert seen == set(FleetPhase)


FOUND_ONCE = {
    "a recalled Production, moved there meanwhile, left a rollback without an end": 693,
    "agents that served nothing had no batch, and a release that crashed there succeeded": 1134,
    "a bad first release that was kept was brought to all agents beside the next canary": 2094,
    "a first release that an operator aborted half-way was brought to all agents": 914,
    "a canary over a bad release that was kept could never be taken back to its end": 718,
    "an aborted canary answered for whole agents until the moved Production could": 2786,
    "a warm instance that was not what was verified was never stopped": 1098,
}


@pytest.mark.parametrize("fault", FOUND_ONCE)
def test_schedule_that_once_found_a_fault_finds_none(fault):
    assert run_schedule(FOUND_ONCE[fault]).violations == ()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_step_leaves_the_state_that_it_was_given_as_it_was(seed, monkeypatch):
    def watched(plan, agents, state, inputs, now):
        before = state.to_dict()
        decided = steps.step(plan, agents, state, inputs, now)
        assert state.to_dict() == before
        return decided

    monkeypatch.setattr(fleet_world, "step", watched)
    assert run_schedule(seed).pass_count > 30


def test_one_seed_is_one_schedule():
    assert run_schedule(3) == run_schedule(3)


def finds(text, *, first=0, count=60):
    """Whether one of some schedules violates the law that says this; ends with the first."""
    seeds = range(first, first + count)
    return any(text in found for seed in seeds for found in run_schedule(seed).violations)


def test_tasks_for_what_was_not_verified_are_found(monkeypatch):
    monkeypatch.setattr(observed, "runs_verified", lambda found, _: found.status == "running")
    assert finds("no verified release")


def test_more_than_one_unhealthy_batch_is_found(monkeypatch):
    def everybody(agents, seen, stable, touched, batch_ratio):
        del seen, stable, batch_ratio
        return tuple(agent.name for agent in agents if agent.name not in touched)

    monkeypatch.setattr(steps, "stop", lambda *_: None)
    monkeypatch.setattr(steps, "next_batch", everybody)
    assert finds("of a batch", first=UNHEALTHY_SEED)


def test_a_skipped_level_is_found(monkeypatch):
    honest = steps._rollout_aims

    def hasty(state, seen):
        aims = honest(state, seen)
        return {
            name: routing.Aim(aim.beside) if aim.beside and aim.beside_ratio else aim
            for name, aim in aims.items()
        }

    monkeypatch.setattr(steps, "_rollout_aims", hasty)
    assert finds("skipped a level")


def test_a_mixed_fleet_at_rest_is_found(monkeypatch):
    def as_it_is(_, seen):
        return {a.name: routing.Aim(max(seen.of(a.name), default=None)) for a in seen.agents}

    monkeypatch.setattr(steps, "_rest_aims", as_it_is)
    assert finds("not at rest")


def test_a_step_that_never_gives_up_is_found(monkeypatch):
    monkeypatch.setattr(interrupt, "_broken", lambda *_: None)
    monkeypatch.setattr(steps, "give_up", lambda state, *_: state)
    assert finds("not at rest")


def test_tasks_that_are_lost_in_calm_are_found(monkeypatch):
    def hasty(state, seen):
        return {agent.name: routing.Aim(state.candidate) for agent in seen.agents}

    monkeypatch.setattr(steps, "_rollout_aims", hasty)
    assert finds("tasks were lost", first=CALM_SEED)


def test_last_line_says_schedules_and_violations(capsys):
    assert main(["--size", "2", "--processes", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "fleet soak: 2 schedules run, 0 violations found"
