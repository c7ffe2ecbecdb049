"""How fast traffic follows a decision, and what copies for a mirrored canary cost the clients.

One model, two routers, three releases of the same input: stable, a canary of the same bytes, and
one whose every answer is wrong. Two numbers are promised: a split is in force on all routers within
50 ms (99th percentile of the calls that declare it and wait for every router), and 250 ms after the
verdict that a release is bad no router sends it a request. The verdict is the real controller's, on
the real routers' counts; its registry is in memory, so that a journal write over HTTP is not in it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import onnx
from onnx import TensorProto, helper
from processes import stop_on_terminate
from registries import MODEL_NAME
from report import Row, paired_ratio, percentile, spread_of

from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.plane import Deployable, Split
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.state import Phase
from kfm_serving.cluster import free_port, start_local
from kfm_serving.portable import PortablePlane
from serving import Target, drive, field_bodies

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rollout.simulated_registry import FakeRegistry, Fuse
from rollout.simulator import build_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANGE_GOAL_MS, VERDICT_GOAL_MS = 50.0, 250.0
ROUNDS = {"small": 5, "full": 12}
CHANGES = {"small": 40, "full": 100}
DURATION_S = {"small": 1.0, "full": 2.0}
ROUTER_COUNT = 2
_STABLE, _SAME, _BAD = 1, 2, 3
_PLAN = {
    "steps": [{"setWeight": 10}, {"analysis": {"minSamples": 20, "deadline_s": 60}}],
    "analysis": {"limits": {"error_ratio": 0.1}},
    "scaleDownDelay_s": 3600,
}


class _Stream:
    """One client that asks without a pause; every key its own."""

    def __init__(self, port: int, body: str) -> None:
        self._port, self._body = port, body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[int] = []

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        for k in itertools.count():
            if self._stop.is_set():
                break
            headers = {"Content-Type": "application/json", "X-KFM-Key": f"{id(self)}/{k}"}
            connection.request("POST", "/invocations", self._body, headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                self.failures.append(response.status)
        connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failures:
            raise RuntimeError(f"clients were answered {self.failures[:5]}")


class _Registry(FakeRegistry):
    """Hands over the releases that the bench serves."""

    def __init__(self, releases: dict[int, Deployable]) -> None:
        super().__init__(Fuse(), production=_STABLE, canary=_BAD)
        self._releases = releases

    def fetch(self, model_name: str, version: int) -> Deployable:
        super().fetch(model_name, version)
        return self._releases[version]


def _write_bad(directory: Path, side: int) -> None:
    """Write a model whose answers have twice the rows that it declares."""
    shape = ["n", side, side]
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")


@contextlib.contextmanager
def _served(releases: dict[int, Deployable]) -> Iterator[tuple[PortablePlane, int]]:
    port = free_port()
    with start_local(port):
        stop_on_terminate()  # Ray puts its own handler there
        plane = PortablePlane(MODEL_NAME, port=port, router_replicas=ROUTER_COUNT)
        try:
            for release in releases.values():
                plane.deploy(release, timeout_s=120)
            yield plane, port
        finally:
            plane.close()


def _next_split(plane: PortablePlane, **shares: Any) -> None:
    generation = plane.observe().generation + 1
    plane.set_split(Split(generation, _STABLE, _SAME, **shares))


def _measure_changes(plane: PortablePlane, port: int, size: str, body: str) -> Row:
    """Declare splits under load; each call returns when every router has acknowledged."""
    _next_split(plane, canary_ratio=0.5)  # both releases' handles are warm from here on
    rounds: list[list[float]] = []
    generations = itertools.count(plane.observe().generation + 1)
    with _Stream(port, body):
        for _ in range(ROUNDS[size]):
            took_ms = []
            for k in range(CHANGES[size]):
                split = Split(next(generations), _STABLE, _SAME, (1 + k % 9) / 10)
                started_s = time.perf_counter()
                plane.set_split(split)
                took_ms.append((time.perf_counter() - started_s) * 1e3)
            rounds.append(took_ms)
    tails = [percentile(took_ms, 99) for took_ms in rounds]
    middle = spread_of([value for took_ms in rounds for value in took_ms]).median
    return _promised(
        f"a changed weight is in force on all {ROUTER_COUNT} routers, under load, p99",
        tails,
        CHANGE_GOAL_MS,
        note=f"{CHANGES[size]} changes a round, each until every router acknowledged; median "
        f"{middle:.1f} ms",
    )


def _promised(what: str, found_ms: list[float], goal_ms: float, *, note: str) -> Row:
    ratio = paired_ratio(found_ms, [goal_ms] * len(found_ms))
    ours = f"{spread_of(found_ms).median:.1f} ms"
    return Row(what, ours, "the promise", f"{goal_ms:g} ms", ratio, 1.0, note=note)


def _roll_back(plane: PortablePlane, releases: dict[int, Deployable]) -> tuple[float, float]:
    """Let the controller find the bad release; return verdict and pass to no traffic, in ms."""
    registry = _Registry(releases)
    controller = Controller(registry, plane, build_plan(**_PLAN), SystemClock(), MODEL_NAME)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        started_s = time.perf_counter()
        state = controller.reconcile_once()
        if state is not None and state.phase is Phase.ROLLED_BACK:
            pass_ms = (time.perf_counter() - started_s) * 1e3
            if state.detected_at is None or state.traffic_restored_at is None:
                raise RuntimeError("a rollback without its times")
            back = state.traffic_restored_at - state.detected_at
            return back.total_seconds() * 1e3, pass_ms
    raise RuntimeError("the bad release was not found")


def _measure_verdicts(
    plane: PortablePlane, port: int, size: str, body: str, releases: dict[int, Deployable]
) -> Row:
    took_ms, passes_ms = [], []
    for _ in range(ROUNDS[size]):
        with _Stream(port, body):
            back_ms, pass_ms = _roll_back(plane, releases)
            took_ms.append(back_ms)
            passes_ms.append(pass_ms)
            before = plane.observe().arms[_BAD].request_count
            time.sleep(0.2)
            if plane.observe().arms[_BAD].request_count != before:
                raise RuntimeError("the bad release still got requests")
    return _promised(
        f"from the verdict to no request for the bad release on {ROUTER_COUNT} routers, under load",
        took_ms,
        VERDICT_GOAL_MS,
        note=f"journal in memory; the whole last pass, with reading the counts and the registry's "
        f"moves in memory, {spread_of(passes_ms).median:.0f} ms; no client got an error",
    )


def _measure_copies(plane: PortablePlane, port: int, size: str, bodies: list[str]) -> list[Row]:
    """Drive the same load with every request copied and with none, in turns."""
    rows = []
    for connections in (1, 4):
        without, copied = (Target(name, port, "/invocations") for name in ("none", "all"))
        for k in range(ROUNDS[size]):
            turns = ((copied, 1.0), (without, 0.0))
            for target, ratio in turns if k % 2 else turns[::-1]:
                _next_split(plane, canary_ratio=0.0, mirror_ratio=ratio)
                block = f"copies/{k}/{connections}/{ratio}"
                drive(target, connections, block, bodies, DURATION_S[size])
        rows.append(
            Row(
                f"score with every request copied, {connections} connection{'s' * (connections > 1)}",
                copied.describe(connections),
                "ours without copies",
                without.describe(connections),
                paired_ratio(copied.medians_ms[connections], without.medians_ms[connections]),
                note="ratio of median latencies, less is better; p99 ratio "
                f"{copied.percentile_ms(connections, 99) / without.percentile_ms(connections, 99):.2f}"
                "; canary, stable, routers and client share the cores",
            )
        )
    counts = plane.observe().arms[_SAME]
    rows[-1] = replace(
        rows[-1], note=f"{rows[-1].note}; in all {counts.dropped_count} copies dropped"
    )
    return rows


def measure(size: str, release_dir: Path, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        release_dir: A release with ``MLmodel`` and ``model.onnx`` that takes [n, 8, 8].
        work_dir: A folder for a release that is wrong.
    """
    bodies = field_bodies()
    side = len(json.loads(bodies[0])["inputs"][0])
    _write_bad(work_dir / "bad", side)
    release_id = build_manifest(release_dir).release_id
    releases = {
        _STABLE: Deployable(MODEL_NAME, _STABLE, release_id, release_dir),
        _SAME: Deployable(MODEL_NAME, _SAME, release_id, release_dir),
        _BAD: Deployable(MODEL_NAME, _BAD, f"sha256:{_BAD:064x}", work_dir / "bad"),
    }
    with _served(releases) as (plane, port):
        return [
            _measure_changes(plane, port, size, bodies[0]),
            _measure_verdicts(plane, port, size, bodies[0], releases),
            *_measure_copies(plane, port, size, bodies),
        ]
