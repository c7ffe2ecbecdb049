"""Keys on disk: what is written, what is refused, and when a key is trusted."""

from __future__ import annotations

import stat
import subprocess
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.keys import (
    TrustedKey,
    generate_key,
    load_private_key,
    load_public_key,
    parse_public_key,
)


def _pem(key, *, password=None):
    lock = ser.BestAvailableEncryption(password) if password else ser.NoEncryption()
    return key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, lock)


def test_private_key_is_readable_by_its_owner_alone(tmp_path):
    generate_key(tmp_path / "k")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert (tmp_path / "k.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")


def test_openssl_reads_the_pair_as_p256(tmp_path):
    generate_key(tmp_path / "k")
    text = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "k", "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "prime256v1" in text
    public = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "k", "-pubout"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert public == (tmp_path / "k.pub").read_text()


@pytest.mark.parametrize("existing", ["k", "k.pub"])
def test_existing_file_is_never_overwritten_and_nothing_is_left(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        generate_key(tmp_path / "k")
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_two_halves_and_both_ways_of_loading_give_one_key_id(tmp_path):
    made = generate_key(tmp_path / "k")
    assert load_private_key(tmp_path / "k").public_key == made
    assert load_public_key(tmp_path / "k.pub") == made
    assert load_public_key((tmp_path / "k.pub").read_text()) == made
    assert len(made.key_id) == 64


def test_sec1_key_made_by_openssl_is_accepted(tmp_path):
    path = tmp_path / "sec1"
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path], check=True
    )
    assert path.read_text().startswith("-----BEGIN EC PRIVATE KEY-----")
    assert load_private_key(path).public_key.key_id


def test_others_reading_the_private_key_is_a_finding_not_an_error(tmp_path):
    generate_key(tmp_path / "k")
    assert load_private_key(tmp_path / "k").findings == ()
    (tmp_path / "k").chmod(0o640)
    (finding,) = load_private_key(tmp_path / "k").findings
    assert "chmod 600" in finding


def test_secret_is_not_in_repr(tmp_path):
    generate_key(tmp_path / "k")
    assert "CryptoSigner" not in repr(load_private_key(tmp_path / "k"))


def test_encrypted_key_needs_its_password(tmp_path):
    generate_key(tmp_path / "k", password=b"right")
    with pytest.raises(InputError, match="is encrypted; give its password"):
        load_private_key(tmp_path / "k")
    with pytest.raises(InputError, match="password is wrong"):
        load_private_key(tmp_path / "k", password=b"wrong")
    assert load_private_key(tmp_path / "k", password=b"right").public_key.key_id


def test_missing_file_says_so(tmp_path):
    for load in (load_private_key, load_public_key):
        with pytest.raises(InputError, match=r"no such key file.*kfm keys new"):
            load(tmp_path / "none")


def test_private_for_public_and_public_for_private_are_told_apart(tmp_path):
    generate_key(tmp_path / "k")
    with pytest.raises(InputError, match="holds a public key"):
        load_private_key(tmp_path / "k.pub")
    with pytest.raises(InputError, match="holds a private key"):
        load_public_key(tmp_path / "k")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "another kind"),
        (ec.generate_private_key(ec.SECP384R1()), "secp384r1, not P-256"),
    ],
)
def test_other_kinds_of_key_are_refused_by_name(tmp_path, key, reason):
    (tmp_path / "k").write_bytes(_pem(key))
    with pytest.raises(InputError, match=reason):
        load_private_key(tmp_path / "k")
    public = key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InputError, match="P-256"):
        parse_public_key(public.decode())


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n", "ключ"])
def test_text_that_is_no_key_is_refused(tmp_path, text):
    (tmp_path / "k").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load_private_key(tmp_path / "k")
    with pytest.raises(InputError):
        load_public_key(tmp_path / "k")


def test_signature_verifies_with_its_key_and_message_alone(key_dir):
    signer = load_private_key(key_dir / "alice")
    signature = bytes.fromhex(signer.crypto_signer.sign(b"message").signature)
    assert signer.public_key.verifies(signature, b"message")
    assert not signer.public_key.verifies(signature, b"messagf")
    assert not signer.public_key.verifies(signature + b"\0", b"message")
    assert not signer.public_key.verifies(b"", b"message")
    assert not load_public_key(key_dir / "bob.pub").verifies(signature, b"message")


def test_trust_holds_from_not_before_until_not_after(trust, now):
    day = timedelta(days=1)
    assert trust("alice").problem_at(now) is None
    assert trust("alice", not_before=now, not_after=now + day).problem_at(now) is None
    assert "not valid before" in trust("alice", not_before=now + day).problem_at(now)
    assert "expired" in trust("alice", not_after=now).problem_at(now)


def test_revoked_key_is_not_trusted_even_before_its_revocation(trust, now):
    assert "revoked" in trust("alice", revoked_at=now + timedelta(days=1)).problem_at(now)


def test_instant_without_time_zone_is_refused(trust):
    with pytest.raises(InputError, match="no time zone"):
        trust("alice").problem_at(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_trusted_key_with_bad_pem_names_its_holder():
    with pytest.raises(InputError, match="key of 'carol'"):
        _ = TrustedKey("carol", "nonsense").public_key
