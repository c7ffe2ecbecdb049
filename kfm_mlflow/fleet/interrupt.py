"""What may cut into a fleet's rollout in any phase: harm, people, a move in the registry. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.batches import first_batch
from kfm_mlflow.fleet.health_verdict import Assessment, assess
from kfm_mlflow.fleet.moves import begin, enter, forget, give_up, push_stable
from kfm_mlflow.fleet.state import UNWINDING, FleetPhase, FleetState
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.orders import orderer
from kfm_mlflow.rollout.state import Trigger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.memories import InstanceKey, InstanceMemory
    from kfm_mlflow.fleet.observed import FleetInputs, Seen
    from kfm_mlflow.rollout.inputs import Regression

_IN_BATCH = frozenset({FleetPhase.STARTING, FleetPhase.WATCHING})


def has_order(state: FleetState, inputs: FleetInputs) -> bool:
    """Whether there is an order for the candidate that was not obeyed yet."""
    orders = inputs.orders
    return orders.order_id > state.order_id and orders.version in {None, state.candidate}


def drop_order(state: FleetState, inputs: FleetInputs) -> FleetState:
    """Take note of an order that nothing will obey; one for a canary that waits is kept."""
    orders, waiting = inputs.orders, inputs.levels.canary
    if state.phase in UNWINDING and waiting == state.candidate:
        waiting = None
    kept = waiting is not None and orders.version in {None, waiting}
    if orders.order_id <= state.order_id or kept:
        return state
    return replace(state, order_id=orders.order_id)


def roll_back(
    agents: Sequence[Agent], state: FleetState, inputs: FleetInputs, now: datetime
) -> FleetState | None:
    """Begin an operator's rollback to a named version, in any phase; None when there is none.

    The target is verified anew and admitted by the registry before it gets a task.
    """
    orders, production = inputs.orders, inputs.levels.production
    target = orders.to_version
    if orders.operator != "rollback" or orders.order_id <= state.order_id:
        return None
    if production is None or orders.version != production or target in {None, production}:
        return None
    everyone = tuple(agent.name for agent in agents)
    if state.candidate != production or state.phase not in UNWINDING:
        kept = state.assessment
        state = replace(begin(state, production, target, (), now, reason=""), assessment=kept)
    harmed = state.phase in UNWINDING and state.trigger is not Trigger.OPERATOR
    trigger = state.trigger if harmed and state.trigger else Trigger.OPERATOR
    reason = f"rolled back to v{target} by {orderer(orders)}"
    ordered = replace(
        state,
        stable=target,
        promoted=True,
        order_id=orders.order_id,
        verified=(),
        moved=everyone,
        batch=(),
        overtaken=inputs.levels.canary,
        degraded=None if state.degraded == target else state.degraded,
    )
    given_up = give_up(ordered, trigger, f"{state.reason}; {reason}" if harmed else reason, now)
    return replace(given_up, target_ordered=True)


def assess_touched(state: FleetState, seen: Seen) -> Assessment | None:
    """Judge the agents that run the candidate; None while there is none."""
    version = state.candidate
    if version is None:
        return None
    soaking = state.phase is FleetPhase.SOAKING
    touched = None if soaking else set(state.touched)
    memories: list[tuple[InstanceKey, InstanceMemory]] = []
    missing: list[str] = []
    sound = seen.sound_on(version)
    for agent in seen.agents:
        name = agent.name
        if touched is not None and name not in touched:
            continue
        if name in sound or _is_judged(seen, name, version, soaking=soaking):
            memories.append(((name, version), seen.memories[name][version]))
        else:
            missing.append(name)
    found = assess(seen.plan, memories, state.versions.get(version), seen.now)
    if soaking or not missing or found.verdict is Verdict.FAIL:
        return found
    told = f"{missing[0]}: {seen.why_not_sound(missing[0], version)}"
    waits = found.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}
    return replace(found, verdict=Verdict.INCONCLUSIVE, reason=told) if waits else found


def _is_judged(seen: Seen, name: str, version: int, *, soaking: bool) -> bool:
    """Whether an agent that is not sound is judged: in the watch of all, for its answers alone."""
    isolated = seen.memory(name, version).is_isolated
    return (isolated or not soaking) and seen.is_right(name, version)


def stop(state: FleetState, seen: Seen) -> FleetState | None:
    """Give the candidate up for harm, people or a newer validation; None without a reason."""
    told = (
        recall(seen.agents, state, seen.inputs, seen.now)
        or _obey_people(state, seen.inputs, seen.now)
        or _regressed(state, seen.inputs, seen.now)
    )
    return told or stop_unhealthy(state, seen)


def stop_unhealthy(state: FleetState, seen: Seen) -> FleetState | None:
    """Give the candidate up for what its agents show; None while they do not."""
    if state.candidate is None:
        return None
    if state.phase in _IN_BATCH:
        for name in state.batch:
            broken = _broken(state, seen, name, state.candidate)
            if broken is not None:
                return give_up(state, broken[0], f"{name}: {broken[1]}", seen.now)
    found = state.assessment
    if found is not None and found.verdict is Verdict.FAIL:
        return give_up(state, Trigger.ANALYSIS, found.reason, seen.now)
    return None


def _broken(state: FleetState, seen: Seen, name: str, version: int) -> tuple[Trigger, str] | None:
    """Return what is wrong with an agent's new instance for good; None when nothing is."""
    found = seen.of(name).get(version)
    if seen.is_wrong(name, version):
        return Trigger.INTEGRITY, seen.why_not_sound(name, version)
    if found is not None and found.status == "failed":
        return Trigger.NOT_READY, found.message or "its instance failed"
    watched = state.phase is FleetPhase.WATCHING
    if watched and not seen.is_sound(name, version) and not seen.memory(name, version).is_isolated:
        return Trigger.NOT_READY, f"was lost in its batch: {seen.why_not_sound(name, version)}"
    return None


