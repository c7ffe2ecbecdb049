"""Taking a candidate back, and the rest between rollouts. Pure.

Rules kept here:

1. Traffic first, then the registry, then the reports. Nothing of it follows the plan's steps.
2. Traffic only goes to a version that is up. While stable is not, it is deployed first; only a
   veto, failed masking or broken bytes take the candidate's traffic away before that.
3. The registry moves by compare-and-set on what was read in this pass, and only when it still
   holds the candidate: a person's later move is never undone.
4. A rollback that takes too long is called failed, loudly, and goes on trying. One that has
   nothing to go back to is failed at once, and stays so until somebody decides: the registry keeps
   what is at Production, and so does the traffic, unless that does harm or may not be served.
   What a newer canary then ends is told first: verdict and reports are written before it begins.
5. What may no longer be served, as an authority or withdrawn consent has it, is recalled at rest,
   too: for a former version that may, or for nothing, traffic and level alike. What a newer
   validation finds bad gives way to a former version, too, but not to nothing; so does what fails
   to mask an answer at rest.
6. What an operator's rollback puts back is verified by the controller and admitted by the registry
   before it has any traffic. A target that may no longer be served loses what it has: for another
   former version, or, loudly, for what is at Production, when that may be served.
7. At rest, traffic follows production. A version without traffic stays up for the scale-down
   delay.
8. What comes back is what the registry has at Production. When somebody else moved that, a canary's
   traffic goes to the version that is up, and then there; the reports wait for it, and name it.
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
from kfm_mlflow.rollout.interrupt import recall, regression_of, replace_regressed
from kfm_mlflow.rollout.orders import drop_order, has_order, orderer, wants_restore_check
from kfm_mlflow.rollout.state import NEVER_SERVES, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import (
    Outcome,
    begin,
    elapsed_s,
    enter,
    fail_rollback,
    give_up,
    is_routed,
    route,
)

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import Levels, StepInputs


def unwind(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Work out what is left of a rollback."""
    state = _judge(plan, state, inputs, now)
    if _is_kept(state, inputs):
        return _keep(plan, state, inputs, now)
    state, target = drop_order(state, inputs), state.stable
    if target is not None and wants_restore_check(state):
        return _verify_target(state, inputs, target, now)
    if target is not None and target not in inputs.deployed:
        return _wait_for_target(state, inputs, target, now)
    actions: list[Action] = []
    if not is_routed(state, inputs, target, None, 0.0):
        state, split = route(state, inputs, now, stable=target)
        actions.append(split)
    move = _registry_move(state, inputs.levels)
    if move is not None:
        # Reports of a rollback that failed before do not tell of this.
        state = replace(state, reports_written=False)
        actions.append(move)
    if not _is_overruled(state, inputs):
        actions += _papers(state)
    if actions:
        return state, tuple(actions)
    done = enter(state, Phase.ROLLED_BACK, now, reason=state.reason)
    return replace(
        done,
        traffic_restored_at=done.traffic_restored_at or now,
        registry_restored_at=done.registry_restored_at or now,
    ), ()


