"""A fleet of six agents on a cluster of a head and three nodes, rolled, put back, and hurt.

Run by ``test_fleet_nodes.py`` in a process of its own. What was seen is printed as one JSON object,
the last line; the test judges it.
"""

# ruff: noqa: T201 - the print is the result

from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fleet_cluster as fleet
import ray
from nodes import add_node, await_dead

from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import PlaneError
from kfm_serving.fleet_desired import DISPATCHER_APP

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from kfm_mlflow.fleet.agents import Agent

NODE_COUNT = 3
AGENTS = fleet.make_agents(2, NODE_COUNT)
NAMES = [agent.name for agent in AGENTS]
FIRST = ("code-0", "doc-0", "memory-0")
SWAPPED, FALLBACK = "memory-1", "memory-0"
CANARY = "code-0"


def send_some(port: int, number: int, *, specialty: bool = True) -> list[tuple[int, Any]]:
    """Send tasks one by one; return statuses and what was said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    seen = []
    with contextlib.closing(connection):
        for k in range(number):
            name = list(fleet.TASK_OF)[k % 3]
            task = {"task": fleet.TASK_OF[name], "id": f"some-{k}"}
            status, headers, said = fleet.send(
                connection, {**task, "specialty": name} if specialty else task
            )
            named = [headers.get(f"X-KFM-{h}") for h in ("Agent", "Version", "Release")]
            seen.append((status, [name, said.get("specialty"), said.get("decision"), *named]))
    return seen


def completed(roll: fleet.Roll) -> dict[str, int]:
    """Return completed tasks by instance."""
    return {f"{a} v{v}": i.counts.completed for (a, v), i in roll.instances().items()}


def start_misfits(plane: fleet.ServeFleet, agent: Agent, releases: dict[int, Any]) -> None:
    """Ask for what can not run: an agent without a node, and a release with other bytes."""
    plane.start(replace(agent, name="nowhere", labels=fleet.room(9)), releases[1])
    write_json(releases[9].release_dir / "added.json", {"schema_version": "1"})
    plane.start(agent, releases[9])


def stop_misfits(roll: fleet.Roll, plane: fleet.ServeFleet) -> dict[str, list[str]]:
    """Return status and message of what can not run, when there is a last word on it."""
    keys = [("nowhere", 1), (AGENTS[0].name, 9)]
    fleet.await_until(lambda: roll.instances()[keys[1]].status == "failed", "the misfit")
    found = {agent: roll.instances()[agent, version] for agent, version in keys}
    for agent, version in keys:
        plane.stop(agent, version)
    return {agent: [instance.status, instance.message] for agent, instance in found.items()}


def place_of(roll: fleet.Roll) -> dict[str, list[str]]:
    """Return, by instance that runs, its node's label and its release id."""
    rooms = {node["NodeID"]: node["Labels"].get("room") for node in ray.nodes()}
    return {
        f"{agent} v{version}": [rooms[found.node], found.release_id]
        for (agent, version), found in roll.instances().items()
        if found.status == "running"
    }


def roll_forward(roll: fleet.Roll, plane: fleet.ServeFleet, said: dict[str, Any]) -> None:
    """Bring every agent to version 2: a canary, two batches, and one that is swapped."""
    roll.start(2, *FIRST)
    roll.canaries[CANARY] = (2, 0.5)
    roll.route()
    time.sleep(1.0)
    said["places_side_by_side"] = place_of(roll)
    roll.canaries.clear()
    roll.route(2, *FIRST)
    rest = [name for name in NAMES if name not in (*FIRST, SWAPPED)]
    roll.start(2, *rest)
    roll.route(2, *rest)
    roll.route(None, SWAPPED)
    plane.stop(SWAPPED, 1)
    said["gone_at_once"] = (SWAPPED, 1) not in roll.instances()
    roll.start(2, SWAPPED)
    roll.route(2, SWAPPED)


def roll_back(roll: fleet.Roll, plane: fleet.ServeFleet) -> float:
    """Put every agent back to version 1, which all but one have warm; return the time in s."""
    warm = [name for name in NAMES if name != SWAPPED]
    started_s = time.monotonic()
    roll.versions[SWAPPED] = None
    roll.route(1, *warm)
    took_s = time.monotonic() - started_s
    plane.stop(SWAPPED, 2)
    roll.start(1, SWAPPED)
    roll.route(1, SWAPPED)
    for name in warm:
        plane.stop(name, 2)
    return took_s


