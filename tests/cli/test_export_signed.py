"""What the registry signs as an export, and what it does not."""

from __future__ import annotations

import json
import shutil

import pytest
from cli.export_world import RESTRICTED
from registry.world import NAME

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.release.export import sums_of

pytestmark = pytest.mark.server
PATH = f"/kfm/api/v1/models/{NAME}/versions/1/export"
RELEASE = "climate/models/v1.0.0"


@pytest.fixture
def index(exports):
    return load_json(exports.made["key"] / "export.json")


def asked(exports, index, path=PATH):
    return exports.server.ask("POST", path, json=index)


def without(index, path):
    return {**index, "files": [entry for entry in index["files"] if entry["path"] != path]}


def with_file(index, path):
    entry = {"path": path, "size": 1, "sha256": "ab" * 32}
    files = sorted([*without(index, path)["files"], entry], key=lambda item: item["path"])
    return {**index, "files": files}


def test_the_list_follows_from_the_index_and_is_signed_again_when_asked(exports, index):
    assert sums_of(index) == (exports.made["key"] / "SHA256SUMS").read_bytes()
    answer = asked(exports, index)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"payload", "payloadType", "signatures"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: with_file(i, "evil.sh"), "evil.sh: has no place here"),
        (lambda i: with_file(i, "README.md"), "README.md: is not what the registry knows"),
        (lambda i: with_file(i, f"{RELEASE}/extra"), "release: extra: not signed"),
        (lambda i: without(i, f"{RELEASE}/MLmodel"), "release: MLmodel: signed but missing"),
        (lambda i: with_file(i, f"{RELEASE}.evidence/extra"), "extra: has no place here"),
        (lambda i: with_file(i, "attestations/a.intoto.json"), "holds other statements"),
        (lambda i: with_file(i, "policy/regions_public.json"), "is not what the registry knows"),
        (lambda i: with_file(i, "provenance/deployed.json"), "is not what the registry knows"),
        (lambda i: without(i, "provenance/deployed.intoto.json"), "intoto.json: is missing"),
        (lambda i: without(i, "policy/policy.json"), "policy/policy.json: is missing"),
        (lambda i: without(i, "ledger/ledger_snapshot.json"), "ledger_snapshot.json: is missing"),
        (lambda i: without(i, f"{RELEASE}.evidence/release.sig"), "release.sig: is missing"),
        (
            lambda i: without(
                i, next(e["path"] for e in i["files"] if e["path"].startswith("attestations/"))
            ),
            "holds other statements than the registry",
        ),
        (lambda i: {**i, "level": "canary"}, "level is not what the registry knows"),
        (lambda i: {**i, "release_id": f"sha256:{'ab' * 32}"}, "release_id is not what"),
        (lambda i: {**i, "policy_digest": f"sha256:{'ab' * 32}"}, "policy_digest is not what"),
        (lambda i: {**i, "ledger_head": {**i["ledger_head"], "seq": 9999}}, "there is no row 9999"),
        (lambda i: {**i, "ledger_rows": []}, "ledger_rows is not what the registry knows"),
        (lambda i: {**i, "signer": {**i["signer"], "holder": "me"}}, "signer is not what"),
        (lambda i: {**i, "keys": i["keys"][1:]}, "does not name the registry's key"),
        (lambda i: {**i, "documents": {}}, "documents does not follow from the files"),
        (lambda i: {**i, "version": 2}, "version is not what the registry knows"),
        (lambda _: {"keys": 3}, "is no index of an export"),
        (lambda _: {}, "is no index of an export"),
    ],
)
def test_a_list_that_the_registry_would_not_write_is_not_signed(exports, index, change, reason):
    answer = asked(exports, change(index))
    # Files that the signature over the release does not cover are an integrity error: 403.
    assert answer.status_code == (403 if reason.startswith("release: ") else 400), answer.text
    assert reason in answer.json()["message"]


def test_a_key_that_never_signed_a_row_is_no_former_key_of_the_registry(exports, index):
    pem = (exports.world.keys / "foreign.pem.pub").read_text()
    (own,) = [key for key in index["keys"] if key["duty"] == "registry"]
    foreign = {**own, "public_key": pem}
    answer = asked(exports, {**index, "keys": [own, foreign, *index["keys"][1:]]})
    assert answer.status_code == 400
    assert "no row is signed by key" in answer.json()["message"]


def test_what_was_never_frozen_is_not_signed(exports, index):
    path = PATH.replace(NAME, "climate-unfrozen")
    exports.server.register(exports.world.releases[1], "climate-unfrozen")
    answer = asked(exports, index, path)
    assert (answer.status_code, "never frozen" in answer.text) == (400, True)


def test_no_restricted_name_and_no_region_file_is_in_an_export(exports):
    root = exports.made["key"]
    regions = load_json(root / "policy" / "regions_public.json")
    assert schema_problems("regions_public", regions) == []
    assert regions["regions_digest"] == load_json(root / "policy/policy.json")["regions_digest"]
    assert [bool(region["cells"]) for region in regions["regions"]] == [True, False]
    words = RESTRICTED.lower().split()
    for path in root.rglob("*"):
        if path.is_file():
            text = path.read_bytes().lower()
            assert not all(word.encode() in text for word in words), path
    answer = exports.server.ask("GET", "/kfm/api/v1/policies/climate/regions")
    assert canonical_bytes(answer.json()) == (root / "policy/regions_public.json").read_bytes()


def test_an_archive_is_verified_as_the_directory_is(kfm, exports, tmp_path):
    target = tmp_path / "out.tar"
    url = exports.server.url
    assert kfm("export", f"models:/{NAME}/1", "-o", target, "--server", url).code == 0
    done = kfm("verify", target, "--key", exports.registry_key)
    assert (done.code, done.err) == (0, ""), done.out
    assert "keys as --key says" in done.out
    assert done.out.rstrip().splitlines()[-1].startswith("PASS  sha256:")
    assert json.loads(kfm("verify", target, "--json").out)["verdict"] == "PASS"
    data = bytearray(target.read_bytes())
    for at, words in ((data.find(b"MLmodel"), "FAIL"), (len(data) // 2, "FAIL"), (-1, "out.tar: ")):
        changed = bytearray(data)
        changed[at] ^= 1
        target.write_bytes(changed)
        done = kfm("verify", target)
        assert (done.code, done.err) == (1, ""), done.out
        assert words in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]
    shutil.copy(exports.made["key"] / "export.json", target)
    assert "out.tar: " in kfm("verify", target).out
