"""What may cut into a rollout in any phase: harm, a veto, an operator, a move in the registry.

Pure; part of :mod:`kfm_mlflow.rollout.step`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.steps import PauseStep
from kfm_mlflow.rollout.state import (
    BEFORE_PROMOTION,
    UNDER_ANALYSIS,
    Phase,
    RolloutState,
    Trigger,
)
from kfm_mlflow.rollout.transitions import begin, elapsed_s, enter, give_up

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import Orders, StepInputs


def note_blindness(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState:
    """Note since when the measurement is broken; an arm that nobody asked anything is not."""
    found = inputs.analysis
    broken = found is None or (found.verdict is Verdict.ERROR and not found.is_silent)
    if state.phase not in UNDER_ANALYSIS or not broken:
        return state if state.blind_since is None else replace(state, blind_since=None)
    return state if state.blind_since is not None else replace(state, blind_since=now)


def stop(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give the candidate up for a veto, an abort, a FAIL or a telemetry gap; None without one."""
    recalled = recall(state, inputs, now)
    if recalled is not None:
        return recalled
    if inputs.orders.veto:
        return give_up(state, Trigger.VETO, f"veto: {inputs.orders.veto}", now)
    if _has_order(state, inputs) and inputs.orders.operator == "abort":
        state = replace(state, order_id=inputs.orders.order_id)
        return give_up(state, Trigger.OPERATOR, f"aborted by {_orderer(inputs.orders)}", now)
    if inputs.analysis is not None and inputs.analysis.verdict is Verdict.FAIL:
        unmasked = inputs.analysis.is_unmasked
        trigger = Trigger.SOVEREIGNTY if unmasked else Trigger.ANALYSIS
        return give_up(state, trigger, inputs.analysis.reason, now)
    blind_s = 0.0 if state.blind_since is None else elapsed_s(state.blind_since, now)
    if state.blind_since is not None and blind_s >= plan.telemetry_gap_s:
        found = inputs.analysis.reason if inputs.analysis else "the plane says nothing"
        return give_up(state, Trigger.TELEMETRY, f"not measured for {blind_s:.0f} s: {found}", now)
    return None


def recall(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState | None:
    """Give the candidate up when it, or Production beside it, may no longer be served.

    What then gets the traffic may be served itself: Production under a canary, else the former
    version that the registry names, else nothing.
    """
    standing, stable = inputs.standing, state.stable
    named = (version for version in (state.candidate, stable) if version in standing.recalls)
    version = next(named, None)
    if version is None:
        return None
    if inputs.levels.production == state.candidate:
        stable = standing.fallback
    elif stable in standing.recalls:
        stable = None
    trigger = Trigger.VETO if version in standing.vetoed else Trigger.SOVEREIGNTY
    reason = f"v{version} may no longer be served: {standing.recalls[version]}"
    return give_up(replace(state, stable=stable), trigger, reason, now)


def _orderer(orders: Orders) -> str:
    who = orders.operator_name or "an operator"
    return f"{who}: {orders.operator_reason}" if orders.operator_reason else who


def follow_registry(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give way to whoever moved a level; None when the registry is as the rollout expects."""
    production, canary = inputs.levels.production, inputs.levels.canary
    waiting = canary if canary != production else None
    if production == state.candidate:
        if state.phase not in BEFORE_PROMOTION:
            return _replace_watched(plan, state, waiting, now)
        promoted = enter(state, Phase.PROMOTING, now, reason="at production in the registry")
        return replace(promoted, step_index=len(plan.steps), promoted=True, paused_from=None)
    if production != state.stable or state.promoted:
        reason = f"production was moved to {_named(production)} by somebody else"
        if waiting is None:
            return enter(state, Phase.IDLE, now, reason=reason)
    elif waiting is None:
        return give_up(state, Trigger.REGISTRY, "taken off canary in the registry", now)
    elif waiting != state.candidate:
        reason = f"canary v{waiting} replaces v{state.candidate}"
    elif plan.digest != state.plan_digest:
        reason = "the plan was changed"
    else:
        return None
    return begin(plan, state, waiting, production, now, reason=reason)


def _replace_watched(
    plan: RolloutPolicy, state: RolloutState, waiting: int | None, now: datetime
) -> RolloutState | None:
    """Let a new canary end the watch of production, when that had its least time.

    A repair must not wait two days for the end of a watch.
    """
    if waiting is None or state.phase is not Phase.SOAKING:
        return None
    if state.watched_s < plan.scale_down_delay_s:
        return None
    reason = f"canary v{waiting}; the watch of v{state.candidate} ends early"
    return begin(plan, state, waiting, state.candidate, now, reason=reason)


def _named(version: int | None) -> str:
    return "nothing" if version is None else f"v{version}"


def _has_order(state: RolloutState, inputs: StepInputs) -> bool:
    return inputs.orders.order_id > state.order_id


def obey(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState:
    """Carry out an operator's pause, resume or promote; an order out of place changes nothing.

    A promote ends a timed pause, or gives the promotion that is due; it never stands in for
    evidence or votes, and none is kept for later.
    """
    if not _has_order(state, inputs):
        return state
    order = inputs.orders.operator
    if order == "pause" and state.phase in {Phase.PENDING, Phase.DEPLOYING}:
        return state
    state = replace(state, order_id=inputs.orders.order_id)
    if order == "pause" and state.phase in {Phase.CANARY, Phase.AWAITING_ADMISSION}:
        paused = enter(state, Phase.PAUSED, now, reason=f"paused by {_orderer(inputs.orders)}")
        return replace(paused, paused_from=state.phase)
    if order == "resume" and state.phase is Phase.PAUSED:
        resumed = enter(state, state.paused_from or Phase.CANARY, now)
        return replace(resumed, step_entered_at=now, watched_s=0.0, paused_from=None)
    if order == "promote" and state.phase in {Phase.CANARY, Phase.AWAITING_ADMISSION}:
        return replace(state, promote_ordered=_waits_for_a_person(plan, state))
    return state


def _waits_for_a_person(plan: RolloutPolicy, state: RolloutState) -> bool:
    if state.step_index >= len(plan.steps):
        return True
    current = plan.steps[state.step_index]
    return isinstance(current, PauseStep) and current.pause.duration_s is not None
