"""The steps of a plan in its own words, and which of them a rollout has reached. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kfm_mlflow.policy.steps import AnalysisStep, SetMirrorRoute, SetWeight
from kfm_mlflow.rollout.narrative import PlannedStep
from kfm_mlflow.rollout.state import UNWINDING, Phase

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.policy.steps import Step
    from kfm_mlflow.rollout.state import RolloutState

_BEGUN = frozenset({Phase.CANARY, Phase.AWAITING_ADMISSION, Phase.PAUSED})
_GIVEN_UP = UNWINDING | {Phase.ROLLED_BACK}
_HOUR_S, _MINUTE_S = 3600, 60


def span(seconds: float) -> str:
    """Write a duration in the largest unit that divides it, as a person would say it."""
    for unit_s, unit in ((_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= 2 * unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g} {unit}"
    return f"{seconds:g} s"


def step_words(step: Step) -> str:
    """Write a step in the plan's words."""
    if isinstance(step, SetWeight):
        return f"setWeight {step.weight_pct} %"
    if isinstance(step, SetMirrorRoute):
        return f"setMirrorRoute {step.mirror.percentage} %"
    if isinstance(step, AnalysisStep):
        asked = step.analysis
        return f"analysis of {asked.min_samples} answers within {span(asked.deadline_s)}"
    if step.pause.duration_s is not None:
        return f"pause for {span(step.pause.duration_s)}"
    return f"pause for {step.pause.gate}, at most {span(step.pause.deadline_s or 0.0)}"


def step_at(plan: RolloutPolicy, state: RolloutState) -> int | None:
    """Return the index of the step under way, or at which the candidate was given up."""
    at_a_step = state.phase in _BEGUN or (state.phase in _GIVEN_UP and _had_begun(state))
    return state.step_index if at_a_step and state.step_index < len(plan.steps) else None


def planned_steps(plan: RolloutPolicy, state: RolloutState) -> tuple[PlannedStep, ...]:
    """Return every step of the plan with how far the rollout has come."""
    return tuple(
        PlannedStep(
            number=index + 1,
            words=step_words(step),
            canary_pct=plan.weight_pct_at(index),
            mirror_pct=plan.mirror_pct_at(index),
            status=_status(plan, state, index),
        )
        for index, step in enumerate(plan.steps)
    )


def _had_begun(state: RolloutState) -> bool:
    """Whether a rollout that was given up had come to its first step: something was measured."""
    return state.analysis is not None


def _status(
    plan: RolloutPolicy, state: RolloutState, index: int
) -> Literal["done", "present", "stopped", "ahead"]:
    present = step_at(plan, state)
    if present == index:
        return "stopped" if state.phase in _GIVEN_UP else "present"
    past = index < state.step_index or state.promoted
    return "done" if past and state.phase is not Phase.IDLE else "ahead"
