"""Elliptic-curve keys (P-256) on disk, and when a public key is trusted.

Rules kept here:

1. One key kind only: EC P-256 in PEM, which model-signing and securesystemslib both accept.
2. A private key is written with mode 0600 and never over another file.
3. A key is named by its securesystemslib key id: SHA-256 over the canonical JSON of key type,
   scheme and public PEM. It is the ``keyid`` that stands in DSSE envelopes.
4. A revoked key is not trusted at any instant: nothing proves when its signatures were made.

It does not know what anybody is trusted for; the policy does.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.instants import require_aware

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_CURVE = "secp256r1"
_NEW_KEY = "`kfm keys new` makes an EC P-256 key"


@dataclass(frozen=True)
class PublicKey:
    """An EC P-256 public key.

    Attributes:
        pem: SubjectPublicKeyInfo in PEM, as the library writes it (normalised).
        key_id: securesystemslib key id, 64 hex digits.
    """

    pem: str
    key_id: str

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether an ECDSA/SHA-256 signature (DER) over a message was made with this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.hashes import SHA256

        key = _crypto_key(self.pem)
        if not isinstance(key, EllipticCurvePublicKey):
            return False
        try:
            key.verify(signature, message, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private key that is ready to sign.

    Attributes:
        public_key: The other half.
        findings: What is unsafe about how the key is kept; show it to its owner.
        crypto_signer: The securesystemslib ``CryptoSigner``.
    """

    public_key: PublicKey
    findings: tuple[str, ...]
    crypto_signer: Any = field(repr=False, compare=False)


def period_problem(
    what: str,
    not_before: datetime | None,
    not_after: datetime | None,
    revoked_at: datetime | None,
    now: datetime,
) -> str | None:
    """Return why something is not trusted at an instant; None when it is.

    Args:
        what: The thing, as the sentence names it.
        not_before: Trusted from then on (aware); None for always.
        not_after: Trusted until then, exclusive (aware); None for always.
        revoked_at: Not trusted at all once set, whatever the date.
        now: The instant (aware).

    Raises:
        InputError: ``now`` or a bound has no time zone.
    """
    at = require_aware(now, where="now")
    if revoked_at is not None:
        return f"{what} was revoked at {revoked_at.isoformat()}"
    if not_before is not None and at < require_aware(not_before, where="not_before"):
        return f"{what} is not valid before {not_before.isoformat()}"
    if not_after is not None and at >= require_aware(not_after, where="not_after"):
        return f"{what} expired at {not_after.isoformat()}"
    return None


@dataclass(frozen=True)
class TrustedKey:
    """A public key that a policy trusts under a name.

    Attributes:
        name: Who holds it.
        public_key_pem: PEM text.
        roles: What the holder may be counted for.
        not_before: Trusted from then on (aware); None for always.
        not_after: Trusted until then, exclusive (aware); None for always.
        revoked_at: Not trusted at all once set, whatever the date.
    """

    name: str
    public_key_pem: str
    roles: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def public_key(self) -> PublicKey:
        """The key itself.

        Raises:
            InputError: The PEM is not an EC P-256 public key.
        """
        return parse_public_key(self.public_key_pem, where=f"key of {self.name!r}")

    def problem_at(self, now: datetime) -> str | None:
        """Return why this key is not trusted at an instant; None when it is.

        Raises:
            InputError: ``now`` or a bound has no time zone.
        """
        return period_problem(
            f"key of {self.name!r}", self.not_before, self.not_after, self.revoked_at, now
        )


@lru_cache(maxsize=256)
def _crypto_key(pem: str) -> object:
    """Return the cryptography library's key; reading the PEM costs as much as a verification."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem.encode("ascii"))


@lru_cache(maxsize=256)
def _public_key(pem: str) -> PublicKey | str:
    """Return the key, or what is wrong with the PEM; cached because policies repeat their keys."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    if "PRIVATE KEY" in pem:
        return "holds a private key where a public one belongs"
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        return "is not a public key in PEM"
    if not isinstance(key, EllipticCurvePublicKey):
        return f"is a {type(key).__name__.removesuffix('PublicKey')} key, not EC P-256"
    if key.curve.name != _CURVE:
        return f"is an EC key on {key.curve.name}, not P-256"
    known = SSlibKey.from_crypto(key)
    return PublicKey(pem=_public_pem(key), key_id=str(known.keyid))


