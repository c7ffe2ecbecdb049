"""One real server per session, started by ``kfm server`` as a person would, and stopped by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import requests
from conftest import free_port
from registry.world import NAME, dump, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow.tracking import MlflowClient
    from registry.world import World

    from kfm_mlflow.release.bundle import Bundle

_START_S = 120
_STOP_S = 20


@dataclass(frozen=True)
class Server:
    """A running server."""

    world: World
    url: str
    data: Path
    process: subprocess.Popen[bytes]
    database: Path | str

    def client(self) -> MlflowClient:
        """Return MLflow's own client of this server."""
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def ask(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Send a request; no answer of this server may be one that a client retries."""
        answer = requests.request(method, f"{self.url}{path}", timeout=30, **kwargs)
        assert answer.status_code < 500, answer.text
        assert answer.status_code not in (408, 429)
        return answer

    def post(self, path: str, prefix: str = "api", **body: Any) -> requests.Response:
        """Send JSON to MLflow's REST API, or as its UI does (``ajax-api``)."""
        return self.ask("POST", f"/{prefix}/2.0/mlflow/{path}", json=body)

    def register(self, bundle: Bundle, name: str = NAME) -> int:
        """Log a release to a run and register it, as log_release and register_model do."""
        client = self.client()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        run = client.create_run("0")
        client.log_artifacts(run.info.run_id, str(bundle.release_dir), "release")
        client.log_artifacts(run.info.run_id, str(bundle.evidence_dir), "release.evidence")
        source = f"{run.info.artifact_uri}/release"
        made = client.create_model_version(name, source, run.info.run_id, await_creation_for=0)
        return int(made.version)

    def state(self) -> dict[str, Any]:
        """Return everything that a refusal must leave alone."""
        return {**dump(self.database), "files": files_of(self.data / "artifacts")}


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a child: ours, without settings that would leak in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KFM_", "_MLFLOW_"))}
    return {
        **kept,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONUNBUFFERED": "1",
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Its own session was started for it, so its workers go with it.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start: {log.read_text()[-3000:]}")


@contextmanager
def running(command: list[str], url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in its own session until the block ends."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_health(url, process, log)
        yield process
    finally:
        _stop(process)


@contextmanager
def governed(
    world: World, folder: Path, *, database: str = "", workers: int = 1
) -> Iterator[Server]:
    """Run ``kfm server`` until the block ends.

    Args:
        world: Its policies.
        folder: Where its data lies; must not exist.
        database: Plain SQLAlchemy URL; empty makes a SQLite file in the folder.
        workers: Processes that serve.
    """
    folder.mkdir()
    port = free_port()
    url, data = f"http://127.0.0.1:{port}", folder / "data"
    command = [
        *(sys.executable, "-m", "kfm_mlflow.cli", "server", "--port", str(port)),
        *("--data-dir", str(data), "--policy-dir", str(world.policies)),
        *("--workers", str(workers)),
    ]
    if database:
        command += ["--backend-store-uri", database]
    with running(command, url, folder) as process:
        yield Server(world, url, data, process, database or data / "mlflow.db")


_started: list[Any] = []


@lru_cache(maxsize=1)
def start(world: World) -> Server:
    """Start the session's server, or return the one that runs."""
    context = governed(world, world.root / "server")
    server = context.__enter__()
    _started.append(context)
    return server


def stop() -> None:
    """Stop the session's server, if it runs."""
    while _started:
        _started.pop().__exit__(None, None, None)