def recall(
    agents: Sequence[Agent], state: FleetState, inputs: FleetInputs, now: datetime
) -> FleetState | None:
    """Give the candidate up when it, or Production beside it, may no longer be served."""
    standing, stable, production = inputs.standing, state.stable, inputs.levels.production
    served = {stable} & {production}
    version = next((v for v in (state.candidate, *served) if v in standing.recalls), None)
    if version is None:
        return None
    if production == state.candidate:
        stable = standing.fallback
        state = replace(state, moved=tuple(agent.name for agent in agents), batch=())
    elif stable in standing.recalls:
        stable = None
    trigger = Trigger.VETO if version in standing.vetoed else Trigger.SOVEREIGNTY
    reason = f"v{version} may no longer be served: {standing.recalls[version]}"
    return give_up(replace(state, stable=stable), trigger, reason, now)


def _obey_people(state: FleetState, inputs: FleetInputs, now: datetime) -> FleetState | None:
    if inputs.orders.veto:
        return give_up(state, Trigger.VETO, f"veto: {inputs.orders.veto}", now)
    if has_order(state, inputs) and inputs.orders.operator == "abort":
        state = replace(state, order_id=inputs.orders.order_id)
        return give_up(state, Trigger.OPERATOR, f"aborted by {orderer(inputs.orders)}", now)
    return None


def regression_of(state: FleetState, inputs: FleetInputs, version: int) -> Regression | None:
    """Return what a newer validation found of a version, unless an operator took it as it is."""
    found = inputs.standing.regressions.get(version)
    return None if found is None or found.statement == state.excused else found


def _regressed(state: FleetState, inputs: FleetInputs, now: datetime) -> FleetState | None:
    if state.candidate is None:
        return None
    found = regression_of(state, inputs, state.candidate)
    if found is None:
        return None
    if inputs.levels.production == state.candidate:
        state = replace(state, stable=inputs.standing.fallback or state.stable)
    reason = f"v{state.candidate} was validated again: {found.reason}"
    return give_up(state, Trigger(found.cause), reason, now)


def take_production_back(
    agents: Sequence[Agent], state: FleetState, inputs: FleetInputs, now: datetime
) -> FleetState | None:
    """Give up Production at rest that may not be served, or is bad and has a successor."""
    production, standing = inputs.levels.production, inputs.standing
    if production is None:
        return None
    everyone = tuple(agent.name for agent in agents)
    if production in standing.recalls:
        taken = begin(state, production, standing.fallback, (), now, reason="recall")
        taken = replace(taken, promoted=True, moved=everyone)
        return recall(agents, taken, inputs, now)
    if regression_of(state, inputs, production) is None or standing.fallback is None:
        return None
    taken = begin(state, production, standing.fallback, (), now, reason="")
    return _regressed(replace(taken, promoted=True, moved=everyone), inputs, now)


def follow_registry(state: FleetState, seen: Seen) -> FleetState | None:
    """Give way to whoever moved a level; None when the registry is as the rollout expects."""
    production, canary = seen.inputs.levels.production, seen.inputs.levels.canary
    waiting = canary if canary != production else None
    if production == state.candidate:
        return _replace_watched(state, waiting, seen)
    if production != state.stable or state.promoted:
        named = "nothing" if production is None else f"v{production}"
        reason = f"production was moved to {named} by somebody else"
        if waiting is None:
            return enter(state, FleetPhase.IDLE, seen.now, reason=reason)
    elif waiting is None:
        return give_up(state, Trigger.REGISTRY, "taken off canary in the registry", seen.now)
    elif waiting != state.candidate:
        reason = f"canary v{waiting} replaces v{state.candidate}"
    else:
        return None
    return begin_candidate(state, waiting, production, seen, reason=reason)


def begin_candidate(
    state: FleetState, candidate: int, stable: int | None, seen: Seen, *, reason: str
) -> FleetState:
    """Start the rollout of a canary with its first batch; no evidence from before counts."""
    batch = first_batch(seen.agents, seen, stable)
    begun = begin(state, candidate, stable, batch, seen.now, reason=reason)
    return forget(begun, candidate)


def _replace_watched(state: FleetState, waiting: int | None, seen: Seen) -> FleetState | None:
    """Let a new canary end the watch of Production, when that had its least time."""
    if waiting is None or state.phase is not FleetPhase.SOAKING or state.candidate is None:
        return None
    if state.watched_s < seen.plan.watch_s:
        return None
    reason = f"canary v{waiting}; the watch of v{state.candidate} ends early"
    begun = begin_candidate(state, waiting, state.candidate, seen, reason=reason)
    return push_stable(begun, state.candidate)