def _public_pem(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization as ser

    data: bytes = key.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    return data.decode("ascii")


def parse_public_key(pem: str, *, where: str = "public key") -> PublicKey:
    """Read a public key from PEM text.

    Raises:
        InputError: Not PEM, a private key, another key kind, or another curve.
    """
    found = _public_key(pem)
    if isinstance(found, str):
        raise InputError(found, where=where, remedy=_NEW_KEY)
    return found


def _read_pem(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError as exc:
        raise InputError("no such key file", where=str(path), remedy=_NEW_KEY) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError("cannot be read as a PEM file", where=str(path), remedy=_NEW_KEY) from exc


def load_public_key(path_or_pem: Path | str) -> PublicKey:
    """Read a public key from a file or from PEM text.

    Args:
        path_or_pem: A path, or text that starts with ``-----BEGIN``.

    Raises:
        InputError: The file is missing, or holds no EC P-256 public key.
    """
    if isinstance(path_or_pem, str) and path_or_pem.lstrip().startswith("-----BEGIN"):
        return parse_public_key(path_or_pem)
    path = Path(path_or_pem)
    return parse_public_key(_read_pem(path), where=str(path))


def _load_private(path: Path, password: bytes | None) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_pem(path)
    where = str(path)
    if "PUBLIC KEY" in pem:
        raise InputError(
            "holds a public key where a private one belongs",
            where=where,
            remedy="name the file without .pub",
        )
    encrypted = "ENCRYPTED" in pem
    if encrypted and password is None:
        raise InputError("is encrypted", where=where, remedy="give its password")
    try:
        # A password for a key that has none is an error of the vendor; it hides nothing.
        key = load_pem_private_key(pem.encode("ascii"), password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        reason = "the password is wrong" if encrypted else "is not a private key in PEM"
        raise InputError(reason, where=where, remedy=_NEW_KEY if not encrypted else "") from exc
    if not isinstance(key, EllipticCurvePrivateKey):
        raise InputError(
            "is a private key of another kind than EC P-256", where=where, remedy=_NEW_KEY
        )
    if key.curve.name != _CURVE:
        raise InputError(f"is on {key.curve.name}, not P-256", where=where, remedy=_NEW_KEY)
    return key


def load_private_key(path: Path, *, password: bytes | None = None) -> Signer:
    """Read a private key.

    Args:
        path: PEM file (PKCS#8 or SEC 1).
        password: What the file is encrypted with, if it is.

    Returns:
        The signer; its ``findings`` warn when others on this machine can read the file.

    Raises:
        InputError: The file is missing, unreadable, encrypted without or with another password,
            a public key, or no EC P-256 key.
    """
    from securesystemslib.signer import CryptoSigner

    key = _load_private(path, password)
    findings: tuple[str, ...] = ()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        findings = (
            f"{path}: mode {mode:04o} lets others on this machine at the private key; chmod 600 it",
        )
    public = parse_public_key(_public_pem(key.public_key()), where=str(path))
    return Signer(public_key=public, findings=findings, crypto_signer=CryptoSigner(key))


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as exc:
        raise InputError(
            "exists already",
            where=str(path),
            remedy="choose another name; keys are never overwritten",
        ) from exc
    except OSError as exc:
        raise InputError(f"cannot be written ({exc.strerror})", where=str(path)) from exc
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)


def generate_key(path: Path, *, password: bytes | None = None) -> PublicKey:
    """Make a new EC P-256 key pair: ``path`` (private, mode 0600) and ``path``.pub.

    Args:
        path: Where the private key goes; the directory is made when it is missing.
        password: Encrypt the private key with it; None leaves it in the clear.

    Raises:
        InputError: Either file exists, or cannot be written; nothing is left behind.
    """
    from cryptography.hazmat.primitives import serialization as ser
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    lock = ser.BestAvailableEncryption(password) if password else ser.NoEncryption()
    private = key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, lock)
    pem = _public_pem(key.public_key())
    beside = path.with_name(f"{path.name}.pub")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"cannot be made ({exc.strerror})", where=str(path.parent)) from exc
    _write_new(path, private, 0o600)
    try:
        _write_new(beside, pem.encode("ascii"), 0o644)
    except BaseException:
        path.unlink()
        raise
    return parse_public_key(pem, where=str(beside))
