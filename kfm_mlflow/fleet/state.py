"""The state of a fleet: one immutable value, written to the journal whenever a decision changes it.

It holds everything that a loop needs to go on where another was killed: which agents were touched,
what was asked of routes and instances, what was measured and decided. What is true outside (levels
in the registry, instances, applied routes) is read anew in every pass.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the journal reads the types at run time
from dataclasses import dataclass, field, replace
from datetime import datetime  # noqa: TC003 - same
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from kfm_mlflow.fleet.health_verdict import Assessment  # noqa: TC001 - same
from kfm_mlflow.fleet.memories import InstanceMemory, VersionMemory
from kfm_mlflow.fleet.plane import RouteTable
from kfm_mlflow.rollout.journaled import read_state, write_state
from kfm_mlflow.rollout.state import Trigger  # noqa: TC001 - same

MAX_EVENTS = 64
"""How much of its own history a state remembers."""

SAVE_WATCHED_S = 30.0
"""Watched time that a kill may cost."""


class FleetPhase(StrEnum):
    """Where a fleet stands."""

    IDLE = "Idle"
    STARTING = "Starting"
    WATCHING = "Watching"
    AWAITING_ADMISSION = "AwaitingAdmission"
    PROMOTING = "Promoting"
    SOAKING = "Soaking"
    SUCCEEDED = "Succeeded"
    ABORTING = "Aborting"
    ROLLED_BACK = "RolledBack"
    ROLLBACK_FAILED = "RollbackFailed"


RESTING = frozenset({FleetPhase.IDLE, FleetPhase.SUCCEEDED, FleetPhase.ROLLED_BACK})
"""No release is under way: every agent serves Production."""

UNWINDING = frozenset({FleetPhase.ABORTING, FleetPhase.ROLLBACK_FAILED})
"""The candidate was given up; failed means: loud, and still trying, or waiting for a decision."""

UNDER_ASSESSMENT = frozenset(
    {
        FleetPhase.STARTING,
        FleetPhase.WATCHING,
        FleetPhase.AWAITING_ADMISSION,
        FleetPhase.PROMOTING,
        FleetPhase.SOAKING,
    }
)
"""Touched agents are judged, and a degraded one gives the candidate up."""


@dataclass(frozen=True)
class FleetEvent:
    """One move of a fleet, for reports and pages.

    Attributes:
        at: When.
        phase: Where it went.
        batch_index: Batch under way; 0 is the first.
        reason: Why, fit to be shown.
    """

    at: datetime
    phase: FleetPhase
    batch_index: int = 0
    reason: str = ""


@dataclass(frozen=True)
class FleetState:
    """One fleet: the agents that serve one registered model.

    Attributes:
        model_name: Registered model of the fused releases.
        phase: Where it stands.
        entered_at: When the phase, or the batch in it, began.
        candidate: Version under way, or of the last rollout.
        stable: Rollback target; None for a first release.
        batch_index: Batch under way; 0 is the first, before promotion.
        batch: Its agents.
        moved: Agents of earlier batches.
        was_absent: The batch's agents served nothing when it began.
        left_out: Agents without a batch on which nothing could be placed.
        watched_s: Time of this watch with a loop at work: a gap between two looks counts for a
            minute at most.
        looked_at: When a loop last looked.
        generation: Grows with every journal write.
        routes: Route table that was last asked of the dispatchers.
        release_ids: Version -> release id that the registry verified; an instance that says
            another one never gets tasks.
        verified: Versions whose bytes were verified since the rollout began.
        stables: Releases that the whole fleet served, the newest first; the first
            ``warm_versions`` of them stay up.
        promoted: The registry holds, or held, the candidate at Production.
        promote_ordered: An operator ordered the promotion.
        published: The first batch's verdict is signed and in the registry.
        assessment: What was last found of the touched agents; after an abort, what was found then.
        trigger: Why the candidate was given up.
        reason: The same for people, or what is waited for.
        detected_at: When that was decided.
        traffic_restored_at: When no dispatcher sent tasks to the candidate any more.
        registry_restored_at: When the registry's levels were back.
        reports_written: The reports of the rollback are in the registry.
        order_id: Last operator's order that was obeyed.
        overtaken: Canary of the registry when an operator's rollback began.
        target_ordered: An operator named the rollback target; nobody has verified it yet.
        excused: Digest of the validation whose findings an operator took as they are.
        degraded: Version that the registry keeps at Production although it was given up: it serves
            where it is healthy, and is brought to no other agent. An operator's word ends that.
        unplaced: Agents without a sound instance at rest or after a rollback -> why.
        plane_problem: Why the plane does not answer; empty while it does.
        instances: Agent -> version -> what was measured of that instance.
        versions: Version -> what its agents answered together.
        events: What was done since the rollout began, the newest last.
    """

    model_name: str
    phase: FleetPhase
    entered_at: datetime
    candidate: int | None = None
    stable: int | None = None
    batch_index: int = 0
    batch: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    was_absent: bool = False
    left_out: tuple[str, ...] = ()
    watched_s: float = 0.0
    looked_at: datetime | None = None
    generation: int = 0
    routes: RouteTable = field(default_factory=lambda: RouteTable(0, ()))
    release_ids: Mapping[int, str] = field(default_factory=dict)
    verified: tuple[int, ...] = ()
    stables: tuple[int, ...] = ()
    promoted: bool = False
    promote_ordered: bool = False
    published: bool = False
    assessment: Assessment | None = None
    trigger: Trigger | None = None
    reason: str = ""
    detected_at: datetime | None = None
    traffic_restored_at: datetime | None = None
    registry_restored_at: datetime | None = None
    reports_written: bool = False
    order_id: int = 0
    overtaken: int | None = None
    target_ordered: bool = False
    excused: str = ""
    degraded: int | None = None
    unplaced: Mapping[str, str] = field(default_factory=dict)
    plane_problem: str = ""
    instances: Mapping[str, Mapping[int, InstanceMemory]] = field(default_factory=dict)
    versions: Mapping[int, VersionMemory] = field(default_factory=dict)
    events: tuple[FleetEvent, ...] = ()

    @property
    def touched(self) -> tuple[str, ...]:
        """Agents that the candidate reached, or is about to."""
        return (*self.moved, *self.batch)

    def to_dict(self) -> dict[str, Any]:
        """Return the journal's JSON value."""
        return write_state(_adapter(), self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FleetState:
        """Read a journal entry; what it tells people beside the state is left alone.

        Raises:
            EvidenceError: It is not one, or of another schema version.
        """
        return read_state(_adapter(), value, where="fleet journal")


@cache
def _adapter() -> TypeAdapter[FleetState]:
    return TypeAdapter(FleetState)


def initial_state(model_name: str, now: datetime) -> FleetState:
    """Return the state of a fleet that has no journal yet."""
    return FleetState(model_name, FleetPhase.IDLE, now)


def is_worth_saving(saved: FleetState, now: FleetState) -> bool:
    """Whether the journal needs a new entry: a decision changed, or half a minute was watched.

    What is measured in every pass goes along with these and makes no entry of its own; a loop that
    is killed measures it again.
    """
    if now.watched_s - saved.watched_s >= SAVE_WATCHED_S:
        return True
    return _decided(saved) != _decided(now)


def _decided(state: FleetState) -> FleetState:
    isolated = {
        agent: {version: memory for version, memory in versions.items() if memory.is_isolated}
        for agent, versions in state.instances.items()
    }
    flags = {
        agent: {version: InstanceMemory(is_isolated=True) for version in versions}
        for agent, versions in isolated.items()
        if versions
    }
    return replace(
        state, watched_s=0.0, looked_at=None, instances=flags, versions={}, assessment=None
    )
