"""``kfm export`` from a real server, and ``kfm verify`` of what it wrote, offline."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
from datetime import UTC, datetime

import pytest
from cli.export_world import list_anew
from registry.world import COUNCIL, NAME, digest_of, run_cli

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.registry.exported import verify_export
from kfm_mlflow.release.archive import write_tar
from kfm_mlflow.release.export import sums_text
from kfm_mlflow.release.manifest import build_manifest

pytestmark = pytest.mark.server
URI = f"models:/{NAME}/1"
RELEASE = "climate/models/v1.0.0"


@pytest.fixture(scope="module")
def released(exports):
    """A server with v1 at Production, voted for, and a candidate of another model."""
    exports.server.register(exports.world.releases[1], "climate-other")
    return exports.server


@pytest.fixture(scope="module")
def made(exports):
    """An export that no test may change."""
    return exports.made["key"]


@pytest.fixture
def copied(made, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(made, target)
    return target


def rewrite(root, path, data, exports=None):
    """Change a file as a forger would: index and list of digests are written anew."""
    (root / path).write_bytes(data)
    list_anew(root, exports)


# -- what is written -------------------------------------------------------------------------------


def test_an_export_has_the_layout_of_the_source_documents(made, world):
    for path in (
        *("model.pt", "stac/model-item.json", "provenance/provenance.json", "xai/summary.json"),
        "telemetry/training.json",
    ):
        assert (made / RELEASE / path).is_file()
    assert build_manifest(made / RELEASE).release_id == digest_of(world.releases[0])
    assert (made / f"{RELEASE}.evidence" / "release.sig").is_file()
    assert len(list((made / "attestations").iterdir())) == 1 + len(COUNCIL)
    assert len(list((made / "keys").rglob("*.pem"))) == 4 + len(COUNCIL)
    assert {p.name for p in made.iterdir()} == {
        *("climate", "attestations", "keys", "ledger", "policy", "provenance", "schemas"),
        *("export.json", "export.intoto.json", "SHA256SUMS", "README.md"),
    }


def test_the_index_is_valid_canonical_and_names_everything(made, world):
    data = (made / "export.json").read_bytes()
    index = json.loads(data)
    assert schema_problems("export", index) == []
    assert data == canonical_bytes(index)
    assert index["level"] == "production"
    assert index["documents"]["model.stac.json"] == f"{RELEASE}/stac/model-item.json"
    assert index["integrity"]["hash"] == digest_of(world.releases[0])
    policy = (made / "policy" / "policy.json").read_bytes()
    assert index["policy_digest"] == f"sha256:{hashlib.sha256(policy).hexdigest()}"
    assert len(index["ledger_rows"]) == 3
    assert (
        f"keys/registry/registry-{index['keys'][0]['key_id'][:16]}.pem" == index["keys"][0]["path"]
    )


def test_an_export_verifies_and_says_whose_keys_it_believed(kfm, made, released, world):
    done = kfm("verify", made)
    assert (done.code, done.err) == (0, ""), done.out
    assert "keys as the export itself says" in done.out
    envelopes = [*made.glob("attestations/*"), *(made / f"{RELEASE}.evidence").glob("*.intoto.*")]
    assert f"{len(envelopes)} statements" in done.out
    assert done.out.rstrip().endswith(f"PASS  {digest_of(world.releases[0])}")
    key = released.data / "registry.pem.pub"
    done = kfm("verify", made, "--key", key, "--policy-dir", world.policies)
    assert (done.code, "keys as --key and --policy-dir says" in done.out) == (0, True), done.out
    assert json.loads(kfm("verify", made, "--json").out)["verdict"] == "PASS"


def test_keys_from_elsewhere_are_what_counts(kfm, made, world, tmp_path):
    done = kfm("verify", made, "--key", f"{world.key('foreign')}.pub")
    assert (done.code, "row 1 is not signed by the registry" in done.out) == (1, True)
    run_cli("keys", "new", "trainer", "validator", *COUNCIL, "controller", "--dir", tmp_path / "k")
    run_cli("policy", "init", "--family", "climate", "--keys", tmp_path / "k", "-o", tmp_path / "p")
    done = kfm("verify", made, "--policy-dir", tmp_path / "p")
    assert done.code == 1
    assert "release.sig: signed by a key that the policy does not trust" in done.out


def test_the_exported_release_also_verifies_alone(kfm, made, world):
    assert kfm("verify", made / RELEASE, "--policy-dir", world.policies).code == 0


def test_nothing_is_overwritten_and_nothing_half_written_stays(kfm, made, released, tmp_path):
    at = ("--server", released.url)
    other = "climate-other"
    kfm("export", URI, "-o", made, *at).fails_in_one_line(2, "exists already")
    kfm("export", f"models:/{other}/1", "-o", tmp_path / "x", *at).fails_in_one_line(
        2, "never frozen"
    )
    kfm("export", f"models:/{NAME}/9", "-o", tmp_path / "x", *at).fails_in_one_line(2, "not found")
    foreign = f"{released.world.key('foreign')}.pub"
    done = kfm("export", URI, "-o", tmp_path / "x", "--key", foreign, *at)
    done.fails_in_one_line(1, "row 1 is not signed by the registry")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_unpacks_to_an_export_and_holds_no_instants(kfm, released, tmp_path):
    target = tmp_path / "out.tar"
    done = kfm("export", URI, "-o", target, "--server", released.url)
    assert done.code == 0, done.err
    with tarfile.open(target) as archive:
        members = archive.getmembers()
        archive.extractall(tmp_path, filter="data")
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    assert kfm("verify", tmp_path / f"{NAME}-v1").code == 0
    write_tar(tmp_path / f"{NAME}-v1", tmp_path / "again.tar", f"{NAME}-v1")
    assert (tmp_path / "again.tar").read_bytes() == target.read_bytes()


# -- what is changed is found ----------------------------------------------------------------------


def test_missing_added_linked_and_renamed_files_are_named(kfm, copied):
    (copied / "policy" / "extra.json").write_text("{}")
    (copied / RELEASE / "model.onnx").rename(copied / RELEASE / "other.onnx")
    (copied / "README.md").unlink()
    done = kfm("verify", copied)
    assert (done.code, done.err) == (1, "")
    for words in (
        "policy/extra.json: is not listed in export.json",
        f"{RELEASE}/model.onnx: is missing",
        f"{RELEASE}/other.onnx: is not listed",
        "README.md: is missing",
        f"{RELEASE}/other.onnx: not signed",
    ):
        assert words in done.out, (words, done.out)
    (copied / "link").symlink_to("/etc/hostname")
    assert "link: is a symbolic link" in kfm("verify", copied).out


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
BAD = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "duplicate key": lambda data: data[:1] + b'"schema_version":"1",' + data[1:],
    "deep": lambda _: DEEP,
    "deep inside": lambda data: data[:1] + b'"aaa":' + b"[" * 5000 + b"]" * 5000 + b"," + data[1:],
    "not UTF-8": lambda data: data[:20] + b"\xff\xfe" + data[20:],
    "not JSON": lambda _: b"NaN",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "number": lambda data: data.replace(b'"schema_version":"1"', b'"schema_version":1e999'),
    "long number": lambda data: data.replace(b'"1"', b"9" * 10_000),
    "oversized": lambda data: data[:-1] + b" " * (17 * 2**20) + data[-1:],
}
FILES = ["export.json", "policy/policy.json", "ledger/ledger_snapshot.json", "attestations"]


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("kind", BAD)
def test_bad_json_is_a_verdict_that_names_the_file_even_when_lists_agree(kfm, copied, path, kind):
    target = copied / path
    if target.is_dir():
        target = min(target.iterdir())
        path = target.relative_to(copied).as_posix()
    before = target.read_bytes()
    if path == "export.json":
        target.write_bytes(BAD[kind](before))
        (copied / "SHA256SUMS").write_bytes(sums_text(build_manifest(copied)))
    else:
        data = BAD[kind](before)
        if data == before:
            data = before + b"\n\n{"
        rewrite(copied, path, data)
    done = kfm("verify", copied)
    assert (done.code, done.err) == (1, ""), (done.out, done.err)
    assert path in done.out or "statement sha256:" in done.out
    assert done.out.rstrip().endswith(f"FAIL  {copied}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", "climate-other"),
        ("version", 2),
        ("level", "canary"),
        ("family", "baseline"),
        ("release_version", "v9.0.0"),
        ("release_id", "sha256:" + "ab" * 32),
        ("policy_digest", "sha256:" + "ab" * 32),
        ("release_path", "../../etc"),
        ("release_path", RELEASE + ".evidence"),
        ("signer", {"kind": "key", "holder": "trainer", "path": "keys/none.pem"}),
        ("integrity", {"hash": "sha256:" + "ab" * 32, "signature": "x", "immutable": True}),
        ("documents", {"model.pt": "none"}),
        ("ledger_rows", [1]),
        ("keys", []),
        ("exported_at", "2001-01-01T00:00:00Z"),
    ],
)
def test_an_index_that_lies_is_found_even_when_lists_agree(copied, exports, field, value):
    list_anew(copied, **{field: value})
    now = datetime.now(UTC)
    problems = verify_export(copied, now=now).problems
    assert any(text.startswith("export.intoto.json: ") for text in problems)
    # Not even the registry's own signature would make it true.
    list_anew(copied, exports, **{field: value})
    report = verify_export(copied, now=now)
    # The instant is mere word: nothing is judged by it.
    assert report.ok is (field == "exported_at"), report.problems


def test_a_forger_without_keys_is_found_in_each_part(copied, exports):
    release = copied / RELEASE
    data = (release / "model.onnx").read_bytes() + b" "
    rewrite(copied, f"{RELEASE}/model.onnx", data, exports)
    assert any(
        "bytes differ from what was signed" in p
        for p in verify_export(copied, now=datetime.now(UTC)).problems
    )


def test_a_vote_that_a_decision_counts_can_not_be_left_out(copied, exports):
    vote = next(
        path
        for path in sorted((copied / "attestations").iterdir())
        if b"/attestations/vote/" in base64.b64decode(json.loads(path.read_bytes())["payload"])
    )
    vote.unlink()
    list_anew(copied, exports)
    problems = verify_export(copied, now=datetime.now(UTC)).problems
    assert any("statement sha256:" in p and "is missing, which row" in p for p in problems)
    assert any("the approval of council-" in p for p in problems)


def test_a_policy_of_the_forgers_own_is_named(copied, exports):
    policy = load_json(copied / "policy" / "policy.json")
    policy["trust"]["council"]["threshold"] = 1
    data = canonical_bytes(policy)
    (copied / "policy" / "policy.json").write_bytes(data)
    list_anew(copied, exports, policy_digest=f"sha256:{hashlib.sha256(data).hexdigest()}")
    problems = verify_export(copied, now=datetime.now(UTC)).problems
    assert any(p.startswith("policy/policy.json: no row of the ledger") for p in problems)


def test_rows_cut_off_the_end_do_not_hold_to_the_signed_head(copied, exports):
    path = copied / "ledger" / "ledger_snapshot.json"
    ledger = load_json(path)
    ledger["rows"].pop()
    rewrite(copied, "ledger/ledger_snapshot.json", canonical_bytes(ledger), exports)
    assert any(
        "another head than its last row" in p
        for p in verify_export(copied, now=datetime.now(UTC)).problems
    )
