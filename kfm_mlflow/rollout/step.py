"""One step of a rollout: plan, state and facts in, next state and actions out.

Level-triggered: what to do follows from what is true now, never from what was done before, so a
controller that was killed anywhere goes on by calling this again. An action that has not shown
its effect is asked for again.

Rules kept here:

1. Only a ``PASS`` lets an analysis step go on. ``INCONCLUSIVE`` and ``ERROR`` wait, every wait
   has a deadline, and a deadline that passes gives the candidate up.
2. A ``FAIL``, a veto or an operator's abort gives it up at once, in any phase.
3. The rollback target is chosen and verified, and is up, before the canary gets traffic; a first
   release has none.
4. A new canary, another production or another plan restarts the rollout against production.
5. Promotion moves the registry first, by compare-and-set, when the registry admits it; traffic
   follows what the registry then holds.
6. A new production version is watched, and still given up, until the watch has passed; it goes on
   for as long as there are too few answers to say anything.
7. A measurement that is broken for too long gives the candidate up.
8. An operator's rollback is obeyed in every phase, at rest included.
9. Whatever else is decided, what may no longer be served gets no traffic, and loses what it has.

It neither sleeps nor calls anything; ``now`` is a parameter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.steps import (
    FULL_PCT,
    AnalysisStep,
    PauseStep,
    SetMirrorRoute,
    SetWeight,
    Step,
)
from kfm_mlflow.rollout.actions import Deploy, Promote, PublishVerdict
from kfm_mlflow.rollout.interrupt import follow_registry, note_blindness, stop
from kfm_mlflow.rollout.orders import drop_order, obey, roll_back
from kfm_mlflow.rollout.state import RESTING, UNWINDING, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.transitions import (
    Outcome,
    advance,
    elapsed_s,
    enter,
    give_up,
    is_routed,
    keep_time,
    route,
    start_canary,
    start_watch,
    withhold,
)
from kfm_mlflow.rollout.unwind import rest, unwind

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.inputs import StepInputs


def step(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    """Decide what comes next.

    Args:
        plan: The policy's rollout section.
        state: From the journal.
        inputs: Facts read in this pass.
        now: Aware UTC.

    Returns:
        The next state, to be journaled before acting, and the actions in the order in which to
        carry them out. No actions and an equal state mean: nothing to do now.
    """
    return withhold(state, _decide(plan, keep_time(state, now), inputs, now), inputs, now)


def _decide(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    ordered = roll_back(plan, state, inputs, now)
    if ordered is not None:
        # What the registry says of the target is not known yet; the next round asks.
        return ordered, ()
    if state.phase in RESTING:
        return rest(plan, drop_order(state, inputs), inputs, now)
    if state.phase in UNWINDING:
        return unwind(plan, state, inputs, now)
    state = note_blindness(state, inputs, now)
    stopped = stop(plan, state, inputs, now)
    if stopped is not None:
        return unwind(plan, stopped, inputs, now)
    moved = follow_registry(plan, state, inputs, now)
    if moved is not None:
        return unwind(plan, moved, inputs, now) if moved.phase in UNWINDING else (moved, ())
    state = obey(plan, state, inputs, now)
    return _proceed(plan, state, inputs, now)


def wants_admission(plan: RolloutPolicy, state: RolloutState) -> bool:
    """Whether the step needs to know if the registry would admit the candidate to production."""
    if state.phase not in {Phase.CANARY, Phase.AWAITING_ADMISSION, Phase.PROMOTING}:
        return False
    if state.step_index >= len(plan.steps):
        return True
    current = plan.steps[state.step_index]
    return isinstance(current, PauseStep) and current.pause.gate is not None


def wants_standing_of(state: RolloutState, inputs: StepInputs) -> tuple[int, ...]:
    """Return the versions without a level that have traffic, or may be given some by the step.

    Those at canary and Production are asked about anyway. At rest the rollback target is wanted
    only when masking failed.
    """
    named = {state.split.stable, state.split.canary}
    if state.phase not in RESTING or inputs.analysis is not None:
        named.add(state.stable)
    held = {inputs.levels.production, inputs.levels.canary}
    return tuple(sorted(v for v in named - held if v is not None))


def _proceed(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    """Go by the phase: a plan that was made longer meanwhile does not undo a promotion."""
    handlers = {
        Phase.PENDING: _pending,
        Phase.DEPLOYING: _deploying,
        Phase.PAUSED: _paused,
        Phase.PROMOTING: _promoting,
        Phase.SOAKING: _soaking,
    }
    otherwise = _promoting if state.step_index >= len(plan.steps) else _canary
    return handlers.get(state.phase, otherwise)(plan, state, inputs, now)


def _expire(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime, reason: str
) -> Outcome:
    return unwind(plan, give_up(state, Trigger.DEADLINE, reason, now), inputs, now)


def _paused(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    if elapsed_s(state.entered_at, now) >= plan.pause_deadline_s:
        return _expire(plan, state, inputs, now, "an operator's pause was never resumed")
    return _hold_split(plan, state, inputs, now)[1]


def _pending(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    """Take traffic off the canary of a rollout that was replaced, then go on."""
    del plan
    asked = state.split
    safe = asked.stable is None or asked.stable in inputs.deployed
    if asked.generation and safe and not is_routed(state, inputs, asked.stable, None, 0.0):
        state, split = route(state, inputs, now, stable=asked.stable)
        return state, (split,)
    return enter(state, Phase.DEPLOYING, now, reason=state.reason), ()


def _deploying(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    for version in (state.stable, state.candidate):
        if version is None:
            continue
        if version not in state.verified or version not in inputs.deployed:
            # One wait for each of the two releases.
            if elapsed_s(state.entered_at, now) >= 2 * plan.canary_ready_s:
                return _expire(plan, state, inputs, now, f"v{version} was not ready in time")
            return state, (Deploy(version),)
        if version == state.stable and not is_routed(state, inputs, version, None, 0.0):
            state, split = route(state, inputs, now, stable=version)
            return state, (split,)
    return start_canary(state, now), ()


def _canary(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime) -> Outcome:
    current = plan.steps[state.step_index]
    ready, outcome = _hold_split(plan, state, inputs, now)
    if ready and _is_done(current, state, inputs):
        evidence = isinstance(current, AnalysisStep) and not state.published
        if evidence and state.candidate is not None:
            return state, (PublishVerdict(state.candidate),)
        return advance(state, now), ()
    deadline_s, reason = _deadline(plan, state, inputs)
    if elapsed_s(state.step_entered_at, now) >= deadline_s:
        return _expire(plan, state, inputs, now, reason)
    if not ready:
        return outcome
    waits = isinstance(current, PauseStep) and current.pause.gate is not None
    phase = Phase.AWAITING_ADMISSION if waits else Phase.CANARY
    return enter(state, phase, now, reason=inputs.admission_reason if waits else ""), ()


def _is_done(current: Step, state: RolloutState, inputs: StepInputs) -> bool:
    if isinstance(current, SetWeight | SetMirrorRoute):
        return True
    if isinstance(current, AnalysisStep):
        return inputs.analysis is not None and inputs.analysis.verdict is Verdict.PASS
    if _is_blind(inputs):
        return False
    if current.pause.duration_s is None:
        return inputs.admitted is True
    return state.watched_s >= current.pause.duration_s or state.promote_ordered


def _is_blind(inputs: StepInputs) -> bool:
    return inputs.analysis is None or inputs.analysis.verdict is Verdict.ERROR


def _hold_split(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> tuple[bool, Outcome]:
    """Keep both releases up and the split as the plan has it; ready when both are true."""
    for version in (state.stable, state.candidate):
        if version is not None and version not in inputs.deployed:
            return False, (state, (Deploy(version),))
    ratio = plan.weight_pct_at(state.step_index) / FULL_PCT
    mirror_ratio = plan.mirror_pct_at(state.step_index) / FULL_PCT
    canary = state.candidate if ratio or mirror_ratio else None
    if is_routed(state, inputs, state.stable, canary, ratio, mirror_ratio=mirror_ratio):
        return True, (state, ())
    if canary is None and state.stable is None:
        return True, (state, ())
    state, split = route(
        state, inputs, now,
        stable=state.stable, canary=canary, ratio=ratio, mirror_ratio=mirror_ratio,
    )  # fmt: skip
    return False, (state, (split,))


def _deadline(plan: RolloutPolicy, state: RolloutState, inputs: StepInputs) -> tuple[float, str]:
    current = plan.steps[state.step_index]
    if isinstance(current, AnalysisStep):
        found = inputs.analysis.reason if inputs.analysis else "nothing was measured"
        limit_s = current.analysis.deadline_s
        return limit_s, f"no PASS within {limit_s:g} s: {found}"
    if isinstance(current, PauseStep):
        if current.pause.deadline_s is not None:
            limit_s = current.pause.deadline_s
            return limit_s, f"not admitted within {limit_s:g} s: {inputs.admission_reason}"
        limit_s = (current.pause.duration_s or 0.0) + plan.canary_ready_s
        return limit_s, "the canary could not be measured or kept up during a pause"
    return plan.canary_ready_s, "the split could not be applied in time"


def _promoting(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    candidate = state.candidate
    if candidate is not None and inputs.levels.production == candidate:
        state = replace(enter(state, Phase.PROMOTING, now), promoted=True)
        held, outcome = _hold_production(state, inputs, now)
        if not held:
            return outcome
        return start_watch(state, now), ()
    ready, outcome = _hold_split(plan, state, inputs, now)
    ordered = plan.promotion == "automatic" or state.promote_ordered
    admitted = inputs.admitted is True and not _is_blind(inputs)
    if ready and ordered and admitted and candidate is not None:
        levels = inputs.levels
        promote = Promote(candidate, levels.production, levels.canary)
        return enter(state, Phase.PROMOTING, now), (promote,)
    reason = inputs.admission_reason if ordered else "waits for an operator's promote"
    if elapsed_s(state.step_entered_at, now) >= plan.promotion_deadline_s:
        return _expire(plan, state, inputs, now, f"not promoted in time: {reason}")
    if not ready:
        return outcome
    return enter(state, Phase.AWAITING_ADMISSION, now, reason=reason), ()


def _hold_production(
    state: RolloutState, inputs: StepInputs, now: datetime
) -> tuple[bool, Outcome]:
    version = inputs.levels.production
    if version is None:
        return True, (state, ())
    if version not in inputs.deployed:
        return False, (state, (Deploy(version),))
    if is_routed(state, inputs, version, None, 0.0):
        return True, (state, ())
    state, split = route(state, inputs, now, stable=version)
    return False, (state, (split,))


def _soaking(
    plan: RolloutPolicy, state: RolloutState, inputs: StepInputs, now: datetime
) -> Outcome:
    held, outcome = _hold_production(state, inputs, now)
    if not held:
        return outcome
    seen = inputs.analysis is not None and inputs.analysis.verdict is Verdict.PASS
    if seen and state.watched_s >= plan.post_promotion_watch_s:
        return enter(state, Phase.SUCCEEDED, now), ()
    return state, ()
