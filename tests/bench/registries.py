"""A governed and a plain MLflow server, and one good release that both have registered."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processes import REPOSITORY, environment, run, server

from kfm_serving.cluster import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL_NAME = "climate-downscaler"
_KEYS = ("trainer", "validator", "controller", *(f"council-{k}" for k in range(4)))


@dataclass(frozen=True)
class GovernedServer:
    """A running ``kfm server`` (one worker) that trusts the keys in ``keys_dir``.

    Attributes:
        port: Of 127.0.0.1.
        keys_dir: Where the keys lie.
        database: SQLAlchemy URI of its database.
    """

    port: int
    keys_dir: Path
    database: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class PlainServer:
    """A running ``mlflow server``: its port on 127.0.0.1, and its database's URI."""

    port: int
    database: str


def _kfm(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kfm_mlflow.cli", *arguments]


@contextlib.contextmanager
def governed_server(work_dir: Path, database: str | None = None) -> Iterator[GovernedServer]:
    """Run ``kfm server`` with development keys and the packaged climate policy.

    Args:
        work_dir: Folder for everything that it keeps; made when it is not there.
        database: SQLAlchemy URI; None takes SQLite in the folder.
    """
    work_dir.mkdir(exist_ok=True)
    database = database or f"sqlite:///{work_dir / 'governed' / 'mlflow.db'}"
    keys_dir, policy_dir, port = work_dir / "keys", work_dir / "policies", free_port()
    env = environment()
    run(_kfm("keys", "new", *_KEYS, "--dir", str(keys_dir)), log=work_dir / "keys.log", env=env)
    init = ("policy", "init", "--family", "climate", "--keys", str(keys_dir), "-o", str(policy_dir))
    run(_kfm(*init), log=work_dir / "policy.log", env=env)
    options = ("--data-dir", str(work_dir / "governed"), "--policy-dir", str(policy_dir))
    options = (*options, "--backend-store-uri", database)
    with server(
        _kfm("server", "--port", str(port), *options),
        log=work_dir / "governed.log",
        health_url=f"http://127.0.0.1:{port}/health",
        env=env,
    ):
        yield GovernedServer(port, keys_dir, database)


@contextlib.contextmanager
def plain_server(work_dir: Path, database: str | None = None) -> Iterator[PlainServer]:
    """Run stock ``mlflow server`` with one worker; ``database`` as in :func:`governed_server`."""
    port, data_dir = free_port(), work_dir / "plain"
    data_dir.mkdir(parents=True)
    database = database or f"sqlite:///{data_dir / 'mlflow.db'}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", database),
        *("--artifacts-destination", str(data_dir / "artifacts")),
    ]
    url = f"http://127.0.0.1:{port}/health"
    with server(command, log=work_dir / "plain.log", health_url=url, env=environment()):
        yield PlainServer(port, database)


def make_release(governed: GovernedServer, work_dir: Path) -> Path:
    """Train, sign, validate and register one release, and return a local copy of it.

    This is ``mlflow run projects/climate -e release`` at its small size.
    """
    command = [
        *(sys.executable, "-m", "mlflow", "run", str(REPOSITORY / "projects" / "climate")),
        *("--env-manager", "local", "-e", "release"),
        *("-P", f"name={MODEL_NAME}", "-P", "size=small", "-P", f"keys={governed.keys_dir}"),
    ]
    env = environment(MLFLOW_TRACKING_URI=governed.url)
    run(command, log=work_dir / "release.log", env=env)
    import mlflow

    mlflow.set_tracking_uri(governed.url)
    client = mlflow.MlflowClient()
    source = client.get_model_version(MODEL_NAME, "1").source
    copied = mlflow.artifacts.download_artifacts(source, dst_path=str(work_dir))
    return Path(copied)


def register_copy(port: int, release_dir: Path) -> None:
    """Log the same files to the plain server and register them under the same name."""
    import mlflow

    url = f"http://127.0.0.1:{port}"
    client = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(release_dir), "release")
    client.create_registered_model(MODEL_NAME)
    client.create_model_version(MODEL_NAME, f"runs:/{run_id}/release", run_id)
