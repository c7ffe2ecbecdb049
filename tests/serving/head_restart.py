"""A rollout on a real Ray whose head is killed under traffic, and started again at its address.

Run by ``test_head_restart.py`` in a process of its own, because a process has one Ray at most. Head,
Serve, plane and controller are the real ones; the registry is in memory. What was seen is printed as
one JSON object, the last line; the test judges it.
"""

# ruff: noqa: T201 - Ray reads its environment when it is imported; the print is the result

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Ray does not use the token by itself for an address that is given.
os.environ["RAY_AUTH_MODE"] = "token"

import onnx_models as models
import psutil
from nodes import FOLDER, MODEL_NAME, Load, write_token
from rollout.simulated_registry import FakeRegistry, Fuse
from rollout.simulator import build_plan

from kfm_mlflow.errors import KfmError
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.state import RolloutState
from kfm_serving.cluster import free_port
from kfm_serving.entry import open_portable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kfm_mlflow.rollout.plane import Deployable, TrafficPlane

WAIT_S = 120.0
AWAY_S = 65.0
"""Ray ends a process that has been attached to a head that is away for a minute."""


class Head:
    """The head of a cluster, as a supervisor starts it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._started = 0

    def start(self) -> None:
        """Start it, and return when it answers."""
        said = []
        # Ray gives up after 30 s, which are short for a machine that is busy.
        for _ in range(4):
            for line in self._lines():
                said.append(line)
                if "Ray runtime started" in line:
                    return
        raise SystemExit("".join(["the head did not start\n", *said]))

    def _lines(self) -> Iterator[str]:
        """Start it once; yield what it says."""
        self._started += 1
        options = {
            "port": self.port,
            "ray-client-server-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "num-cpus": 16,
            "object-store-memory": 80 * 2**20,
            "temp-dir": FOLDER / str(self._started),
            "include-dashboard": "false",
            "include-log-monitor": "false",
        }
        self._process = subprocess.Popen(
            [
                Path(sys.executable).with_name("ray"),
                *("start", "--head", "--block", "--no-monitor"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        # Not `yield from`: leaving that early would close the pipe, and the head would end writing.
        for line in self._process.stdout:  # noqa: UP028 - see above
            yield line

    def kill(self) -> int:
        """Kill all that it started, with no time to say goodbye; return how many there were."""
        processes: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            processes = [own, *own.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=10)
        return len(processes)


class Registry(FakeRegistry):
    """Hands over releases that ONNX Runtime can load, and keeps what the journal has said."""

    def __init__(self) -> None:
        super().__init__(Fuse(), production=1, canary=2)
        self.problems: list[str] = []

    def fetch(self, model_name: str, version: int) -> Deployable:
        """Hand over a release as the plane takes it."""
        fetched = super().fetch(model_name, version)
        return replace(fetched, release_dir=FOLDER / f"v{version}")

    def save_journal(
        self, model_name: str, state: dict[str, Any], *, expect_generation: int, token: int
    ) -> None:
        """Journal, and note what is said of the plane."""
        super().save_journal(model_name, state, expect_generation=expect_generation, token=token)
        self.problems.append(state["plane_problem"])


class Story:
    """One controller, and what it did."""

    def __init__(self, plane: TrafficPlane) -> None:
        self.plane = plane
        self.registry = Registry()
        plan = build_plan(
            steps=[{"setWeight": 50}, {"analysis": {"minSamples": 40, "deadline_s": 300}}],
            analysis={"limits": {"error_ratio": 0.9}, "compare": []},
            canaryReady_s=60,
            postPromotionWatch_s=0.1,
        )
        self.controller = Controller(
            self.registry, plane, plan, SystemClock(), MODEL_NAME, holder="c", lease_s=300
        )
        self.errors: list[str] = []
        self.longest_pass_s = 0.0

    def run_until(self, holds: Callable[[], object]) -> None:
        """Reconcile until something holds."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            began_s = time.monotonic()
            try:
                self.controller.reconcile_once()
            except KfmError as error:
                self.errors.append(str(error))
            self.longest_pass_s = max(self.longest_pass_s, time.monotonic() - began_s)
            if holds():
                return
            time.sleep(0.1)
        raise SystemExit(f"still {self.state.phase}: {self.state.reason}; {self.errors[-3:]}")

    @property
    def state(self) -> RolloutState:
        """What the journal says."""
        return RolloutState.from_dict(self.journal)

    @property
    def journal(self) -> Mapping[str, Any]:
        """The journal's JSON value."""
        journal = self.registry.load_journal(MODEL_NAME)
        assert journal is not None
        return journal

    def said(self) -> dict[str, object]:
        """Return where the rollout stands, as everybody may read it."""
        held, narrative = self.registry.held, self.journal["narrative"]
        return {
            "generation": self.state.generation,
            "phase": self.state.phase,
            "step_index": self.state.step_index,
            "production": held.production,
            "canary": held.canary,
            "moves": len(self.registry.history),
            "plane_problem": self.state.plane_problem,
            "narrative": {name: narrative[name] for name in ("reason", "is_loud", "happening")},
        }


def tell(plane: TrafficPlane, head: Head, load: Load) -> dict[str, object]:
    """Bring a canary half way, kill the head, start it again, and go on to the end.

    No pass looks at the canary's answers before the head dies, so the decision is made afterwards.
    """
    said: dict[str, object] = {}
    story = Story(plane)
    story.run_until(lambda: story.state.split.canary == 2)
    load.start()
    while plane.observe().arms[2].request_count < 10:
        time.sleep(0.05)
    said["before"] = story.said()
    said["killed"] = head.kill()
    killed_s = time.monotonic()
    story.longest_pass_s = 0.0
    story.run_until(lambda: story.errors)
    said["noticed_s"] = time.monotonic() - killed_s
    said["noticed"] = story.said()
    story.run_until(lambda: time.monotonic() - killed_s > AWAY_S)
    said["away"] = story.said()
    said["passes_away"] = len(story.errors)
    said["errors"] = sorted(set(story.errors))
    said["longest_pass_away_s"] = story.longest_pass_s
    answered = load.seen["200"]
    event_count = len(story.state.traffic)

    def deployed_anew() -> list[int | None]:
        events = story.state.traffic[event_count:]
        return [event.version for event in events if event.kind == "deploy"]

    head.start()
    back_s = time.monotonic()
    story.run_until(lambda: len(deployed_anew()) > 1)
    said["deployed_anew"] = deployed_anew()
    story.run_until(lambda: story.registry.held.canary is None)
    story.run_until(lambda: story.plane.observe().generation == story.state.split.generation)
    said["decided_s"] = round(time.monotonic() - back_s, 1)
    load.stop()
    said["after"] = story.said()
    said["answered_again"] = load.seen["200"] - answered
    said["split"] = [story.state.split.stable, story.state.split.canary]
    said["problems"] = [p for p in story.registry.problems if p]
    said["verdicts"] = [verdict["verdict"] for verdict in story.registry.verdicts]
    said["violations"] = story.registry.violations
    return said


def main() -> None:
    """Tell the story on a cluster of its own."""
    began_s = time.monotonic()
    write_token()
    for version in (1, 2):
        models.times(FOLDER / f"v{version}", version + 1)
    head, port = Head(), free_port()
    head.start()
    try:
        address = f"127.0.0.1:{head.port}"
        with open_portable(MODEL_NAME, host="127.0.0.1", port=port, address=address) as plane:
            said = tell(plane, head, Load(port))
    finally:
        head.kill()
    said["took_s"] = time.monotonic() - began_s
    print(json.dumps(said))


if __name__ == "__main__":
    main()
