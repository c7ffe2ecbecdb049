"""Fetching from every kind of store: what is kept is whole, as its digest says, and signed.

S3 is moto's server; Google Cloud Storage and the Hugging Face hub are the small servers of
``loopback_stores.py``, which speak just the calls that the clients make.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime

# Read when gcsfs is imported: without it the client asks Google's gRPC service first.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import numpy as np
import pytest
from fleet.loopback_stores import GoogleStorage, HuggingFaceHub, serve
from fleet.made_manifests import entry, manifest
from registry.bucket import BUCKET, s3_server
from safetensors.numpy import save_file

from kfm_mlflow.errors import InputError, IntegrityError, SignatureError, StorageError
from kfm_mlflow.fleet import stores_fetch
from kfm_mlflow.fleet.manifest import parse_manifest
from kfm_mlflow.fleet.stores import parse_stores
from kfm_mlflow.fleet.stores_fetch import FetchLimits, Trust, fetch_artifact
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import TrustedKey, generate_key
from kfm_mlflow.trust.signing import sign_release

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROOTS = {
    "s3": f"s3://{BUCKET}/models",
    "gs": "gs://bucket/models",
    "hf": "hf://owner/repository@main/models",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A signed artifact ``good``, the same unsigned, and one with a script in it."""
    root = tmp_path_factory.mktemp("store")
    key = root / "key.pem"
    pem = generate_key(key).pem
    source = root / "models"
    for name in ("good", "unsigned", "script", "pickled"):
        (source / name / "base").mkdir(parents=True)
        (source / name / "unit.json").write_text('{"schema_version":"1"}')
        save_file({"w": np.arange(9.0)}, source / name / "base" / "model.safetensors")
    (source / "script" / "model.py").write_text("print()")
    # A pickle under a harmless name that would call os.system.
    (source / "pickled" / "notes.txt").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00lsR.")
    sign_release(source / "good", source / "good.sig", key)
    return source, (TrustedKey("provider", pem),)


@pytest.fixture(scope="module")
def stores(made):
    """Put the same files into every kind of store; give scheme -> URI of their folder."""
    source, _ = made
    files = {
        p.relative_to(source.parent).as_posix(): p.read_bytes()
        for p in source.rglob("*")
        if p.is_file()
    }
    import fsspec

    hub = {f"owner/repository/{name}": data for name, data in files.items()}
    hub["owner/repository/.gitattributes"] = b"*.safetensors filter=lfs"
    with (
        pytest.MonkeyPatch.context() as patch,
        s3_server() as client,
        serve(GoogleStorage, {f"bucket/{n}": d for n, d in files.items()}) as (google, _),
        serve(HuggingFaceHub, hub) as (face, _),
    ):
        patch.setenv("AWS_ENDPOINT_URL", os.environ["MLFLOW_S3_ENDPOINT_URL"])
        patch.setenv("STORAGE_EMULATOR_HOST", google)
        patch.setenv("HF_ENDPOINT", face)
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        for name, data in files.items():
            client.put_object(Bucket=BUCKET, Key=name, Body=data)
        yield {**ROOTS, "file": f"file://{source}"}


def artifact_at(uri, folder, **changed):
    digest = changed.pop("digest", None) or build_manifest(folder).release_id
    document = manifest("aws", entry("aws", uri=uri, digest=digest, **changed))
    (found,) = parse_manifest(document, where="m").artifacts
    return found


def fetch(made, root, name, into, *, unsafe=False, limits=None, **changed):
    source, trusted = made
    artifact = artifact_at(changed.pop("uri", f"{root}/{name}"), source / name, **changed)
    trust = Trust(trusted, NOW, unsafe_unsigned=unsafe)
    return fetch_artifact(artifact, parse_stores([root]), into, trust, limits or FetchLimits())


