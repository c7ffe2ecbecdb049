"""Freezing in a bucket, against a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from registry.bucket import BUCKET, delete_objects, objects, s3_server
from registry.made_bundle import make_bundle

from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release import frozen_s3, s3
from kfm_mlflow.release.freeze import ArtifactArea, Progress, freeze, local_bundle
from kfm_mlflow.release.manifest import FileEntry, build_manifest

MB = 2**20
PART = 5 * MB  # The smallest that S3 takes.


@pytest.fixture(scope="module")
def client():
    with s3_server() as made:
        yield made


@pytest.fixture
def area(client, request):
    """Return an area of its own prefix for every test."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return ArtifactArea(f"s3://{BUCKET}/{name}/artifacts", proxied=True)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "source")


def prefix_of(area) -> str:
    return area.destination.removeprefix(f"s3://{BUCKET}/")


def frozen(client, area, bundle) -> dict[str, bytes]:
    """Return path -> bytes of what is below a release's prefix."""
    key = build_manifest(bundle.release_dir).release_id.removeprefix("sha256:")
    start = f"{prefix_of(area)}/kfm-frozen/{key}/"
    return {path.removeprefix(start): data for path, data in objects(client, start).items()}


def test_a_frozen_prefix_holds_release_evidence_and_the_manifest_that_is_its_name(
    client, area, bundle
):
    manifest = build_manifest(bundle.release_dir)
    uri = freeze(bundle, manifest, area)
    key = manifest.release_id.removeprefix("sha256:")
    assert uri == f"mlflow-artifacts:/kfm-frozen/{key}/release"
    found = frozen(client, area, bundle)
    assert hashlib.sha256(found.pop("frozen.json")).hexdigest() == key
    assert found == {
        "release/MLmodel": b"m",
        "release/xai/a.json": b"{}",
        "release/xai/empty": b"",
        "release.evidence/release.sig": b"sig",
    }
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest
        assert copy.signature_path.read_bytes() == b"sig"


def test_freezing_what_is_frozen_writes_nothing(client, area, bundle):
    manifest, told = build_manifest(bundle.release_dir), []
    freeze(bundle, manifest, area, told.append)
    assert [(p.phase, p.done_bytes) for p in told] == [
        ("copying", manifest.size_bytes),
        ("reading back", manifest.size_bytes),
    ]
    before = {
        item["Key"]: item["LastModified"]
        for item in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix_of(area))["Contents"]
    }
    freeze(bundle, manifest, area, told.append)
    assert [p.phase for p in told[2:]] == ["reading back"]
    after = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix_of(area))["Contents"]
    assert before == {item["Key"]: item["LastModified"] for item in after}


def test_evidence_that_came_later_is_added_and_none_is_lost(client, area, bundle):
    manifest = build_manifest(bundle.release_dir)
    first = bundle.evidence_dir / "validation-a.intoto.json"
    first.write_bytes(b"old")
    uri = freeze(bundle, manifest, area)
    first.write_bytes(b"renewed")
    bundle.signature_path.write_bytes(b"another signature")
    freeze(bundle, manifest, area)
    freeze(bundle, manifest, area)
    with local_bundle(area.resolve(uri)) as copy:
        assert sorted(data for _, data in copy.read_envelopes()) == [b"old", b"renewed"]
        assert copy.signature_path.read_bytes() == b"another signature"


def test_many_freezers_of_the_same_bytes_are_one_and_lose_no_evidence(
    client, area, bundle, tmp_path
):
    manifest = build_manifest(bundle.release_dir)
    others = []
    for number in range(3):
        other = make_bundle(tmp_path / f"source-{number}")
        (other.evidence_dir / "validation.intoto.json").write_bytes(b"%d" % number)
        others.append(other)
    with ThreadPoolExecutor(3) as pool:
        (uri,) = set(pool.map(lambda one: freeze(one, manifest, area), others))
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest
        assert sorted(data for _, data in copy.read_envelopes()) == [b"0", b"1", b"2"]


def test_bytes_that_changed_are_never_written_so_no_freezer_can_spoil_anothers_copy(
    client, area, bundle, tmp_path
):
    manifest = build_manifest(bundle.release_dir)
    freeze(bundle, manifest, area)
    before = frozen(client, area, bundle)
    client.delete_object(  # As the other freezer sees it that began before this one was done.
        Bucket=BUCKET,
        Key=f"{prefix_of(area)}/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}/frozen.json",
    )
    client.delete_object(
        Bucket=BUCKET,
        Key=f"{prefix_of(area)}/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}/release/MLmodel",
    )
    other = make_bundle(tmp_path / "other")
    (other.release_dir / "MLmodel").write_bytes(b"!")
    with pytest.raises(ManifestError, match="MLmodel: changed while it was copied"):
        freeze(other, manifest, area)
    freeze(bundle, manifest, area)
    assert frozen(client, area, bundle) == before


class _Crash(BaseException):
    """What a killed process looks like to the bucket: no clean-up, nothing more is sent."""


