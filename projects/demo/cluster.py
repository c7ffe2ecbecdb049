"""Several nodes on this machine, for the fleet's demo: a head and labelled nodes, until stopped.

Called as ``python cluster.py FOLDER NODE_COUNT``; the folder has a short path, because Ray's
sockets lie below it. Prints the address of the head when all nodes are up. Nodes are simulated:
each is a set of Ray's processes here, with one logical CPU and the label ``room=r<k>``.
"""

# ruff: noqa: E402 - Ray reads its environment when it is imported

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

FOLDER = Path(sys.argv[1])

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

from processes import free_port
from ray.cluster_utils import Cluster

_LEAN = {"object_store_memory": 80 * 2**20}


def main() -> None:
    """Start the nodes, say where, and take them down again when told to stop."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    token = FOLDER / "token"
    token.touch(mode=0o600)
    token.write_text("0" * 64, encoding="ascii")
    head = {
        "num_cpus": 4,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "gcs_server_port": free_port(),
        "labels": {"room": "head"},
        **_LEAN,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for number in range(int(sys.argv[2])):
            cluster.add_node(num_cpus=1, wait=False, labels={"room": f"r{number}"}, **_LEAN)
        cluster.wait_for_nodes()
        print(f"nodes are up at {cluster.address}", flush=True)
        stopped.wait()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
