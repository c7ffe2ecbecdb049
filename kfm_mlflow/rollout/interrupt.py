"""What may cut into a rollout in any phase: harm, a veto, an operator, a move in the registry.

Pure; part of :mod:`kfm_mlflow.rollout.step`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.rollout import PauseStep, RolloutPolicy
from kfm_mlflow.rollout.state import BEFORE_PROMOTION, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import begin, enter, give_up

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.rollout.inputs import StepInputs


def stop(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState | None:
    """Give the candidate up for a veto, an operator's abort or a FAIL; None without one."""
    if inputs.orders.veto:
        return give_up(state, Trigger.VETO, f"veto: {inputs.orders.veto}", now)
    if _has_order(state, inputs) and inputs.orders.operator == "abort":
        state = replace(state, order_id=inputs.orders.order_id)
        return give_up(state, Trigger.OPERATOR, "aborted by an operator", now)
    if inputs.analysis is not None and inputs.analysis.verdict is Verdict.FAIL:
        return give_up(state, Trigger.ANALYSIS, inputs.analysis.reason, now)
    return None


def follow_registry(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give way to whoever moved a level; None when the registry is as the rollout expects."""
    production, canary = inputs.levels.production, inputs.levels.canary
    if production == state.candidate:
        if state.phase not in BEFORE_PROMOTION:
            return None
        promoted = enter(state, Phase.PROMOTING, now, reason="at production in the registry")
        return replace(promoted, step_index=len(plan.steps), promoted=True, paused_from=None)
    waiting = canary if canary != production else None
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
    state = replace(state, order_id=inputs.orders.order_id)
    if order == "pause" and state.phase in {Phase.CANARY, Phase.AWAITING_ADMISSION}:
        paused = enter(state, Phase.PAUSED, now, reason="paused by an operator")
        return replace(paused, paused_from=state.phase)
    if order == "resume" and state.phase is Phase.PAUSED:
        resumed = enter(state, state.paused_from or Phase.CANARY, now)
        return replace(resumed, step_entered_at=now, paused_from=None)
    if order == "promote" and state.phase in {Phase.CANARY, Phase.AWAITING_ADMISSION}:
        return replace(state, promote_ordered=_waits_for_a_person(plan, state))
    return state


def _waits_for_a_person(plan: RolloutPolicy, state: RolloutState) -> bool:
    if state.step_index >= len(plan.steps):
        return True
    current = plan.steps[state.step_index]
    return isinstance(current, PauseStep) and current.pause.duration_s is not None