@pytest.mark.parametrize("survived", range(5))
def test_a_freeze_that_ends_between_two_objects_does_not_count_and_is_resumed(
    client, area, bundle, monkeypatch, survived
):
    manifest, left = build_manifest(bundle.release_dir), [survived]

    def dies(after):
        def wrapped(*args, **kwargs):
            if left[0] <= 0:
                raise _Crash
            left[0] -= 1
            return after(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(frozen_s3, "_THREADS", 1)
        patch.setattr(s3.S3Folder, "put", dies(s3.S3Folder.put))
        patch.setattr(s3.S3Folder, "put_bytes", dies(s3.S3Folder.put_bytes))
        with pytest.raises(_Crash):
            freeze(bundle, manifest, area)
    left_over = frozen(client, area, bundle)
    assert len(left_over) == survived
    assert "frozen.json" not in left_over
    told: list[Progress] = []
    uri = freeze(bundle, manifest, area, told.append)
    assert [p.phase for p in told] == ["copying", "reading back"]
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest


KILLED = """
import os, signal, sys
from pathlib import Path
from kfm_mlflow.release import freeze as front, s3
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest

s3.PART_BYTES = int(sys.argv[3])
init = s3.S3Folder.__init__
def with_small_parts(self, uri, **kwargs):
    init(self, uri, **kwargs, part_bytes=s3.PART_BYTES)
    send = self._client.upload_part
    def dies(**arguments):
        if arguments["PartNumber"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return send(**arguments)
    self._client.upload_part = dies
s3.S3Folder.__init__ = with_small_parts
bundle = bundle_at(Path(sys.argv[1]))
front.freeze(bundle, build_manifest(bundle.release_dir), front.ArtifactArea(sys.argv[2], True))
"""


def test_a_freeze_killed_in_the_middle_of_a_large_file_leaves_no_such_object(
    client, area, tmp_path
):
    bundle = make_bundle(tmp_path / "large", large_bytes=11 * MB)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, bundle.release_dir, area.destination, str(PART)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = frozen(client, area, bundle)
    assert "release/model.pt" not in left
    assert "frozen.json" not in left
    uri = freeze(bundle, build_manifest(bundle.release_dir), area)
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == build_manifest(bundle.release_dir)


@pytest.mark.parametrize("size_bytes", [PART, PART + 256, 2 * PART, 2 * PART + 256])
def test_large_files_go_in_parts_and_arrive_whole(client, area, tmp_path, size_bytes):
    path = tmp_path / "large"
    data = bytes(range(256)) * (size_bytes // 256)
    path.write_bytes(data)
    entry = FileEntry("large", size_bytes, f"sha256:{hashlib.sha256(data).hexdigest()}")
    folder, counted = s3.S3Folder(area.destination, part_bytes=PART), []
    assert folder.put("x", path, entry, counted.append)
    assert sum(counted) == size_bytes
    assert max(counted) == PART
    assert folder.digest("x") == entry.digest
    assert not folder.put("x", path, entry, only_new=True)


def test_a_large_file_that_changed_is_taken_back(client, area, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(PART + 1))
    entry = FileEntry("large", PART + 1, f"sha256:{0:064x}")
    with pytest.raises(ManifestError, match="large: changed while it was copied"):
        s3.S3Folder(area.destination, part_bytes=PART).put("x", path, entry)
    assert objects(client, prefix_of(area)) == {}
    unfinished = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [item for item in unfinished if item["Key"].startswith(prefix_of(area))] == []


@pytest.mark.parametrize("change", ["alter", "remove", "add", "marker"])
def test_any_change_of_a_frozen_copy_is_found_and_named(client, area, bundle, change):
    manifest = build_manifest(bundle.release_dir)
    freeze(bundle, manifest, area)
    key = f"{prefix_of(area)}/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}"
    if change == "remove":
        client.delete_object(Bucket=BUCKET, Key=f"{key}/release/xai/a.json")
    else:
        path = {"alter": "release/xai/a.json", "add": "release/xai/b.json", "marker": "frozen.json"}
        client.put_object(Bucket=BUCKET, Key=f"{key}/{path[change]}", Body=b"[]")
    before = objects(client, key)
    named = {"add": r"xai/b\.json", "marker": r"frozen\.json"}.get(change, r"xai/a\.json")
    with pytest.raises(ManifestError, match=rf"no longer has its release id \({named}"):
        freeze(bundle, manifest, area)
    assert objects(client, key) == before


def test_what_a_stranger_put_into_an_unfinished_prefix_is_refused_by_name(client, area, bundle):
    manifest = build_manifest(bundle.release_dir)
    key = f"{prefix_of(area)}/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}"
    client.put_object(Bucket=BUCKET, Key=f"{key}/release/evil.py", Body=b"")
    with pytest.raises(ManifestError, match=r"release/evil\.py: lies in the frozen area"):
        freeze(bundle, manifest, area)
    client.delete_object(Bucket=BUCKET, Key=f"{key}/release/evil.py")
    client.put_object(Bucket=BUCKET, Key=f"{key}/release/MLmodel", Body=b"!")
    with pytest.raises(ManifestError, match="MLmodel changed"):
        freeze(bundle, manifest, area)
    assert f"{key}/frozen.json" not in objects(client, key)


@pytest.mark.parametrize("name", ["../outside", "a/../../b", "a//b", "a\\b", ".gitignore"])
def test_a_key_that_leads_elsewhere_is_refused_by_its_name_and_nothing_is_written(
    client, area, name
):
    client.put_object(Bucket=BUCKET, Key=f"{prefix_of(area)}/release/{name}", Body=b"x")
    with (
        pytest.raises(ManifestError) as caught,
        local_bundle(f"{area.destination}/release"),
    ):
        pass
    assert caught.value.where == name


def test_a_source_that_is_not_there_is_named(client, area):
    with (
        pytest.raises(StorageError, match=f"{area.destination}/nowhere: nothing is there"),
        local_bundle(f"{area.destination}/nowhere"),
    ):
        pass


def test_under_object_lock_freezing_works_and_a_newer_version_on_top_is_found(client, bundle):
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    manifest, area = build_manifest(bundle.release_dir), ArtifactArea("s3://locked/x", proxied=True)
    freeze(bundle, manifest, area)
    (bundle.evidence_dir / "later.intoto.json").write_bytes(b"later")
    freeze(bundle, manifest, area)
    key = f"x/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}/release/MLmodel"
    locked = client.head_object(Bucket="locked", Key=key)["VersionId"]
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket="locked", Key=key, VersionId=locked)
    newer = client.put_object(Bucket="locked", Key=key, Body=b"evil")["VersionId"]
    with pytest.raises(ManifestError, match="MLmodel changed"):
        freeze(bundle, manifest, area)
    assert client.get_object(Bucket="locked", Key=key, VersionId=locked)["Body"].read() == b"m"
    assert newer != locked


# -- errors ------------------------------------------------------------------------------------------


def freeze_into(area, bundle):
    freeze(bundle, build_manifest(bundle.release_dir), area)


def test_a_bucket_that_is_not_there_is_a_storage_error_with_what_to_do(client, bundle):
    area = ArtifactArea("s3://no-such-bucket/x", proxied=True)
    with pytest.raises(
        StorageError, match=r"^mlflow-artifacts:/kfm-frozen/\w+: .*NoSuchBucket.*make the bucket"
    ):
        freeze_into(area, bundle)


def test_an_endpoint_that_does_not_answer_is_a_storage_error(client, area, bundle, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"EndpointConnectionError.*MLFLOW_S3_ENDPOINT_URL"):
        freeze_into(area, bundle)


def test_an_endpoint_that_is_no_url_is_a_storage_error(client, area, bundle, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "nonsense")
    with pytest.raises(StorageError, match="ValueError"):
        freeze_into(area, bundle)


def test_no_credentials_are_a_storage_error(client, area, bundle, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # boto3 remembers credentials, and MLflow clients by the name of their endpoint.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    endpoint = client.meta.endpoint_url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=r"NoCredentialsError.*give the server AWS credentials"):
        freeze_into(area, bundle)


def test_another_store_is_refused_rather_than_trusted(bundle):
    with pytest.raises(StorageError, match="neither a folder nor an S3 bucket"):
        freeze_into(ArtifactArea("gs://bucket/x", proxied=True), bundle)


def test_every_error_of_botocore_becomes_a_storage_error():
    from botocore import exceptions

    def leaves(kind):
        return [kind, *(leaf for sub in kind.__subclasses__() for leaf in leaves(sub))]

    kinds = [*leaves(exceptions.BotoCoreError), exceptions.ClientError]
    assert len(kinds) > 50
    for kind in kinds:
        made = kind.__new__(kind)
        Exception.__init__(made, "vendor's words about arn:aws:iam::1234:user/x")
        with pytest.raises(StorageError) as caught, s3._translated("s3://b/x"):
            raise made
        assert "arn:aws" not in str(caught.value)
        assert str(caught.value).startswith(f"s3://b/x: the object store failed ({kind.__name__});")
    for code in ("AccessDenied", "SlowDown", "InternalError", "503"):
        error = exceptions.ClientError({"Error": {"Code": code}}, "PutObject")
        assert f"({code})" in str(s3.storage_error(error, "s3://b/x"))


def test_deleting_the_source_changes_nothing(client, area, bundle, tmp_path):
    manifest = build_manifest(bundle.release_dir)
    source = f"{area.destination}/1/run/artifacts"
    for path in bundle.release_dir.parent.rglob("*"):
        if path.is_file():
            name = path.relative_to(bundle.release_dir.parent).as_posix()
            key = f"{source.removeprefix(f's3://{BUCKET}/')}/{name}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    with local_bundle(f"{source}/release") as judged:
        uri = freeze(judged, manifest, area)
    delete_objects(client, source.removeprefix(f"s3://{BUCKET}/"))
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest
        assert copy.signature_path.read_bytes() == b"sig"
