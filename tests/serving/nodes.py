"""A cluster of a head and three nodes on this machine, one of which is killed under load.

Run by ``test_nodes.py`` in a process of its own, because a process has one Ray at most. What was
seen is printed as one JSON object, the last line; the test judges it.
"""

# ruff: noqa: E402, T201 - Ray reads its environment when it is imported; the print is the result

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path(sys.argv[1])
"""Short, because Ray's sockets lie below it."""

# Read by Ray when it is imported. A cluster of its own writes its address below RAY_TMPDIR only.
os.environ.update(
    {
        "RAY_TMPDIR": str(FOLDER),
        "RAY_AUTH_TOKEN_PATH": str(FOLDER / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_health_check_period_ms": "1000",
        "OMP_NUM_THREADS": "1",
    }
)

import onnx_models as models
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client

from kfm_mlflow.rollout.plane import Deployable, Split
from kfm_serving.cluster import free_port
from kfm_serving.names import release_app, router_app
from kfm_serving.portable import PortablePlane
from kfm_serving.split import choose_version

MODEL_NAME = "climate-tiny"
NODE_COUNT, ROUTER_COUNT = 3, 2
BODY = json.dumps({"inputs": [[[[1.0, 2.0], [3.0, 4.0]]]]})
RECOVERY_S = 30.0
_LEAN = {"object_store_memory": 80 * 2**20}


def write_token() -> None:
    """Write the secret of the cluster where Ray looks for it."""
    (FOLDER / "token").write_text("0" * 64)
    (FOLDER / "token").chmod(0o600)


def start_cluster(
    labels: Sequence[Mapping[str, str]] = ({},) * NODE_COUNT,
    head_labels: Mapping[str, str] | None = None,
) -> Cluster:
    """Start the head and a node per set of labels, and connect to them."""
    write_token()
    head = {
        "num_cpus": 2,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "gcs_server_port": free_port(),
        "labels": dict(head_labels or {}),
        **_LEAN,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for named in labels:
        add_node(cluster, named)
    cluster.wait_for_nodes()
    ray.init(
        address=cluster.address,
        namespace="serve",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return cluster


def add_node(cluster: Cluster, labels: Mapping[str, str]) -> None:
    """Add a node with one logical CPU; does not wait for it."""
    cluster.add_node(num_cpus=1, labels=dict(labels), wait=False, **_LEAN)


def start_serve() -> int:
    """Start Serve with one proxy: all nodes of this machine share its ports."""
    port = free_port()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return port


def nodes_of(app: str) -> list[str]:
    """Return the node of each running replica of an application."""
    details = _get_global_client().get_serve_details()["applications"][app]
    return [
        replica["node_id"]
        for deployment in details["deployments"].values()
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    ]


def score(port: int, key: str) -> tuple[int, str | None]:
    """Return status and answering version of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json", "X-KFM-Key": key}
        connection.request("POST", "/invocations", BODY, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["X-KFM-Version"]


class Load(threading.Thread):
    """Scores without a pause until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._stop_asked = port, threading.Event()
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        """Score, and count every outcome."""
        for number in count():
            if self._stop_asked.is_set():
                return
            try:
                self.seen[str(score(self._port, f"load-{number}")[0])] += 1
            except (OSError, http.client.HTTPException) as exc:
                self.seen[type(exc).__name__] += 1
                self._stop_asked.wait(0.05)

    def stop(self) -> None:
        """Return when the last request has ended."""
        self._stop_asked.set()
        self.join()


def misrouted(port: int, split: Split, request_count: int = 40) -> list[str]:
    """Return the keys that were not answered by the version that the split's hash names."""
    keys = [f"{split.generation}-{number}" for number in range(request_count)]
    return [
        key for key in keys if score(port, key) != (200, str(choose_version(split, key.encode())))
    ]


def generations(plane: PortablePlane) -> list[int]:
    """Return what every running router applies."""
    return sorted(report["generation"] for report in plane._ingress.ask("counts"))


def await_whole(plane: PortablePlane) -> float:
    """Wait until both releases and all routers are up; return how long it took."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < RECOVERY_S:
        with contextlib.suppress(Exception):
            up = (
                plane.deployed() == {1, 2} and len(nodes_of(router_app(MODEL_NAME))) == ROUTER_COUNT
            )
            if up and len(generations(plane)) == ROUTER_COUNT:
                return time.monotonic() - started_s
        time.sleep(0.1)
    raise SystemExit("the cluster did not recover")


def main() -> None:
    """Deploy, split, kill a node under load, and print what was seen."""
    said: dict[str, object] = {}
    started_s = time.monotonic()
    cluster = start_cluster()
    port = start_serve()
    plane = PortablePlane(MODEL_NAME, port=port, router_replicas=ROUTER_COUNT, canary_deadline_s=5)
    for version in (1, 2):
        directory = models.times(FOLDER / f"v{version}", version + 1)
        release = Deployable(MODEL_NAME, version, f"sha256:{version:064x}", directory)
        plane.deploy(release, timeout_s=60)
    split = Split(1, 1, 2, 0.4)
    plane.set_split(split)
    said["up_s"] = time.monotonic() - started_s
    routers = nodes_of(router_app(MODEL_NAME))
    said["generations"], said["misrouted"] = generations(plane), misrouted(port, split)

    busy = [*nodes_of(release_app(MODEL_NAME, 2)), *nodes_of(release_app(MODEL_NAME, 1)), *routers]
    said["nodes_used"] = len(set(busy))
    victims = {node.node_id: node for node in cluster.worker_nodes}
    victim = victims[max(victims, key=busy.count)]
    said["lost"] = busy.count(victim.node_id)
    load = Load(port)
    load.start()
    cluster.remove_node(victim, allow_graceful=False)
    await_dead(victim.node_id)
    said["recovered_s"] = await_whole(plane)
    load.stop()
    said["under_load"] = dict(load.seen)
    said["nodes_left"] = sum(node["Alive"] for node in ray.nodes())
    said["generations_after"] = generations(plane)
    said["misrouted_after"] = misrouted(port, split)
    later = Split(2, 2, None, 0.0)
    plane.set_split(later)
    said["generations_later"], said["misrouted_later"] = generations(plane), misrouted(port, later)

    ray.shutdown()
    cluster.shutdown()
    said["took_s"] = time.monotonic() - started_s
    print(json.dumps(said))


def await_dead(node_id: str) -> None:
    """Wait until the cluster knows that a node is gone, so that nothing of it counts as up."""
    deadline_s = time.monotonic() + RECOVERY_S
    while any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes()):
        if time.monotonic() > deadline_s:
            raise SystemExit("the node did not go")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
