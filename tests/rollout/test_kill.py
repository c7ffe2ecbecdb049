"""Controllers killed with -9 in nine phases, against a real registry: the same decision in the end.

The registry is MLflow's own REST API and ours behind real HTTP in this process; releases are fetched
and verified, moves go through all gates, reports are logged to runs. The traffic plane is a file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from registry.server import environment
from registry.world import COUNCIL, NAME, SERVES, Registry, make_world, uri_of
from rollout.file_plane import FilePlane
from rollout.forked_controller import CACHE, LOG, PLAN_FILE
from rollout.simulator import PLAN

from kfm_mlflow.registry.app import register_pages
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20261121
MAX_FURTHER_LINES = 6
_SLOW = {"deadline_s": 120}
KILLED_PLAN = {
    **PLAN,
    "steps": [
        {"setWeight": 10},
        {"analysis": {"minSamples": 20, **_SLOW}},
        {"pause": {"gate": "votes", **_SLOW}},
    ],
    "analysis": {"limits": {"error_ratio": 0.05}, "compare": ["error_ratio"]},
    "scaleDownDelay_s": 0.2,
    "postPromotionWatch_s": 0.3,
    "canaryReady_s": 60,
    "promotionDeadline_s": 120,
}


@contextmanager
def serving(governed: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve MLflow's REST API and ours over a registry, and give the URL."""
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR, handlers
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from registry import loopback

    runs = SqlAlchemyStore(uri_of(governed.database), str(folder / "runs"))
    monkeypatch.setattr(handlers, "_model_registry_store", governed.store)
    monkeypatch.setattr(handlers, "_tracking_store", runs)
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    monkeypatch.setenv(ARTIFACTS_DESTINATION_ENV_VAR, str(governed.area))
    monkeypatch.setenv(SERVES, "true")
    governed.store.admission.clock = lambda: datetime.now(UTC)
    app = Flask("kills")
    for path, handler, methods in handlers.get_endpoints():
        app.add_url_rule(path, handler.__name__, handler, methods=methods)
    register_pages(app)
    try:
        with loopback.serving(app, threaded=True) as url:
            yield url
    finally:
        runs._dispose_engine()


