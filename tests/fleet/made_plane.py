"""A plane in memory that runs real releases: what agents answer is what the bytes answer.

It has the port of :class:`kfm_mlflow.fleet.plane.FleetPlane`; where agents lie or nodes are lost,
a test says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kfm_mlflow.errors import PlaneError
from kfm_mlflow.fleet.pipeline import Pipeline, load_pipeline
from kfm_mlflow.fleet.plane import (
    LATENCY_BOUNDS_MS,
    FleetObservation,
    Instance,
    ProbeAnswer,
    RouteTable,
    TaskCounts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rollout.simulated_registry import Fuse

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.rollout.plane import Deployable

_QUICK = (*(int(bound == 10) for bound in LATENCY_BOUNDS_MS), 0)
"""One task within 10 ms."""


@dataclass
class MemoryPlane:
    """Instances that run as soon as they are started.

    Attributes:
        fuse: Counts what changes something, and kills the caller at one call.
        answers_wrongly: Instances whose answers are not those of their release.
        unplaceable: Instances for which no node is there.
        refuses: Agents for which no start can be asked.
        is_away: Whether the cluster answers nobody.
        routed: Every table that was applied.
        unserved: Tasks for which no agent had a version.
    """

    fuse: Fuse
    answers_wrongly: set[tuple[str, int]] = field(default_factory=set)
    unplaceable: set[tuple[str, int]] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    is_away: bool = False
    routed: list[RouteTable] = field(default_factory=list)
    unserved: int = 0
    _releases: dict[tuple[str, int], Deployable] = field(default_factory=dict)
    _pipelines: dict[int, Pipeline] = field(default_factory=dict)
    _counts: dict[tuple[str, int], TaskCounts] = field(default_factory=dict)
    _turns: Counter[str] = field(default_factory=Counter)

    def start(self, agent: Agent, release: Deployable) -> None:
        """Run an instance at once."""
        self._reach()
        if agent.name in self.refuses:
            raise PlaneError("its node answers nobody", where=agent.name)
        with self.fuse.call("start"):
            self._releases.setdefault((agent.name, release.version), release)
            self._counts.setdefault((agent.name, release.version), TaskCounts())

    def stop(self, agent: str, version: int) -> None:
        """Forget an instance."""
        self._reach()
        with self.fuse.call("stop"):
            self._releases.pop((agent, version), None)
            self._counts.pop((agent, version), None)

    def route(self, table: RouteTable) -> None:
        """Apply a newer table."""
        self._reach()
        with self.fuse.call("route"):
            self.routed.append(table)

    def observe(self) -> FleetObservation:
        """Return what runs."""
        self._reach()
        found = []
        for (agent, version), release in sorted(self._releases.items()):
            if (agent, version) in self.unplaceable:
                found.append(Instance(agent, version, "starting", message="no node has its label"))
            else:
                counts = self._counts[agent, version]
                found.append(
                    Instance(agent, version, "running", release.release_id, "n0", "", counts)
                )
        generation = self.routed[-1].generation if self.routed else 0
        return FleetObservation(generation, tuple(found))

    def ask(
        self, probes: Mapping[tuple[str, int], Sequence[str]], *, timeout_s: float
    ) -> dict[tuple[str, int], tuple[ProbeAnswer | None, ...]]:
        """Answer by the release's own bytes."""
        del timeout_s
        self._reach()
        return {
            key: tuple(self._answer(key, task) for task in tasks) for key, tasks in probes.items()
        }

    def give(self, specialty: str, agents: Sequence[Agent], task: str) -> str | None:
        """Give one task to an agent of a specialty, as a dispatcher does; return the decision."""
        routes = {r.agent: r for r in self.routed[-1].routes} if self.routed else {}
        able = [
            a.name
            for a in agents
            if a.specialty == specialty and a.name in routes and routes[a.name].version is not None
        ] or [
            a.name
            for a in agents
            if a.specialty == specialty and a.name in routes and routes[a.name].canary is not None
        ]
        if not able:
            self.unserved += 1
            return None
        self._turns[specialty] += 1
        turn = self._turns[specialty]
        route = routes[able[turn % len(able)]]
        # Every other task of an agent with a canary, so that a few tasks are enough.
        version = route.canary if route.canary is not None and turn % 4 < 2 else route.version
        key = (route.agent, route.canary if version is None else version)
        answer = self._answer(key, task)
        pipeline = self._pipeline(key)
        unsafe = pipeline.probes.finds_unsafe(task)
        counts = self._counts[key]
        self._counts[key] = replace(
            counts,
            completed=counts.completed + 1,
            unsafe=counts.unsafe + unsafe,
            refused=counts.refused + (unsafe and answer.decision == "hold"),
            latency_counts=tuple(
                map(sum, zip(counts.latency_counts or (0,) * len(_QUICK), _QUICK, strict=True))
            ),
        )
        return answer.decision

    def _answer(self, key: tuple[str, int], task: str) -> ProbeAnswer:
        found = self._pipeline(key).answer(task)
        decision = found.decision
        if key in self.answers_wrongly:
            decision = "hold" if decision == "act" else "act"
        return ProbeAnswer(decision, found.specialty, found.text, 5.0)

    def _pipeline(self, key: tuple[str, int]) -> Pipeline:
        version = key[1]
        if version not in self._pipelines:
            self._pipelines[version] = load_pipeline(self._releases[key].release_dir)
        return self._pipelines[version]

    def _reach(self) -> None:
        if self.is_away:
            raise PlaneError("the cluster does not answer")
