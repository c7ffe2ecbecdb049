"""What a step of a fleet sees: facts from outside, read in the same pass; and what they add up to.

Pure. An instance is *right* when it runs what the registry verified, by the release id that it
loaded; *sound* when it is right, answers probes, and is neither lost nor isolated. Only a sound one
gets tasks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.health import is_lost, runs_verified, with_evidence, with_round
from kfm_mlflow.fleet.memories import InstanceMemory, VersionMemory
from kfm_mlflow.fleet.plane import FleetObservation
from kfm_mlflow.rollout.inputs import Levels, Orders, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.health import ProbeRound
    from kfm_mlflow.fleet.plane import Instance
    from kfm_mlflow.fleet.state import FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy


_NOBODY: frozenset[str] = frozenset()


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
    """All that a step sees, with what is known of instances by agent and version.

    Attributes:
        plan: The policy's fleet section.
        agents: Who is in the fleet, sorted by name.
        inputs: Facts read in this pass.
        now: Aware UTC.
        memories: Agent -> version -> memory.
        release_ids: Version -> release id that the registry verified.
        sound: Version -> agents whose instance of it may get tasks.
        unsound: Agents with an instance that may not.
    """

    plan: FleetPolicy
    agents: Sequence[Agent]
    inputs: FleetInputs
    now: datetime
    memories: Mapping[str, Mapping[int, InstanceMemory]]
    release_ids: Mapping[int, str]
    sound: Mapping[int | None, AbstractSet[str]]
    unsound: AbstractSet[str]

    @property
    def generation(self) -> int:
        """Generation of the routes that all dispatchers apply."""
        return self.inputs.observation.generation

    @cached_property
    def instances(self) -> Mapping[str, Mapping[int, Instance]]:
        """Agent -> version -> instance: for agents of which more is asked than who is sound."""
        instances: dict[str, dict[int, Instance]] = {}
        for found in self.inputs.observation.instances:
            instances.setdefault(found.agent, {})[found.version] = found
        return instances

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
        return found is not None and runs_verified(found, self.release_ids)

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
        return agent in self.sound.get(version, _NOBODY)

    def sound_on(self, version: int | None) -> AbstractSet[str]:
        """Return the agents whose instance of a version may get tasks."""
        return self.sound.get(version, _NOBODY)

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
    memories: dict[str, dict[int, InstanceMemory]] = {}
    verified, before, nothing = state.release_ids, state.instances, dict[int, InstanceMemory]()
    sound: defaultdict[int | None, set[str]] = defaultdict(set)
    unsound: set[str] = set()
    limits, rounds, new = plan.health, inputs.rounds, InstanceMemory(asked_at=now)
    first_count = 0
    for found in inputs.observation.instances:
        agent, version = found.agent, found.version
        known = before.get(agent, nothing).get(version)
        if known is None:
            known, first_count = new, first_count + 1
        if found.status != "running":
            known = InstanceMemory(asked_at=known.asked_at)
        else:
            known = with_evidence(known, found, rounds, limits, now)
        if (
            known.coherence is not None
            and not known.is_isolated
            and (known.silent_since is None or not is_lost(plan, known, now))
            and runs_verified(found, verified)
        ):
            sound[version].add(agent)
        else:
            # One that is listed twice is what was listed last.
            sound[version].discard(agent)
            unsound.add(agent)
        memories.setdefault(agent, {})[version] = known
    if sum(map(len, memories.values())) - first_count < sum(map(len, before.values())):
        # Some that were known are gone.
        _remember_asked(state, inputs, memories)
    return Seen(plan, agents, inputs, now, memories, verified, sound, unsound)


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
