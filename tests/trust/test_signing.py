"""OpenSSF model signatures: every way in which bytes, names, keys or bundles may be wrong."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError, ManifestError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope
from kfm_mlflow.trust.keys import TrustedKey, generate_key, load_private_key
from kfm_mlflow.trust.signing import sign_release, verify_release


@pytest.fixture
def signature(release, key_dir):
    path = release.parent / "model.sig"
    sign_release(release, path, key_dir / "alice")
    return path


@pytest.fixture
def check(release, signature, trust, now):
    """Verify with alice's key, both ways, which must agree; return the report."""

    def run(keys=None, at=now):
        keys = [trust("alice")] if keys is None else keys
        report = verify_release(release, signature, keys, at)
        try:
            digests = build_manifest(release).digests
        except ManifestError:
            return report
        assert verify_release(release, signature, keys, at, digests=digests) == report
        return report

    return run


def _vendor_accepts(release, signature, public_key) -> bool:
    from model_signing import hashing, verifying

    everything = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(everything).verify(release, signature)
    except Exception:  # noqa: BLE001 - the vendor raises many types, all of them mean no
        return False
    return True


def _payload(signature):
    bundle = json.loads(signature.read_text())
    return bundle, json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def _resign(signature, key, change):
    """Let a trusted key sign a changed statement: what its holder could do, not an outsider."""
    bundle, statement = _payload(signature)
    change(statement)
    payload = json.dumps(statement).encode()
    pae = Envelope(payload, IN_TOTO_PAYLOAD_TYPE, ()).pae
    signed = bytes.fromhex(load_private_key(key).crypto_signer.sign(pae).signature)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signed).decode(), "keyid": ""}]
    signature.write_text(json.dumps(bundle))


def test_untouched_release_is_good_and_names_its_signer(check):
    report = check()
    assert report.ok
    assert report.signer == "alice"
    assert report.problems == ()


def test_signing_leaves_the_release_as_it_was(release, key_dir):
    before = build_manifest(release)
    sign_release(release, release.parent / "s", key_dir / "alice")
    assert build_manifest(release) == before


def test_flipped_byte_is_named(release, check):
    data = bytearray((release / "model.pt").read_bytes())
    data[3] ^= 1
    (release / "model.pt").write_bytes(data)
    report = check()
    assert not report.ok
    assert report.signer == "alice"
    assert report.problems == ("model.pt: bytes differ from what was signed",)


def test_added_file_is_named(release, check):
    (release / "evil.py").write_text("import os")
    assert check().problems == ("evil.py: not signed",)


def test_removed_file_is_named(release, check):
    (release / "MLmodel").unlink()
    assert check().problems == ("MLmodel: signed but missing",)


def test_renamed_file_is_named_twice_although_the_oms_root_digest_stays(release, check):
    (release / "model.pt").rename(release / "model.pu")
    assert check().problems == ("model.pt: signed but missing", "model.pu: not signed")


def test_two_files_swapped_are_both_named(release, check):
    (release / "a").write_bytes((release / "MLmodel").read_bytes())
    (release / "model.pt").rename(release / "MLmodel")
    (release / "a").rename(release / "model.pt")
    assert {p.split(":")[0] for p in check().problems} == {"MLmodel", "model.pt"}


@pytest.mark.parametrize("kind", ["added", "replaced"])
def test_symbolic_link_is_refused_even_to_identical_bytes(release, check, kind):
    twin = release.parent / "twin"
    twin.write_bytes((release / "model.pt").read_bytes())
    if kind == "replaced":
        (release / "model.pt").unlink()
    link = release / ("model.pt" if kind == "replaced" else "link.pt")
    link.symlink_to(twin)
    (problem,) = check().problems
    assert problem.startswith(f"{link.name}: is a symbolic link")


@pytest.mark.parametrize("path", [".git/hook", ".github/x.py", ".gitignore", ".gitattributes"])
def test_git_paths_are_not_ignored(release, check, path):
    (release / path).parent.mkdir(exist_ok=True)
    (release / path).write_text("x")
    report = check()
    assert not report.ok
    assert ".git" in report.problems[0]


def test_changed_mode_renamed_directory_and_empty_folder_are_not_covered(
    release, signature, trust, now
):
    (release / "model.pt").chmod(0o600)
    (release / "empty").mkdir()
    moved = release.rename(release.parent / "elsewhere")
    assert verify_release(moved, signature, [trust("alice")], now).ok


def test_foreign_key_is_reported_as_untrusted(check, trust):
    report = check([trust("bob"), trust("mallory")])
    assert report.signer is None
    assert report.problems == ("model.sig: signed by a key that the policy does not trust",)


def test_each_trusted_key_is_tried(check, trust):
    assert check([trust("bob"), trust("alice")]).signer == "alice"


