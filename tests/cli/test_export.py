"""``kfm export`` from a real server, and ``kfm verify`` of what it wrote, offline."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry.server import governed
from registry.world import COUNCIL, NAME, digest_of, run_cli

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.registry.exported import verify_export
from kfm_mlflow.release.export import finish_export, sums_text, write_tar
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.remote import RemoteRegistry

pytestmark = pytest.mark.server
URI = f"models:/{NAME}/1"
RELEASE = "climate/models/v1.0.0"


@pytest.fixture(scope="module")
def released(world, tmp_path_factory):
    """A server of its own with v1 at Production, voted for, and v2 a candidate."""
    with governed(world, tmp_path_factory.mktemp("export") / "server") as server:
        for bundle in world.releases[:2]:
            server.register(bundle)
        remote = RemoteRegistry(server.url, controller_key=world.key("controller"))
        remote.request_move(NAME, 1, "staging")
        remote.request_move(NAME, 1, "canary")
        remote.publish_verdict(NAME, 1, {"verdict": "PASS", "sample_count": 500})
        now = datetime.now(UTC)
        for member in COUNCIL:
            remote.cast_vote(
                *(NAME, 1, "production"),
                key=world.key(member),
                choice="approve",
                reason="looked at it",
                now=now,
                expires_at=now + timedelta(days=7),
            )
        remote.request_move(NAME, 1, "production", reason="good")
        yield server


@pytest.fixture(scope="module")
def made(released, tmp_path_factory):
    """An export that no test may change."""
    target = tmp_path_factory.mktemp("exports") / "out"
    run_cli("export", URI, "-o", target, "--server", released.url)
    return target


@pytest.fixture
def copied(made, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(made, target)
    return target


def rewrite(root, path, data):
    """Change a file as a forger would: index and list of digests are written anew."""
    (root / path).write_bytes(data)
    index = load_json(root / "export.json")
    del index["files"]
    readme = (root / "README.md").read_bytes()
    finish_export(root, index)
    assert (root / "README.md").read_bytes() == readme


def index_anew(root, **changed):
    index = {**load_json(root / "export.json"), **changed}
    (root / "export.json").write_bytes(canonical_bytes(index))
    (root / "SHA256SUMS").write_bytes(sums_text(build_manifest(root)))


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
        *("climate", "attestations", "keys", "ledger", "policy"),
        *("export.json", "SHA256SUMS", "README.md"),
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
    envelopes = len(list(made.rglob("*.intoto.json")))
    assert f"{envelopes} statements" in done.out
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
    kfm("export", URI, "-o", made, *at).fails_in_one_line(2, "exists already")
    kfm("export", f"models:/{NAME}/2", "-o", tmp_path / "x", *at).fails_in_one_line(
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


# -- other people's tools --------------------------------------------------------------------------


def commands(root, kind):
    return re.findall(rf"```{kind}\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)


def run_sh(root, line):
    # `python` is this interpreter, as in an environment of the reader's own.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=root,
        env={"PATH": path, "HOME": str(root.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_of_the_readme_passes(made, tmp_path):
    shells = commands(made, "sh")
    assert len(shells) == 4
    for block in shells:
        done = run_sh(made, block)
        assert done.returncode == 0, (block, done.stdout, done.stderr)
    (script,) = commands(made, "python")
    assert "kfm" not in script
    (tmp_path / "check.py").write_text(script)
    done = run_sh(made, f"python {tmp_path}/check.py")
    assert done.returncode == 0, done.stderr
    index = load_json(made / "export.json")
    assert f"release id {index['release_id']}" in done.stdout
    assert f"ledger good up to {index['ledger_head']['hash']}" in done.stdout
    assert done.stdout.count("vote signed by keys/council/") == len(COUNCIL)


@pytest.mark.parametrize(
    ("path", "failing"),
    [
        (f"{RELEASE}/model.pt", {"sums", "signature", "script"}),
        (f"{RELEASE}.evidence/release.sig", {"sums", "signature"}),
        ("ledger/ledger_snapshot.json", {"sums", "script"}),
        ("policy/policy.json", {"sums", "policy"}),
        ("attestations", {"sums", "script"}),
    ],
)
def test_the_right_command_of_the_readme_fails_on_a_changed_byte(copied, tmp_path, path, failing):
    target = copied / path
    if target.is_dir():
        target = min(target.iterdir())
    data = bytearray(target.read_bytes())
    at = data.find(b'"payload":"') + 40 if b'"payload":"' in data else len(data) // 2
    data[at] ^= 1
    target.write_bytes(data)
    sums, signature, policy, _ = commands(copied, "sh")
    (script,) = commands(copied, "python")
    (tmp_path / "check.py").write_text(script)
    checks = {
        "sums": sums,
        "signature": signature,
        "policy": policy,
        "script": f"python {tmp_path}/check.py",
    }
    assert {name for name, line in checks.items() if run_sh(copied, line).returncode} == failing


# -- what is changed is found ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def flipped(made, tmp_path_factory):
    """A copy that each example changes and puts back."""
    target = tmp_path_factory.mktemp("flips") / "copy"
    shutil.copytree(made, target)
    return target


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=st.data())
def test_any_flipped_bit_of_any_file_is_found_and_named(flipped, chosen):
    paths = [entry.path for entry in build_manifest(flipped).files]
    path = chosen.draw(st.sampled_from(paths))
    before = (flipped / path).read_bytes()
    at = chosen.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[at] ^= 1 << chosen.draw(st.integers(0, 7))
    (flipped / path).write_bytes(changed)
    try:
        report = verify_export(flipped)
    finally:
        (flipped / path).write_bytes(before)
    assert not report.ok
    named = "\n".join(report.problems)
    assert path in named


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
def test_an_index_that_lies_is_found_even_when_lists_agree(copied, field, value):
    index_anew(copied, **{field: value})
    report = verify_export(copied)
    # The instant is mere word: it only makes statements count for nothing that none rests on.
    assert report.ok is (field == "exported_at"), report.problems


def test_a_forger_without_keys_is_found_in_each_part(copied):
    release = copied / RELEASE
    rewrite(copied, f"{RELEASE}/model.onnx", (release / "model.onnx").read_bytes() + b" ")
    assert any("bytes differ from what was signed" in p for p in verify_export(copied).problems)


def test_a_vote_that_a_decision_counts_can_not_be_left_out(copied):
    vote = next(
        path
        for path in sorted((copied / "attestations").iterdir())
        if b"/attestations/vote/" in base64.b64decode(json.loads(path.read_bytes())["payload"])
    )
    vote.unlink()
    index = load_json(copied / "export.json")
    del index["files"]
    finish_export(copied, index)
    problems = verify_export(copied).problems
    assert any("statement sha256:" in p and "is missing, which row" in p for p in problems)
    assert any("the approval of council-" in p for p in problems)


def test_a_policy_of_the_forgers_own_is_named(copied):
    policy = load_json(copied / "policy" / "policy.json")
    policy["trust"]["council"]["threshold"] = 1
    data = canonical_bytes(policy)
    (copied / "policy" / "policy.json").write_bytes(data)
    index = load_json(copied / "export.json")
    del index["files"]
    finish_export(copied, {**index, "policy_digest": f"sha256:{hashlib.sha256(data).hexdigest()}"})
    problems = verify_export(copied).problems
    assert any(p.startswith("policy/policy.json: no row of the ledger") for p in problems)


def test_rows_cut_off_the_end_do_not_hold_to_the_signed_head(copied):
    path = copied / "ledger" / "ledger_snapshot.json"
    ledger = load_json(path)
    ledger["rows"].pop()
    rewrite(copied, "ledger/ledger_snapshot.json", canonical_bytes(ledger))
    assert any("another head than its last row" in p for p in verify_export(copied).problems)
