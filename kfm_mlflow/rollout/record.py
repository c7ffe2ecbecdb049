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
from kfm_mlflow.rollout.orders import wants_restore_check
from kfm_mlflow.rollout.state import RESTING, UNWINDING, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.traffic_events import MAX_EVENTS, TrafficEvent
from kfm_mlflow.rollout.transitions import fail_rollback, give_up

if TYPE_CHECKING:
    from datetime import datetime


def record(state: RolloutState, action: Action, now: datetime) -> RolloutState:
    """Note that an action was carried out, with its time."""
    changed = state
    if isinstance(action, Deploy):
        deployed = TrafficEvent(now, "deploy", version=action.version)
        changed = _with_event(_deployed(state, action.version), deployed)
    elif isinstance(action, SetSplit):
        back = action.stable == state.stable and action.canary is None
        if state.phase in UNWINDING and back:
            changed = replace(state, traffic_restored_at=now)
        changed = _with_event(changed, _split_event(action, now))
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


def _with_event(state: RolloutState, event: TrafficEvent) -> RolloutState:
    if state.phase in RESTING:
        return state
    return replace(state, traffic=(*state.traffic, event)[-MAX_EVENTS:])


def _split_event(action: SetSplit, now: datetime) -> TrafficEvent:
    return TrafficEvent(
        now,
        "split",
        stable=action.stable,
        canary=action.canary,
        canary_ratio=action.ratio,
        mirror_ratio=action.mirror_ratio,
        generation=action.generation,
    )


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
    so is a rollout without a sound rollback target. A rollback that an operator ordered fails when
    its target is not sound, or the registry refuses it. Everything else is asked for again.
    """
    if state.phase in UNWINDING:
        return _unwinding_failed(state, action, error, now)
    if state.phase in RESTING or not isinstance(action, Deploy):
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


def _unwinding_failed(
    state: RolloutState, action: Action, error: Exception, now: datetime
) -> RolloutState:
    """Note that a rollback can not be carried out.

    An operator's word is no evidence of harm: traffic then goes by the registry again. Where harm
    was found it stays with the version before, and the registry is asked again; only a target that
    an operator named and that is not sound is none.
    """
    if state.stable is None or not state.promoted:
        return state
    unsound = isinstance(action, Deploy) and wants_restore_check(state)
    if state.trigger is not Trigger.OPERATOR and not unsound:
        return state
    is_target = isinstance(action, Deploy | Restore) and action.version == state.stable
    if is_target and isinstance(error, IntegrityError | RefusedError):
        return fail_rollback(state, str(error), now)
    return state
