"""The artifact doors: whatever becomes of a source, what was released is read as it was.

The requests run from harmless to destructive; the last ones delete the run and the logged model for
good, and the releases are still read.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from registry.door_world import Ask
from registry.server import environment
from registry.world import NAME, digest_of, only_refused, tiny_rows, uri_of

from kfm_mlflow.registry.doors import Reason
from kfm_mlflow.registry.route_doors import ARTIFACT_DOORS
from kfm_mlflow.release.manifest import build_manifest

pytestmark = pytest.mark.server
FROZEN = ("releases are immutable",)
AJAX, API = ("/ajax-api/",), ("/api/",)
UPLOAD = "POST /ajax-api/2.0/mlflow/upload-artifact"
PROXY = "2.0/mlflow-artifacts/artifacts"
EXPERIMENT = "POST 2.0/mlflow/experiments/create"
PRESIGN = "POST 2.0/mlflow/artifacts/presigned-upload-url"
DEEP = "../" * 6

REFUSED = (
    *(
        Ask(f"{method} {PROXY}/{path}", 403, b"evil", FROZEN)
        for method in ("PUT", "DELETE")
        for path in ("kfm-frozen/{key}/release/MLmodel", "kfm-frozen", "0/x%2F..%2F..%2Fkfm%2Dfrozen/{key}")
    ),
    *(
        Ask(f"POST 2.0/mlflow-artifacts/mpu/{step}/kfm-frozen/{{key}}/release", 403, {"path": "MLmodel", "num_parts": 1}, FROZEN)
        for step in ("create", "complete", "abort")
    ),
    *(
        Ask(f"POST 2.0/mlflow-artifacts/mpu/{step}/0/x", 403, {"path": f"{DEEP}kfm-frozen/{{key}}/release/MLmodel"}, FROZEN)
        for step in ("create", "complete", "abort")
    ),
    Ask("POST 2.0/mlflow-artifacts/mpu/create/0/x", 403, {"uploadId": "u", "path": "%6bfm%2dfrozen/x"}, FROZEN),
    Ask(PRESIGN, 403, {"run_id": "{run_id}", "path": f"{DEEP}kfm-frozen/{{key}}/release/MLmodel"}, FROZEN),
    Ask(PRESIGN, 403, {"model_id": "{model_id}", "path": "..%2f..%2fkfm-frozen/{key}"}, FROZEN),
    # MLflow's own answer: this server's artifacts have no address to presign.
    Ask(PRESIGN, 400, {"run_id": "{run_id}", "path": "release/MLmodel"}),
    *(
        Ask(EXPERIMENT, 403, body, FROZEN)
        for body in (
            {"name": "sneaky", "artifact_location": "mlflow-artifacts:/kfm-frozen/{key}"},
            {"name": "sneaky", "artifactLocation": "mlflow-artifacts:/kfm-frozen/{key}"},
            '{"name": "sneaky", "artifact_location": "mlflow-artifacts:/kfm-frozen/{key}"}',
            {"name": "sneaky", "artifact_location": "mlflow-artifacts:/a/..%2F%6bfm-frozen"},
            {"name": "sneaky", "artifact_location": "file:///srv/artifacts/kfm-frozen"},
            b'{"name": "sneaky", "artifact_location": "mlflow-artifacts:/\\u006bfm-frozen"}',
        )
    ),
    *(
        Ask(UPLOAD, status, b"evil", words, query=f"run_uuid={{run_id}}&path={path}")
        for path, status, words in (
            (f"{DEEP}kfm-frozen/{{key}}/release/MLmodel", 403, FROZEN),
            ("a%2F..%2F..%2Fkfm%2Dfrozen%2Fx", 403, FROZEN),
            (f"{DEEP}other", 400, ("Invalid path",)),
            ("/etc/passwd", 400, ("Invalid path",)),
            ("..%252f..%252fx", 400, ("Invalid path",)),
        )
    ),
)  # fmt: skip

PASSING = (
    # The sources of v1 and v2 are overwritten, as their owners may.
    Ask(f"PUT {PROXY}/{{source_path}}/MLmodel", 200, b"evil"),
    Ask(f"PUT {PROXY}/{{model_root_path}}/MLmodel", 200, b"evil"),
    Ask(UPLOAD, 200, b"evil", query="run_uuid={run_id}&path=release/model.onnx"),
    Ask("POST 2.0/mlflow/experiments/update", 200, {"experiment_id": "0", "new_name": "Renamed"}),
    Ask("POST 2.0/mlflow/experiments/set-experiment-tag", 200, {"experiment_id": "0", "key": "kfm.x", "value": "y"}),
    Ask("POST 2.0/mlflow/runs/update", 200, {"run_id": "{run_id}", "status": "FAILED", "run_name": "x"}),
    Ask("POST 2.0/mlflow/runs/set-tag", 200, {"run_id": "{run_id}", "key": "mlflow.x", "value": "y"}),
    Ask("POST 2.0/mlflow/runs/log-batch", 200, {"run_id": "{run_id}", "metrics": [{"key": "nrmse", "value": 0, "timestamp": 1, "step": 0}]}),
    Ask("PATCH 2.0/mlflow/logged-models/{model_id}", 200, {"model_id": "{model_id}", "status": "LOGGED_MODEL_UPLOAD_FAILED"}),
    Ask("PATCH 2.0/mlflow/logged-models/{model_id}/tags", 200, {"tags": [{"key": "kfm.level", "value": "production"}]}),
    Ask("DELETE 2.0/mlflow/logged-models/{model_id}/tags/kfm.level", 200, prefixes=API),
    Ask("POST 2.0/mlflow/logged-models/{model_id}/params", 200, {"model_id": "{model_id}", "params": [{"key": "a", "value": "b"}]}, prefixes=API),
    Ask(f"DELETE {PROXY}/{{source_path}}/model.onnx", 200, prefixes=API),
    Ask("POST 2.0/mlflow/runs/delete", 200, {"run_id": "{run_id}"}, prefixes=API),
    Ask("POST 2.0/mlflow/runs/restore", 200, {"run_id": "{run_id}"}, prefixes=AJAX),
    Ask("POST 2.0/mlflow/runs/delete", 200, {"run_id": "{run_id}"}, prefixes=AJAX),
    Ask("DELETE 2.0/mlflow/logged-models/{model_id}", 200, prefixes=API),
)  # fmt: skip


@pytest.mark.parametrize("ask", REFUSED, ids=str)
def test_no_request_writes_below_the_frozen_area(door_server, ask):
    before = door_server.state()
    for answer in door_server.send(ask):
        assert answer.status_code == ask.status, answer.text
        for word in ask.words:
            assert word in answer.json()["message"]
        if ask.words == FROZEN:
            assert answer.json()["reason_code"] == Reason.FROZEN_AREA
    assert door_server.state() == before


def test_a_path_that_climbs_is_sent_as_it_is_and_refused(door_server):
    # requests would tidy the path up before sending it.
    before, host = door_server.governed(), door_server.server.url.removeprefix("http://")
    for method in ("PUT", "DELETE"):
        for path in (
            f"0/{DEEP}kfm-frozen/x",
            f"{DEEP}x",
            "a/../../x",
            "..%2f..%2fx",
            "%252e%252e/x",
        ):
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(method, f"/api/{PROXY}/{path}", body=b"evil")
            assert connection.getresponse().status in (400, 403), path
            connection.close()
    assert door_server.governed() == before


@pytest.mark.parametrize("ask", PASSING, ids=str)
def test_a_source_may_change_and_what_was_released_does_not(door_server, ask):
    before = door_server.governed()
    assert [status for status, _ in before["read"]] == [200, 200]
    for answer in door_server.send(ask):
        assert answer.status_code == ask.status, answer.text
    assert door_server.governed() == before


def test_every_artifact_row_is_tried():
    tried = {ask.door().name for ask in (*REFUSED, *PASSING)}
    assert tried == {row.name for row in ARTIFACT_DOORS}


def test_logging_to_a_finished_run_and_a_ready_model_changes_nothing_released(
    door_server, tmp_path
):
    evil = tmp_path / "MLmodel"
    evil.write_bytes(b"evil")
    client, before = door_server.server.client(), door_server.governed()
    run = client.create_run("0")
    client.set_terminated(run.info.run_id)
    client.log_artifact(run.info.run_id, str(evil), "release")
    client.log_artifact(door_server.names["run_id"], str(evil), "release")
    logged = client.create_logged_model("0", name="other")
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_model_artifact(logged.model_id, str(evil))
    assert door_server.governed() == before


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../kfm-frozen", "MLmodel"])
def test_a_release_with_a_link_in_it_goes_nowhere(door_server, world, target):
    held, client = door_server, door_server.server.client()
    name = f"climate-linked-{len(target)}"
    version = held.server.register(world.releases[2], name)
    source = client.get_model_version(name, str(version)).source.removeprefix("mlflow-artifacts:/")
    link = held.server.data / "artifacts" / source / "xai" / "link"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    before = held.state()
    move = {"name": name, "version": str(version), "stage": "Staging"}
    answer = held.server.post("model-versions/transition-stage", **move)
    assert answer.status_code == 403, answer.text
    assert answer.json()["message"].startswith(f"KFM refused Staging for {name} v{version}")
    only_refused(before, held.state())
    link.unlink()


def test_garbage_collection_of_the_sources_leaves_the_releases(door_server, world, tmp_path):
    held, before = door_server, door_server.governed()
    client = held.server.client()
    artifacts = held.server.data / "artifacts"
    # A test before may have deleted them.
    with suppress(MlflowException):
        client.delete_run(held.names["run_id"])
    with suppress(MlflowException):
        client.delete_logged_model(held.names["model_id"])
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "mlflow", "gc"),
            *("--backend-store-uri", uri_of(held.server.database)),
            *("--tracking-uri", held.server.url),
        ],
        cwd=tmp_path,
        env={**environment(tmp_path), "MLFLOW_TRACKING_URI": held.server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for source in ("source_path", "model_root_path"):
        kept = [p for p in (artifacts / held.names[source]).rglob("*") if p.is_file()]
        assert kept == []  # it did delete them
    assert held.governed() == before
    for alias, release in (("champion", world.releases[0]), ("staging", world.releases[1])):
        found = client.get_model_version_by_alias(NAME, alias)
        copy = mlflow.artifacts.download_artifacts(
            client.get_model_version_download_uri(NAME, found.version),
            dst_path=str(tmp_path),
            tracking_uri=held.server.url,
        )
        assert build_manifest(Path(copy)).release_id == digest_of(release)
        shutil.rmtree(copy)


_LOAD = """
import sys
sys.modules["kfm_mlflow"] = None  # whoever imports it fails
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/{name}@champion")
numpy.save("answers.npy", model.predict({{"input": numpy.load("rows.npy")}})["output"])
"""


def test_after_all_of_it_plain_mlflow_loads_and_runs_the_champion(door_server, tmp_path):
    np.save(tmp_path / "rows.npy", tiny_rows(3))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD.format(name=NAME)],
        cwd=tmp_path,
        env={**environment(tmp_path), "MLFLOW_TRACKING_URI": door_server.server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.load(tmp_path / "answers.npy").shape == (3, 8, 8)
