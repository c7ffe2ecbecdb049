"""Taking a candidate back, and the rest between rollouts. Pure.

Rules kept here:

1. Traffic first, then the registry, then the reports. Nothing of it follows the plan's steps.
2. Traffic only goes to a version that is up. While stable is not, it is deployed first; only a
   veto, failed masking or broken bytes take the candidate's traffic away before that.
3. The registry moves by compare-and-set on what was read in this pass, and only when it still
   holds the candidate: a person's later move is never undone.
4. A rollback that takes too long is called failed, loudly, and goes on trying.
5. What may no longer be served, as an authority or withdrawn consent has it, is recalled at rest,
   too: for a former version that may, or for nothing, traffic and level alike.
6. At rest, traffic follows production. A version without traffic stays up for the scale-down
   delay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.actions import (
    Action,
    Demote,
    Deploy,
    PublishVerdict,
    Remove,
    Restore,
    WriteReports,
)
from kfm_mlflow.rollout.interrupt import recall
from kfm_mlflow.rollout.state import Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import Outcome, begin, elapsed_s, enter, is_routed, route

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import Levels, StepInputs

_NEVER_SERVES = frozenset({Trigger.VETO, Trigger.SOVEREIGNTY, Trigger.INTEGRITY})


def unwind(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Work out what is left of a rollback."""
    if elapsed_s(state.entered_at, now) > plan.canary_ready_s and state.phase is Phase.ABORTING:
        state = replace(state, phase=Phase.ROLLBACK_FAILED)
    if state.stable in inputs.standing.recalls:
        state = replace(state, stable=None)  # rest() finds out what is served in its place
    target = state.stable
    if target is not None and target not in inputs.deployed:
        return _wait_for_target(state, inputs, target, now)
    actions: list[Action] = []
    if not is_routed(state, inputs, target, None, 0.0):
        state, split = route(state, inputs, now, stable=target)
        actions.append(split)
    move = _registry_move(state, inputs.levels)
    if move is not None:
        actions.append(move)
    failed = state.analysis is not None and state.analysis.verdict is Verdict.FAIL
    if failed and not state.published and state.candidate is not None:
        actions.append(PublishVerdict(state.candidate))
    if not state.reports_written and state.candidate is not None:
        actions.append(WriteReports(state.candidate, target))
    if actions:
        return state, tuple(actions)
    done = enter(state, Phase.ROLLED_BACK, now, reason=state.reason)
    return replace(
        done,
        traffic_restored_at=done.traffic_restored_at or now,
        registry_restored_at=done.registry_restored_at or now,
    ), ()


def _wait_for_target(
    state: RolloutState, inputs: StepInputs, target: int, now: datetime
) -> Outcome:
    carries = state.split.canary is not None or state.split.stable == state.candidate
    if state.trigger in _NEVER_SERVES and carries:
        state, split = route(state, inputs, now, stable=None)
        return state, (split, Deploy(target))
    return state, (Deploy(target),)


def _registry_move(state: RolloutState, levels: Levels) -> Restore | Demote | None:
    if state.candidate is None:
        return None
    if levels.production == state.candidate and state.stable is not None:
        return Restore(state.stable, levels.production, levels.canary, state.reason)
    if state.candidate in (levels.production, levels.canary):
        return Demote(state.candidate, levels.production, levels.canary, state.reason)
    return None


def rest(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Keep traffic at production, and see whether a new canary asks for a rollout."""
    production, canary = inputs.levels.production, inputs.levels.canary
    if production is not None and production in inputs.standing.recalls:
        served = begin(plan, state, production, inputs.standing.fallback, now, reason="recall")
        recalled = recall(replace(served, promoted=True), inputs, now)
        return unwind(plan, recalled or served, inputs, now)
    if canary is not None and canary != production:
        return begin(plan, state, canary, production, now, reason=f"canary v{canary}"), ()
    if production is not None and production not in inputs.deployed:
        return state, (Deploy(production),)
    idle = production is None and state.split.generation == 0
    if not idle and not is_routed(state, inputs, production, None, 0.0):
        state, split = route(state, inputs, now, stable=production)
        return state, (split,)
    return _scale_down(plan, state, inputs, now)


def _scale_down(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    extra = sorted(inputs.deployed - {inputs.levels.production})
    retired_at = {version: state.retired_at.get(version, now) for version in extra}
    if retired_at != state.retired_at:
        state = replace(state, retired_at=retired_at)
    due = [v for v in extra if elapsed_s(retired_at[v], now) >= plan.scale_down_delay_s]
    return state, tuple(Remove(version) for version in due)
