"""What a fleet's dispatchers and instances should be, kept where the whole cluster can read it.

As for the routers of one model (:mod:`kfm_serving.desired`), what stands in the cluster's
key-value store is the truth, and a broadcast is only faster. There is one fleet per cluster.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import Field

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.fleet.plane import Route
from kfm_serving.desired import Record, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

DISPATCHER_APP = "fleet--dispatcher"
_AGENT_APP = re.compile(r"agent-(.+)--v(\d+)")
_SHELF = ":fleet"
"""No registered model has this slug: one begins with a letter or a digit."""


def agent_app(agent: str, version: int) -> str:
    """Return the name of the application that is one agent serving one version."""
    return f"agent-{agent}--v{version}"


def parse_agent_app(app: str) -> tuple[str, int] | None:
    """Return agent and version of an application; None when it is no agent's."""
    match = _AGENT_APP.fullmatch(app)
    return (match.group(1), int(match.group(2))) if match else None


class InstanceRecord(Record):
    """One instance that was asked for.

    Attributes:
        agent: Name of its agent.
        version: MLflow model version.
        specialty: Of the agent.
        labels: Ray node labels that its node must have.
        gpu_ratio: GPUs lent to it.
        release_id: ``sha256:<hex>`` that it was told; it answers what it found itself.
        deployment_id: Unique for every start that started something. An instance that was stopped
            and started again is another one, with counts of its own.
    """

    agent: str
    version: int
    specialty: str
    labels: dict[str, str]
    gpu_ratio: float
    release_id: str
    deployment_id: str


class RoutedAgent(Record):
    """An agent in a route table.

    Attributes:
        agent: Its name.
        specialty: What it is there for.
        version: As in :class:`~kfm_mlflow.fleet.plane.Route`, like the next two.
        canary: Version.
        canary_ratio: Share, 0..1.
        deployment_ids: Version of the two above -> deployment id.
    """

    agent: str
    specialty: str
    version: int | None
    canary: int | None = None
    canary_ratio: float = 0.0
    deployment_ids: dict[int, str] = Field(default_factory=dict)


class DesiredTable(Record):
    """A route table, with what a dispatcher must know of each agent.

    Attributes:
        generation: As in :class:`~kfm_mlflow.fleet.plane.RouteTable`.
        revision: Grows within a generation, when an instance of it is another one than before.
        agents: Sorted by name.
    """

    generation: int = 0
    revision: int = 0
    agents: tuple[RoutedAgent, ...] = ()

    @property
    def age(self) -> tuple[int, int]:
        """Orders tables; a dispatcher takes only one that is above its own."""
        return self.generation, self.revision

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes alone."""
        return tuple(
            Route(agent.agent, agent.version, agent.canary, agent.canary_ratio)
            for agent in self.agents
        )

    def with_instance(self, record: InstanceRecord) -> DesiredTable:
        """Return the table with an instance in the place of one that was of its version."""
        agents = tuple(
            agent.model_copy(
                update={
                    "deployment_ids": {
                        **agent.deployment_ids,
                        record.version: record.deployment_id,
                    }
                }
            )
            if agent.agent == record.agent and record.version in agent.deployment_ids
            else agent
            for agent in self.agents
        )
        if agents == self.agents:
            return self
        return self.model_copy(update={"agents": agents, "revision": self.revision + 1})

    @property
    def specialties(self) -> tuple[str, ...]:
        """What the fleet's agents are there for, sorted."""
        return tuple(sorted({agent.specialty for agent in self.agents}))

    @property
    def targets(self) -> dict[str, tuple[str, int]]:
        """Deployment id -> agent and version of every instance that may get tasks."""
        return {
            deployment_id: (agent.agent, version)
            for agent in self.agents
            for version, deployment_id in agent.deployment_ids.items()
        }


class _Instances(Record):
    instances: tuple[InstanceRecord, ...] = ()
    specialties: dict[str, str] = Field(default_factory=dict)


class FleetStore(Stored):
    """The stored state of the cluster's fleet; needs a connection to Ray."""

    def __init__(self) -> None:
        """Address the state; reads nothing yet."""
        super().__init__(_SHELF)

    def read_table(self) -> DesiredTable | None:
        """Return the newest route table; None before the first."""
        data = self._shelf.get("table")
        return None if data is None else parse_desired_table(data)

    def write_table(self, table: DesiredTable) -> bytes:
        """Make a table the truth, and return its bytes for the broadcast."""
        data = table.to_bytes()
        self._shelf.put("table", data)
        return data

    def read_instances(self) -> dict[tuple[str, int], InstanceRecord]:
        """Return (agent, version) -> instance, of all that were started and not stopped."""
        return {(found.agent, found.version): found for found in self._instances().instances}

    def read_specialties(self) -> dict[str, str]:
        """Return agent -> specialty, of all agents that ever had an instance."""
        return self._instances().specialties

    def write_instance(self, record: InstanceRecord) -> None:
        """Keep an instance, in place of the one before."""
        kept = {**self.read_instances(), (record.agent, record.version): record}
        self._write(kept, {**self.read_specialties(), record.agent: record.specialty})

    def remove_instance(self, agent: str, version: int) -> None:
        """Forget an instance."""
        kept = self.read_instances()
        if kept.pop((agent, version), None) is not None:
            self._write(kept, self.read_specialties())

    def _instances(self) -> _Instances:
        data = self._shelf.get("instances")
        if data is None:
            return _Instances()
        return _Instances.model_validate(parse_json(data, where="instances"))

    def _write(
        self, kept: Mapping[tuple[str, int], InstanceRecord], specialties: dict[str, str]
    ) -> None:
        listed = tuple(kept[key] for key in sorted(kept))
        self._shelf.put(
            "instances", _Instances(instances=listed, specialties=specialties).to_bytes()
        )


def parse_desired_table(data: bytes) -> DesiredTable:
    """Read the bytes of :meth:`FleetStore.write_table`."""
    return DesiredTable.model_validate(parse_json(data, where="route table"))