def time_of(call: Any, rounds: int = 15) -> float:
    """Return the median time of a call, in ms."""
    took = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        call()
        took.append((time.perf_counter() - started_s) * 1e3)
    return sorted(took)[rounds // 2]


def kill_dispatcher() -> None:
    """Kill one dispatcher process, by force."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(a["name"] for a in actors if DISPATCHER_APP in a["name"])
    ray.kill(ray.get_actor(name, namespace="serve"))


def serve_and_roll(
    roll: fleet.Roll, plane: fleet.ServeFleet, port: int, said: dict[str, Any]
) -> None:
    """Serve version 1, bring version 2 and put version 1 back, under load."""
    roll.start(1, *NAMES)
    roll.route(1, *NAMES)
    said["places"] = place_of(roll)
    said["served"] = send_some(port, 60)
    said["coordinated"] = send_some(port, 9, specialty=False)
    said["completed"] = completed(roll)

    load = fleet.TaskLoad(port)
    load.start()
    begun_s = time.monotonic()
    roll_forward(roll, plane, said)
    fleet.await_until(lambda: load.answered[SWAPPED, 2] > 0, "a task of the swapped agent")
    said["forward_s"] = time.monotonic() - begun_s
    said["observe_ms"] = time_of(plane.observe)
    probes = {key: tuple(fleet.TASK_OF.values()) for key in roll.instances()}
    asked = plane.ask({**probes, ("nobody", 1): ("run",)}, timeout_s=5.0)
    said["probed"] = {
        f"{a} v{v}": [p and p.specialty for p in got] for (a, v), got in asked.items()
    }
    said["back_s"] = roll_back(roll, plane)
    said["during_roll"] = load.stop()
    said["answered"] = {f"{a} v{v}": n for (a, v), n in load.answered.items()}
    said["places_back"] = place_of(roll)


def lose_dispatcher(roll: fleet.Roll, plane: fleet.ServeFleet, port: int) -> dict[str, Any]:
    """Kill a dispatcher by force; return what became of counts and routes."""
    before, generation = completed(roll), plane.observe().generation
    kill_dispatcher()
    fleet.await_until(lambda: plane.observe().generation == generation, "dispatchers")
    send_some(port, 30)
    after = completed(roll)
    return {
        "shrunk": [key for key, n in before.items() if after.get(key, 0) < n],
        "grown": sum(after.values()) - sum(before.values()),
    }


def lose_node(roll: fleet.Roll, cluster: Cluster, port: int, said: dict[str, Any]) -> None:
    """Kill a node under load, and bring another with its labels."""
    load = fleet.TaskLoad(port, "hurt")
    load.start()
    node_of = {name: roll.instances()[name, 1].node for name in NAMES}
    victim = next(n for n in cluster.worker_nodes if n.node_id == node_of[CANARY])
    lost = [name for name in NAMES if node_of[name] == victim.node_id]
    cluster.remove_node(victim, allow_graceful=False)
    await_dead(victim.node_id)
    said["lost"] = lost
    said["noticed_s"] = fleet.await_until(
        lambda: all(roll.instances()[name, 1].status != "running" for name in lost), "the loss"
    )
    found = roll.instances()
    said["after_kill"] = {name: found[name, 1].status for name in NAMES}
    said["why_lost"] = [found[name, 1].message for name in lost]
    said["served_without"] = send_some(port, 30)
    # Routes can be changed although what they name does not answer.
    said["route_with_lost_s"] = roll.route()
    add_node(cluster, AGENTS[0].labels)
    said["back_by_itself_s"] = fleet.await_until(
        lambda: all(roll.instances()[name, 1].status == "running" for name in NAMES), "the lost"
    )
    said["under_kill"] = load.stop()


def main() -> None:
    """Play the whole, and print what was seen."""
    started_s = time.monotonic()
    cluster, port, plane = fleet.start_fleet(NODE_COUNT)
    releases = fleet.make_releases(1, 2, 9)
    said: dict[str, Any] = {
        "release_ids": {k: release.release_id for k, release in releases.items()},
        "rooms": {agent.name: agent.labels["room"] for agent in AGENTS},
        "cluster_s": time.monotonic() - started_s,
    }
    roll = fleet.Roll(plane, AGENTS, releases)
    serve_and_roll(roll, plane, port, said)
    said["roll_done_s"] = time.monotonic() - started_s
    start_misfits(plane, AGENTS[0], releases)
    said["dispatcher"] = lose_dispatcher(roll, plane, port)
    said["misfits"] = stop_misfits(roll, plane)
    lose_node(roll, cluster, port, said)
    plane.close()
    said["left"] = len(plane.observe().instances)

    ray.shutdown()
    try:
        plane.observe()
    except PlaneError as exc:
        said["without_cluster"] = str(exc)
    cluster.shutdown()
    said["took_s"] = time.monotonic() - started_s
    print(json.dumps(said))


if __name__ == "__main__":
    main()
