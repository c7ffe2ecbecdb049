"""A server killed with -9 in the middle of a move: the registry is as before or as after."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
import requests
from registry.server import environment
from registry.world import NAME, SERVES, uri_of

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.ledger import verify_chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.world import Registry

pytestmark = pytest.mark.server
KILL_COUNTS = {"sqlite": 120, "postgresql": 80}
SEED = 20261121
_WAIT_S = 60
_STEP = 1.15
_CALM_COUNT = 3
"""Moves that are left alone first, to learn how long one takes."""

# Levels of (v1, v2) -> the moves that are tried from there: version, level, restored version.
MOVES: dict[tuple[str, str], tuple[tuple[int, Level, int | None], ...]] = {
    ("production", "canary"): ((2, Level.PRODUCTION, None), (2, Level.STAGING, None)),
    ("candidate", "production"): ((2, Level.CANDIDATE, 1),),
    ("production", "candidate"): ((2, Level.STAGING, None),),
    ("production", "staging"): (
        (2, Level.CANARY, None),
        (2, Level.CANARY, None),
        (2, Level.CANDIDATE, None),
        (2, Level.PRODUCTION, None),  # Skips a level: refused.
    ),
}
# As DESIGN.md says: level -> MLflow's stages and aliases.
NAMES = {
    "candidate": ({"None", "Archived"}, []),
    "staging": ({"Staging"}, ["staging"]),
    "canary": ({"Staging"}, ["canary"]),
    "production": ({"Production"}, ["champion", "production"]),
}


@dataclass(frozen=True)
class Seen:
    """What a stranger reads in the database: levels of v1 and v2, and numbers of rows."""

    levels: tuple[str, str]
    ledger: int
    outbox: int


class Forked:
    """The forked server of one registry."""

    def __init__(self, registry: Registry) -> None:
        # Bound and never listening: nobody else is given the port between a kill and the next fork.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        folder, uri = registry.area.parent, uri_of(registry.database)
        variables = {
            **environment(folder),
            "KFM_REGISTRY_KEY": str(registry.world.key("registry")),
            "KFM_POLICY_DIR": str(registry.world.policies),
            "_MLFLOW_SERVER_FILE_STORE": uri,
            "_MLFLOW_SERVER_REGISTRY_STORE": f"kfm+{uri}",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(registry.area),
            SERVES: "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
        }
        script = Path(__file__).with_name("forked_server.py")
        self._log = (folder / "forked.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.port), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
            cwd=folder,
            text=True,
            start_new_session=True,
        )
        ready = self.process.stdout.readline()
        assert ready == "ready\n", (folder / "forked.log").read_text()[-3000:]

    def fork(self) -> int:
        """Start a server and wait until it answers; returns its process id."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        deadline_s = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline_s:
            try:
                # Also connects to the database, so that the move to come starts at once.
                if requests.get(self._url(""), timeout=_WAIT_S).ok:
                    return pid
            except requests.ConnectionError:
                time.sleep(0.01)
        raise AssertionError("the forked server does not answer")

    def _url(self, tail: str) -> str:
        return f"http://127.0.0.1:{self.port}/kfm/api/v1/models/{NAME}{tail}"

    def request(self, version: int, level: Level, restore: int | None) -> requests.Response | None:
        """Ask for a move; None when the server died before it answered."""
        body = {"to": str(level), "reason": "test", **({"restore": restore} if restore else {})}
        try:
            return requests.post(
                self._url(f"/versions/{version}/moves"), json=body, timeout=_WAIT_S
            )
        except requests.RequestException:
            return None

    def stop(self) -> None:
        """Stop it and everything that it forked."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self._reserved.close()
        self._log.close()


@pytest.fixture(params=list(KILL_COUNTS))
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def forked(two: Registry) -> Iterator[Forked]:
    made = Forked(two)
    yield made
    made.stop()


def seen(registry: Registry) -> Seen:
    """Read levels, and fail when stage and aliases do not name the same level."""
    found = []
    for version in (1, 2):
        ((stage, location),) = registry.query(
            "SELECT current_stage, storage_location FROM model_versions WHERE version = ?", version
        )
        rows = registry.query(
            "SELECT alias FROM registered_model_aliases WHERE version = ?", version
        )
        aliases = sorted(alias for (alias,) in rows)
        named = [
            level
            for level, (stages, names) in NAMES.items()
            if stage in stages and names == aliases
        ]
        assert named, f"torn: v{version} is {stage} with {aliases}"
        assert "kfm-frozen" in location
        found += named
    ((ledger,),) = registry.query("SELECT count(*) FROM kfm_ledger WHERE kind <> 'policy'")
    ((outbox,),) = registry.query("SELECT count(*) FROM kfm_outbox")
    return Seen((found[0], found[1]), ledger, outbox)


def after(before: Seen, version: int, level: Level, restore: int | None) -> Seen:
    """Return what a finished move leaves."""
    if (before.levels[version - 1], level) == ("staging", Level.PRODUCTION):
        return Seen(before.levels, before.ledger + 1, before.outbox)
    levels = list(before.levels)
    levels[version - 1] = str(level)
    if level is Level.PRODUCTION:
        levels[2 - version] = "candidate"
    if restore:
        levels[restore - 1] = "production"
    rows = 2 if restore else 1
    return Seen((levels[0], levels[1]), before.ledger + rows, before.outbox + rows)


@pytest.mark.timeout(900)
def test_a_server_killed_at_random_points_leaves_no_torn_state(
    two: Registry, forked: Forked, database_kind: str
):
    chance, kill_count = Random(SEED), KILL_COUNTS[database_kind]
    outcomes = {"before": 0, "after": 0}
    window_s = 0.0
    for number in range(-_CALM_COUNT, kill_count):
        before = seen(two)
        if before.levels == ("production", "canary"):
            # The server's clock, not the test's: of two verdicts the newer one counts.
            two.now = datetime.now(UTC)
            two.endorse(2)
        move = chance.choice(MOVES[before.levels])
        pid = forked.fork()
        answers: list[requests.Response | None] = []
        asking = threading.Thread(
            target=lambda asked=move, into=answers: into.append(forked.request(*asked))
        )
        started_s = time.monotonic()
        asking.start()
        if number < 0:
            asking.join(_WAIT_S)
            window_s = max(window_s, 1.2 * (time.monotonic() - started_s))
        else:
            time.sleep(chance.uniform(0, window_s))
        os.kill(pid, signal.SIGKILL)
        asking.join(_WAIT_S)
        expected, found = after(before, *move), seen(two)
        assert found in (before, expected), f"kill {number}: {before}, {move}"
        assert answers[0] is None or found == expected, f"kill {number}: {answers[0].text}"
        if number >= 0:
            late = found == expected
            outcomes["after" if late else "before"] += 1
            # Kills stay around the commit, however busy the machine becomes meanwhile.
            window_s *= 1 / _STEP if late else _STEP
    # Else the kills were not in the middle of moves.
    assert min(outcomes.values()) >= kill_count // 10, (outcomes, window_s)
    rows = two.query("SELECT seq, at, kind, model, version, body, prev_hash, hash FROM kfm_ledger")
    names = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "row_hash")
    assert verify_chain([dict(zip(names, row, strict=True)) for row in sorted(rows)]) is None
    for release_id, uri in two.query("SELECT release_id, frozen_uri FROM kfm_release"):
        folder = two.area / uri.removeprefix("mlflow-artifacts:/")
        assert build_manifest(folder).release_id == release_id
