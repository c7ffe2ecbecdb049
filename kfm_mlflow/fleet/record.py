"""What became of an action: the state after it was carried out, or failed. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.errors import IntegrityError, RefusedError
from kfm_mlflow.fleet.actions import Fetch, SetRoutes, Start
from kfm_mlflow.fleet.memories import InstanceMemory
from kfm_mlflow.fleet.moves import fail_rollback, give_up
from kfm_mlflow.fleet.state import RESTING, UNWINDING, FleetPhase, FleetState
from kfm_mlflow.rollout.actions import Demote, PublishVerdict, Restore, WriteReports
from kfm_mlflow.rollout.state import Trigger

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.fleet.actions import Action


def record(state: FleetState, action: Action, now: datetime, *, release_id: str = "") -> FleetState:
    """Note that an action was carried out, with its time.

    Args:
        state: Before it.
        action: Which one.
        now: Aware UTC.
        release_id: What a :class:`Fetch` handed over, verified.
    """
    changed = state
    if isinstance(action, Fetch):
        changed = replace(
            state,
            release_ids={**state.release_ids, action.version: release_id},
            verified=tuple(sorted({*state.verified, action.version})),
            # A download is no part of the time in which an agent has to start.
            entered_at=now if state.phase is FleetPhase.STARTING else state.entered_at,
        )
    elif isinstance(action, Start):
        changed = _asked(state, action, now)
    elif isinstance(action, SetRoutes):
        pairs = ((route.version, route.canary) for route in action.table.routes)
        served = any(state.candidate in pair for pair in pairs)
        if state.phase in UNWINDING and not served and state.traffic_restored_at is None:
            changed = replace(state, traffic_restored_at=now)
    elif isinstance(action, Restore | Demote):
        changed = replace(state, registry_restored_at=now)
    elif isinstance(action, PublishVerdict):
        changed = replace(state, published=True)
    elif isinstance(action, WriteReports):
        changed = replace(state, reports_written=True)
    return changed


def _asked(state: FleetState, action: Start, now: datetime) -> FleetState:
    of = {**state.instances.get(action.agent, {}), action.version: InstanceMemory(asked_at=now)}
    return replace(state, instances={**state.instances, action.agent: of})


def record_failure(
    state: FleetState, action: Action, error: Exception, now: datetime
) -> FleetState:
    """Note that an action failed; decide what that means for the candidate.

    A candidate whose bytes are not what was signed is given up, and so is a rollout without a sound
    target. A rollback that an operator ordered fails when its target is not sound, or the registry
    refuses it. Everything else is asked for again, until a deadline passes.
    """
    unsound = isinstance(error, IntegrityError | RefusedError)
    if state.phase in UNWINDING:
        # Where harm was found the target is asked for again; the deadline makes that loud.
        is_target = isinstance(action, Fetch | Restore) and action.version == state.stable
        if is_target and unsound and state.trigger is Trigger.OPERATOR:
            return fail_rollback(state, str(error), now)
        return state
    if state.phase in RESTING or not isinstance(action, Fetch | Start):
        return state
    if action.version == state.candidate:
        if unsound:
            return give_up(state, Trigger.INTEGRITY, f"v{action.version}: {error}", now)
    elif isinstance(action, Fetch) and unsound and state.phase is FleetPhase.STARTING:
        reason = f"rollback target v{action.version}: {error}"
        return give_up(state, Trigger.NO_TARGET, reason, now)
    return state
