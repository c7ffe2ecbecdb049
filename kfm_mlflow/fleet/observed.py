"""What a step of a fleet sees: facts from outside, read in the same pass; and what they add up to.

Pure. An instance is *right* when it runs what the registry verified, by the release id that it
loaded; *sound* when it is right, answers probes, and is neither lost nor isolated. Only a sound one
gets tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.health import (
    InstanceMemory,
    VersionMemory,
    is_lost,
    with_agreement,
    with_counts,
    with_round,
)
from kfm_mlflow.fleet.plane import FleetObservation
from kfm_mlflow.rollout.inputs import Levels, Orders, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.health import ProbeRound
    from kfm_mlflow.fleet.plane import Instance
    from kfm_mlflow.fleet.state import FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy


@dataclass(frozen=True)
class FleetInputs:
    """Everything that a step may look at besides policy, agents and state.

    Attributes:
        levels: What the registry holds.
        observation: Instances, their counts, and the routes that all dispatchers apply.
        rounds: Probe rounds measured since the step before, the oldest first.
        admitted: Whether the registry would admit the candidate to Production; None when it was
            not asked.
        admission_reason: The registry's sentence when it would not.
        restorable: Whether it would put the target of an operator's rollback back; None when it
            was not asked.
        restore_reason: Its sentence when it would not.
        orders: What people ask.
        standing: What may no longer be served.
    """

    levels: Levels = field(default_factory=Levels)
    observation: FleetObservation = field(default_factory=FleetObservation)
    rounds: tuple[ProbeRound, ...] = ()
    admitted: bool | None = None
    admission_reason: str = ""
    restorable: bool | None = None
    restore_reason: str = ""
    orders: Orders = field(default_factory=Orders)
    standing: Standing = field(default_factory=Standing)


@dataclass(frozen=True)
class Seen:
    """All that a step sees, with instances and what is known of them by agent and version.

    Attributes:
        plan: The policy's fleet section.
        agents: Who is in the fleet, sorted by name.
        inputs: Facts read in this pass.
        now: Aware UTC.
        instances: Agent -> version -> instance.
        memories: Agent -> version -> memory.
        release_ids: Version -> release id that the registry verified.
    """

    plan: FleetPolicy
    agents: Sequence[Agent]
    inputs: FleetInputs
    now: datetime
    instances: Mapping[str, Mapping[int, Instance]]
    memories: Mapping[str, Mapping[int, InstanceMemory]]
    release_ids: Mapping[int, str]

    @property
    def generation(self) -> int:
        """Generation of the routes that all dispatchers apply."""
        return self.inputs.observation.generation

    def of(self, agent: str) -> Mapping[int, Instance]:
        """Return the instances of an agent."""
        return self.instances.get(agent, {})

    def memory(self, agent: str, version: int) -> InstanceMemory:
        """Return what is known of an instance; of an unknown one, nothing."""
        return self.memories.get(agent, {}).get(version) or InstanceMemory()

    def is_right(self, agent: str, version: int | None) -> bool:
        """Whether an instance runs what was verified."""
        if version is None:
            return False
        found = self.of(agent).get(version)
        if found is None or found.status != "running" or not found.release_id:
            return False
        return found.release_id == self.release_ids.get(version)

    def is_wrong(self, agent: str, version: int) -> bool:
        """Whether an instance runs something else than was verified."""
        found = self.of(agent).get(version)
        known = version in self.release_ids
        return known and found is not None and found.status == "running" and not self.is_right(
            agent, version
        )  # fmt: skip

    def is_alive(self, agent: str, version: int | None) -> bool:
        """Whether an instance is right, answered probes and is not isolated; it may be silent."""
        if version is None or not self.is_right(agent, version):
            return False
        memory = self.memories[agent][version]
        return memory.coherence is not None and not memory.is_isolated

    def is_sound(self, agent: str, version: int | None) -> bool:
        """Whether an instance may get tasks."""
        return version in self.sound.get(agent, ())

    @cached_property
    def sound(self) -> Mapping[str, frozenset[int]]:
        """Agent -> versions of which its instance may get tasks."""
        return {
            agent: frozenset(v for v, memory in versions.items() if self._answers(agent, v, memory))
            for agent, versions in self.memories.items()
        }

    def _answers(self, agent: str, version: int, memory: InstanceMemory) -> bool:
        if memory.coherence is None or memory.is_isolated or not self.is_right(agent, version):
            return False
        return memory.silent_since is None or not is_lost(self.plan, memory, self.now)

    def why_not_sound(self, agent: str, version: int) -> str:
        """Return why an instance gets no tasks, in one clause; empty when it is sound."""
        found, memory = self.of(agent).get(version), self.memory(agent, version)
        if found is None:
            return "it has no instance"
        if found.status != "running":
            return found.message or found.status
        if not self.is_right(agent, version):
            return f"runs {found.release_id or 'nothing that it names'}, which was not verified"
        if is_lost(self.plan, memory, self.now):
            return "answers nothing"
        if memory.coherence is None:
            return "answered no probe yet"
        return f"is isolated at coherence {memory.coherence:.2f}" if memory.is_isolated else ""


def look(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    inputs: FleetInputs,
    now: datetime,
) -> Seen:
    """Take in instances, counters and probe rounds."""
    instances: dict[str, dict[int, Instance]] = {}
    memories: dict[str, dict[int, InstanceMemory]] = {}
    before, nothing = state.instances, dict[int, InstanceMemory]()
    limits = plan.health
    for found in inputs.observation.instances:
        agent, version = found.agent, found.version
        known = before.get(agent, nothing).get(version)
        if known is None:
            known = InstanceMemory(asked_at=now)
        if found.status != "running":
            known = InstanceMemory(asked_at=known.asked_at)
        else:
            known = with_counts(known, found.counts, limits, now)
            for asked in inputs.rounds:
                if (agent, version) in asked.agreements:
                    agreed = asked.agreements[agent, version]
                    known = with_agreement(known, agreed, asked.probe_count, limits, asked.asked_at)
        instances.setdefault(agent, {})[version] = found
        memories.setdefault(agent, {})[version] = known
    _remember_asked(state, inputs, memories)
    return Seen(plan, agents, inputs, now, instances, memories, state.release_ids)


def _remember_asked(
    state: FleetState, inputs: FleetInputs, memories: dict[str, dict[int, InstanceMemory]]
) -> None:
    """Keep when the start of an instance was asked that is not there: nothing else of it."""
    levels = inputs.levels
    wanted = {state.candidate, state.stable, levels.production, levels.canary}
    for agent, versions in state.instances.items():
        if versions.keys() <= memories.get(agent, {}).keys():
            continue
        for version, known in versions.items():
            gone = version not in memories.get(agent, ())
            if gone and version in wanted and known.asked_at is not None:
                of = memories.setdefault(agent, {})
                of[version] = InstanceMemory(asked_at=known.asked_at)


def remember(state: FleetState, seen: Seen) -> FleetState:
    """Put what was measured into the state."""
    versions = {v: m for v, m in state.versions.items() if v in state.release_ids}
    for measured in seen.inputs.rounds:
        for version in {*measured.consensus, *measured.safety}:
            known = versions.get(version, VersionMemory())
            versions[version] = with_round(known, measured, version, seen.plan.health)
    return replace(state, instances=seen.memories, versions=versions)
