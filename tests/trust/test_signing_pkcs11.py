"""Signing with a key in a PKCS#11 token: SoftHSM 2, a token in software."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import debian
import pytest
from click.testing import CliRunner

from kfm_mlflow.errors import SignatureError
from kfm_mlflow.trust.keys import TrustedKey
from kfm_mlflow.trust.signing import sign_release_with_pkcs11, verify_release

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.fixture
def token(tmp_path, key_dir, monkeypatch):
    """A fresh token that holds alice's key; returns the key's URI."""
    if not (MODULE.is_file() and shutil.which("softhsm2-util")):
        debian.install("softhsm2")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    make = ["--init-token", "--free", "--label", "kfm", "--so-pin", "1234", "--pin", "1234"]
    place = ["--import", str(key_dir / "alice"), "--token", "kfm", "--label", "release"]
    for args in (make, [*place, "--id", "01", "--pin", "1234"]):
        subprocess.run(["softhsm2-util", *args], check=True, capture_output=True)
    return f"pkcs11:token=kfm;object=release?module-path={MODULE}&pin-value=1234"


def test_a_token_signs_as_its_key_would(release, token, key_dir, trust, now):
    path = release.parent / "token.sig"
    report = sign_release_with_pkcs11(release, path, token, key_dir / "alice.pub")
    assert report.signer == "alice.pub"
    assert verify_release(release, path, [trust("alice")], now).signer == "alice"


def test_a_token_that_holds_another_key_is_found_out(release, token, key_dir):
    with pytest.raises(SignatureError, match="does not trust"):
        sign_release_with_pkcs11(release, release.parent / "s", token, key_dir / "bob.pub")
    assert not (release.parent / "s").exists()


def test_the_command_signs_with_a_token(release, token, key_dir, now):
    from kfm_mlflow.cli.release import sign

    public = key_dir / "alice.pub"
    args = [str(release), "--pkcs11", token, "--public-key", str(public)]
    assert CliRunner().invoke(sign, args, catch_exceptions=False).exit_code == 0
    path = release.with_name("release.evidence") / "release.sig"
    assert verify_release(release, path, [TrustedKey("a", public.read_text())], now).ok


def test_without_the_extra_the_sentence_says_what_to_install(
    release, key_dir, tmp_path, monkeypatch
):
    # As if PyKCS11 were not installed: the vendor's own module cannot be imported then.
    monkeypatch.setitem(sys.modules, "model_signing._signing.sign_pkcs11", None)
    monkeypatch.delattr("model_signing._signing.sign_pkcs11", raising=False)
    with pytest.raises(SignatureError, match=r"model-signing\[pkcs11\]"):
        sign_release_with_pkcs11(release, tmp_path / "s", "pkcs11:object=x", key_dir / "alice.pub")
