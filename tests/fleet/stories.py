"""Fleets and worlds that stories of releases are told in."""

from dataclasses import replace

from soak.fleet_world import GOOD, SPECIALTIES, World

from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.state import RESTING, FleetPhase

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


PLACES = {
    "starting": lambda s: s.phase is FleetPhase.STARTING,
    "first batch watched": lambda s: s.phase is FleetPhase.WATCHING,
    "a later batch": lambda s: s.phase is FleetPhase.WATCHING and s.batch_index == 1,
    "soaking": lambda s: s.phase is FleetPhase.SOAKING,
}
