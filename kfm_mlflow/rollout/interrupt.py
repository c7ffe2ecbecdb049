"""What may cut into a rollout in any phase: harm, a veto, an abort, a move in the registry.

Pure; part of :mod:`kfm_mlflow.rollout.step`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.orders import has_order, orderer
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
    from kfm_mlflow.rollout.analysis import Analysis
    from kfm_mlflow.rollout.inputs import Regression, StepInputs


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
    """Give up for a veto, an abort, a regression, a FAIL or a telemetry gap; None without one."""
    told = (
        recall(state, inputs, now)
        or _obey_people(state, inputs, now)
        or give_up_regressed(state, inputs, now)
    )
    if told is not None:
        return told
    if inputs.analysis is not None and inputs.analysis.verdict is Verdict.FAIL:
        return give_up(state, _cause(inputs.analysis), inputs.analysis.reason, now)
    blind_s = 0.0 if state.blind_since is None else elapsed_s(state.blind_since, now)
    if state.blind_since is not None and blind_s >= plan.telemetry_gap_s:
        found = inputs.analysis.reason if inputs.analysis else "the plane says nothing"
        return give_up(state, Trigger.TELEMETRY, f"not measured for {blind_s:.0f} s: {found}", now)
    # Without a version to go back to, the candidate may be the repair.
    return replace_regressed(plan, state, inputs, now) if inputs.standing.fallback else None


def _obey_people(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState | None:
    """Give the candidate up for a veto of the council or an operator's abort."""
    if inputs.orders.veto:
        return give_up(state, Trigger.VETO, f"veto: {inputs.orders.veto}", now)
    if has_order(state, inputs) and inputs.orders.operator == "abort":
        state = replace(state, order_id=inputs.orders.order_id)
        return give_up(state, Trigger.OPERATOR, f"aborted by {orderer(inputs.orders)}", now)
    return None


def _cause(analysis: Analysis) -> Trigger:
    """Return what a FAIL is a case of."""
    if analysis.is_unmasked:
        return Trigger.SOVEREIGNTY
    if analysis.alarm:
        return Trigger(analysis.alarm)
    if analysis.is_drifting:
        return Trigger.DRIFT
    return Trigger.XAI if analysis.is_unstable else Trigger.ANALYSIS


def recall(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState | None:
    """Give the candidate up when it, or Production beside it, may no longer be served.

    A former version that may not is no matter of the release that took its place.
    What then gets the traffic may be served itself: Production under a canary, else the former
    version that the registry names, else nothing.
    """
    standing, stable = inputs.standing, state.stable
    served = {stable} & {inputs.levels.production}
    named = (v for v in (state.candidate, *served) if v in standing.recalls)
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


def give_up_regressed(
    state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give the candidate up when a newer validation finds it bad; None when none does."""
    if state.candidate is None:
        return None
    found = regression_of(state, inputs, state.candidate)
    if found is None:
        return None
    if inputs.levels.production == state.candidate:
        state = replace(state, stable=inputs.standing.fallback)
    reason = f"v{state.candidate} was validated again: {found.reason}"
    return give_up(state, Trigger(found.cause), reason, now)


def replace_regressed(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give Production up when a newer validation finds it bad, for the former version named.

    A canary that is under way has to begin again against that.
    """
    production = inputs.levels.production
    if production is None or regression_of(state, inputs, production) is None:
        return None
    taken = begin(plan, state, production, inputs.standing.fallback, now, reason="")
    return give_up_regressed(replace(taken, promoted=True), inputs, now)


def regression_of(state: RolloutState, inputs: StepInputs, version: int) -> Regression | None:
    """Return what a newer validation found of a version, unless an operator took it as it is."""
    found = inputs.standing.regressions.get(version)
    return None if found is None or found.statement == state.excused else found


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