class Story:
    """One registry, one plane, and the controllers that carry its rollouts one after another."""

    def __init__(self, governed: Registry, url: str, folder: Path) -> None:
        self.registry, self.url, self.folder = governed, url, folder
        self.plane = FilePlane(folder)
        self.remote = RemoteRegistry(url, cache_dir=folder / CACHE)
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=url, registry_uri=url)
        self.dice = Random(SEED)
        self.killed_in: list[str] = []
        self.running = 0
        (folder / PLAN_FILE).write_text(json.dumps(KILLED_PLAN))
        script = Path(__file__).with_name("forked_controller.py")
        key = governed.world.key("controller")
        self._errors = (folder / "forked.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(script), url, NAME, str(key), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(folder),
            text=True,
            start_new_session=True,
        )

    def _line(self) -> tuple[int, str]:
        text = self.process.stdout.readline()
        assert text, self.logs()
        pid, _, what = text.rstrip("\n").partition(" ")
        return int(pid), what

    def logs(self) -> str:
        """Return what the controllers and their parent wrote."""
        named = (self.folder / name for name in ("forked.log", LOG))
        return "\n".join(path.read_text()[-3000:] for path in named if path.exists())

    def start(self) -> None:
        """Start a controller, as a supervisor would after the last one died."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while True:
            _, what = self._line()
            if what.startswith("forked "):
                self.running = int(what.removeprefix("forked "))
                return

    def run_until(self, phase: str, *, further: int = 0) -> None:
        """Read along until the controller has journaled a phase, and some lines further."""
        left: int | None = None
        while left is None or left > 0:
            pid, what = self._line()
            if pid == self.running and left is not None:
                left -= 1
            elif pid == self.running and what == f"phase {phase}":
                left = further

    def kill(self) -> None:
        """Kill the running controller with -9."""
        os.kill(self.running, signal.SIGKILL)

    def rest(self, phase: str) -> None:
        """Let the controller come to rest in a phase and scale down; then stop it."""
        self.run_until(phase)
        while len(self.plane.deployed()) > 1 or self.state["phase"] != phase:
            self._line()
        self.kill()

    def stop(self) -> None:
        """Stop everything that was started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            stream.close()

    @property
    def state(self) -> dict[str, Any]:
        """What the journal holds."""
        return self.remote.load_journal(NAME) or {}

    def register(self, index: int) -> int:
        """Register a release of a run of its own, so that reports have where to go."""
        run = self.client.create_run("0")
        release = self.registry.world.releases[index].release_dir
        store = self.registry.store
        if index == 0:
            store.create_registered_model(NAME)
        return int(store.create_model_version(NAME, str(release), run.info.run_id).version)

    def vote(self, version: int) -> None:
        """Have the council approve a canary."""
        self.registry.now = datetime.now(UTC)
        for member in COUNCIL:
            self.registry.vote(version, member)

    def reported(self, version: int) -> list[str]:
        """Return which reports of a rollback are with the version's run."""
        run_id = self.client.get_model_version(NAME, str(version)).run_id
        files = self.client.list_artifacts(run_id, f"rollback/v{version}")
        return sorted(Path(file.path).name for file in files)

    def outcome(self, candidate: int) -> tuple[Any, ...]:
        """Return what the world was brought to, the candidate called so."""
        plane, levels, state = self.plane.read(), self.remote.levels(NAME), self.state
        named = {candidate: "candidate", state["stable"]: "stable", None: None}
        split = plane["split"]
        return (
            state["phase"],
            state["trigger"],
            named[state["candidate"]],
            (named[levels.production], named[levels.canary]),
            (named[split["stable"]], named[split["canary"]], split["ratio"]),
            [named[int(version)] for version in plane["up"]],
            self.reported(candidate) if state["trigger"] else [],
        )

    def carry(self, version: int, phases: tuple[str, ...], end: str) -> tuple[Any, ...]:
        """Carry a canary to its end, with a controller killed at a random moment of each phase."""
        self.registry.to_canary(version)
        self.start()
        for phase in phases:
            self.run_until(phase, further=self.dice.randrange(MAX_FURTHER_LINES))
            self.kill()
            self.killed_in.append(phase)
            self.start()
            if phase == "AwaitingAdmission":
                self.vote(version)
        self.rest(end)
        return self.outcome(version)


@pytest.fixture
def story(tmp_path, tmp_path_factory, monkeypatch) -> Iterator[Story]:
    folder = tmp_path / "story"
    folder.mkdir()
    world = make_world(tmp_path_factory.getbasetemp() / "world")
    governed = Registry(world, tmp_path / "registry.db", tmp_path / "artifacts")
    with serving(governed, folder, monkeypatch) as url:
        made = Story(governed, url, folder)
        try:
            yield made
        finally:
            made.stop()
            governed.store._dispose_engine()


GOOD = (
    "Pending",
    "Deploying",
    "Canary",
    "AwaitingAdmission",
    "Promoting",
    "Soaking",
    "Succeeded",
)
BAD = ("Canary", "Aborting", "RolledBack")


@pytest.mark.server
@pytest.mark.timeout(240)
def test_controllers_killed_in_nine_phases_come_to_the_same_decision(story):
    for index in range(3):
        story.register(index)
    story.registry.now = datetime.now(UTC)
    story.registry.to_production(1)

    story.plane.write({**story.plane.read(), "error_ratio": {"2": 0.6}})
    calm = story.carry(2, (), "RolledBack")
    assert calm[:4] == ("RolledBack", "analysis", "candidate", ("stable", None))
    assert len(calm[-1]) == 3
    assert story.carry(2, BAD, "RolledBack") == calm

    story.plane.write({**story.plane.read(), "error_ratio": {}})
    calm = story.carry(2, ("AwaitingAdmission",), "Succeeded")
    assert calm[:4] == ("Succeeded", None, "candidate", ("candidate", None))
    assert story.carry(3, GOOD, "Succeeded") == calm

    assert story.killed_in == [*BAD, "AwaitingAdmission", *GOOD]
    assert story.plane.read()["violations"] == []
    # Every controller that was started was a leader of its own.
    assert story.remote.lease(NAME).token == len(story.killed_in) + 4
