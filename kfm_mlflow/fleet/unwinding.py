"""Taking a candidate back from a fleet. Pure.

Rules kept here:

1. Routes first, then instances, then the registry, then the reports. No batches.
2. The candidate keeps tasks only where no agent of the specialty can take over yet, and only on
   agents that are healthy themselves; where harm was found it keeps none.
3. The registry moves by compare-and-set on what was read in this pass, and only when it still holds
   the candidate. Production is restored once the target answers.
4. A target that does not start in time, or is not what was verified, is a failed rollback: loud,
   and still trying. So is one without a target at all, which waits for a decision.
5. It is over when every specialty is served, and each touched agent is back or had its time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.actions import Fetch
from kfm_mlflow.fleet.health_verdict import judge
from kfm_mlflow.fleet.interrupt import (
    begin_candidate,
    drop_order,
    has_order,
    recall,
    regression_of,
)
from kfm_mlflow.fleet.moves import enter, fail_rollback, note_unplaced
from kfm_mlflow.fleet.routing import Aim, Aims, move_towards, ready_specialties
from kfm_mlflow.fleet.state import UNWINDING, FleetPhase, FleetState
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.actions import Demote, PublishVerdict, Restore, WriteReports
from kfm_mlflow.rollout.orders import orderer
from kfm_mlflow.rollout.state import NEVER_SERVES, Trigger
from kfm_mlflow.rollout.transitions import elapsed_s

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.fleet.actions import Action
    from kfm_mlflow.fleet.observed import FleetInputs, Seen


def unwind(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    """Note what time, authorities and the registry say of a rollback that is under way."""
    state = _judge(state, seen)
    if is_kept(state, seen.inputs):
        return _keep(state, seen)
    state = drop_order(state, seen.inputs)
    if wants_restore_check(state):
        ready = seen.inputs.restorable is True and state.stable is not None
        return state, [Fetch(state.stable)] if ready and state.stable is not None else []
    return state, []


def wants_restore_check(state: FleetState) -> bool:
    """Whether the registry is to be asked if it would restore the target of a rollback."""
    known = state.stable is None or state.stable in state.verified
    return state.phase in UNWINDING and state.target_ordered and not known


def is_kept(state: FleetState, inputs: FleetInputs) -> bool:
    """Whether the registry keeps the candidate at Production for want of anything in its place."""
    version = inputs.levels.production
    is_candidate = version is not None and version == state.candidate
    return is_candidate and state.stable is None and version not in inputs.standing.recalls


def _judge(state: FleetState, seen: Seen) -> FleetState:
    production, recalls = seen.inputs.levels.production, seen.inputs.standing.recalls
    at_production = state.candidate is not None and production == state.candidate
    if at_production and state.trigger not in NEVER_SERVES:
        state = recall(seen.agents, state, seen.inputs, seen.now) or state
    if state.stable in recalls:
        state = _drop_target(state, seen.inputs, seen.now)
    servable = None if production in recalls else production
    if not at_production and state.stable != servable:
        # Somebody else moved Production, which needs no check.
        state = replace(state, stable=servable, target_ordered=False, reports_written=False)
    if state.target_ordered and seen.inputs.restorable is False and wants_restore_check(state):
        state = fail_rollback(state, seen.inputs.restore_reason, seen.now)
    wrong = _wrong_target(state, seen)
    late = elapsed_s(state.entered_at, seen.now) >= _deadline_s(seen)
    why = wrong or (_what_lacks(state, seen) if late else "")
    if state.phase is FleetPhase.ABORTING and why:
        reason = f"{state.reason}; {why}"
        state = enter(state, FleetPhase.ROLLBACK_FAILED, seen.now, reason=reason)
    return state


def _deadline_s(seen: Seen) -> float:
    """Return how long a rollback may take: where old and new do not fit, agents go in turn."""
    fits = all(agent.side_by_side for agent in seen.agents)
    return seen.plan.start_deadline_s * (1 if fits else 2)


def _wrong_target(state: FleetState, seen: Seen) -> str:
    """Return which agent runs something else than the verified target; empty when none does."""
    version = state.stable
    if version is None:
        return ""
    wrong = (agent.name for agent in seen.agents if seen.is_wrong(agent.name, version))
    name = next(wrong, None)
    return "" if name is None else f"{name} {seen.why_not_sound(name, version)}"


def _what_lacks(state: FleetState, seen: Seen) -> str:
    """Return what a rollback that had its time still lacks; empty when it lacks nothing."""
    specialty = _unready(state, seen)
    if specialty:
        return f"v{state.stable} serves no {specialty} in time"
    return "the registry still holds it" if _holds_level(state, seen.inputs) else ""


def _unready(state: FleetState, seen: Seen) -> str:
    """Return a specialty that the target does not serve; empty when it serves all.

    A target that was given up itself is brought to no other agent, so nothing is waited for.
    """
    if state.stable is None or state.stable == state.degraded:
        return ""
    missing = {agent.specialty for agent in seen.agents} - ready_specialties(seen, state.stable)
    return min(missing, default="")


def _drop_target(state: FleetState, inputs: FleetInputs, now: datetime) -> FleetState:
    """Give up a target that may no longer be served, for the former version named, if any."""
    production, fallback = inputs.levels.production, inputs.standing.fallback
    if production != state.candidate:
        return replace(state, stable=None if production in inputs.standing.recalls else production)
    ordered = state.target_ordered or state.trigger is Trigger.OPERATOR
    if ordered or fallback is None:
        return fail_rollback(state, inputs.standing.recalls[state.stable or 0], now)
    return replace(state, stable=fallback, reports_written=False, traffic_restored_at=None)


def _keep(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    """Say loudly that there is nothing to go back to, and wait for a decision.

    A new canary is one, unless Production does harm; so is an operator's ``resume``, which takes
    Production as it is.
    """
    production, canary = seen.inputs.levels.production, seen.inputs.levels.canary
    harms = state.trigger in NEVER_SERVES
    failed = state.phase is FleetPhase.ROLLBACK_FAILED
    resumes = failed and has_order(state, seen.inputs) and seen.inputs.orders.operator == "resume"
    if resumes and not harms and production is not None:
        found = regression_of(state, seen.inputs, production)
        state = replace(
            state,
            order_id=seen.inputs.orders.order_id,
            degraded=None,
            excused=state.excused if found is None else found.statement,
        )
        reason = f"kept by {orderer(seen.inputs.orders)}"
        return enter(state, FleetPhase.IDLE, seen.now, reason=reason), []
    is_new = canary not in {None, production, state.overtaken}
    told = state.reports_written
    if is_new and canary is not None and not harms and failed and told:
        reason = f"canary v{canary}"
        begun = begin_candidate(state, canary, production, seen, reason=reason)
        return begun, []
    alone = "" if failed else "; there is nothing to go back to"
    reason = f"{state.reason}{alone}"
    state = enter(
        drop_order(state, seen.inputs), FleetPhase.ROLLBACK_FAILED, seen.now, reason=reason
    )
    by_operator = state.trigger is Trigger.OPERATOR and _is_everywhere(state, seen)
    degraded = state.degraded if by_operator else production
    overtaken = canary if canary == state.overtaken else None
    return replace(state, overtaken=overtaken, degraded=degraded), []


def unwinding_aims(state: FleetState, seen: Seen) -> Aims:
    """Return what each agent is to serve while the candidate is taken back."""
    target, candidate = state.stable, state.candidate
    by_operator = state.trigger is Trigger.OPERATOR and _is_everywhere(state, seen)
    waits = is_kept(state, seen.inputs) or wants_restore_check(state)
    if waits and by_operator and seen.inputs.levels.production == candidate:
        # An operator's word is no evidence of harm.
        return {agent.name: Aim(candidate) for agent in seen.agents}
    if wants_restore_check(state):
        target = _former(state, seen)
    if target is not None and target == state.degraded:
        return degraded_aims(seen, target)
    return move_towards(state, seen, target, _stopgaps(state, seen, target))


def _is_everywhere(state: FleetState, seen: Seen) -> bool:
    """Whether the candidate had reached the whole fleet: a rollback, and no abort half-way."""
    return {agent.name for agent in seen.agents} <= set(state.touched)


def degraded_aims(seen: Seen, version: int) -> Aims:
    """Leave a release that was given up where it is healthy, and bring it to no other agent."""
    return {
        agent.name: Aim(stopgap=version if is_healthy(seen, agent.name, version) else None)
        for agent in seen.agents
    }


def _former(state: FleetState, seen: Seen) -> int | None:
    """Return the newest release that the fleet served before the candidate, and still may."""
    gone = {state.candidate, *seen.inputs.standing.recalls}
    return next((version for version in state.stables if version not in gone), None)


def _stopgaps(state: FleetState, seen: Seen, target: int | None) -> dict[str, int | None]:
    """Return what answers until the target can: the candidate, or the release before it.

    A candidate that was never at Production had a share of some agents' tasks, and gets no more.
    """
    candidate = state.candidate
    unsafe = state.assessment is not None and state.assessment.is_unsafe
    harms = state.trigger in NEVER_SERVES or (unsafe and state.trigger is not Trigger.OPERATOR)
    if target is None and (harms or not is_kept(state, seen.inputs)):
        return {}
    ready, touched = ready_specialties(seen, target), set(state.touched)
    former = None if target is None else _former(state, seen)
    return {
        agent.name: candidate
        if not harms
        and state.promoted
        and agent.name in touched
        and is_healthy(seen, agent.name, candidate)
        else former
        for agent in seen.agents
        if agent.specialty not in ready
    }


def is_healthy(seen: Seen, name: str, version: int | None) -> bool:
    """Whether an agent serves a version soundly, and no limit is known to be exceeded."""
    if version is None or not seen.is_sound(name, version):
        return False
    return judge(seen.plan, seen.memory(name, version), seen.now)[0] is not Verdict.FAIL


def settle(state: FleetState, seen: Seen, papers: list[Action]) -> tuple[FleetState, list[Action]]:
    """Work out what the registry and the papers lack, and whether the rollback is over."""
    now, candidate = seen.now, state.candidate
    state = note_unplaced(state, seen, state.stable)
    applied = seen.generation == state.routes.generation
    routed = any(candidate in {r.version, r.canary} for r in state.routes.routes)
    if applied and not routed and state.traffic_restored_at is None:
        state = replace(state, traffic_restored_at=now)
    if papers:
        return state, papers
    kept = is_kept(state, seen.inputs)
    move = None if kept else _registry_move(state, seen)
    if move is not None:
        # Reports of a rollback that failed before do not tell of this.
        return replace(state, reports_written=False), [move]
    waits = not kept and (routed or not applied or _holds_level(state, seen.inputs))
    if candidate is None or waits:
        return state, []
    lacking = _papers(state, candidate)
    if lacking or kept or not _is_over(state, seen):
        return state, lacking
    done = enter(state, FleetPhase.ROLLED_BACK, now, reason=state.reason)
    return replace(
        done,
        registry_restored_at=done.registry_restored_at or now,
        stables=tuple(v for v in done.stables if v != candidate),
        batch=(),
    ), []


def _holds_level(state: FleetState, inputs: FleetInputs) -> bool:
    return state.candidate in {inputs.levels.production, inputs.levels.canary}


def _registry_move(state: FleetState, seen: Seen) -> Restore | Demote | None:
    levels, candidate = seen.inputs.levels, state.candidate
    if candidate is None or not _holds_level(state, seen.inputs):
        return None
    if levels.production == candidate and state.stable is not None:
        if wants_restore_check(state) or not _answers(state, seen):
            return None
        return Restore(state.stable, levels.production, levels.canary, state.reason)
    return Demote(candidate, levels.production, levels.canary, state.reason)


def _answers(state: FleetState, seen: Seen) -> bool:
    """Whether the target serves some agent, and every specialty that the candidate serves."""
    ready = ready_specialties(seen, state.stable)
    routed = {r.agent for r in state.routes.routes if state.candidate in {r.version, r.canary}}
    served = {agent.specialty for agent in seen.agents if agent.name in routed}
    return bool(ready) and served <= ready


def _papers(state: FleetState, candidate: int) -> list[Action]:
    papers: list[Action] = []
    failed = state.assessment is not None and state.assessment.verdict is Verdict.FAIL
    if failed and not state.published:
        papers.append(PublishVerdict(candidate))
    if not state.reports_written:
        papers.append(WriteReports(candidate, state.stable))
    return papers


def _is_over(state: FleetState, seen: Seen) -> bool:
    late = elapsed_s(state.detected_at or state.entered_at, seen.now) >= _deadline_s(seen)
    held = any(state.candidate in seen.of(agent.name) for agent in seen.agents)
    if held and not late:
        return False
    if state.stable is None:
        return True
    if _unready(state, seen) or _wrong_target(state, seen):
        return False
    touched = set(state.touched)
    return late or not touched & set(state.unplaced)
