"""One step of a fleet: policy, agents, state and facts in, next state and actions out.

Level-triggered: what to do follows from what is true now, never from what was done before, so a
loop that was killed anywhere goes on by calling this again. An action that has not shown its effect
is asked for again.

Rules kept here:

1. A candidate reaches one agent per specialty first, with a share of its tasks, and others only
   when the registry holds it at Production.
2. A batch begins only when all agents that were touched before are healthy: at most one batch is
   ever not.
3. Only a PASS lets a batch go on. What is too little or stale waits, every wait has a deadline, and
   a deadline that passes gives the candidate up.
4. Harm, a veto, an operator's abort or rollback, a recall, a lost level, and a degraded agent give
   it up at once, in any phase; routes go back first.
5. No instance gets tasks that does not run what the registry verified, whatever it says of itself.
6. At rest every agent serves Production, and one that comes back with another version gets no tasks
   before it does.

It neither sleeps nor calls anything; ``now`` is a parameter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.actions import Fetch, SetRoutes
from kfm_mlflow.fleet.batches import is_served, next_batch
from kfm_mlflow.fleet.interrupt import (
    assess_touched,
    begin_candidate,
    drop_order,
    follow_registry,
    has_order,
    roll_back,
    stop,
    stop_unhealthy,
    take_production_back,
)
from kfm_mlflow.fleet.moves import (
    enter,
    give_up,
    keep_time,
    note_unplaced,
    push_stable,
    start_batch,
)
from kfm_mlflow.fleet.observed import look, remember
from kfm_mlflow.fleet.routing import Aim, Aims, arrange, move_towards, ready_specialties
from kfm_mlflow.fleet.state import RESTING, UNDER_ASSESSMENT, UNWINDING, FleetPhase, FleetState
from kfm_mlflow.fleet.unwinding import (
    degraded_aims,
    settle,
    unwind,
    unwinding_aims,
    wants_restore_check,
)
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.actions import Promote, PublishVerdict
from kfm_mlflow.rollout.state import Trigger
from kfm_mlflow.rollout.transitions import elapsed_s

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.actions import Action
    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.observed import FleetInputs, Seen
    from kfm_mlflow.policy.fleet import FleetPolicy

__all__ = ["retreat", "step", "wants_admission", "wants_restore_check", "wants_standing_of"]

Outcome = tuple[FleetState, "tuple[Action, ...]"]


def step(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    inputs: FleetInputs,
    now: datetime,
) -> Outcome:
    """Decide what comes next.

    Args:
        plan: The policy's fleet section.
        agents: Who is in the fleet, sorted by name.
        state: From the journal, or newer by measurements alone.
        inputs: Facts read in this pass.
        now: Aware UTC.

    Returns:
        The next state, to be journaled before acting, and the actions in the order in which to
        carry them out. A start or stop that fails ends nothing but itself.
    """
    state, seen = _observe(plan, agents, state, inputs, now)
    ordered = roll_back(agents, state, inputs, now)
    if ordered is not None:
        # What the registry says of the target is not known yet; the next pass asks.
        return ordered, ()
    state, papers = _decide(state, seen)
    return _carry_out(state, seen, papers)


def retreat(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    inputs: FleetInputs,
    now: datetime,
) -> Outcome:
    """Decide without a registry: nothing, but routes back from a degraded batch.

    Args:
        plan: The policy's fleet section.
        agents: Who is in the fleet, sorted by name.
        state: As last known.
        inputs: What the plane shows; levels and standing as last read.
        now: Aware UTC.

    Returns:
        The state to keep, and to journal when the registry is back if nobody wrote meanwhile; at
        most one action, which sets routes.
    """
    if state.phase in RESTING:
        return state, ()
    observed, seen = _observe(plan, agents, state, inputs, now)
    if observed.phase not in UNWINDING:
        found = assess_touched(observed, seen)
        observed = replace(observed, assessment=found)
        stopped = stop_unhealthy(observed, seen)
        if stopped is None:
            return observed, ()
        observed = stopped
    decided, actions = _carry_out(observed, seen, [])
    routes = tuple(action for action in actions if isinstance(action, SetRoutes))
    return replace(decided, phase=observed.phase, entered_at=observed.entered_at), routes


def _observe(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    inputs: FleetInputs,
    now: datetime,
) -> tuple[FleetState, Seen]:
    seen = look(plan, agents, state, inputs, now)
    return remember(keep_time(state, inputs, now), seen), seen


def wants_admission(plan: FleetPolicy, state: FleetState) -> bool:
    """Whether the step needs to know if the registry would admit the candidate to Production."""
    del plan
    waiting = state.phase in {FleetPhase.AWAITING_ADMISSION, FleetPhase.PROMOTING}
    return waiting and state.published and not state.promoted


def wants_standing_of(state: FleetState, inputs: FleetInputs) -> tuple[int, ...]:
    """Return the versions without a level that have tasks, or may be given some by the step."""
    named: set[int | None] = {state.candidate, state.stable, *state.stables[:1]}
    for route in state.routes.routes:
        named |= {route.version, route.canary}
    held = {inputs.levels.production, inputs.levels.canary}
    return tuple(sorted(v for v in named - held if v is not None))


def _decide(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    if state.phase in RESTING:
        return _rest(drop_order(state, seen.inputs), seen)
    if state.phase in UNWINDING:
        return unwind(state, seen)
    state = replace(state, assessment=assess_touched(state, seen))
    cut = stop(state, seen) or follow_registry(state, seen)
    decided, papers = (cut, []) if cut is not None else _proceed(state, seen)
    return unwind(decided, seen) if decided.phase in UNWINDING else (decided, papers)


def _proceed(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    """Go by the phase."""
    state = _note_promotion(_obey(state, seen.inputs), seen.inputs, seen.now)
    handlers = {
        FleetPhase.STARTING: _starting,
        FleetPhase.WATCHING: _watching,
        FleetPhase.SOAKING: _soaking,
    }
    return handlers.get(state.phase, _admission)(state, seen)


def _obey(state: FleetState, inputs: FleetInputs) -> FleetState:
    """Take an operator's promote; one that is out of place changes nothing."""
    if not has_order(state, inputs):
        return drop_order(state, inputs)
    waits = state.phase in {FleetPhase.AWAITING_ADMISSION, FleetPhase.PROMOTING}
    promotes = inputs.orders.operator == "promote" and waits
    state = replace(state, order_id=inputs.orders.order_id)
    return replace(state, promote_ordered=True) if promotes else state