def test_no_trusted_key_passes_nothing(check):
    assert not check([]).ok


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"not_after": timedelta(0)}, "expired"),
        ({"not_before": timedelta(days=1)}, "not valid before"),
        ({"revoked_at": timedelta(days=1)}, "revoked"),
    ],
)
def test_key_out_of_its_time_does_not_count(check, trust, now, bounds, reason):
    report = check([trust("alice", **{name: now + delta for name, delta in bounds.items()})])
    assert not report.ok
    assert report.signer is None
    assert reason in report.problems[0]


def test_key_trusted_in_two_periods_counts_in_either(check, trust, now):
    old = trust("alice", not_after=now)
    new = trust("alice", not_before=now)
    assert check([old, new]).ok
    assert check([old, new], at=now - timedelta(days=1)).ok


def test_unreadable_trusted_key_is_a_problem_not_an_exception(check, trust):
    broken = TrustedKey("carol", "nonsense")
    assert "carol" in check([broken]).problems[0]
    assert check([broken, trust("alice")]).ok


def test_tampered_payload_is_refused(signature, check):
    bundle, statement = _payload(signature)
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    data = json.dumps(statement).encode()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(data).decode()
    signature.write_text(json.dumps(bundle))
    assert check().signer is None


def test_stripped_key_hint_still_verifies_by_mathematics(signature, check, capsys):
    bundle, _ = _payload(signature)
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(bundle))
    assert check().ok
    assert capsys.readouterr().out == ""


def test_foreign_key_hint_is_refused_as_the_vendor_does(release, signature, check, key_dir):
    bundle, _ = _payload(signature)
    bundle["verificationMaterial"]["publicKey"]["hint"] = "0" * 64
    signature.write_text(json.dumps(bundle))
    assert not _vendor_accepts(release, signature, key_dir / "alice.pub")
    assert "names another key" in check().problems[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p["serialization"].update(ignore_paths=["evil.py"]), "ignored paths"),
        (lambda p: p["serialization"].update(ignore_paths=None), "ignored paths"),
        (lambda p: p["serialization"].update(allow_symlinks=True), "symbolic links"),
        (lambda p: p["serialization"].pop("allow_symlinks"), "symbolic links"),
        (lambda p: p["serialization"].update(method="shards", shard_size=9), "whole files"),
        (lambda p: p["serialization"].update(hash_type="blake2"), "whole files"),
        (lambda p: p.pop("serialization"), "configuration is missing"),
        (lambda p: p.update(resources=[]), "no file"),
        (lambda p: p["resources"].append(p["resources"][0]), "twice"),
        (lambda p: p["resources"][0].update(algorithm="md5"), "sha256"),
        (lambda p: p["resources"][0].update(digest="zz"), "malformed"),
        (lambda p: p["resources"].pop(), "disagrees"),
        (lambda p: p["resources"].reverse(), "disagrees"),
    ],
)
def test_statement_that_leaves_files_unseen_is_refused_even_from_a_trusted_key(
    signature, check, key_dir, change, reason
):
    _resign(signature, key_dir / "alice", lambda statement: change(statement["predicate"]))
    report = check()
    assert not report.ok
    assert reason in report.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject=s["subject"] * 2),
        lambda s: s.update(subject=7),
        lambda s: s.update(predicate=7),
        lambda s: s.pop("subject"),
    ],
)
def test_other_statements_are_refused(signature, check, key_dir, change):
    _resign(signature, key_dir / "alice", change)
    assert not check().ok


def test_unchanged_statement_signed_again_is_accepted(signature, check, key_dir):
    _resign(signature, key_dir / "alice", lambda _: None)
    assert check().ok


@pytest.mark.parametrize(
    "text", ["", "garbage", "[]", "{}", '{"mediaType": 1}', '{"a": 1, "a": 2}', "null", "NaN"]
)
def test_garbage_instead_of_a_bundle_is_a_problem_naming_the_file(signature, check, text):
    signature.write_text(text)
    report = check()
    assert not report.ok
    assert report.problems[0].startswith("model.sig: ")


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        ({"x509CertificateChain": {"certificates": []}}, "holds no certificate"),
        ({"certificate": {"rawBytes": ""}, "tlogEntries": []}, "not a Sigstore bundle"),
        ({"tlogEntries": []}, "neither key, certificate nor Sigstore"),
        ([], "not an object"),
        ({"publicKey": {"hint": ""}, "certificate": {"rawBytes": ""}}, "not a Sigstore bundle"),
        ({"publicKey": {"hint": ""}, "x509CertificateChain": {}}, "unknown 'publicKey'"),
    ],
)
def test_a_bundle_of_another_kind_is_not_taken_for_a_key_bundle(signature, check, material, reason):
    bundle, _ = _payload(signature)
    bundle["verificationMaterial"] = material
    signature.write_text(json.dumps(bundle))
    assert reason in check().problems[0]