def _judge(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState:
    """Note what time, authorities and the registry say of a rollback that is under way."""
    if elapsed_s(state.entered_at, now) > plan.canary_ready_s and state.phase is Phase.ABORTING:
        state = replace(state, phase=Phase.ROLLBACK_FAILED)
    at_production = state.candidate is not None and inputs.levels.production == state.candidate
    if at_production and state.trigger not in NEVER_SERVES:
        state = recall(state, inputs, now) or state
    if state.stable in inputs.standing.recalls:
        state = _drop_target(state, inputs, now)
    if _is_overruled(state, inputs) and state.candidate != inputs.levels.canary:
        return _follow_production(state, inputs, now)
    if wants_restore_check(state) and inputs.admitted is False:
        state = fail_rollback(state, inputs.admission_reason, now)
    return state


def _is_overruled(state: RolloutState, inputs: StepInputs) -> bool:
    """Whether the registry has another version at Production than the one that is to come back.

    Once reports have named one that came back, nothing is to.
    """
    if inputs.levels.production == state.candidate:
        return False
    told = state.reports_written and state.stable is not None
    return not told and state.stable != _servable(inputs)


def _servable(inputs: StepInputs) -> int | None:
    """Return what is at Production, unless it may no longer be served."""
    production = inputs.levels.production
    return None if production in inputs.standing.recalls else production


def _follow_production(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState:
    """Let traffic and reports go by what somebody else moved to Production, which needs no check.

    An operator's rollback that was under way takes nothing down any more: that move did.
    """
    state = replace(
        state,
        stable=_servable(inputs),
        target_ordered=False,
        reports_written=False,
        traffic_restored_at=None,
        registry_restored_at=state.registry_restored_at or now,
    )
    if state.trigger is not Trigger.OPERATOR or not state.promoted:
        return state
    reason = f"{state.reason}; production was moved by somebody else"
    return replace(state, trigger=Trigger.REGISTRY, reason=reason)


def _drop_target(state: RolloutState, inputs: StepInputs, now: datetime) -> RolloutState:
    """Give up a target that may no longer be served, for the former version named, if any."""
    if inputs.levels.production != state.candidate:
        return replace(state, stable=_servable(inputs))
    ordered = state.target_ordered or state.trigger is Trigger.OPERATOR
    if ordered or inputs.standing.fallback is None:
        return fail_rollback(state, inputs.standing.recalls[state.stable or 0], now)
    return replace(
        state,
        stable=inputs.standing.fallback,
        reports_written=False,
        traffic_restored_at=None,
    )


def _papers(state: RolloutState) -> list[Action]:
    """Return what is left to be written about the candidate."""
    papers: list[Action] = []
    if state.candidate is None:
        return papers
    failed = state.analysis is not None and state.analysis.verdict is Verdict.FAIL
    if failed and not state.published:
        papers.append(PublishVerdict(state.candidate))
    if not state.reports_written:
        papers.append(WriteReports(state.candidate, state.stable))
    return papers


def _is_kept(state: RolloutState, inputs: StepInputs) -> bool:
    """Whether the registry keeps the candidate at Production for want of anything in its place.

    It lets Production go without a successor only when that may no longer be served.
    """
    version = inputs.levels.production
    is_candidate = version is not None and version == state.candidate
    return is_candidate and state.stable is None and version not in inputs.standing.recalls


def _keep(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Say loudly that there is nothing to go back to, and wait for a decision.

    A new canary is one, unless Production does harm: it would get traffic as the stable release.
    So is an operator's ``resume``, which takes Production as it is, and lifts no veto.
    """
    production, canary = inputs.levels.production, inputs.levels.canary
    served = None if state.trigger in NEVER_SERVES else production
    failed = state.phase is Phase.ROLLBACK_FAILED  # An order from before that was not about it.
    if served and failed and has_order(state, inputs) and inputs.orders.operator == "resume":
        state = replace(state, order_id=inputs.orders.order_id)
        found = regression_of(state, inputs, served)
        if found is not None:
            state = replace(state, excused=found.statement)
        return enter(state, Phase.IDLE, now, reason=f"kept by {orderer(inputs.orders)}"), ()
    harms = state.trigger in {Trigger.VETO, Trigger.SOVEREIGNTY}
    is_new = canary not in {None, production, state.overtaken}
    if is_new and canary is not None and not harms and failed and not _papers(state):
        return begin(plan, state, canary, production, now, reason=f"canary v{canary}"), ()
    alone = "" if failed else "; there is nothing to go back to"
    reason = f"{state.reason}{alone}"
    state = enter(drop_order(state, inputs), Phase.ROLLBACK_FAILED, now, reason=reason)
    state = replace(state, overtaken=canary if canary == state.overtaken else None)
    if served is not None and served not in inputs.deployed:
        return state, (Deploy(served),)
    actions: list[Action] = []
    if not is_routed(state, inputs, served, None, 0.0):
        state, split = route(state, inputs, now, stable=served)
        actions.append(split)
    actions += _papers(state)
    return (state, tuple(actions)) if actions else _scale_down(plan, state, inputs, now)


def _verify_target(state: RolloutState, inputs: StepInputs, target: int, now: datetime) -> Outcome:
    """Have the target of an operator's rollback verified; meanwhile Production has all traffic.

    Where harm was found, traffic stays where that took it.
    """
    if state.trigger is not Trigger.OPERATOR:
        return _wait_for_target(state, inputs, target, now)
    production = inputs.levels.production
    up = production is not None and production in inputs.deployed
    if up and not is_routed(state, inputs, production, None, 0.0):
        state, split = route(state, inputs, now, stable=production)
        return state, (split, Deploy(target))
    return state, (Deploy(target),)


def _wait_for_target(
    state: RolloutState, inputs: StepInputs, target: int, now: datetime
) -> Outcome:
    carries = state.split.canary is not None or state.split.stable == state.candidate
    if state.trigger in NEVER_SERVES and carries:
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


def former_of(state: RolloutState, production: int | None) -> int | None:
    """Return whom Production took the place of, as the rollout that ended with it remembers."""
    ended = state.phase is Phase.SUCCEEDED and production == state.candidate is not None
    return state.stable if ended else None


def rest(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Keep traffic at production, and see whether a new canary asks for a rollout."""
    production, canary = inputs.levels.production, inputs.levels.canary
    taken_back = _take_production_back(plan, state, inputs, now)
    if taken_back is not None:
        return unwind(plan, taken_back, inputs, now)
    state = _note_unmasked(state, inputs)
    if canary is not None and canary != production:
        return begin(plan, state, canary, production, now, reason=f"canary v{canary}"), ()
    if production is not None and production not in inputs.deployed:
        return state, (Deploy(production),)
    idle = production is None and state.split.generation == 0
    if not idle and not is_routed(state, inputs, production, None, 0.0):
        state, split = route(state, inputs, now, stable=production)
        return state, (split,)
    return _scale_down(plan, state, inputs, now)


def _take_production_back(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> RolloutState | None:
    """Give up Production that may not be served or is not good enough; None when it may and is."""
    production = inputs.levels.production
    if production is not None and production in inputs.standing.recalls:
        served = begin(plan, state, production, inputs.standing.fallback, now, reason="recall")
        return recall(replace(served, promoted=True), inputs, now) or served
    unmasked = _unmasked(inputs)
    if unmasked and former_of(state, production) is not None:
        return give_up(state, Trigger.SOVEREIGNTY, f"at rest, {unmasked}", now)
    return replace_regressed(plan, state, inputs, now)


def _unmasked(inputs: StepInputs) -> str:
    """Return how Production failed to mask what it answered at rest; empty when it did not."""
    found = inputs.analysis
    return found.reason if found is not None and found.is_unmasked else ""


def _note_unmasked(state: RolloutState, inputs: StepInputs) -> RolloutState:
    """Say once that masking failed where nothing can be put in the place of Production."""
    said = (
        f"masking of v{inputs.levels.production} failed at rest: each such answer was refused, and "
        "no former version is known to go back to"
    )
    if not _unmasked(inputs) or said in state.reason:
        return state
    return replace(state, reason="; ".join(filter(None, (state.reason, said))))


def _scale_down(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    extra = sorted(inputs.deployed - {inputs.levels.production})
    retired_at = {version: state.retired_at.get(version, now) for version in extra}
    if retired_at != state.retired_at:
        state = replace(state, retired_at=retired_at)
    due = [v for v in extra if elapsed_s(retired_at[v], now) >= plan.scale_down_delay_s]
    return state, tuple(Remove(version) for version in due)
