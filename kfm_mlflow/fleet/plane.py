"""What carries a fleet: instances of releases on nodes, and who gets which tasks.

The loop decides, a plane acts. ``kfm_serving`` implements it on Ray Serve; the tests and the
simulation implement it in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.rollout.plane import Deployable

LATENCY_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 1000, 2000, 5000)
"""Upper bounds of the latency histogram's bins, in ms."""

_NO_LATENCY = (0,) * (len(LATENCY_BOUNDS_MS) + 1)

InstanceStatus = Literal["starting", "running", "failed"]


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """What one instance did since it started; every number only grows.

    Attributes:
        completed: Tasks that it answered.
        failed: Tasks that it was given and did not answer, by error or by time.
        unsafe: Answered tasks that the release's own screen calls unsafe.
        refused: Those of them that it held back.
        latency_counts: Completed tasks by time to answer: per bound of :data:`LATENCY_BOUNDS_MS`
            those at or below it and above the one before, then those above the last.
        row: All of these in this order: what passes compare, made once.
    """

    completed: int = 0
    failed: int = 0
    unsafe: int = 0
    refused: int = 0
    latency_counts: tuple[int, ...] = ()
    row: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Put the counts in a row."""
        bins = self.latency_counts or _NO_LATENCY
        row = (self.completed, self.failed, self.unsafe, self.refused, *bins)
        object.__setattr__(self, "row", row)


@dataclass(frozen=True, slots=True)
class Instance:
    """One agent serving one version.

    Attributes:
        agent: Its name.
        version: MLflow model version.
        status: ``running`` only when it can be asked; an instance that is gone is not listed.
        release_id: What the instance itself verified and loaded; empty unless it runs.
        node: Node that it runs on; empty unless it runs.
        message: Why it failed, or why it does not start.
        counts: What it did.
    """

    agent: str
    version: int
    status: InstanceStatus
    release_id: str = ""
    node: str = ""
    message: str = ""
    counts: TaskCounts = TaskCounts()


@dataclass(frozen=True, slots=True)
class Route:
    """Which instances of an agent get tasks.

    Attributes:
        agent: Its name.
        version: Version that gets the agent's tasks; None gives it none.
        canary: Version that gets ``canary_ratio`` of them instead; None for none.
        canary_ratio: Share of the agent's tasks, 0..1.
    """

    agent: str
    version: int | None
    canary: int | None = None
    canary_ratio: float = 0.0


@dataclass(frozen=True)
class RouteTable:
    """Who gets tasks, for the whole fleet at once.

    Attributes:
        generation: Grows with every change; a dispatcher refuses a lower one.
        routes: One per agent; tasks of a specialty are spread evenly over its agents that have a
            version.
    """

    generation: int
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class FleetObservation:
    """What a plane sees.

    Attributes:
        generation: Of the route table that all dispatchers apply; 0 before the first.
        instances: Every instance that there is.
    """

    generation: int = 0
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class ProbeAnswer:
    """What an instance answered to a probe.

    Attributes:
        decision: ``act`` or ``hold``.
        specialty: Which specialty the coordinator would give the task to.
        text: What it wrote.
        latency_ms: Time to answer, in ms.
    """

    decision: str
    specialty: str
    text: str
    latency_ms: float


class FleetPlane(Protocol):
    """Instances and routes. Any method may raise PlaneError when it cannot reach the cluster."""

    def start(self, agent: Agent, release: Deployable) -> None:
        """Ask for an instance; does not wait, and changes nothing where it is there already."""

    def stop(self, agent: str, version: int) -> None:
        """Take an instance down after the tasks that it has; nothing where there is none."""

    def route(self, table: RouteTable) -> None:
        """Apply a route table on every dispatcher; returns when all do.

        Raises:
            PlaneError: One of them applies another.
        """

    def observe(self) -> FleetObservation:
        """Return what is there now."""

    def ask(
        self, probes: Mapping[tuple[str, int], Sequence[str]], *, timeout_s: float
    ) -> dict[tuple[str, int], tuple[ProbeAnswer | None, ...]]:
        """Ask running instances probe tasks, all at once, past the routes.

        Args:
            probes: (agent, version) -> tasks.
            timeout_s: How long the slowest may take.

        Returns:
            The answers in order; None for each that did not come.
        """
