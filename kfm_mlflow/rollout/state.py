"""The state of a rollout: one immutable value, written to the journal whenever it changes.

It holds everything that a controller needs to go on where another was killed: what was asked of
the traffic plane, what was counted, what was decided and when. What is true outside (levels in
the registry, releases that are up, the split that routers apply) is read anew in every pass.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the journal reads the types at run time
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - same
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from kfm_mlflow.rollout.analysis import Analysis, Memory
from kfm_mlflow.rollout.journaled import read_state, write_state
from kfm_mlflow.rollout.traffic_events import TrafficEvent  # noqa: TC001 - the journal reads it


class Phase(StrEnum):
    """Where a rollout stands."""

    IDLE = "Idle"
    PENDING = "Pending"
    DEPLOYING = "Deploying"
    CANARY = "Canary"
    AWAITING_ADMISSION = "AwaitingAdmission"
    PAUSED = "Paused"
    PROMOTING = "Promoting"
    SOAKING = "Soaking"
    SUCCEEDED = "Succeeded"
    ABORTING = "Aborting"
    ROLLED_BACK = "RolledBack"
    ROLLBACK_FAILED = "RollbackFailed"


RESTING = frozenset({Phase.IDLE, Phase.SUCCEEDED, Phase.ROLLED_BACK})
"""No rollout is under way: traffic follows production."""

UNWINDING = frozenset({Phase.ABORTING, Phase.ROLLBACK_FAILED})
"""The candidate was given up; failed means: loud, and still trying, or with no way back at all."""

BEFORE_PROMOTION = frozenset(
    {Phase.PENDING, Phase.DEPLOYING, Phase.CANARY, Phase.AWAITING_ADMISSION, Phase.PAUSED}
)
UNDER_ANALYSIS = frozenset(
    {Phase.CANARY, Phase.AWAITING_ADMISSION, Phase.PAUSED, Phase.PROMOTING, Phase.SOAKING}
)


class Trigger(StrEnum):
    """Why a candidate was given up."""

    ANALYSIS = "analysis"
    DEADLINE = "deadline"
    VETO = "veto"
    SOVEREIGNTY = "sovereignty"
    OPERATOR = "operator"
    INTEGRITY = "integrity"
    NOT_READY = "not-ready"
    NO_TARGET = "no-rollback-target"
    REGISTRY = "registry"
    TELEMETRY = "telemetry-gap"
    DRIFT = "drift"
    VALIDATION = "validation"
    XAI = "xai"
    NARRATIVE = "narrative-safety"
    FUSION = "fusion-collapse"


NEVER_SERVES = frozenset({Trigger.VETO, Trigger.SOVEREIGNTY, Trigger.INTEGRITY})
"""What takes a version's traffic away even when nothing can take its place."""


@dataclass(frozen=True)
class AskedSplit:
    """The last split that was asked of the plane."""

    stable: int | None = None
    canary: int | None = None
    ratio: float = 0.0
    generation: int = 0
    mirror_ratio: float = 0.0


@dataclass(frozen=True)
class RolloutState:
    """One rollout of one registered model.

    Attributes:
        model_name: Registered model.
        candidate: Version under way, or of the last rollout.
        stable: Rollback target: production when the rollout began; None for a first release.
        phase: Where it stands.
        step_index: Step of the plan under way; the number of steps when all are done.
        entered_at: When the phase began.
        step_entered_at: When the step began.
        generation: Grows with every journal write.
        plan_digest: Plan that the rollout began with.
        split: What was last asked of the plane.
        verified: Versions whose bytes were verified since the rollout began.
        promoted: The registry holds, or held, the candidate at production.
        promote_ordered: An operator ordered the promotion.
        order_id: Last operator's order that was obeyed.
        paused_from: Phase to return to after a pause.
        memory: What the analysis has seen.
        analysis: What it last found; after an abort, what it found then.
        published: The present step's verdict is signed and in the registry.
        trigger: Why the candidate was given up.
        reason: The same for people.
        detected_at: When that was decided.
        traffic_restored_at: When all routers had the old split.
        registry_restored_at: When the registry's levels were back.
        reports_written: The three reports are in the registry.
        retired_at: Version -> when its traffic was moved away.
        looked_at: When a controller last looked, since the step or the watch began.
        watched_s: Time of this step, or of the watch, with a controller at work: a gap between
            two looks counts for a minute at most, so neither a clock that jumps nor a controller
            that was away shortens a pause or the watch.
        blind_since: Since when nothing could be measured; None while something can.
        overtaken: Canary of the registry when an operator's rollback began. Should the rollback
            fail, it waits for a new decision.
        target_ordered: An operator named the rollback target; nobody has verified it yet.
        excused: Digest of the validation whose findings an operator took as they are.
        plane_problem: Why the traffic plane does not answer; empty while it does.
        traffic: What was done to traffic since the rollout began, the newest last.
    """

    model_name: str
    phase: Phase
    entered_at: datetime
    step_entered_at: datetime
    candidate: int | None = None
    stable: int | None = None
    step_index: int = 0
    generation: int = 0
    plan_digest: str = ""
    split: AskedSplit = field(default_factory=AskedSplit)
    verified: tuple[int, ...] = ()
    promoted: bool = False
    promote_ordered: bool = False
    order_id: int = 0
    paused_from: Phase | None = None
    memory: Memory = field(default_factory=Memory)
    analysis: Analysis | None = None
    published: bool = False
    trigger: Trigger | None = None
    reason: str = ""
    detected_at: datetime | None = None
    traffic_restored_at: datetime | None = None
    registry_restored_at: datetime | None = None
    reports_written: bool = False
    retired_at: Mapping[int, datetime] = field(default_factory=dict)
    looked_at: datetime | None = None
    watched_s: float = 0.0
    blind_since: datetime | None = None
    overtaken: int | None = None
    target_ordered: bool = False
    excused: str = ""
    plane_problem: str = ""
    traffic: tuple[TrafficEvent, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the journal's JSON value."""
        return write_state(_adapter(), self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RolloutState:
        """Read a journal entry; what it tells people beside the state is left alone.

        Raises:
            EvidenceError: It is not one, or of another schema version.
        """
        return read_state(_adapter(), value, where="rollout journal")


@cache
def _adapter() -> TypeAdapter[RolloutState]:
    return TypeAdapter(RolloutState)


def initial_state(model_name: str, now: datetime) -> RolloutState:
    """Return the state of a model that has no journal yet."""
    return RolloutState(model_name, Phase.IDLE, now, now)
