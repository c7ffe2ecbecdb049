"""The fleet's plane on stock Ray Serve: one application per agent and version, one of dispatchers.

Rules kept here:

1. An instance is never changed in place: another version is another application beside it, on the
   node that its agent's labels name.
2. Nothing waits for an instance. One that cannot be placed says which label no node has, one that
   failed says its innermost error.
3. A route table is written before it is broadcast, so a dispatcher that starts in between has it;
   and the call returns only when the running dispatchers have it.
4. Counts are kept by dispatcher process. A dispatcher's last report outlives it, in the cluster, so
   counts never shrink; what it counted between the last ``observe`` and its death by force is lost,
   and nothing else is. An instance that is stopped and started again counts from 0.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError, KfmError, PlaneError
from kfm_mlflow.fleet.plane import FleetObservation, Instance, ProbeAnswer
from kfm_serving import applications
from kfm_serving.fleet_applications import build_dispatcher, build_instance
from kfm_serving.fleet_counts import keep_reports, merge_tallies
from kfm_serving.fleet_desired import (
    DISPATCHER_APP,
    DesiredTable,
    FleetStore,
    InstanceRecord,
    RoutedAgent,
    agent_app,
)
from kfm_serving.fleet_placement import explain_unplaced, living_nodes
from kfm_serving.ingress import Ingress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.plane import InstanceStatus, Route, RouteTable
    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_mlflow.rollout.plane import Deployable
    from kfm_serving.applications import Status
    from kfm_serving.fleet_instance import Identity
    from kfm_serving.fleet_placement import Node

MAX_DEADLINE_S = 60.0
_IDENTITY_S = 0.25
_GRACE_S = 0.5


class ServeFleet:
    """Carries the fleet of one Ray cluster.

    Implements :class:`kfm_mlflow.fleet.plane.FleetPlane`. The process must be connected to the
    cluster, with Serve in it. All state is in the cluster: a new plane carries on where another
    stopped.
    """

    def __init__(
        self,
        *,
        port: int,
        host: str = "127.0.0.1",
        route_prefix: str = "/",
        dispatcher_replicas: int = 1,
        dispatcher_labels: Mapping[str, str] | None = None,
        deadline_s: float = 2.0,
        spans: SpanOptions | None = None,
        reattach: Callable[[], None] | None = None,
    ) -> None:
        """Make a plane; nothing is started before the first ``route``.

        Args:
            port: Port of Serve's HTTP proxy.
            host: Address at which this process reaches that proxy.
            route_prefix: Path under which tasks are taken.
            dispatcher_replicas: Dispatcher processes.
            dispatcher_labels: Ray node labels of the nodes that they may run on; None for any.
            deadline_s: How long an instance may take for a task, 0..60; then another is asked.
            spans: Which spans dispatchers keep; None keeps none. One that is up stays as it is.
            reattach: Joins the cluster anew when it was lost; None stays with the error.

        Raises:
            InputError: The deadline is not within 0..60 s, or the prefix does not start with ``/``.
        """
        if not 0 < deadline_s <= MAX_DEADLINE_S:
            raise InputError("must be above 0 and at most 60 s", where="deadline_s")
        if not route_prefix.startswith("/"):
            raise InputError("must start with '/'", where="route_prefix")
        build = partial(
            build_dispatcher,
            route_prefix,
            deadline_s,
            dispatcher_replicas,
            dict(dispatcher_labels or {}),
            spans,
        )
        self._ingress = Ingress(DISPATCHER_APP, build, (host, port), route_prefix)
        self._reattach = reattach
        self._store = FleetStore()
        self._identities: dict[str, Identity] = {}
        self._handles: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """Where tasks are taken; ``/tasks`` below it is for ``POST``."""
        return self._ingress.url

    def start(self, agent: Agent, release: Deployable) -> None:
        """Ask for an instance; does not wait, and changes nothing where it is there already.

        Args:
            agent: Who is to serve it.
            release: What it serves; its bytes have been verified by the caller, and the instance
                verifies them again on its node.

        Raises:
            PlaneError: The version is up with another release id, or the cluster does not answer.
        """
        with _reaching():
            app = agent_app(agent.name, release.version)
            status = self._statuses().get(app)
            record = self._store.read_instances().get((agent.name, release.version))
            if record is not None and status is not None and status.status != "DELETING":
                if record.release_id != release.release_id:
                    raise PlaneError(
                        f"version {release.version} is up with another release, "
                        f"{record.release_id}",
                        where=agent.name,
                        remedy="a version never changes; stop it, or start a new version",
                    )
                return
            applications.delete(app)
            record = InstanceRecord(
                agent=agent.name,
                version=release.version,
                specialty=agent.specialty,
                labels=dict(agent.labels),
                gpu_ratio=agent.gpu_ratio,
                release_id=release.release_id,
                deployment_id=uuid.uuid4().hex,
            )
            self._store.write_instance(record)
            table = self._store.read_table()
            if table is not None and table.with_instance(record) != table:
                self._store.write_table(table.with_instance(record))  # dispatchers read it soon
            directory = str(release.release_dir.resolve())
            applications.start(app, build_instance(agent, directory, release.release_id))

    def stop(self, agent: str, version: int) -> None:
        """Take an instance down after the tasks that it has; nothing where there is none.

        It is not listed any more when this returns, and ends behind that.

        Raises:
            PlaneError: The cluster does not answer.
        """
        with _reaching():
            app = agent_app(agent, version)
            record = self._store.read_instances().get((agent, version))
            if record is None:
                return
            if app in self._statuses():
                applications.begin_delete(app)
            self._store.remove_instance(agent, version)
            self._forget(record.deployment_id)

    def route(self, table: RouteTable) -> None:
        """Apply a route table on every dispatcher; returns when all do.

        Raises:
            PlaneError: The generation is not newer (the same table again is no error), a version
                of it was not started, or a dispatcher applies another.
        """
        with _reaching():
            desired = self._desired(table)
            current = self._store.read_table()
            if current is not None and desired.generation <= current.generation:
                if (current.generation, current.routes) != (desired.generation, desired.routes):
                    raise PlaneError(
                        f"generation {table.generation} is not newer than {current.generation}",
                        where=self._ingress.app,
                        remedy="read the routes again and count on from their generation",
                    )
                desired = current
            if not self._ingress.is_known:
                self._ingress.ensure()
            self._ingress.tell(self._store.write_table(desired), desired.generation)

    def observe(self) -> FleetObservation:
        """Return what is there now; counts are exact, merged over all dispatchers.

        A cluster that was restarted is joined again; then nothing is there.

        Raises:
            PlaneError: The cluster, or every dispatcher, does not answer.
        """
        with _reaching():
            statuses = self._statuses()
            records = {
                record.deployment_id: record for record in self._store.read_instances().values()
            }
            generation, reports = self._reports(statuses, records)
            nodes = living_nodes()
            self._meet(
                [
                    r
                    for r in records.values()
                    if _status(statuses, r) == "RUNNING" and not self._is_placed(r, nodes)
                ]
            )
            listed = [
                self._instance(record, statuses, nodes, reports)
                for record in records.values()
                if _status(statuses, record) not in {None, "DELETING"}
            ]
            return FleetObservation(generation, tuple(listed))

    def ask(
        self, probes: Mapping[tuple[str, int], Sequence[str]], *, timeout_s: float
    ) -> dict[tuple[str, int], tuple[ProbeAnswer | None, ...]]:
        """Ask running instances probe tasks, all at once, past the routes.

        The coordinator of each chooses the head that decides. The latency is that inside the
        instance.

        Args:
            probes: (agent, version) -> tasks.
            timeout_s: How long the slowest may take.

        Returns:
            The answers in order; None for each that did not come.

        Raises:
            PlaneError: The cluster does not answer.
        """
        with _reaching():
            statuses = self._statuses()
            records = self._store.read_instances()
            asked = {
                key: self._handle(records[key]).probe.remote(list(tasks), timeout_s)
                for key, tasks in probes.items()
                if key in records and _status(statuses, records[key]) == "RUNNING"
            }
            deadline_s = time.monotonic() + timeout_s + _GRACE_S
            said = {key: _result(response, deadline_s) for key, response in asked.items()}
            return {
                key: tuple(said.get(key) or [None] * len(tasks)) for key, tasks in probes.items()
            }

    def close(self) -> None:
        """Take down the dispatchers and every instance, and forget the fleet's state."""
        with _reaching():
            apps = [agent_app(*key) for key in self._store.read_instances()]
            for app in (DISPATCHER_APP, *apps):
                if app in self._statuses():
                    applications.begin_delete(app)
            for app in (DISPATCHER_APP, *apps):
                applications.delete(app)
            self._store.clear()
            self._ingress.forget()

    def _statuses(self) -> dict[str, Status]:
        try:
            return applications.statuses()
        except PlaneError:
            if self._reattach is None:
                raise
            self._ingress.forget()
            self._identities.clear()
            self._handles.clear()
            self._reattach()
            return applications.statuses()

    def _desired(self, table: RouteTable) -> DesiredTable:
        """Return a route table with what a dispatcher must know besides."""
        records, specialties = self._store.read_instances(), self._store.read_specialties()

        def id_of(route: Route, version: int) -> str:
            record = records.get((route.agent, version))
            if record is None:
                raise PlaneError(
                    f"version {version} was not started",
                    where=route.agent,
                    remedy="start it before giving it tasks",
                )
            return record.deployment_id

        agents = tuple(
            RoutedAgent(
                agent=route.agent,
                specialty=specialties[route.agent],
                version=route.version,
                canary=route.canary,
                canary_ratio=route.canary_ratio,
                deployment_ids={
                    version: id_of(route, version)
                    for version in (route.version, route.canary)
                    if version is not None
                },
            )
            for route in sorted(table.routes, key=lambda route: route.agent)
            if route.agent in specialties or (route.version, route.canary) != (None, None)
        )
        return DesiredTable(generation=table.generation, agents=agents)

    def _reports(
        self, statuses: Mapping[str, Status], records: Mapping[str, InstanceRecord]
    ) -> tuple[int, dict[str, dict[str, Any]]]:
        """Return the generation that all dispatchers apply, and every process's last report."""
        known = self._store.read_reports()
        if DISPATCHER_APP not in statuses:
            return 0, known
        fresh = self._ingress.ask("counts")
        reports = keep_reports(known, fresh, records)
        if reports != known:
            self._store.write_reports(reports)
        return min(report["generation"] for report in fresh), reports

    def _is_placed(self, record: InstanceRecord, nodes: Sequence[Node]) -> bool:
        """Tell whether an instance has said who it is, and its node is alive."""
        identity = self._identities.get(record.deployment_id)
        return identity is not None and identity.node_id in {node.node_id for node in nodes}

    def _handle(self, record: InstanceRecord) -> Any:
        if record.deployment_id not in self._handles:
            app = agent_app(record.agent, record.version)
            self._handles[record.deployment_id] = applications.handle(app)
        return self._handles[record.deployment_id]

    def _forget(self, deployment_id: str) -> None:
        self._identities.pop(deployment_id, None)
        self._handles.pop(deployment_id, None)

    def _meet(self, records: Sequence[InstanceRecord]) -> None:
        """Ask instances who they are, all at once, and for a short time."""
        asked = {record.deployment_id: self._handle(record).ping.remote() for record in records}
        deadline_s = time.monotonic() + _IDENTITY_S
        for deployment_id, response in asked.items():
            identity = _result(response, deadline_s)
            if identity is None:
                self._identities.pop(deployment_id, None)
            else:
                self._identities[deployment_id] = identity

    def _instance(
        self,
        record: InstanceRecord,
        statuses: Mapping[str, Status],
        nodes: Sequence[Node],
        reports: Mapping[str, dict[str, Any]],
    ) -> Instance:
        found = statuses[agent_app(record.agent, record.version)]
        status: InstanceStatus
        message, release_id, node = "", "", ""
        if found.status == "RUNNING" and self._is_placed(record, nodes):
            identity = self._identities[record.deployment_id]
            status, release_id, node = "running", identity.release_id, identity.node_id
        else:
            self._identities.pop(record.deployment_id, None)
            unplaced = explain_unplaced(record.labels, record.gpu_ratio, nodes)
            message = unplaced or applications.startup_error(found)
            status = "failed" if found.status == "DEPLOY_FAILED" else "starting"
        tallies = (report["tallies"].get(record.deployment_id) for report in reports.values())
        return Instance(
            agent=record.agent,
            version=record.version,
            status=status,
            release_id=release_id,
            node=node,
            message=message,
            counts=merge_tallies(tally for tally in tallies if tally is not None),
        )


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """Translate whatever Ray raises when the cluster is lost in the middle of a call."""
    try:
        yield
    except KfmError:
        raise
    except Exception as exc:  # Ray has a dozen ways to lose a cluster, of no common root
        raise PlaneError(
            f"the cluster does not answer ({applications.reason(exc)})",
            remedy="look at `ray status`; a cluster that is back is joined again",
        ) from exc


def _status(statuses: Mapping[str, Status], record: InstanceRecord) -> str | None:
    found = statuses.get(agent_app(record.agent, record.version))
    return None if found is None else found.status


def _result(response: Any, deadline_s: float) -> Any:
    """Return a call's result; None when it failed or did not come in time."""
    try:
        return response.result(timeout_s=max(0.0, deadline_s - time.monotonic()))
    except Exception:  # noqa: BLE001 Ray has a dozen ways to lose a call, of no common root
        response.cancel()
        return None
