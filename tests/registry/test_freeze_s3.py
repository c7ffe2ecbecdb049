"""Moves of a registry whose artifacts lie in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from registry.bucket import BUCKET, delete_objects, objects, s3_server
from registry.world import NAME, SERVES, digest_of, dump, told

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from registry.world import Registry

ROOT = "area"


@pytest.fixture(scope="module")
def client():
    with s3_server() as made:
        yield made


@pytest.fixture
def on_s3(registry: Registry, client, world):
    """Return the registry, freezing in an emptied bucket, and v1 whose source lies there."""
    delete_objects(client, "")
    registry.store.admission.environ = {
        "KFM_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/{ROOT}",
        SERVES: "true",
    }
    register(registry, client, world.releases[0], "1/run/artifacts")
    return registry


def register(registry: Registry, client, bundle, where: str) -> int:
    for folder in (bundle.release_dir, bundle.evidence_dir):
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
                client.upload_file(str(path), BUCKET, f"{ROOT}/{where}/{name}")
    store = registry.store
    if not registry.query("SELECT 1 FROM registered_models WHERE name = ?", NAME):
        store.create_registered_model(NAME)
    source = f"mlflow-artifacts:/{where}/release"
    return int(store.create_model_version(NAME, source, "run").version)


def frozen_key(bundle) -> str:
    return f"{ROOT}/kfm-frozen/{digest_of(bundle).removeprefix('sha256:')}"


def test_a_release_goes_from_staging_to_production_when_its_source_is_gone(on_s3, client, world):
    key = frozen_key(world.releases[0])
    on_s3.store.move(NAME, 1, Level.STAGING)
    delete_objects(client, f"{ROOT}/1/")
    on_s3.store.move(NAME, 1, Level.CANARY)
    on_s3.endorse(1)
    on_s3.store.move(NAME, 1, Level.PRODUCTION)
    ((location, source),) = on_s3.query("SELECT storage_location, source FROM model_versions")
    assert location == f"mlflow-artifacts:/{key.removeprefix(f'{ROOT}/')}/release"
    assert source == "mlflow-artifacts:/1/run/artifacts/release"
    frozen = objects(client, f"{key}/release/")
    manifest = build_manifest(world.releases[0].release_dir)
    assert {path.removeprefix(f"{key}/release/") for path in frozen} == set(manifest.digests)


def test_a_frozen_copy_that_was_written_to_stops_the_next_move(on_s3, client, world):
    on_s3.store.move(NAME, 1, Level.STAGING)
    key = f"{frozen_key(world.releases[0])}/release/model.onnx"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"evil")
    with told(403, "KFM refused"):
        on_s3.store.move(NAME, 1, Level.CANARY)
    assert on_s3.level(1) == "staging"


@pytest.mark.parametrize("trouble", ["endpoint", "stranger", "denied"])
def test_a_bucket_that_fails_is_a_refusal_that_is_not_retried_and_nothing_is_written(
    on_s3, client, world, monkeypatch, trouble
):
    before = dump(on_s3.database)
    key = frozen_key(world.releases[0])
    if trouble == "stranger":
        client.put_object(Bucket=BUCKET, Key=f"{key}/release/evil.py", Body=b"")
        words = ("release/evil.py", "lies in the frozen area", "remove it")
    else:
        from botocore.exceptions import ClientError, EndpointConnectionError

        from kfm_mlflow.release.s3 import S3Folder

        denied = ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
        error = (
            denied if trouble == "denied" else EndpointConnectionError(endpoint_url="http://10.1/")
        )

        def fails(self, *args, **kwargs):
            from kfm_mlflow.release.s3 import _translated

            with _translated(self.shown):
                raise error

        monkeypatch.setattr(S3Folder, "put", fails)
        remedy = "s3:PutObject" if trouble == "denied" else "MLFLOW_S3_ENDPOINT_URL"
        words = ("mlflow-artifacts:/kfm-frozen/", remedy)
    with told(403, *words) as caught:
        on_s3.store.move(NAME, 1, Level.STAGING)
    assert "10.1" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert dump(on_s3.database) == before
    assert f"{key}/frozen.json" not in objects(client, key)
    if trouble != "stranger":
        monkeypatch.undo()
        on_s3.store.move(NAME, 1, Level.STAGING)
        assert on_s3.level(1) == "staging"


def test_a_key_that_climbs_out_makes_it_no_release(on_s3, client):
    key = f"{ROOT}/1/run/artifacts/release/../../../../../../tmp/kfm-escaped"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    with told(403, "KFM refused Staging"):
        on_s3.store.move(NAME, 1, Level.STAGING)
    assert on_s3.level(1) == "candidate"