def _note_promotion(state: FleetState, inputs: FleetInputs, now: datetime) -> FleetState:
    if state.promoted or inputs.levels.production != state.candidate:
        return state
    waits = state.phase in {FleetPhase.AWAITING_ADMISSION, FleetPhase.PROMOTING}
    if waits:
        state = enter(state, FleetPhase.PROMOTING, now, reason="at Production in the registry")
        state = replace(state, entered_at=now)
    return replace(state, promoted=True)


def _rest(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    production, canary = seen.inputs.levels.production, seen.inputs.levels.canary
    taken = take_production_back(seen.agents, state, seen.inputs, seen.now)
    if taken is not None:
        return unwind(taken, seen)
    if canary is not None and canary != production:
        reason = f"canary v{canary}"
        begun = begin_candidate(state, canary, production, seen, reason=reason)
        return begun, []
    if production is not None and production not in state.release_ids:
        return state, [Fetch(production)]
    specialties = {agent.specialty for agent in seen.agents}
    if production is not None and ready_specialties(seen, production) == specialties:
        state = push_stable(state, production)
    return note_unplaced(state, seen, production), []


def _starting(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    candidate = state.candidate or 0
    unverified = [v for v in (state.stable, candidate) if v is not None and v not in state.verified]
    waiting = [name for name in state.batch if not seen.is_sound(name, candidate)]
    if not unverified and not waiting:
        return enter(state, FleetPhase.WATCHING, seen.now), []
    if elapsed_s(state.entered_at, seen.now) >= seen.plan.start_deadline_s:
        if state.was_absent and not unverified:
            return _leave_out(state, waiting, seen), []
        why = (
            f"v{unverified[0]} could not be fetched"
            if unverified
            else f"{waiting[0]}: {seen.why_not_sound(waiting[0], candidate)}"
        )
        reason = f"not ready within {seen.plan.start_deadline_s:g} s: {why}"
        return give_up(state, Trigger.DEADLINE, reason, seen.now), []
    return state, [Fetch(version) for version in unverified]


def _leave_out(state: FleetState, waiting: list[str], seen: Seen) -> FleetState:
    """Go on without agents that served nothing before, and on which nothing can be placed."""
    batch = tuple(name for name in state.batch if name not in waiting)
    state = replace(state, batch=batch, left_out=(*state.left_out, *waiting))
    return enter(state, FleetPhase.WATCHING, seen.now, reason=f"left out: {', '.join(waiting[:5])}")


def _watching(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    found = state.assessment
    passed = found is not None and found.verdict is Verdict.PASS
    if passed and state.watched_s >= seen.plan.watch_s:
        if state.promoted:
            return _go_on(state, seen)
        state = enter(state, FleetPhase.AWAITING_ADMISSION, seen.now)
        return _admission(state, seen)
    if elapsed_s(state.entered_at, seen.now) >= seen.plan.evidence_deadline_s:
        why = found.reason if found else "nothing was measured"
        reason = f"no PASS within {seen.plan.evidence_deadline_s:g} s: {why}"
        return give_up(state, Trigger.DEADLINE, reason, seen.now), []
    return state, []


def _admission(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    if state.promoted:
        return _go_on(state, seen)
    candidate = state.candidate or 0
    ordered = seen.plan.promotion == "automatic" or state.promote_ordered
    found = state.assessment
    passes = found is not None and found.verdict is Verdict.PASS
    if elapsed_s(state.entered_at, seen.now) >= seen.plan.votes_deadline_s:
        why = seen.inputs.admission_reason if ordered else "nobody ordered the promotion"
        reason = f"not promoted within {seen.plan.votes_deadline_s:g} s: {why}"
        return give_up(state, Trigger.DEADLINE, reason, seen.now), []
    if not state.published:
        return state, [PublishVerdict(candidate)] if passes else []
    if seen.inputs.admitted is True and ordered and passes:
        levels = seen.inputs.levels
        state = enter(state, FleetPhase.PROMOTING, seen.now)
        return state, [Promote(candidate, levels.production, levels.canary)]
    if not passes:
        return replace(state, reason=found.reason if found else ""), []
    told = seen.inputs.admission_reason if ordered else "waits for an operator's promote"
    return replace(state, reason=told), []


def _go_on(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    """Begin the next batch, when all agents that were touched before are healthy."""
    found = state.assessment
    if found is None or found.verdict is not Verdict.PASS:
        if elapsed_s(state.entered_at, seen.now) >= seen.plan.evidence_deadline_s:
            why = found.reason if found else "nothing was measured"
            return give_up(
                state, Trigger.DEADLINE, f"the next batch can not begin: {why}", seen.now
            ), []
        return replace(state, reason=found.reason if found else ""), []
    stable, done = state.stable, (*state.touched, *state.left_out)
    batch = next_batch(seen.agents, seen, stable, done, seen.plan.batch_ratio)
    if batch:
        absent = not any(is_served(name, seen, stable) for name in batch)
        return start_batch(state, batch, seen.now, was_absent=absent), []
    soaking = enter(state, FleetPhase.SOAKING, seen.now)
    everyone = tuple(agent.name for agent in seen.agents)
    return replace(soaking, moved=everyone, batch=()), []


def _soaking(state: FleetState, seen: Seen) -> tuple[FleetState, list[Action]]:
    """Watch the whole fleet; the watch goes on while a specialty has no sound agent."""
    candidate, found = state.candidate or 0, state.assessment
    state = note_unplaced(state, seen, candidate)
    ready = ready_specialties(seen, candidate)
    is_ready = ready == {agent.specialty for agent in seen.agents}
    passed = found is not None and found.verdict is Verdict.PASS
    if passed and is_ready and state.watched_s >= seen.plan.post_promotion_watch_s:
        return push_stable(enter(state, FleetPhase.SUCCEEDED, seen.now), candidate), []
    told = "" if found is None else found.reason
    return replace(state, reason=told), []


def _carry_out(state: FleetState, seen: Seen, papers: list[Action]) -> Outcome:
    """Work out routes, starts and stops, then what the registry and the papers lack."""
    recalls = frozenset(seen.inputs.standing.recalls)
    unwinding = state.phase in UNWINDING
    if unwinding:
        aims = unwinding_aims(state, seen)
    elif state.phase in UNDER_ASSESSMENT:
        aims = _rollout_aims(state, seen)
    else:
        aims = _rest_aims(state, seen)
    gone = state.candidate if unwinding else None
    warm = {v for v in state.stables[: seen.plan.warm_versions] if v != gone}
    if state.phase not in RESTING and state.stable is not None and not unwinding:
        warm.add(state.stable)
    state, actions = arrange(state, aims, seen, warm, recalls)
    if unwinding:
        state, papers = settle(state, seen, papers)
    fetches = {action for action in papers if isinstance(action, Fetch)}
    return state, (*(a for a in actions if a not in fetches), *papers)


def _rest_aims(state: FleetState, seen: Seen) -> Aims:
    """Aim all agents at Production; the release before answers until a specialty serves it."""
    production = seen.inputs.levels.production
    if production is not None and production == state.degraded:
        return degraded_aims(seen, production)
    former = state.stables[0] if state.stables else None
    if former == production:
        former = None
    return move_towards(state, seen, production, {agent.name: former for agent in seen.agents})


def _rollout_aims(state: FleetState, seen: Seen) -> Aims:
    candidate, stable = state.candidate, state.stable
    ahead, back = Aim(candidate), Aim(stable)
    if state.phase is FleetPhase.SOAKING:
        return {agent.name: ahead for agent in seen.agents}
    moved, batch = set(state.moved), set(state.batch)
    starting = state.phase is FleetPhase.STARTING
    # A later batch takes over whole; the first takes a share until it is moved.
    ratio = 0.0 if starting else seen.plan.canary_ratio
    held = {} if stable is None or stable != state.degraded else degraded_aims(seen, stable)
    aims: Aims = {}
    for agent in seen.agents:
        name = agent.name
        before = held.get(name, back)
        if name in moved or (name in batch and state.batch_index and not starting):
            aims[name] = ahead
        elif name not in batch:
            aims[name] = before
        elif agent.side_by_side:
            aims[name] = replace(before, beside=candidate, beside_ratio=ratio)
        elif _may_swap(agent, state, seen):
            aims[name] = Aim(None, candidate, ratio, yields=True)
        else:
            aims[name] = replace(before, beside=candidate)
    return aims


def _may_swap(agent: Agent, state: FleetState, seen: Seen) -> bool:
    """Whether an agent's old instance may go: it gets no tasks, or its fall-back answers."""
    if not seen.is_sound(agent.name, state.stable):
        return True
    fallback = agent.fallback or ""
    if fallback in state.moved:
        return seen.is_sound(fallback, state.candidate)
    return fallback not in state.batch and seen.is_sound(fallback, state.stable)
