"""Moves between states that every part of the step uses. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.rollout.actions import Action, SetSplit
from kfm_mlflow.rollout.analysis import Memory
from kfm_mlflow.rollout.state import (
    RESTING,
    UNWINDING,
    AskedSplit,
    Phase,
    RolloutState,
    Trigger,
)

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import StepInputs

Outcome = tuple[RolloutState, tuple[Action, ...]]

MAX_LOOK_GAP_S = 60.0
"""Longest time between two looks that counts as watched."""


def elapsed_s(since: datetime, now: datetime) -> float:
    """Return the seconds between two instants."""
    return (now - since).total_seconds()


def keep_time(state: RolloutState, now: datetime) -> RolloutState:
    """Count the time since the last look; a clock that was set back restarts what it outran.

    Without the second, a deadline that began in a future that never came would never pass.
    """
    state = replace(
        state,
        entered_at=min(state.entered_at, now),
        step_entered_at=min(state.step_entered_at, now),
        blind_since=None if state.blind_since is None else min(state.blind_since, now),
        retired_at={version: min(at, now) for version, at in state.retired_at.items()},
    )
    if state.phase in RESTING or state.phase in UNWINDING:
        return state
    gap_s = elapsed_s(state.looked_at or state.step_entered_at, now)
    watched_s = state.watched_s + min(max(gap_s, 0.0), MAX_LOOK_GAP_S)
    return replace(state, looked_at=now, watched_s=watched_s)


def enter(state: RolloutState, phase: Phase, now: datetime, *, reason: str = "") -> RolloutState:
    """Go to a phase; staying in it keeps the time of entry."""
    if state.phase is phase:
        return state if state.reason == reason else replace(state, reason=reason)
    return replace(state, phase=phase, entered_at=now, reason=reason)


def begin(
    plan: RolloutPolicy,
    state: RolloutState,
    candidate: int,
    stable: int | None,
    now: datetime,
    *,
    reason: str,
) -> RolloutState:
    """Start a rollout of a candidate against the last stable version.

    What was asked of the plane, the orders obeyed and the journal's generation live on.
    """
    return RolloutState(
        model_name=state.model_name,
        phase=Phase.PENDING,
        entered_at=now,
        step_entered_at=now,
        candidate=candidate,
        stable=stable,
        generation=state.generation,
        plan_digest=plan.digest,
        split=state.split,
        order_id=state.order_id,
        retired_at=state.retired_at,
        reason=reason,
        excused=state.excused,
    )


def advance(state: RolloutState, now: datetime) -> RolloutState:
    """Go to the next step of the plan, with a fresh window."""
    return replace(
        enter(state, Phase.CANARY, now),
        step_index=state.step_index + 1,
        step_entered_at=now,
        watched_s=0.0,
        memory=state.memory.with_new_window(),
        published=False,
        promote_ordered=False,
    )


def start_canary(state: RolloutState, now: datetime) -> RolloutState:
    """Go to the first step of the plan, having seen nothing."""
    canary = enter(state, Phase.CANARY, now)
    return replace(
        canary,
        step_index=0,
        step_entered_at=now,
        watched_s=0.0,
        blind_since=None,
        memory=Memory(),
        published=False,
    )


def start_watch(state: RolloutState, now: datetime) -> RolloutState:
    """Begin to watch a new production version, which now has all traffic."""
    soaking = enter(state, Phase.SOAKING, now)
    return replace(
        soaking, step_entered_at=now, watched_s=0.0, memory=state.memory.with_new_window()
    )


def give_up(state: RolloutState, trigger: Trigger, reason: str, now: datetime) -> RolloutState:
    """Decide to take the candidate back; what that needs is worked out from the facts."""
    return replace(
        state,
        phase=Phase.ABORTING,
        entered_at=now,
        paused_from=None,
        published=False,
        trigger=trigger,
        reason=reason,
        detected_at=now,
        traffic_restored_at=None,
        registry_restored_at=None,
        reports_written=False,
        target_ordered=False,
    )


def fail_rollback(state: RolloutState, why: str, now: datetime) -> RolloutState:
    """Give a rollback's target up: what is at Production stays, until somebody decides.

    Where harm was found, the version that carries the traffic already stays the target.
    """
    carries = state.split.stable
    harmed = state.trigger is not Trigger.OPERATOR
    back = carries if harmed and carries not in {state.candidate, state.stable} else None
    reason = f"{state.reason}; v{state.stable} does not come back: {why}"
    failed = enter(state, Phase.ROLLBACK_FAILED, now, reason=reason)
    return replace(
        failed,
        stable=back,
        target_ordered=False,
        reports_written=False,
        traffic_restored_at=None,
    )


def is_routed(
    state: RolloutState,
    inputs: StepInputs,
    stable: int | None,
    canary: int | None,
    ratio: float,
    *,
    mirror_ratio: float = 0.0,
) -> bool:
    """Whether all routers apply this split."""
    asked = state.split
    wanted = AskedSplit(stable, canary, ratio, asked.generation, mirror_ratio)
    return asked == wanted and inputs.applied_generation == asked.generation


def route(
    state: RolloutState,
    inputs: StepInputs,
    now: datetime,
    *,
    stable: int | None,
    canary: int | None = None,
    ratio: float = 0.0,
    mirror_ratio: float = 0.0,
) -> tuple[RolloutState, SetSplit]:
    """Ask for a split, newer than any before; note since when a version is without traffic."""
    generation = max(state.split.generation, inputs.applied_generation) + 1
    before, after = {state.split.stable, state.split.canary}, {stable, canary}
    retired_at = {v: at for v, at in state.retired_at.items() if v not in after}
    retired_at |= {v: now for v in before - after if v is not None}
    asked = AskedSplit(stable, canary, ratio, generation, mirror_ratio)
    action = SetSplit(stable, canary, ratio, generation, mirror_ratio)
    return replace(state, split=asked, retired_at=retired_at), action


def withhold(before: RolloutState, outcome: Outcome, inputs: StepInputs, now: datetime) -> Outcome:
    """Take traffic off what may no longer be served, whatever a step decided.

    What the step asks of traffic gives way; everything else of it is carried out as it is.

    Args:
        before: State that the step began with.
        outcome: What it decided.
        inputs: What it saw.
        now: Aware UTC.
    """
    state, actions = outcome
    asked, recalls = state.split, inputs.standing.recalls
    if asked.stable not in recalls and asked.canary not in recalls:
        return outcome
    stable = None if asked.stable in recalls else asked.stable
    others = tuple(action for action in actions if not isinstance(action, SetSplit))
    kept = replace(state, split=before.split, retired_at=before.retired_at)
    if is_routed(kept, inputs, stable, None, 0.0):
        return kept, others
    kept, split = route(kept, inputs, now, stable=stable)
    return kept, (split, *others)
