"""Frozen releases as everybody reads them: plain MLflow, on a machine without our package.

The client's interpreter refuses to import kfm_mlflow, and knows nothing of the bucket: no
endpoint, no credentials. It has the server's address, as any notebook would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import requests
from conftest import free_port
from registry.bucket import BUCKET, delete_objects, objects, s3_server
from registry.server import Server, environment, governed, running
from registry.world import NAME, digest_of, query, tiny_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server
ROWS = tiny_rows(3)
# The model repeats each cell twice in both directions and scales it: by 1.0 in v1.0.0.
EXPECTED = np.repeat(np.repeat(ROWS, 2, axis=1), 2, axis=2)
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kfm_mlflow", "kfm_serving"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
LOAD = """
import importlib, json, sys
try:
    importlib.import_module("kfm_mlflow")
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("kfm_mlflow can be imported here")
import mlflow, numpy
rows = numpy.array(json.load(sys.stdin), dtype="float32")
model = mlflow.pyfunc.load_model(sys.argv[1])
found = model.predict(rows)
found = next(iter(found.values())) if isinstance(found, dict) else found
print("ANSWER", json.dumps(numpy.asarray(found).tolist()))
"""


@contextmanager
def governed_on(world, folder: Path, destination: str) -> Iterator[Server]:
    """Run ``kfm server`` on an artifact root of its own until the block ends."""
    folder.mkdir()
    port = free_port()
    url, data = f"http://127.0.0.1:{port}", folder / "data"
    command = [
        *(sys.executable, "-m", "kfm_mlflow.cli", "server", "--port", str(port)),
        *("--data-dir", str(data), "--policy-dir", str(world.policies)),
        *("--artifacts-destination", destination),
    ]
    with running(command, url, folder) as process:
        yield Server(world, url, data, process, data / "mlflow.db")


@pytest.fixture(scope="module", params=["disk", "s3"])
def staged(request, world, tmp_path_factory):
    """Return a server with v1 at Staging whose source was tampered with and then deleted."""
    folder = tmp_path_factory.mktemp("plain") / request.param
    if request.param == "disk":
        with governed(world, folder) as server:
            stage(server, world)
            artifacts = server.data / "artifacts"
            (victim,) = (artifacts / "0").glob("*/artifacts/release/model.onnx")
            victim.write_bytes(b"evil")
            collect_garbage(server)
            assert not victim.exists()
            yield server
        return
    with s3_server() as client:
        destination = f"s3://{BUCKET}/mlflow"
        with governed_on(world, folder, destination) as server:
            stage(server, world)
            key = digest_of(world.releases[0]).removeprefix("sha256:")
            frozen = objects(client, f"mlflow/kfm-frozen/{key}/")
            assert f"mlflow/kfm-frozen/{key}/frozen.json" in frozen
            delete_objects(client, "mlflow/0/")
            assert objects(client, "mlflow/") == frozen
            yield server


def stage(server: Server, world) -> None:
    version = server.register(world.releases[0])
    answer = server.post(
        "model-versions/transition-stage",
        name=NAME,
        version=str(version),
        stage="Staging",
        archive_existing_versions=False,
    )
    assert answer.status_code == 200, answer.text


def collect_garbage(server: Server) -> None:
    client = server.client()
    (run,) = client.search_runs(["0"])
    client.delete_run(run.info.run_id)
    subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "gc", "--tracking-uri", server.url),
            *("--backend-store-uri", f"sqlite:///{server.data / 'mlflow.db'}"),
            *("--artifacts-destination", str(server.data / "artifacts")),
        ],
        env=environment(server.data),
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def plain(staged, tmp_path):
    """Return the environment of a client that has MLflow and the server's address only."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    kept = {
        name: value
        for name, value in environment(tmp_path).items()
        if not name.startswith(("AWS_", "MLFLOW_S3_"))
    }
    return {
        **kept,
        # MLflow's model server calls uvicorn by its name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "MLFLOW_TRACKING_URI": staged.url,
        "MLFLOW_REGISTRY_URI": staged.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
    }


def test_the_registry_says_where_the_frozen_copy_lies_and_the_log_what_was_copied(staged, world):
    ((location,),) = query(
        staged.data / "mlflow.db", "SELECT storage_location FROM model_versions WHERE version = 1"
    )
    release_id = digest_of(world.releases[0])
    assert location == f"mlflow-artifacts:/kfm-frozen/{release_id.removeprefix('sha256:')}/release"
    log = (staged.data.parent / "server.log").read_text()
    assert f"INFO mlflow.kfm.freeze: {release_id}: copying" in log
    assert f"INFO mlflow.kfm.freeze: {release_id}: reading back" in log


def test_plain_mlflow_loads_and_serves_it_by_alias(staged, plain, tmp_path):
    with serving(plain, tmp_path) as url:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, f"models:/{NAME}@staging"],
            input=json.dumps(ROWS.tolist()),
            env=plain,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        line = next(row for row in done.stdout.splitlines() if row.startswith("ANSWER "))
        found = np.array(json.loads(line.removeprefix("ANSWER ")))
        np.testing.assert_allclose(found.reshape(EXPECTED.shape), EXPECTED, rtol=1e-5)
        answer = requests.post(f"{url}/invocations", json={"inputs": ROWS.tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    predicted = answer.json()["predictions"]
    predicted = next(iter(predicted.values())) if isinstance(predicted, dict) else predicted
    found = np.array(predicted, dtype=float)
    np.testing.assert_allclose(found.reshape(EXPECTED.shape), EXPECTED, rtol=1e-5)


@contextmanager
def serving(env: dict[str, str], folder: Path) -> Iterator[str]:
    """Run ``mlflow models serve`` until the block ends."""
    port = free_port()
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "-m"),
                *(f"models:/{NAME}@staging", "--env-manager", "local"),
                *("--host", "127.0.0.1", "-p", str(port)),
            ],
            env=env,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await_ping(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def await_ping(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/ping", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])
