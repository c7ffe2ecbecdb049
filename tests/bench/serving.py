"""Requests per second through our router and canary, against two peers with the same model.

All three are up at the same time and are driven in turns by the same client program. Ours: the
portable plane, version 1 stable with 90 %, version 2 (the same bytes) canary with 10 %. Peers:
``mlflow models serve`` of the same release with one worker, and a bare Ray Serve deployment of the
same ONNX file in the same cluster, on one onnxruntime thread as ours; MLflow opens its session with
its own options. Every peer's answer is compared with ours first. The same plane once more, with a
span kept of every answer in a file, tells what spans cost.
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

from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO, SpanOptions
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
    """One address under load, and what came of it: connections -> rounds, and all latencies.

    Attributes:
        medians_ms: Connections -> median latency of each round.
    """

    name: str
    port: int
    path: str
    rates: dict[int, list[float]] = field(default_factory=dict)
    latencies_ms: dict[int, list[float]] = field(default_factory=dict)
    medians_ms: dict[int, list[float]] = field(default_factory=dict)
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
        self.medians_ms.setdefault(connections, []).append(percentile(latencies, 50))
        for version, count in result["versions"].items():
            self.versions[version] = self.versions.get(version, 0) + count

    def describe(self, connections: int) -> str:
        """Return rate and latency under so many connections."""
        p50_ms, p99_ms = (self.percentile_ms(connections, pct) for pct in (50, 99))
        rate = spread_of(self.rates[connections]).median
        return f"{rate:.0f}/s, p50 {p50_ms:.1f}, p99 {p99_ms:.1f} ms"

    def percentile_ms(self, connections: int, pct: int) -> float:
        """Return a percentile of the latencies of all rounds."""
        return percentile(self.latencies_ms[connections], pct)


def field_bodies() -> list[str]:
    """Return requests for one field each, always the same."""
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


def drive(target: Target, connections: int, block: str, bodies: list[str], seconds: float) -> None:
    """Drive a target for a while, and keep what came of it.

    Raises:
        RuntimeError: The client failed, or was answered anything but 200.
    """
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
def _plane(
    name: str, release_dir: Path, port: int, route_prefix: str, spans: SpanOptions | None
) -> Iterator[PortablePlane]:
    plane = PortablePlane(name, port=port, route_prefix=route_prefix, spans=spans)
    release_id = build_manifest(release_dir).release_id
    try:
        for version in (1, 2):
            plane.deploy(Deployable(name, version, release_id, release_dir), timeout_s=120)
        bands = {"amplification_ratio": Band(0.5, 2.0)}
        plane.set_split(Split(1, 1, 2, CANARY_RATIO, bands))
        yield plane
    finally:
        plane.close()


@contextlib.contextmanager
def _ours_traced_and_bare(
    release_dir: Path, spans_dir: Path
) -> Iterator[tuple[Target, Target, Target]]:
    port = free_port()
    with start_local(port):
        stop_on_terminate()  # Ray puts its own handler there
        traced_name = f"{MODEL_NAME}-traced"
        with (
            _plane(MODEL_NAME, release_dir, port, "/", None),
            _plane(traced_name, release_dir, port, "/traced", SpanOptions(spans_dir)) as traced,
        ):
            start_bare(str(release_dir / "model.onnx"), "/bare")
            yield (
                Target("ours", port, "/invocations"),
                Target("ours with spans", port, "/traced/invocations"),
                Target("bare Ray Serve deployment", port, "/bare"),
            )
            _check_spans(traced, spans_dir)


def _check_spans(plane: PortablePlane, spans_dir: Path) -> None:
    """Ask whether a span was kept of every answer, or else is about to be.

    Raises:
        RuntimeError: None was chosen, or one was lost.
    """
    for version, arm in plane.observe().arms.items():
        chosen, lost = arm.measured_count[LOST_SPAN_RATIO], arm.outside_count[LOST_SPAN_RATIO]
        if chosen != arm.request_count or lost:
            raise RuntimeError(f"v{version}: {chosen} spans of {arm.request_count}, {lost} lost")
    if not any(path.stat().st_size for path in spans_dir.iterdir()):
        raise RuntimeError("no span was written")


def _rows(ours: Target, traced: Target, peers: list[Target]) -> list[Row]:
    share = ours.versions.get("2", 0) / sum(ours.versions.values())
    if abs(share - CANARY_RATIO) > 0.05:
        raise RuntimeError(f"the canary got {share:.1%} instead of {CANARY_RATIO:.0%}")
    rows = [_row(ours, peer, connections, share) for connections in CONNECTIONS for peer in peers]
    spans = [_span_row(traced, ours, connections) for connections in CONNECTIONS]
    return [*rows, _added(ours, peers[-1]), *spans]


def _span_row(traced: Target, ours: Target, connections: int) -> Row:
    return Row(
        f"keep a span of every answer, {connections} connection{'s' * (connections > 1)}",
        traced.describe(connections),
        "ours without spans",
        ours.describe(connections),
        paired_ratio(traced.rates[connections], ours.rates[connections]),
        note="ratio of rates, more is better; JSON lines in a file, ratio 1.0",
    )


def _added(ours: Target, bare: Target) -> Row:
    """Return what our router adds to an answer's time, one request at a time."""
    own_ms, bare_ms = ours.medians_ms[1], bare.medians_ms[1]
    added_ms = spread_of([a - b for a, b in zip(own_ms, bare_ms, strict=True)])
    return Row(
        "time of one answer through the router, 1 connection",
        f"p50 {spread_of(own_ms).median:.2f} ms",
        bare.name,
        f"p50 {spread_of(bare_ms).median:.2f} ms",
        paired_ratio(own_ms, bare_ms),
        note=f"ratio of times, less is better; added {added_ms.median:.2f} ms "
        f"({added_ms.low:.2f} to {added_ms.high:.2f})",
    )


def _row(ours: Target, peer: Target, connections: int, share: float) -> Row:
    worst = [target.percentile_ms(connections, 99) for target in (ours, peer)]
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
    bodies = field_bodies()
    with (
        _models_serve(release_dir, work_dir / "models-serve.log") as stock,
        _ours_traced_and_bare(release_dir, work_dir / "spans") as (ours, traced, bare),
    ):
        targets = [ours, traced, stock, bare]
        _check_same_answers(targets, bodies[0])
        for k in range(ROUNDS[size]):
            for connections in CONNECTIONS:
                turn = k % len(targets)
                for target in (*targets[turn:], *targets[:turn]):
                    drive(target, connections, f"{k}/{connections}", bodies, DURATION_S[size])
    return _rows(ours, traced, [stock, bare])
