"""What the orders of an operator do. Pure; part of :mod:`kfm_mlflow.rollout.step`.

Rules kept here:

1. Each order is obeyed once, and only by the rollout of the version that it names. One that comes
   too late is dropped: it never reaches the next rollout.
2. An order out of place changes nothing. None stands in for evidence or votes.
3. A rollback is obeyed in every phase and at rest, as long as the version that it takes down is
   at Production. What is known against that version stays known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.policy.steps import PauseStep
from kfm_mlflow.rollout.state import UNWINDING, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import begin, enter, give_up

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import Orders, StepInputs


def has_order(state: RolloutState, inputs: StepInputs) -> bool:
    """Whether there is an order for the candidate that was not obeyed yet."""
    orders = inputs.orders
    return orders.order_id > state.order_id and orders.version in {None, state.candidate}


def orderer(orders: Orders) -> str:
    """Return who ordered, and why."""
    who = orders.operator_name or "an operator"
    return f"{who}: {orders.operator_reason}" if orders.operator_reason else who


def obey(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState:
    """Carry out a pause, resume or promote; an order out of place changes nothing.

    A promote ends a timed pause, or gives the promotion that is due; it never stands in for
    evidence or votes, and none is kept for later.
    """
    if not has_order(state, inputs):
        return drop_order(state, inputs)
    order = inputs.orders.operator
    if order == "pause" and state.phase in {Phase.PENDING, Phase.DEPLOYING}:
        return state
    state = replace(state, order_id=inputs.orders.order_id)
    if order == "pause" and state.phase in {Phase.CANARY, Phase.AWAITING_ADMISSION}:
        paused = enter(state, Phase.PAUSED, now, reason=f"paused by {orderer(inputs.orders)}")
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


def drop_order(state: RolloutState, inputs: StepInputs) -> RolloutState:
    """Take note of an order that nothing will obey; one for a canary that waits is kept."""
    orders, waiting = inputs.orders, inputs.levels.canary
    if state.phase in UNWINDING and waiting == state.candidate:
        waiting = None
    kept = waiting is not None and orders.version in {None, waiting}
    if orders.order_id <= state.order_id or kept:
        return state
    return replace(state, order_id=orders.order_id)


def roll_back(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Begin a rollback that an operator ordered; None when none is to begin.

    The target is verified anew and admitted by the registry before any traffic goes there. What was
    found against what is at Production stays the reason.
    """
    orders, production = inputs.orders, inputs.levels.production
    target = orders.to_version
    if orders.operator != "rollback" or orders.order_id <= state.order_id:
        return None
    if production is None or orders.version != production or target in {None, production}:
        return None
    if state.candidate != production:
        state = begin(plan, state, production, target, now, reason="")
    harmed = state.phase in UNWINDING and state.trigger is not Trigger.OPERATOR
    trigger = state.trigger if harmed and state.trigger else Trigger.OPERATOR
    reason = f"rolled back to v{target} by {orderer(orders)}"
    ordered = replace(
        state,
        stable=target,
        promoted=True,
        order_id=orders.order_id,
        verified=(),
        overtaken=inputs.levels.canary,
    )
    given_up = give_up(ordered, trigger, f"{state.reason}; {reason}" if harmed else reason, now)
    return replace(given_up, target_ordered=True)


def wants_restore_check(state: RolloutState) -> bool:
    """Whether the registry is to be asked if it would restore the target of a rollback.

    Only for one that an operator ordered, and before its target has any traffic.
    """
    return (
        state.phase in UNWINDING
        and (state.target_ordered or state.trigger is Trigger.OPERATOR)
        and state.promoted
        and state.stable is not None
        and state.stable not in state.verified
    )
