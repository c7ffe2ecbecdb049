"""What is going on in a fleet, why, what comes next and when: plan and state in, words out. Pure.

It decides nothing: every condition told here is one that :mod:`kfm_mlflow.fleet.step` goes by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.fleet.agent_lines import agent_lines, fleet_line
from kfm_mlflow.fleet.batches import batch_size
from kfm_mlflow.fleet.narrative import FleetNarrative
from kfm_mlflow.fleet.stages import stage_of
from kfm_mlflow.fleet.state import RESTING, UNWINDING, FleetPhase
from kfm_mlflow.rollout.narrative import PlannedStep
from kfm_mlflow.rollout.planned import span
from kfm_mlflow.rollout.told import Told, after, named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.health_verdict import Assessment
    from kfm_mlflow.fleet.plane import FleetObservation
    from kfm_mlflow.fleet.state import FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy

_FULL_PCT = 100.0
_DEGRADED = (
    "a degraded agent: coherence, errors, latency, the fleet's safety or consensus beyond a limit",
    "an agent that does not start, is lost, or runs another release",
    "a veto, a recall, or an operator's `kfm rollout abort`",
)


def describe(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    observation: FleetObservation | None,
    now: datetime,
) -> FleetNarrative:
    """Tell where a fleet stands.

    Args:
        plan: The policy's fleet section.
        agents: Who is in the fleet.
        state: As it is journaled.
        observation: What was last seen; None before the first look.
        now: Aware UTC.
    """
    told = _told(plan, state, now)
    batches = _batches(plan, agents, state)
    index = None if state.phase in RESTING else state.batch_index
    problem = f" Nothing is decided while the cluster is away: {state.plane_problem}."
    return FleetNarrative(
        phase=str(state.phase),
        candidate=state.candidate,
        stable=state.stable,
        described_at=now,
        since=state.entered_at,
        happening=told.happening + (problem if state.plane_problem else ""),
        traffic=_traffic(state),
        reason=told.reason,
        next=told.next,
        next_at=told.next_at,
        deadline_at=told.deadline_at,
        on_deadline=told.on_deadline,
        ends=() if state.phase in RESTING or state.phase in UNWINDING else _DEGRADED,
        is_loud=told.is_loud,
        to_do=told.to_do,
        canary_pct=_share_pct(state),
        mirror_pct=0.0,
        step_number=None if index is None else min(index + 1, len(batches)),
        step_count=len(batches),
        step="" if index is None else batches[min(index, len(batches) - 1)].words,
        verdict=None if state.assessment is None else str(state.assessment.verdict),
        measured="" if state.assessment is None else _measured(state.assessment),
        steps=batches,
        metrics=(),
        arms=(),
        stage=str(stage_of(state.phase, batch_index=state.batch_index)),
        agents=agent_lines(plan, agents, state, observation, now),
        fleet=fleet_line(plan, state, now),
    )


def _told(plan: FleetPolicy, state: FleetState, now: datetime) -> Told:
    own = named(state.candidate)
    unplaced = "; ".join(f"{name}: {why}" for name, why in sorted(state.unplaced.items()))
    if state.phase in RESTING:
        happening = {
            FleetPhase.IDLE: "No release is under way.",
            FleetPhase.SUCCEEDED: f"{own} is served by the whole fleet.",
            FleetPhase.ROLLED_BACK: f"{own} was taken back from every agent.",
        }[state.phase]
        return Told(
            happening + (f" Without a sound instance: {unplaced}." if unplaced else ""),
            state.reason or "Production is served",
            "A rollout begins when a version is moved to canary.",
            to_do="Look at the nodes of the agents named above." if unplaced else "",
        )
    if state.phase in UNWINDING:
        return _unwinding(state, own)
    return _under_way(plan, state, now, own)


def _under_way(plan: FleetPolicy, state: FleetState, now: datetime, own: str) -> Told:
    found = state.assessment
    if state.phase is FleetPhase.STARTING:
        return Told(
            f"Batch {state.batch_index + 1} starts {own} on {', '.join(state.batch)}.",
            state.reason or f"{own} goes on agent by agent",
            "Its agents get tasks once every one of them runs what was verified.",
            deadline_at=after(state.entered_at, plan.start_deadline_s),
            on_deadline="every touched agent goes back",
        )
    if state.phase is FleetPhase.WATCHING:
        left_s = max(0.0, plan.watch_s - state.watched_s)
        return Told(
            f"Batch {state.batch_index + 1} is watched: {', '.join(state.batch)}.",
            _found(found),
            f"After {span(plan.watch_s)} of health "
            + ("the council's votes are asked for." if not state.promoted else "the next batch."),
            next_at=after(now, left_s),
            deadline_at=after(state.entered_at, plan.evidence_deadline_s),
            on_deadline="every touched agent goes back, for want of evidence",
        )
    if state.phase is FleetPhase.AWAITING_ADMISSION:
        return Told(
            f"The first batch of {own} is healthy; Production is asked for.",
            state.reason or "the registry is asked",
            "It is promoted as soon as the registry's gates allow it.",
            deadline_at=after(state.entered_at, plan.votes_deadline_s),
            on_deadline="every touched agent goes back",
            to_do=f"The council votes: kfm vote models:/{state.model_name}/{state.candidate} "
            "--to production --key KEY --approve",
        )
    if state.phase is FleetPhase.PROMOTING:
        return Told(f"{own} moves to Production.", "the gates allow it", "The next batch starts.")
    left_s = max(0.0, plan.post_promotion_watch_s - state.watched_s)
    return Told(
        f"{own} is served by the whole fleet, and still watched.",
        _found(found),
        "Then the rollout has succeeded.",
        next_at=after(now, left_s),
    )


def _found(found: Assessment | None) -> str:
    if found is None:
        return "nothing is measured yet"
    return found.reason or "healthy so far"


def _unwinding(state: FleetState, own: str) -> Told:
    why = state.reason or "it was given up"
    if state.phase is FleetPhase.ABORTING:
        return Told(
            f"{own} is being taken back from {len(state.touched)} agents.",
            why,
            f"Routes go to {named(state.stable)} at once, then the registry, then the reports.",
        )
    return Told(
        f"THE ROLLBACK OF {own} HAS FAILED so far; tasks stay with what is healthy.",
        why,
        "It is still being tried.",
        is_loud=True,
        to_do="Look at the agents below, or name another release: kfm fleet rollback "
        "--target-version VERSION --reason WHY",
    )


def _traffic(state: FleetState) -> str:
    counts: dict[int, int] = {}
    for route in state.routes.routes:
        if route.version is not None:
            counts[route.version] = counts.get(route.version, 0) + 1
    canaries = [route for route in state.routes.routes if route.canary is not None]
    told = [f"v{version} on {count} agents" for version, count in sorted(counts.items())]
    if canaries:
        first = canaries[0]
        told.append(
            f"v{first.canary} gets {_FULL_PCT * first.canary_ratio:g} % of the tasks of "
            f"{', '.join(route.agent for route in canaries)}"
        )
    return "; ".join(told) + "." if told else "No agent gets tasks."


def _share_pct(state: FleetState) -> float:
    """Return the candidate's share of all agents' tasks, if every agent had as many."""
    routes = state.routes.routes
    if not routes or state.candidate is None:
        return 0.0
    own = state.candidate
    shares = [
        route.canary_ratio if route.canary == own else float(route.version == own)
        for route in routes
    ]
    return _FULL_PCT * sum(shares) / len(routes)


def _batches(
    plan: FleetPolicy, agents: Sequence[Agent], state: FleetState
) -> tuple[PlannedStep, ...]:
    """Return the batches: the first, one agent per specialty; the others by size."""
    size, first = batch_size(len(agents), plan.batch_ratio), len(plan.specialties)
    whole, left = divmod(max(0, len(agents) - first), size)
    sizes = [min(first, len(agents)), *([size] * whole), *([left] if left else [])]
    stopped = state.phase in UNWINDING or state.phase is FleetPhase.ROLLED_BACK
    done_all = state.phase in {FleetPhase.SUCCEEDED, FleetPhase.SOAKING}
    steps = []
    for number, count in enumerate(sizes, start=1):
        present = state.batch_index + 1
        if done_all or number < present:
            status = "done"
        elif number > present or state.phase is FleetPhase.IDLE:
            status = "ahead"
        else:
            status = "stopped" if stopped else "present"
        reached = min(len(agents), sum(sizes[:number]))
        pct = plan.canary_ratio * _FULL_PCT if number == 1 else _FULL_PCT * reached / len(agents)
        words = f"batch of {count}, one agent per specialty" if number == 1 else f"batch of {count}"
        steps.append(PlannedStep(number, words, round(pct), 0, status))  # type: ignore[arg-type]
    return tuple(steps)


def _measured(found: Assessment) -> str:
    parts = [
        f"{found.agent_count} agents",
        *(
            f"{name} {value:.3g}"
            for name, value in (
                ("lowest coherence", found.min_coherence),
                ("error ratio", found.error_ratio),
                ("p95 ms", found.p95_latency_ms),
                ("safety", found.safety_score),
                ("consensus", found.consensus_rate),
            )
            if value is not None
        ),
        f"{found.tasks_per_min:.3g} tasks/min",
    ]
    told = ", ".join(parts)
    return f"{found.reason} ({told})" if found.reason else told
