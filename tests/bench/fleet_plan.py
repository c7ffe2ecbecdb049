"""What a step of a fleet of 1,000 agents takes, against one that keeps nothing and judges all anew.

Every agent counted tasks and answered a round of probes since the step before, so all of it has to be
looked at. The peer derives the same verdicts and routes the plain way: it keeps every counter and
every agreement of the window, and goes through them for each agent in each step.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from report import Row, paired_ratio, spread_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak.fleet_schedules import make_agents
from soak.fleet_world import POLICY, World

from kfm_mlflow.fleet.health import p95_latency_ms
from kfm_mlflow.fleet.observed import FleetInputs
from kfm_mlflow.fleet.state import FleetPhase
from kfm_mlflow.fleet.step import step
from kfm_mlflow.rollout.inputs import Levels

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.fleet.health import ProbeRound
    from kfm_mlflow.fleet.plane import FleetObservation, TaskCounts

GOAL_MS = 10.0
AGENT_COUNT = 1000
ROUNDS = {"small": 20, "full": 200}
PHASES = (FleetPhase.WATCHING, FleetPhase.SOAKING, FleetPhase.SUCCEEDED)
_KEPT = 60


@dataclass(frozen=True)
class Pass:
    """What one step is given."""

    observation: FleetObservation
    probes: ProbeRound
    now: datetime


class Naive:
    """Keeps what it saw, and works everything out again."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def step(self, given: Pass, release_ids: dict[int, str]) -> dict[str, int]:
        """Return agent -> version that gets its tasks, of all that are healthy."""
        self.passes = [*(self.passes or [given] * _KEPT), given][-_KEPT:]
        first, last = (
            {(found.agent, found.version): found.counts for found in kept.observation.instances}
            for kept in (self.passes[0], given)
        )
        routes: dict[str, int] = {}
        for found in given.observation.instances:
            if found.release_id != release_ids.get(found.version):
                continue
            key = (found.agent, found.version)
            if key in first and self._is_healthy(key, first[key], last[key]):
                routes[found.agent] = max(found.version, routes.get(found.agent, 0))
        return routes

    def _is_healthy(self, key: tuple[str, int], first: TaskCounts, last: TaskCounts) -> bool:
        coherence, weight = 0.0, POLICY.health.smoothing
        for index, given in enumerate(self.passes):
            value = given.probes.agreements.get(key)
            if value is not None:
                coherence = weight * value + (1 - weight) * coherence if index else value
        completed, failed = last.completed - first.completed, last.failed - first.failed
        bins = [b - a for a, b in zip(first.latency_counts, last.latency_counts, strict=True)]
        p95_ms = p95_latency_ms(bins) or 0.0
        errors = failed >= POLICY.health.max_error_ratio * max(1, completed + failed)
        slow = p95_ms > POLICY.health.max_p95_latency_ms
        return coherence > POLICY.health.min_coherence and not errors and not slow


def _fleet() -> World:
    world = World(1, make_agents(random.Random(1), AGENT_COUNT), 50, is_first=False)
    for _ in range(3):
        world.tick()
    world.levels = Levels(1, 2, 1)
    return world


def _measure(world: World, phase: FleetPhase, rounds: int) -> list[Row]:
    while world.state.phase is not phase:
        world.tick()
    ours: list[float] = []
    peers: list[float] = []
    naive, state = Naive(), world.state
    for index in range(rounds):
        world._serve(60_000)
        now = world.now + timedelta(seconds=5 * index % POLICY.watch_s)
        observation = world.observe()
        given = Pass(observation, replace(world.probe(observation), asked_at=now), now)
        inputs = FleetInputs(levels=world.levels, observation=observation, rounds=(given.probes,))
        gc.collect()
        gc.disable()
        started = time.process_time()
        step(POLICY, world.agents, state, inputs, now)
        ours.append((time.process_time() - started) * 1e3)
        if index < max(3, rounds // 20):
            started = time.process_time()
            naive.step(given, dict(state.release_ids))
            peers.append((time.process_time() - started) * 1e3)
        gc.enable()
    title = f"plan a step of {AGENT_COUNT} agents ({phase})"
    shown = f"{spread_of(ours).median:.2f} ms"
    return [
        Row(
            title,
            shown,
            "keep all, judge all anew",
            f"{spread_of(peers).median:.2f} ms",
            paired_ratio(ours[: len(peers)], peers),
        ),
        Row(
            title,
            shown,
            "goal",
            f"{GOAL_MS:g} ms",
            paired_ratio(ours, [GOAL_MS] * len(ours)),
            goal=1.0,
        ),
    ]


def measure(size: str) -> list[Row]:
    """Return the rows of the bench."""
    world = _fleet()
    return [row for phase in PHASES for row in _measure(world, phase, ROUNDS[size])]
