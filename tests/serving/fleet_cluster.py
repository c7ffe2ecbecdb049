"""A labelled cluster on this machine, a fleet on it, clients of it, and a roll by hand.

For programs that run in a process of their own, because a process has one Ray at most; their first
argument is a folder with a short path. Importing this sets what Ray reads from its environment.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes import FOLDER, start_cluster, start_serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fleet.made_release import write_release

from kfm_mlflow.canonical import write_json
from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.heads import SPECIALTIES
from kfm_mlflow.fleet.plane import Route, RouteTable
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.plane import Deployable
from kfm_serving.fleet_plane import ServeFleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from email.message import Message

    from ray.cluster_utils import Cluster

    from kfm_mlflow.fleet.plane import Instance

MODEL_NAME = "fleet"
HEAD_LABELS = {"room": "head"}
TASK_OF = {
    "code_execute": "run the tests",
    "doc_plan": "plan a page",
    "memory_storage": "store the notes",
}
"""Specialty -> a task that the coordinator of a made release gives to it."""


def room(number: int) -> dict[str, str]:
    """Return the labels of a node."""
    return {"room": f"r{number}"}


def make_agents(per_specialty: int, node_count: int) -> tuple[Agent, ...]:
    """Return agents, those of one specialty on different nodes where there are enough."""
    named = [(s, k) for k in range(per_specialty) for s in SPECIALTIES]
    return tuple(
        Agent(f"{specialty.split('_')[0]}-{k}", specialty, room((place + k) % node_count))
        for place, (specialty, k) in enumerate(named)
    )


def make_releases(*versions: int) -> dict[int, Deployable]:
    """Write releases that answer alike and differ in one file."""
    releases = {}
    for version in versions:
        root = write_release(FOLDER / f"v{version}")
        write_json(root / "version.json", {"schema_version": "1", "version": version})
        release_id = build_manifest(root).release_id
        releases[version] = Deployable(MODEL_NAME, version, release_id, root)
    return releases


def start_fleet(node_count: int, dispatcher_count: int = 2) -> tuple[Cluster, int, ServeFleet]:
    """Start a head for the dispatchers and nodes for agents; return cluster, port and plane."""
    cluster = start_cluster([room(number) for number in range(node_count)], HEAD_LABELS)
    port = start_serve()
    plane = ServeFleet(
        port=port, dispatcher_replicas=dispatcher_count, dispatcher_labels=HEAD_LABELS
    )
    return cluster, port, plane


def await_until(is_so: Callable[[], bool], what: str, limit_s: float = 120.0) -> float:
    """Wait until something is so; return how long it took, in s."""
    started_s = time.monotonic()
    while not is_so():
        if time.monotonic() - started_s > limit_s:
            raise SystemExit(f"waited for {what} in vain")
        time.sleep(0.1)
    return time.monotonic() - started_s


class Roll:
    """Moves agents from version to version by hand, as a fleet's loop would by its policy.

    Attributes:
        versions: Agent -> version that gets its tasks.
        canaries: Agent -> canary and its share.
    """

    def __init__(
        self, plane: ServeFleet, agents: Iterable[Agent], releases: dict[int, Deployable]
    ) -> None:
        self._plane = plane
        self._agents = {agent.name: agent for agent in agents}
        self._releases = releases
        self._generations = count(1)
        self.versions: dict[str, int | None] = dict.fromkeys(self._agents)
        self.canaries: dict[str, tuple[int, float]] = {}

    def instances(self) -> dict[tuple[str, int], Instance]:
        """Return what there is."""
        return {(i.agent, i.version): i for i in self._plane.observe().instances}

    def start(self, version: int, *names: str) -> None:
        """Start a version on some agents, and wait until it runs on all of them."""
        for name in names:
            self._plane.start(self._agents[name], self._releases[version])

        def is_running() -> bool:
            found = self.instances()
            failed = [i.message for i in found.values() if i.status == "failed"]
            if failed:
                raise SystemExit(f"failed to start: {failed[0]}")
            return all(
                (name, version) in found and found[name, version].status == "running"
                for name in names
            )

        await_until(is_running, f"version {version} on {', '.join(names)}")

    def route(self, version: int | None = None, *names: str) -> float:
        """Give some agents, or none, another version; return how long that took, in s."""
        self.versions.update(dict.fromkeys(names, version))
        routes = tuple(
            Route(name, version, *self.canaries.get(name, (None, 0.0)))
            for name, version in self.versions.items()
        )
        started_s = time.monotonic()
        self._plane.route(RouteTable(next(self._generations), routes))
        return time.monotonic() - started_s


def send(connection: http.client.HTTPConnection, value: Any) -> tuple[int, Message, Any]:
    """Send tasks; return status, headers and what was said."""
    connection.request("POST", "/tasks", json.dumps(value), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


class TaskLoad(threading.Thread):
    """Gives tasks of all specialties in turn, without a pause, until it is stopped.

    Attributes:
        statuses: How often each status, or error of the connection, was seen.
        answered: How often each (agent, version) answered.
        slowest_s: The longest time to answer.
    """

    def __init__(self, port: int, name: str = "load") -> None:
        super().__init__(daemon=True)
        self._port, self._named, self._stop_asked = port, name, threading.Event()
        self.statuses: Counter[str] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.slowest_s = 0.0

    def run(self) -> None:
        """Give tasks, and count every outcome."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        for number in count():
            if self._stop_asked.is_set():
                connection.close()
                return
            specialty = SPECIALTIES[number % len(SPECIALTIES)]
            task = {"task": TASK_OF[specialty], "id": f"{self._named}-{number}"}
            started_s = time.monotonic()
            try:
                status, headers, _ = send(connection, {**task, "specialty": specialty})
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self.statuses[type(exc).__name__] += 1
                continue
            self.statuses[str(status)] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
            if "X-KFM-Agent" in headers:
                self.answered[headers["X-KFM-Agent"], int(headers["X-KFM-Version"])] += 1

    def stop(self) -> dict[str, Any]:
        """Return what was seen when the last task has ended."""
        self._stop_asked.set()
        self.join()
        return {"statuses": dict(self.statuses), "slowest_s": self.slowest_s}
