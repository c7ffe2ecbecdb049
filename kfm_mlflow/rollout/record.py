"""What became of an action: the state after it was carried out, or failed. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.errors import IntegrityError, PlaneError, RefusedError
from kfm_mlflow.rollout.actions import (
    Action,
    Demote,
    Deploy,
    Promote,
    PublishVerdict,
    Remove,
    Restore,
    SetSplit,
    WriteReports,
)
from kfm_mlflow.rollout.state import RESTING, UNWINDING, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import give_up

if TYPE_CHECKING:
    from datetime import datetime


def record(state: RolloutState, action: Action, now: datetime) -> RolloutState:
    """Note that an action was carried out, with its time."""
    changed = state
    if isinstance(action, Deploy):
        changed = _deployed(state, action.version)
    elif isinstance(action, SetSplit):
        back = action.stable == state.stable and action.canary is None
        if state.phase in UNWINDING and back:
            changed = replace(state, traffic_restored_at=now)
    elif isinstance(action, Restore | Demote):
        changed = replace(state, registry_restored_at=now)
    elif isinstance(action, Promote):
        changed = replace(state, promoted=True)
    elif isinstance(action, PublishVerdict):
        changed = replace(state, published=True)
    elif isinstance(action, WriteReports):
        changed = replace(state, reports_written=True)
    elif isinstance(action, Remove):
        kept = {v: at for v, at in state.retired_at.items() if v != action.version}
        changed = replace(state, retired_at=kept)
    return changed


def _deployed(state: RolloutState, version: int) -> RolloutState:
    """Note a verified release; its counters may have started anew, so its mark is forgotten."""
    memory = state.memory
    if version == state.candidate:
        memory = memory.with_canary_unmarked()
    if version == state.stable:
        memory = memory.with_stable_unmarked()
    return replace(state, memory=memory, verified=tuple(sorted({*state.verified, version})))


def record_failure(
    state: RolloutState, action: Action, error: Exception, now: datetime
) -> RolloutState:
    """Note that an action failed; decide what that means for the candidate.

    A candidate whose bytes are not what was signed, or that does not become ready, is given up;
    so is a rollout without a sound rollback target. Everything else is asked for again.
    """
    if state.phase in RESTING or state.phase in UNWINDING or not isinstance(action, Deploy):
        return state
    if action.version == state.candidate:
        if isinstance(error, IntegrityError | RefusedError):
            return give_up(state, Trigger.INTEGRITY, f"v{action.version}: {error}", now)
        if isinstance(error, PlaneError):
            return give_up(state, Trigger.NOT_READY, f"v{action.version}: {error}", now)
    elif state.phase is Phase.DEPLOYING and isinstance(
        error, IntegrityError | RefusedError | PlaneError
    ):
        reason = f"rollback target v{action.version}: {error}"
        return give_up(state, Trigger.NO_TARGET, reason, now)
    return state