def test_missing_signature_is_a_problem(signature, check):
    signature.unlink()
    assert check().problems == ("model.sig: signature missing",)


def test_missing_release_is_a_problem(release, check):
    shutil.rmtree(release)
    assert not check().ok


def test_signature_of_another_release_does_not_pass(release, signature, trust, now):
    other = release.parent / "other"
    shutil.copytree(release, other)
    (other / "model.pt").write_bytes(b"older")
    assert not verify_release(other, signature, [trust("alice")], now).ok


def test_signature_inside_the_release_is_refused(release, key_dir):
    with pytest.raises(InputError, match="inside the release"):
        sign_release(release, release / "model.sig", key_dir / "alice")
    assert not (release / "model.sig").exists()


def test_directory_that_may_be_no_release_is_not_signed(release, key_dir):
    (release / ".gitignore").write_text("*")
    with pytest.raises(ManifestError, match="gitignore"):
        sign_release(release, release.parent / "s", key_dir / "alice")
    assert not (release.parent / "s").exists()


def test_encrypted_key_signs_with_its_password(release, tmp_path, now):
    public = generate_key(tmp_path / "locked", password=b"pw")
    sign_release(release, tmp_path / "s", tmp_path / "locked", password=b"pw")
    assert verify_release(release, tmp_path / "s", [TrustedKey("l", public.pem)], now).ok
    with pytest.raises(InputError, match="encrypted"):
        sign_release(release, tmp_path / "s2", tmp_path / "locked")


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_changing_any_one_byte_of_a_bundle_is_found(release, signature, trust, now, data):
    original = signature.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != original[at]))
    digests = build_manifest(release).digests
    try:
        signature.write_bytes(original[:at] + bytes([byte]) + original[at + 1 :])
        assert not verify_release(release, signature, [trust("alice")], now, digests=digests).ok
    finally:
        signature.write_bytes(original)


_NAMES = st.sampled_from(["model.pt", "MLmodel", "xai/summary.json", "new.txt", "xai/b", "z"])
_EDITS = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "rename", "restore"]), _NAMES, _NAMES), max_size=3
)


def _edit(root, original, kind, name, other):
    path = root / name
    if kind == "write":
        path.write_bytes(b"changed")
    elif kind == "delete":
        path.unlink(missing_ok=True)
    elif kind == "rename" and path.is_file():
        path.replace(root / other)
    elif kind == "restore" and (original / name).is_file():
        shutil.copy(original / name, path)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(edits=_EDITS)
def test_reading_files_given_digests_and_the_vendor_agree_on_every_edit(
    release, signature, key_dir, now, edits
):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "release"
        shutil.copytree(release, copy)
        for edit in edits:
            _edit(copy, release, *edit)
        keys = [TrustedKey("alice", (key_dir / "alice.pub").read_text())]
        read = verify_release(copy, signature, keys, now)
        manifest_exists = any(path.is_file() for path in copy.rglob("*"))
        if manifest_exists:
            given_digests = build_manifest(copy).digests
            assert verify_release(copy, signature, keys, now, digests=given_digests) == read
        assert read.ok == _vendor_accepts(copy, signature, key_dir / "alice.pub")
        assert read.ok == (build_manifest(release).files == _files(copy))


def _files(root):
    try:
        return build_manifest(root).files
    except ManifestError:
        return None


def test_given_digest_that_is_no_digest_is_a_problem(release, signature, trust, now):
    report = verify_release(release, signature, [trust("alice")], now, digests={"model.pt": "x"})
    assert not report.ok
    assert "model.pt" in report.problems[0]


def _model_signing(*args):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_vendors_command_line_accepts_our_signature(release, signature, key_dir):
    options = ("--signature", signature, "--public_key", key_dir / "alice.pub")
    done = _model_signing("verify", "key", release, "--no-ignore-git-paths", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    done = _model_signing("verify", "key", release, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_we_accept_a_signature_of_the_vendors_command_line_that_ignores_nothing(
    release, key_dir, trust, now
):
    path = release.parent / "cli.sig"
    options = ("--signature", path, "--private_key", key_dir / "alice")
    done = _model_signing("sign", "key", release, "--no-ignore-git-paths", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify_release(release, path, [trust("alice")], now).ok


def test_we_refuse_a_signature_of_the_vendors_defaults_because_it_ignores_git_paths(
    release, key_dir, trust, now
):
    path = release.parent / "cli.sig"
    done = _model_signing(
        "sign", "key", release, "--signature", path, "--private_key", key_dir / "alice"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = verify_release(release, path, [trust("alice")], now)
    assert not report.ok
    assert "ignored paths" in report.problems[0]
