"""Bundles that the vendor makes and accepts and we refuse, and the published test vectors.

Set ``KFM_OMS_VECTORS`` to a checkout of the model-signing specification's conformance suite to run
its verify cases.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from model_signing import hashing, signing, verifying
from model_signing._signing.sign_sigstore_pb import pae_compat

from kfm_mlflow.trust.keys import TrustedKey, load_private_key
from kfm_mlflow.trust.signing import verify_release
from kfm_mlflow.trust.signing_certificate import TrustedCertificate


def _sign(release, key, config):
    path = release.parent / "vendor.sig"
    signer = signing.Config().use_elliptic_key_signer(private_key=key)
    signer.set_hashing_config(config).sign(release, path)
    return path


def _vendor_accepts(release, path, key, config):
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=Path(f"{key}.pub"))
    try:
        verifier.set_hashing_config(config).verify(release, path)
    except Exception:  # noqa: BLE001 - the vendor raises many types, all of them mean no
        return False
    return True


@pytest.fixture
def refused(release, key_dir, trust, now):
    """Sign by the vendor, change something that it does not see, return why we refuse."""

    def run(config, change=lambda: None):
        key = key_dir / "alice"
        path = _sign(release, key, config())
        change()
        assert _vendor_accepts(release, path, key, config())
        report = verify_release(release, path, [trust("alice")], now)
        assert not report.ok
        return report.problems[0]

    return run


def test_an_ignored_file_replaced_by_code(release, refused):
    ignored = release / "model.sig"
    ignored.write_text("old")

    def config():
        return hashing.Config().set_ignored_paths(paths=[ignored], ignore_git_paths=False)

    assert "ignored paths" in refused(config, lambda: ignored.write_text("import os"))


def test_a_linked_directory_whose_content_changes(release, tmp_path, refused):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "w.bin").write_text("old")
    (release / "linked").symlink_to(outside)

    def config():
        found = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
        return found.set_allow_symlinks(True)

    assert "symbolic links" in refused(config, lambda: (outside / "w.bin").write_text("new"))


def test_code_under_github_with_the_vendors_defaults(release, refused):
    def add():
        (release / ".github").mkdir()
        (release / ".github" / "x.py").write_text("import os")

    problem = refused(lambda: hashing.Config().set_ignored_paths(paths=[]), add)
    assert "ignored paths" in problem


@pytest.mark.parametrize(
    "choose",
    [
        lambda config: config.use_shard_serialization(hashing_algorithm="sha256", shard_size=100),
        lambda config: config.use_file_serialization(hashing_algorithm="blake2"),
    ],
)
def test_shards_and_other_hashes_which_our_digests_do_not_answer_for(refused, choose):
    def config():
        plain = hashing.Config()
        return choose(plain).set_ignored_paths(paths=[], ignore_git_paths=False)

    assert "was not signed as whole files with sha256" in refused(config)


def test_a_signature_over_the_encoding_of_before_1_0(release, key_dir, trust, now):
    def config():
        return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)

    key = key_dir / "alice"
    path = _sign(release, key, config())
    bundle = json.loads(path.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    old = load_private_key(key).crypto_signer.sign(pae_compat(payload)).signature
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(bytes.fromhex(old)).decode()
    path.write_text(json.dumps(bundle))
    assert _vendor_accepts(release, path, key, config())
    report = verify_release(release, path, [trust("alice")], now)
    assert report.problems == ("vendor.sig: signed by a key that the policy does not trust",)


def test_the_signature_of_an_older_release_still_fits_the_older_files(
    release, key_dir, trust, now, tmp_path
):
    # No name or number is in it: attestations bind those, so a replay is refused there.
    def config():
        return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)

    path = _sign(release, key_dir / "alice", config())
    renamed = tmp_path / "release-v2"
    shutil.copytree(release, renamed)
    assert verify_release(renamed, path, [trust("alice")], now).ok


# Why a good vector may be refused all the same: rules of ours that the format does not have.
STRICTER = (
    "ignored paths",
    "not P-256",
    "is a certificate authority's",
    "symbolic link",
    ".git",
)
# Those under which the signer is not even looked for.
UNSIGNED = ("not P-256", "is a certificate authority's")


def _vectors(root):
    """Return every verify case of a suite: ``**/verify/{positive,negative,historical}/CASE``."""
    return sorted(Path(root).glob("**/verify/**/config.json")) if root else []


def _part(case, config, path, *, of="model"):
    """Return a file of a case: beside it or in the suite's assets, as the case says.

    Models and bundles of the suite are made by its own scripts; what was not made is skipped.
    """
    assets = next(parent for parent in case.parents if (parent / "assets").is_dir()) / "assets"
    beside = config.get(f"{of}_relative_to") == "test_dir"
    places = (case.parent / path,) if beside else (assets / path, case.parent / path)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        pytest.skip(f"{path}: not there; the suite's scripts make or download it")
    return found


def _vector_release(case, config, folder):
    """Copy a vector's model, with the vector's changes made to it."""
    model = _part(case, config, config["model"])
    release = folder / "model"
    if model.is_dir():
        shutil.copytree(model, release, symlinks=True)
    else:
        release.mkdir()
        shutil.copy(model, release)
    changes = config.get("model_modifications", {})
    for name in changes.get("delete", []):
        (release / name).unlink(missing_ok=True)
    for kind in ("inject", "tamper"):
        for name, text in changes.get(kind, {}).items():
            (release / name).write_text(text)
    for name, target in changes.get("symlinks", {}).items():
        (release / name).symlink_to(target)
    # What the vector ignores is left out, so that what remains can be compared.
    for name in config["verify"].get("ignore_paths", []):
        (release / name).unlink(missing_ok=True)
    return release


def _run_vector(case, folder):
    """Run one case as published; return why a good one was refused by a rule of ours, if it was."""
    config = json.loads(case.read_text())
    bundle = case.parent / "bundle.sig"
    if not bundle.is_file() or config["method"] == "sigstore":
        pytest.skip("its bundle is made or downloaded, or needs the public instance's root")
    release = _vector_release(case, config, folder)
    keys = config["verify"]
    trusted = []
    if "public_key" in keys:
        pem = _part(case, config, keys["public_key"], of="keys").read_text()
        trusted.append(TrustedKey("vector", pem))
    for chain in keys.get("cert_chain", []):
        roots = _part(case, config, chain, of="keys").read_text()
        trusted.append(TrustedCertificate("vector", roots, subject="*"))
    report = verify_release(release, bundle, trusted, datetime.now(UTC))
    if config.get("expect") == "fail":
        assert not report.ok, "accepted what must fail"
        return ""
    payload = json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"]
    named = [
        item["name"] for item in json.loads(base64.b64decode(payload))["predicate"]["resources"]
    ]
    assert named == config.get("expected_signed_files", named)
    if report.ok:
        return ""
    # The vendor may be told to pass over files that nobody signed; we may not.
    stricter = (*STRICTER, *(("not signed",) if keys.get("ignore_unsigned_files") else ()))
    reason = next((why for why in stricter if why in report.problems[0]), None)
    assert reason, report.problems
    # A stricter rule may refuse the statement; that the right key signed it must be seen.
    assert reason in UNSIGNED or report.signer == "vector", report.problems
    return report.problems[0]


_PUBLISHED = _vectors(os.environ.get("KFM_OMS_VECTORS"))


@pytest.mark.skipif(not _PUBLISHED, reason="KFM_OMS_VECTORS names no checkout of the vectors")
@pytest.mark.parametrize("case", _PUBLISHED, ids=lambda case: case.parent.name)
def test_published_vectors_pass_and_fail_as_published_or_by_a_stricter_rule(case, tmp_path):
    _run_vector(case, tmp_path)


def test_the_vectors_named_are_there():
    root = os.environ.get("KFM_OMS_VECTORS")
    assert root is None or _PUBLISHED, f"{root} holds no verify cases"


@pytest.fixture(scope="module")
def suite(tmp_path_factory, key_dir):
    """A small suite in the layout of the published one (ossf/model-signing-spec, conformance/).

    ``test/assets/{models,keys}`` and ``test/test-cases/verify/{positive,negative,historical}/CASE``
    with ``config.json`` and ``bundle.sig``; signed by the reference implementation.
    """
    test = tmp_path_factory.mktemp("suite") / "conformance" / "test"
    simple, keys = test / "assets" / "models" / "simple", test / "assets" / "keys" / "certificate"
    simple.mkdir(parents=True)
    keys.mkdir(parents=True)
    for name, text in (("signme-1", "signme-1\n"), ("signme-2", "signme-2"), ("ignore-me", "")):
        (simple / name).write_text(text)
    for name, who in (("signing-key-pub.pem", "alice"), ("wrong-key-pub.pem", "mallory")):
        (keys / name).write_bytes((key_dir / f"{who}.pub").read_bytes())

    def sign(model, folder, ignored, *, everything):
        paths = [model / name for name in ignored]
        hashed = hashing.Config().set_ignored_paths(paths=paths, ignore_git_paths=not everything)
        signer = signing.Config().use_elliptic_key_signer(private_key=key_dir / "alice")
        signer.set_hashing_config(hashed).sign(model, folder / "bundle.sig")

    def add(group, name, *, everything=False, model=simple, ignored=("ignore-me",), **config):
        folder = test / "test-cases" / "verify" / group / name
        folder.mkdir(parents=True)
        if config.get("model_relative_to") == "test_dir":
            shutil.copytree(simple, folder / "model")
        sign(model, folder, ignored, everything=everything)
        verify = {"public_key": "keys/certificate/signing-key-pub.pem"}
        verify |= {"ignore_paths": list(ignored)} if ignored else {}
        full = {"description": name, "method": "key", "model": "models/simple", "verify": verify}
        (folder / "config.json").write_text(json.dumps(full | config))
        return folder

    two = ["signme-1", "signme-2"]
    whole = {"everything": True, "ignored": (), "expected_signed_files": ["ignore-me", *two]}
    add("positive", "key-whole", **whole)
    add("positive", "key-simple", expected_signed_files=two)
    historical = {"model": simple / "signme-1", "ignored": (), "model_relative_to": "test_dir"}
    one = add("historical", "key-single-file", **historical, expected_signed_files=["."])
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "model": "model/signme-1"}))
    lenient = {"public_key": "keys/certificate/signing-key-pub.pem", "ignore_unsigned_files": True}
    extra = {"inject": {"extra.bin": "extra file added after signing\n"}}
    add("positive", "key-ignore-unsigned", **whole, verify=lenient, model_modifications=extra)
    fails = {**whole, "expect": "fail"}
    wrong = {"public_key": "keys/certificate/wrong-key-pub.pem"}
    add("negative", "wrong-key_fail", **fails, verify=wrong)
    for change in (
        {"delete": ["signme-2"]},
        {"inject": {"injected.bin": "injected after signing\n"}},
        {"tamper": {"signme-1": "TAMPERED CONTENT\n"}},
        {"symlinks": {"link": "/etc/hostname"}},
    ):
        add("negative", f"{next(iter(change))}_fail", **fails, model_modifications=change)
    cut = add("negative", "truncated_fail", **fails)
    (cut / "bundle.sig").write_bytes((cut / "bundle.sig").read_bytes()[:200])
    return test.parents[1]


def test_the_runner_of_the_vectors_finds_and_tells_them_apart(suite, tmp_path):
    cases = {case.parent.name: case for case in _vectors(suite)}
    assert len(cases) == 10
    told = {}
    for name, case in cases.items():
        (tmp_path / name).mkdir()
        told[name] = _run_vector(case, tmp_path / name)
    refused = {name: reason for name, reason in told.items() if reason}
    assert "ignored paths" in refused.pop("key-simple")
    assert "ignored paths" in refused.pop("key-single-file")
    assert refused == {"key-ignore-unsigned": "extra.bin: not signed"}


@pytest.mark.parametrize("name", ["key-whole", "tamper_fail"])
def test_the_runner_of_the_vectors_fails_when_the_verdict_is_not_the_published_one(
    suite, tmp_path, name
):
    (original,) = [case for case in _vectors(suite) if case.parent.name == name]
    shutil.copytree(suite, tmp_path / "suite")
    case = tmp_path / "suite" / original.relative_to(suite)
    config = json.loads(case.read_text())
    turned = "fail" if config.get("expect") != "fail" else "pass"
    case.write_text(json.dumps({**config, "expect": turned}))
    with pytest.raises(AssertionError):
        _run_vector(case, tmp_path)
