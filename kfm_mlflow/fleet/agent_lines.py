"""Where every agent of a fleet stands, and how all are together: lines of its narrative. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.health import is_lost, p95_latency_ms
from kfm_mlflow.fleet.health_verdict import assess
from kfm_mlflow.fleet.narrative import AgentLine, FleetLine
from kfm_mlflow.fleet.state import RESTING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.health_verdict import Assessment
    from kfm_mlflow.fleet.memories import InstanceMemory
    from kfm_mlflow.fleet.plane import FleetObservation, Instance, Route
    from kfm_mlflow.fleet.state import FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy


def fleet_line(plan: FleetPolicy, state: FleetState, now: datetime) -> FleetLine | None:
    """Tell how the agents under assessment are together; at rest, all that serve.

    Args:
        plan: The policy's fleet section.
        state: As it is journaled.
        now: Aware UTC.
    """
    found = _serving(plan, state, now) if state.phase in RESTING else state.assessment
    if found is None:
        return None
    return FleetLine(
        consensus_rate=found.consensus_rate,
        safety_score=found.safety_score,
        tasks_per_min=found.tasks_per_min,
        min_coherence=found.min_coherence,
        error_ratio=found.error_ratio,
        p95_ms=found.p95_latency_ms,
        agent_count=found.agent_count,
    )


def _serving(plan: FleetPolicy, state: FleetState, now: datetime) -> Assessment | None:
    served = [(r.agent, r.version) for r in state.routes.routes if r.version is not None]
    if not served:
        return None
    # At rest all go to one version, but for the few that are still on their way to it.
    version = Counter(version for _, version in served).most_common(1)[0][0]
    known = state.instances
    memories = [
        (key, known[key[0]][version])
        for key in served
        if key[1] == version and version in known.get(key[0], {})
    ]
    return assess(plan, memories, state.versions.get(version), now) if memories else None


def agent_lines(
    plan: FleetPolicy,
    agents: Sequence[Agent],
    state: FleetState,
    observation: FleetObservation | None,
    now: datetime,
) -> tuple[AgentLine, ...]:
    """Tell what each agent serves, where, and how it is.

    Args:
        plan: The policy's fleet section.
        agents: Who is in the fleet.
        state: As it is journaled.
        observation: What was last seen; None before the first look.
        now: Aware UTC.
    """
    routes = {route.agent: route for route in state.routes.routes}
    instances: dict[str, list[Instance]] = {}
    for found in () if observation is None else observation.instances:
        instances.setdefault(found.agent, []).append(found)
    lines: list[AgentLine] = []
    for agent in agents:
        route, seen = routes.get(agent.name), instances.get(agent.name, [])
        shown = _shown(route)
        memories = state.instances.get(agent.name, {})
        memory = None if shown is None else memories.get(shown)
        away = memory is not None and is_lost(plan, memory, now)
        lines.append(_line(agent, route, memory, seen, is_away=away))
    return tuple(lines)


def _shown(route: Route | None) -> int | None:
    if route is None:
        return None
    return route.version if route.canary is None else route.canary


def _line(
    agent: Agent,
    route: Route | None,
    memory: InstanceMemory | None,
    seen: Sequence[Instance],
    *,
    is_away: bool,
) -> AgentLine:
    version = None if route is None else route.version
    canary = None if route is None else route.canary
    if memory is not None and memory.is_isolated:
        standing = "isolated"
    elif is_away:
        standing = "lost"
    elif canary is not None:
        standing = "canary"
    elif version is not None:
        standing = "serving"
    else:
        standing = "starting" if any(i.status == "starting" for i in seen) else "waiting"
    measured = memory.tasks.measured if memory is not None and memory.tasks is not None else ()
    count = measured[0] + measured[1] if measured else 0
    return AgentLine(
        name=agent.name,
        specialty=agent.specialty,
        version=version,
        canary=canary,
        node=next((i.node for i in seen if i.version == _shown(route)), ""),
        state=standing,
        coherence=None if memory is None else memory.coherence,
        error_ratio=measured[1] / count if count else None,
        p95_ms=p95_latency_ms(measured[4:]) if measured else None,
        task_count=count,
    )
