"""Requests per second through our router and canary, against two peers with the same model.

All three are up at the same time and are driven in turns by the same client program. Ours: the
portable plane, version 1 stable with 90 %, version 2 (the same bytes) canary with 10 %. Peers:
``mlflow models serve`` of the same release with one worker, and a bare Ray Serve deployment of the
same ONNX file in the same cluster, on one onnxruntime thread as ours; MLflow opens its session with
its own options. Every peer's answer is compared with ours first.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bare_deployment import start_bare
from processes import environment, server, stop_on_terminate
from registries import MODEL_NAME
from report import Row, paired_ratio, percentile, spread_of

from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.plane import Band, Deployable, Split
from kfm_serving.cluster import free_port, start_local
from kfm_serving.portable import PortablePlane

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = (1, 8)
ROUNDS = {"small": 3, "full": 6}
DURATION_S = {"small": 1.0, "full": 2.0}
CANARY_RATIO = 0.1
_WARM_UP_S = 0.3
_BODY_COUNT, _KEY_COUNT = 50, 1000
_SIDE = 8
_LOAD = Path(__file__).with_name("load.py")


@dataclass
class Target:
    """One address under load, and what came of it: connections -> rounds, and all latencies."""

    name: str
    port: int
    path: str
    rates: dict[int, list[float]] = field(default_factory=dict)
    latencies_ms: dict[int, list[float]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def add(self, connections: int, result: dict[str, Any]) -> None:
        """Keep one block.

        Raises:
            RuntimeError: Anything but 200 was answered, or too little to speak of.
        """
        latencies = result["latencies_ms"]
        if set(result["statuses"]) != {"200"} or len(latencies) < 2:
            raise RuntimeError(f"{self.name} answered {result['statuses']}")
        self.rates.setdefault(connections, []).append(len(latencies) / result["duration_s"])
        self.latencies_ms.setdefault(connections, []).extend(latencies)
        for version, count in result["versions"].items():
            self.versions[version] = self.versions.get(version, 0) + count

    def describe(self, connections: int) -> str:
        """Return rate and latency under so many connections."""
        latencies = self.latencies_ms[connections]
        return (
            f"{spread_of(self.rates[connections]).median:.0f}/s, "
            f"p50 {percentile(latencies, 50):.1f}, p99 {percentile(latencies, 99):.1f} ms"
        )


def _bodies() -> list[str]:
    chosen = random.Random(5)
    rows = (
        [[round(chosen.gauss(285.0, 4.0), 3) for _ in range(_SIDE)] for _ in range(_SIDE)]
        for _ in range(_BODY_COUNT)
    )
    return [json.dumps({"inputs": [row]}) for row in rows]


def _ask(target: Target, body: str) -> np.ndarray[Any, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}{target.path}",
        body.encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (values,) = json.load(answer)["predictions"].values()
    return np.asarray(values)


def _check_same_answers(targets: list[Target], body: str) -> None:
    ours, *others = (_ask(target, body) for target in targets)
    for target, other in zip(targets[1:], others, strict=True):
        if not np.allclose(ours, other, rtol=1e-6):
            raise RuntimeError(f"{target.name} answers something else than we do")


def _drive(target: Target, connections: int, block: str, bodies: list[str], seconds: float) -> None:
    order = {
        "port": target.port,
        "path": target.path,
        "bodies": bodies,
        "key_count": _KEY_COUNT,
        "block": block,
        "connections": connections,
        "warm_up_s": _WARM_UP_S,
        "duration_s": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(_LOAD)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
    )
    if done.returncode:
        raise RuntimeError(f"load on {target.name} failed: {done.stderr[-500:]}")
    target.add(connections, json.loads(done.stdout))


@contextlib.contextmanager
def _models_serve(release_dir: Path, log: Path) -> Iterator[Target]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", str(release_dir)),
        *("--env-manager", "local", "-w", "1", "-h", "127.0.0.1", "-p", str(port)),
    ]
    url = f"http://127.0.0.1:{port}/ping"
    with server(command, log=log, health_url=url, env=environment()):
        yield Target("`mlflow models serve`, 1 worker", port, "/invocations")


@contextlib.contextmanager
def _ours_and_bare(release_dir: Path) -> Iterator[tuple[Target, Target]]:
    port = free_port()
    with start_local(port):
        stop_on_terminate()  # Ray puts its own handler there
        plane = PortablePlane(MODEL_NAME, port=port)
        release_id = build_manifest(release_dir).release_id
        try:
            for version in (1, 2):
                release = Deployable(MODEL_NAME, version, release_id, release_dir)
                plane.deploy(release, timeout_s=120)
            bands = {"amplification_ratio": Band(0.5, 2.0)}
            plane.set_split(Split(1, 1, 2, CANARY_RATIO, bands))
            start_bare(str(release_dir / "model.onnx"), "/bare")
            bare = Target("bare Ray Serve deployment", port, "/bare")
            yield Target("ours", port, "/invocations"), bare
        finally:
            plane.close()


def _rows(ours: Target, peers: list[Target]) -> list[Row]:
    share = ours.versions.get("2", 0) / sum(ours.versions.values())
    if abs(share - CANARY_RATIO) > 0.05:
        raise RuntimeError(f"the canary got {share:.1%} instead of {CANARY_RATIO:.0%}")
    return [_row(ours, peer, connections, share) for connections in CONNECTIONS for peer in peers]


def _row(ours: Target, peer: Target, connections: int, share: float) -> Row:
    worst = [percentile(target.latencies_ms[connections], 99) for target in (ours, peer)]
    return Row(
        f"score one 8 by 8 field, {connections} connection{'s' * (connections > 1)}",
        ours.describe(connections),
        peer.name,
        peer.describe(connections),
        paired_ratio(ours.rates[connections], peer.rates[connections]),
        note=f"ratio of rates, more is better; p99 ratio {worst[0] / worst[1]:.2f}; "
        f"ours: router, and canary of the same bytes at {share:.1%}",
    )


def measure(size: str, release_dir: Path, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        release_dir: A release with ``MLmodel`` and ``model.onnx`` that takes [n, 8, 8].
        work_dir: A folder for logs.
    """
    bodies = _bodies()
    with (
        _models_serve(release_dir, work_dir / "models-serve.log") as stock,
        _ours_and_bare(release_dir) as (ours, bare),
    ):
        targets = [ours, stock, bare]
        _check_same_answers(targets, bodies[0])
        for k in range(ROUNDS[size]):
            for connections in CONNECTIONS:
                for target in (*targets[k % 3 :], *targets[: k % 3]):
                    _drive(target, connections, f"{k}/{connections}", bodies, DURATION_S[size])
    return _rows(ours, [stock, bare])
