"""Moves between states that every part of a fleet's step uses. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.state import (
    MAX_EVENTS,
    FleetEvent,
    FleetPhase,
    FleetState,
)
from kfm_mlflow.rollout.transitions import MAX_LOOK_GAP_S, elapsed_s

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.fleet.observed import FleetInputs, Seen
    from kfm_mlflow.rollout.state import Trigger

_WATCHES = frozenset({FleetPhase.WATCHING, FleetPhase.SOAKING})


def keep_time(state: FleetState, inputs: FleetInputs, now: datetime) -> FleetState:
    """Count the time since the last look; a clock that was set back restarts what it outran.

    A watch counts only while the dispatchers apply the routes that are watched.
    """
    state = replace(state, entered_at=min(state.entered_at, now))
    if state.phase not in _WATCHES:
        return state if state.looked_at is None else replace(state, looked_at=None)
    gap_s = elapsed_s(state.looked_at or now, now)
    applied = inputs.observation.generation == state.routes.generation
    watched_s = state.watched_s + (min(max(gap_s, 0.0), MAX_LOOK_GAP_S) if applied else 0.0)
    return replace(state, looked_at=now, watched_s=watched_s)


def enter(state: FleetState, phase: FleetPhase, now: datetime, *, reason: str = "") -> FleetState:
    """Go to a phase; staying in it keeps the time of entry."""
    if state.phase is phase:
        return state if state.reason == reason else replace(state, reason=reason)
    event = FleetEvent(now, phase, state.batch_index, reason)
    return replace(
        state,
        phase=phase,
        entered_at=now,
        reason=reason,
        watched_s=0.0,
        looked_at=None,
        events=(*state.events, event)[-MAX_EVENTS:],
    )


def begin(
    state: FleetState,
    candidate: int,
    stable: int | None,
    batch: tuple[str, ...],
    now: datetime,
    *,
    reason: str,
) -> FleetState:
    """Start a rollout of a candidate against the last stable release.

    Routes, instances, orders obeyed and the journal's generation live on.
    """
    return FleetState(
        model_name=state.model_name,
        phase=FleetPhase.STARTING,
        entered_at=now,
        candidate=candidate,
        stable=stable,
        batch=batch,
        generation=state.generation,
        routes=state.routes,
        release_ids=state.release_ids,
        stables=state.stables,
        order_id=state.order_id,
        excused=state.excused,
        degraded=state.degraded,
        reason=reason,
        instances=state.instances,
        versions=state.versions,
        events=(FleetEvent(now, FleetPhase.STARTING, 0, reason),),
    )


def forget(state: FleetState, version: int) -> FleetState:
    """Drop what was measured of a version: evidence from before its rollout is none."""
    instances = {
        agent: {v: m for v, m in versions.items() if v != version}
        for agent, versions in state.instances.items()
    }
    versions = {v: m for v, m in state.versions.items() if v != version}
    return replace(state, instances=instances, versions=versions)


def start_batch(
    state: FleetState, batch: tuple[str, ...], now: datetime, *, was_absent: bool
) -> FleetState:
    """Go on with the next batch; the one before is moved."""
    started = replace(
        state,
        moved=state.touched,
        batch=batch,
        batch_index=state.batch_index + 1,
        was_absent=was_absent,
    )
    event = FleetEvent(now, FleetPhase.STARTING, started.batch_index, ", ".join(batch)[:200])
    return replace(
        started,
        phase=FleetPhase.STARTING,
        entered_at=now,
        reason="",
        watched_s=0.0,
        looked_at=None,
        events=(*state.events, event)[-MAX_EVENTS:],
    )


def give_up(state: FleetState, trigger: Trigger, reason: str, now: datetime) -> FleetState:
    """Decide to take the candidate back; what that needs is worked out from the facts."""
    event = FleetEvent(now, FleetPhase.ABORTING, state.batch_index, reason)
    return replace(
        state,
        phase=FleetPhase.ABORTING,
        entered_at=now,
        trigger=trigger,
        reason=reason,
        detected_at=now,
        published=False,
        traffic_restored_at=None,
        registry_restored_at=None,
        reports_written=False,
        target_ordered=False,
        events=(*state.events, event)[-MAX_EVENTS:],
    )


def fail_rollback(state: FleetState, why: str, now: datetime) -> FleetState:
    """Give a rollback's target up: what is at Production stays, until somebody decides."""
    reason = f"{state.reason}; v{state.stable} does not come back: {why}"
    failed = enter(state, FleetPhase.ROLLBACK_FAILED, now, reason=reason)
    return replace(
        failed,
        stable=None,
        target_ordered=False,
        reports_written=False,
        traffic_restored_at=None,
    )


def note_unplaced(state: FleetState, seen: Seen, version: int | None) -> FleetState:
    """Note which agents do not serve a version soundly, and why."""
    unplaced = {}
    if version is not None and version in state.release_ids:
        sound = seen.sound_on(version)
        unplaced = {
            agent.name: seen.why_not_sound(agent.name, version)
            for agent in seen.agents
            if agent.name not in sound
        }
    return state if unplaced == state.unplaced else replace(state, unplaced=unplaced)


def push_stable(state: FleetState, version: int) -> FleetState:
    """Note that the fleet serves a version, as the newest of its stable releases."""
    if state.stables[:1] == (version,):
        return state
    return replace(state, stables=(version, *(v for v in state.stables if v != version))[:16])