def left(into):
    return sorted(path.name for path in into.rglob("*") if path.is_file()) if into.exists() else []


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf", "file"])
def test_signed_artifact_is_fetched_from_every_store_and_only_once(made, stores, tmp_path, scheme):
    source, _ = made
    fetched = fetch(made, stores[scheme], "good", tmp_path)
    assert (fetched.signer, fetched.is_new) == ("provider", True)
    assert fetched.directory.name == fetched.artifact.digest.removeprefix("sha256:")
    assert build_manifest(fetched.directory) == build_manifest(source / "good")
    assert not fetch(made, stores[scheme], "good", tmp_path).is_new


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf", "file"])
def test_unsigned_artifact_is_refused_by_every_store(made, stores, tmp_path, scheme):
    with pytest.raises(SignatureError, match=r"unsigned\.sig: is not signed"):
        fetch(made, stores[scheme], "unsigned", tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf", "file"])
def test_place_where_nothing_is_has_nothing(made, stores, tmp_path, scheme):
    with pytest.raises(StorageError, match="nothing is there"):
        fetch(made, stores[scheme], "good", tmp_path, uri=f"{stores[scheme]}/nothing")
    assert left(tmp_path) == []


def test_unsigned_artifact_is_taken_when_asked_and_that_is_logged(made, stores, tmp_path, caplog):
    fetched = fetch(made, stores["file"], "unsigned", tmp_path, unsafe=True)
    assert fetched.signer is None
    assert "UNSAFE" in caplog.text
    with pytest.raises(SignatureError):
        fetch(made, stores["file"], "unsigned", tmp_path)


def test_signature_over_other_bytes_or_by_a_stranger_is_refused_even_then(made, stores, tmp_path):
    signature = f"{stores['file']}/good.sig"
    with pytest.raises(SignatureError):
        fetch(
            made,
            stores["file"],
            "unsigned",
            tmp_path,
            unsafe=True,
            digest=None,
            signature=f"{stores['file']}/good/unit.json",
        )
    stranger = (made[0], ())
    with pytest.raises(SignatureError, match="trust its signer"):
        fetch(stranger, stores["file"], "good", tmp_path, unsafe=True, signature=signature)
    assert left(tmp_path) == []


def test_bytes_of_another_digest_are_refused_and_nothing_is_left(made, stores, tmp_path):
    with pytest.raises(IntegrityError, match="nothing of it was kept"):
        fetch(made, stores["s3"], "good", tmp_path, digest="sha256:" + "ab" * 32)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"), [("script", r"model\.py may run code"), ("pickled", "posix.system")]
)
def test_what_would_run_code_is_refused(made, stores, tmp_path, name, words):
    with pytest.raises(IntegrityError, match=words):
        fetch(made, stores["file"], name, tmp_path, unsafe=True)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "limits", [FetchLimits(max_artifact_bytes=100), FetchLimits(max_file_count=1)]
)
def test_artifact_that_is_too_large_is_refused_before_it_is_fetched(made, stores, tmp_path, limits):
    with pytest.raises(InputError, match="more than"):
        fetch(made, stores["gs"], "good", tmp_path, limits=limits)
    assert left(tmp_path) == []


def test_store_that_lists_less_than_it_sends_is_cut_off(tmp_path):
    class Store:
        def open(self, name, mode):
            return open(name, mode)  # noqa: PTH123 - fsspec's own form

    source = tmp_path / "long"
    source.write_bytes(b"x" * 3 * 2**20)
    with pytest.raises(InputError, match="larger than its store listed"):
        stores_fetch._copy(Store(), str(source), tmp_path / "copy", 2**20, "here")
    assert (tmp_path / "copy").stat().st_size <= 2**20


def test_artifact_of_one_file_is_a_folder_of_that_file(made, stores, tmp_path):
    source, _ = made
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(source / "good" / "unit.json", alone)
    uri = f"{stores['s3']}/good/unit.json"
    digest = build_manifest(alone).release_id
    fetched = fetch(
        made, stores["s3"], "good", tmp_path / "in", unsafe=True, uri=uri, digest=digest
    )
    assert left(fetched.directory) == ["unit.json"]


def test_link_out_of_a_local_store_is_refused(made, tmp_path):
    source, _ = made
    store = tmp_path / "store"
    (store / "inside").mkdir(parents=True)
    (store / "out").symlink_to(source / "good")
    (store / "inside" / "unit.json").symlink_to(source / "good" / "unit.json")
    (store / "deep").mkdir()
    (store / "deep" / "base").symlink_to(source / "good" / "base")
    (store / "deep" / "unit.json").write_text("{}")
    root, into = f"file://{store}", tmp_path / "into"
    for name, words in (("out", "through a link"), ("inside", "link"), ("deep", "link")):
        uri = f"{root}/{name}"
        with pytest.raises((InputError, IntegrityError), match=words):
            fetch(made, root, "good", into, unsafe=True, uri=uri)
    assert left(into) == []


def test_whole_repository_of_the_hub_is_an_artifact_without_what_the_hub_added(made, tmp_path):
    source, _ = made
    files = {"owner/whole/.gitattributes": b"*.safetensors filter=lfs"}
    folder = source / "unsigned"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        files[f"owner/whole/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    with serve(HuggingFaceHub, files) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", url)
        signature = "hf://owner/whole@main/signature.sig"
        asked = {"uri": "hf://owner/whole@main", "signature": signature, "unsafe": True}
        fetched = fetch(made, "hf://owner", "unsigned", tmp_path, **asked)
    assert left(fetched.directory) == ["model.safetensors", "unit.json"]


def test_uri_outside_the_allowed_stores_is_refused(made, stores, tmp_path):
    with pytest.raises(InputError, match="no store that is allowed"):
        fetch(made, stores["file"], "good", tmp_path, uri="s3://elsewhere/model")


def test_copy_that_was_changed_on_disk_is_fetched_again(made, stores, tmp_path):
    fetched = fetch(made, stores["file"], "good", tmp_path)
    (fetched.directory / "unit.json").write_text("{}")
    again = fetch(made, stores["file"], "good", tmp_path)
    assert again.is_new
    assert build_manifest(again.directory).release_id == again.artifact.digest


def test_missing_client_names_the_extra_that_brings_it(made, tmp_path, monkeypatch):
    import fsspec

    def missing(scheme):
        raise ImportError(scheme)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for scheme, extra in (("s3", "s3"), ("gs", "gcs"), ("hf", "hf")):
        with pytest.raises(InputError, match=rf"kfm-mlflow\[{extra}\]"):
            fetch(made, ROOTS[scheme], "good", tmp_path)
