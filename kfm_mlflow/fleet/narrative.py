"""What a person is told about a fleet, beside what every rollout tells. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from kfm_mlflow.rollout.narrative import Narrative


@dataclass(frozen=True)
class AgentLine:
    """One agent.

    Attributes:
        version: Version that gets its tasks; None when it gets none.
        canary: Version that gets a share of them; None for none.
        node: Node of the instance that gets its tasks; empty without one.
        state: ``serving``, ``canary``, ``starting``, ``isolated``, ``lost``, ``waiting``.
        coherence: 0..1; None before it answered a probe.
        error_ratio: Failed of all tasks in the window; None without tasks.
        p95_ms: 95th percentile of the time to answer in the window; None without tasks.
        task_count: Tasks in the window.
    """

    name: str
    specialty: str
    version: int | None
    canary: int | None
    node: str
    state: str
    coherence: float | None
    error_ratio: float | None
    p95_ms: float | None
    task_count: int


@dataclass(frozen=True)
class FleetLine:
    """The agents under assessment, together; at rest, all of them.

    Attributes:
        consensus_rate: Share of probes on which a safe quorum agrees; None without any.
        safety_score: Share of unsafe tasks and probes that were held; None without any.
        tasks_per_min: Completed tasks per minute.
        min_coherence: The lowest agent's.
        error_ratio: Failed of all tasks in the window.
        p95_ms: 95th percentile of the time to answer, over all of them.
        agent_count: Agents judged.
    """

    consensus_rate: float | None
    safety_score: float | None
    tasks_per_min: float
    min_coherence: float | None
    error_ratio: float | None
    p95_ms: float | None
    agent_count: int


@dataclass(frozen=True)
class FleetNarrative(Narrative):
    """Where a fleet stands, why, and what comes next; each step of the plan is a batch.

    Attributes:
        stage: Stage of the deployment (docs/fleet-rollout.md has the table).
        agents: All agents, by name.
        fleet: Their health together; None before anything was assessed.
    """

    stage: str
    agents: tuple[AgentLine, ...]
    fleet: FleetLine | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value."""
        written: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return written


@cache
def _adapter() -> TypeAdapter[FleetNarrative]:
    return TypeAdapter(FleetNarrative)
