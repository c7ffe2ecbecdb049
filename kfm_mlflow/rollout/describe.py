"""What is going on in a rollout, why, what comes next and when: plan and state in, words out.

Pure. It decides nothing: every condition told here is one that :mod:`kfm_mlflow.rollout.step` and
its parts go by, read from the same plan and state. No phase is without a sentence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.policy.steps import AnalysisStep, PauseStep
from kfm_mlflow.rollout.narrative import Narrative
from kfm_mlflow.rollout.planned import planned_steps, span, step_at, step_words
from kfm_mlflow.rollout.state import BEFORE_PROMOTION, UNDER_ANALYSIS, Phase
from kfm_mlflow.rollout.told import Told, after, command, named
from kfm_mlflow.rollout.told_unwinding import aborting, rollback_failed, why_given_up
from kfm_mlflow.rollout.traffic_lines import (
    arm_lines,
    candidate_pct,
    metric_lines,
    traffic,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.measured import Analysis
    from kfm_mlflow.rollout.state import RolloutState

_TO_DO_WITHHELD = "Move a version that may be served to canary; until then requests are refused."


def describe(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Narrative:
    """Tell where a rollout stands.

    Args:
        plan: The policy's rollout section.
        state: As it is journaled.
        now: Aware UTC; waits that go by watched time are reckoned from here.
    """
    told = _TELLERS[state.phase](plan, state, now)
    told = _with_blindness(plan, state, told)
    answering, is_withheld = traffic(plan, state)
    index = step_at(plan, state)
    return Narrative(
        phase=str(state.phase),
        candidate=state.candidate,
        stable=state.stable,
        described_at=now,
        since=state.entered_at,
        happening=told.happening,
        traffic=answering,
        reason=told.reason,
        next=told.next,
        next_at=told.next_at,
        deadline_at=told.deadline_at,
        on_deadline=told.on_deadline,
        ends=_ends(plan, state),
        is_loud=told.is_loud or is_withheld,
        to_do=told.to_do or (_TO_DO_WITHHELD if is_withheld else ""),
        canary_pct=candidate_pct(state),
        mirror_pct=100 * state.split.mirror_ratio,
        step_number=None if index is None else index + 1,
        step_count=len(plan.steps),
        step="" if index is None else step_words(plan.steps[index]),
        verdict=None if state.analysis is None else str(state.analysis.verdict),
        measured="" if state.analysis is None else _measured(state.analysis),
        steps=planned_steps(plan, state),
        metrics=metric_lines(plan, state),
        arms=arm_lines(state),
    )


# -- phases ----------------------------------------------------------------------------------------


def _at_rest(happening: str, reason: str) -> Callable[..., Told]:
    def tell(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
        del now
        why = why_given_up(state) if state.phase is Phase.ROLLED_BACK else state.reason
        idle = {v: at for v, at in state.retired_at.items() if v != state.split.stable}
        told = Told(
            happening.format(candidate=named(state.candidate)),
            why or reason,
            "A new rollout begins when a version is moved to canary.",
        )
        if not idle:
            return told
        names = ", ".join(map(named, sorted(idle)))
        due = after(min(idle.values()), plan.scale_down_delay_s)
        text = f"{names} has no traffic any more and is taken down after scaleDownDelay_s."
        return replace(told, next=f"{text} {told.next}", next_at=due)

    return tell


def _pending(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    del plan, now
    own, back = named(state.candidate), state.stable
    there = f"traffic is at v{back} alone" if back else "no earlier candidate has traffic"
    return Told(
        f"A rollout of {own} begins.",
        state.reason or f"{own} was moved to canary",
        f"{own} is fetched, verified and started, as soon as {there}.",
    )


def _deploying(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    del now
    own, back = named(state.candidate), state.stable
    who = f"{own}, and v{back} to go back to, are" if back else f"{own} is"
    first = step_words(plan.steps[0])
    return Told(
        f"{who} being fetched, verified and started.",
        state.reason or f"{own} was moved to canary",
        f"Step 1 of {len(plan.steps)}, {first}, when every release that is needed answers.",
        deadline_at=after(state.entered_at, 2 * plan.canary_ready_s),
        on_deadline=f"{own} is given up",
    )


def _canary(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    if state.step_index >= len(plan.steps):
        return _due(plan, state, now)
    current, own = plan.steps[state.step_index], named(state.candidate)
    give_up = _give_up(state)
    following = _following(plan, state.step_index)
    began, share = state.step_entered_at, _share_words(plan, state.step_index)
    reason = state.reason or f"the plan asks for it: {step_words(current)}"
    if isinstance(current, AnalysisStep):
        asked = current.analysis
        beside = f" beside v{state.stable}" if state.stable else ""
        return Told(
            f"{own} {share} and is measured{beside}.",
            reason,
            f"{following}, when every metric passes from {asked.min_samples} answers on.",
            deadline_at=after(began, asked.deadline_s),
            on_deadline=give_up,
        )
    if isinstance(current, PauseStep) and current.pause.duration_s is not None:
        wait_s = current.pause.duration_s
        ready_s = plan.canary_ready_s
        return Told(
            f"{own} {share} for {span(wait_s)}, still measured.",
            reason,
            f"{following}, when the time is over, or somebody orders it: "
            f"{command(state, 'promote')}.",
            next_at=_remaining(state, now, wait_s),
            deadline_at=after(began, wait_s + ready_s),
            on_deadline=f"{give_up}, if it could not be measured or kept up",
        )
    if isinstance(current, PauseStep):
        return Told(
            f"{own} {share} and waits until the registry would admit it to production.",
            state.reason or "the registry is being asked",
            f"{following}, when votes and every other gate are there.",
            deadline_at=after(began, current.pause.deadline_s or 0.0),
            on_deadline=give_up,
        )
    return Told(
        f"The routers are being told of the new share: {step_words(current)}.",
        reason,
        f"{following}, when every router applies it.",
        deadline_at=after(began, plan.canary_ready_s),
        on_deadline=give_up,
    )


def _due(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    """Tell of a candidate that passed every step."""
    del now
    own = named(state.candidate)
    ordered = plan.promotion == "automatic" or state.promote_ordered
    needed = "the registry admits it and it can be measured"
    order = command(state, "promote")
    return Told(
        f"{own} passed every step and waits for its promotion.",
        state.reason or "the registry is being asked",
        f"{own} becomes production, when {needed}."
        if ordered
        else f"{own} becomes production, when somebody orders it ({order}) and {needed}.",
        deadline_at=after(state.step_entered_at, plan.promotion_deadline_s),
        on_deadline=_give_up(state),
        to_do="" if ordered else f"Order the promotion, or not: {order}",
    )


def _paused(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    del now
    own, order = named(state.candidate), command(state, "resume")
    index = min(state.step_index, len(plan.steps) - 1)
    where = f"step {index + 1} of {len(plan.steps)}, {step_words(plan.steps[index])}"
    if state.step_index >= len(plan.steps):
        where = "the wait for promotion"
    return Told(
        f"An operator holds {own}, which {_share_words(plan, state.step_index)}, still measured.",
        state.reason or "an operator's order",
        f"It goes on with {where}, anew, when somebody orders it: {order}.",
        deadline_at=after(state.entered_at, plan.pause_deadline_s),
        on_deadline=_give_up(state),
        to_do=f"Resume or abort: {order}, or {command(state, 'abort')}",
    )


def _promoting(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    del now
    own = named(state.candidate)
    watch = f"It is then watched for {span(plan.post_promotion_watch_s)}."
    if state.promoted:
        return Told(
            f"{own} is production in the registry, and is being given every request.",
            state.reason or "the registry admitted it",
            f"{watch} That begins when every router applies it.",
        )
    return Told(
        f"{own} is being moved to production in the registry.",
        state.reason or "every step passed, and the registry admits it",
        f"{own} gets every request, when the registry holds it at production. {watch}",
        deadline_at=after(state.step_entered_at, plan.promotion_deadline_s),
        on_deadline=_give_up(state),
    )


def _soaking(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    own, back = named(state.candidate), state.stable
    kept = f" v{back} is kept warm beside it." if back else ""
    samples = plan.min_samples_at(state.step_index)
    return Told(
        f"{own} is production, has every request, and is watched.{kept}",
        state.reason
        or f"the plan watches a new production version for {span(plan.post_promotion_watch_s)}",
        f"The rollout has succeeded, when the time is over and at least {samples} answers of the "
        "watch pass. A version that is moved to canary meanwhile ends the watch.",
        next_at=_remaining(state, now, plan.post_promotion_watch_s),
    )


_TELLERS: dict[Phase, Callable[[RolloutPolicy, RolloutState, datetime], Told]] = {
    Phase.IDLE: _at_rest("No rollout is under way.", "no version is at canary"),
    Phase.PENDING: _pending,
    Phase.DEPLOYING: _deploying,
    Phase.CANARY: _canary,
    Phase.AWAITING_ADMISSION: _canary,
    Phase.PAUSED: _paused,
    Phase.PROMOTING: _promoting,
    Phase.SOAKING: _soaking,
    Phase.SUCCEEDED: _at_rest(
        "{candidate} is production, and its rollout has succeeded.",
        "it was watched to the end, and nothing was found",
    ),
    Phase.ABORTING: aborting,
    Phase.ROLLED_BACK: _at_rest("{candidate} was taken back.", "it was given up"),
    Phase.ROLLBACK_FAILED: rollback_failed,
}


# -- what the phases share -------------------------------------------------------------------------


def _give_up(state: RolloutState) -> str:
    back = f"v{state.stable} gets every request again" if state.stable else "nothing is served"
    return f"{named(state.candidate)} is given up, and {back}"


def _following(plan: RolloutPolicy, index: int) -> str:
    number = index + 2
    if number > len(plan.steps):
        ordered = "" if plan.promotion == "automatic" else ", once it is ordered"
        return f"Promotion to production{ordered}"
    return f"Step {number} of {len(plan.steps)}, {step_words(plan.steps[index + 1])}"


def _measured(analysis: Analysis) -> str:
    """Return what decides of the last look, and what else was watched and decides nothing."""
    watched = [m for m in analysis.metrics if m.kind in {"drift", "explanation", "alarm"}]
    recorded = [f"{m.name}: {m.reason}" for m in watched if m.verdict is None]
    return "; only recorded: ".join([analysis.reason, *recorded])


def _share_words(plan: RolloutPolicy, index: int) -> str:
    weight_pct, mirror_pct = plan.weight_pct_at(index), plan.mirror_pct_at(index)
    if weight_pct:
        return f"answers {weight_pct} % of the requests"
    if mirror_pct:
        return f"gets copies of {mirror_pct} % of the requests"
    return "has no traffic yet"


def _remaining(state: RolloutState, now: datetime, wait_s: float) -> datetime:
    """Return when a wait that counts watched time is over, if a controller stays at work."""
    return after(state.looked_at or now, max(0.0, wait_s - state.watched_s))


def _with_blindness(plan: RolloutPolicy, state: RolloutState, told: Told) -> Told:
    """Put the telemetry gap in the deadline's place where that comes first."""
    if state.blind_since is None or state.phase not in UNDER_ANALYSIS:
        return told
    gap_at = after(state.blind_since, plan.telemetry_gap_s)
    told = replace(told, happening=f"{told.happening} Nothing can be measured at present.")
    if told.deadline_at is not None and told.deadline_at <= gap_at:
        return told
    ended = f"{_give_up(state)}, if nothing could be measured until then"
    return replace(told, deadline_at=gap_at, on_deadline=ended)


def _ends(plan: RolloutPolicy, state: RolloutState) -> tuple[str, ...]:
    if state.phase not in BEFORE_PROMOTION | UNDER_ANALYSIS:
        return ()
    own = named(state.candidate)
    always = (
        f"a veto, or consent that is withdrawn for {own}",
        f"an operator: {command(state, 'abort')}",
        f"somebody who moves {own}, or production, in the registry",
    )
    if state.phase in UNDER_ANALYSIS:
        gap = f"nothing measured for {span(plan.telemetry_gap_s)}"
        return ("a metric that fails, or an answer that could not be masked", gap, *always)
    return ("bytes that are not what was signed, or a release that does not get ready", *always)
