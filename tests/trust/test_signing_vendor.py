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
STRICTER = ("ignored paths", "not P-256", "is a certificate authority's", "symbolic link", ".git")


def _vectors():
    root = os.environ.get("KFM_OMS_VECTORS")
    return sorted(Path(root).glob("**/verify/*/*/config.json")) if root else []


def _vector_release(case, config, folder):
    """Copy a vector's model, with the vector's changes made to it."""
    assets = next(parent for parent in case.parents if (parent / "assets").is_dir()) / "assets"
    places = (case.parent / config["model"], assets / config["model"])
    model = next(place for place in places if place.exists())
    release = folder / "model"
    shutil.copytree(model, release, symlinks=True)
    changes = config.get("model_modifications", {})
    for name in changes.get("delete", []):
        (release / name).unlink()
    for kind in ("inject", "tamper"):
        for name, text in changes.get(kind, {}).items():
            (release / name).write_text(text)
    # What the vector ignores is left out, so that what remains can be compared.
    for name in config["verify"].get("ignore_paths", []):
        (release / name).unlink(missing_ok=True)
    return release, assets


@pytest.mark.skipif(not _vectors(), reason="KFM_OMS_VECTORS names no checkout of the vectors")
@pytest.mark.parametrize("case", _vectors(), ids=lambda case: case.parent.name)
def test_published_vectors_pass_and_fail_as_published_or_by_a_stricter_rule(case, tmp_path):
    config = json.loads(case.read_text())
    bundle = case.parent / "bundle.sig"
    if not bundle.is_file() or config["method"] == "sigstore":
        pytest.skip("its bundle is downloaded, or needs the public instance's trusted root")
    release, assets = _vector_release(case, config, tmp_path)
    keys = config["verify"]
    trusted = []
    if "public_key" in keys:
        trusted.append(TrustedKey("vector", (assets / keys["public_key"]).read_text()))
    for chain in keys.get("cert_chain", []):
        roots = (assets / chain).read_text()
        trusted.append(TrustedCertificate("vector", roots, subject="*"))
    report = verify_release(release, bundle, trusted, datetime.now(UTC))
    if config.get("expect") == "fail":
        assert not report.ok
    else:
        assert report.ok or any(why in report.problems[0] for why in STRICTER), report.problems


def test_the_vectors_named_are_there():
    root = os.environ.get("KFM_OMS_VECTORS")
    assert root is None or _vectors(), f"{root} holds no verify cases"
