"""The signature file of a release: its outer form, and the statement that is signed in it.

Three kinds of bundle share both: made with a key, with a certificate, or with Sigstore. Nothing
read here is to be believed before one of the three has verified the signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import MAX_JSON_BYTES, parse_digest, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import STATEMENT_TYPE, Envelope, parse_envelope, require_fields

if TYPE_CHECKING:
    from pathlib import Path

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class SignatureBundle:
    """A parsed bundle.

    Attributes:
        material: ``verificationMaterial``, not yet looked at.
        envelope: The envelope, with exactly one signature.
        source: The bytes that all this was read from.
    """

    material: dict[str, Any]
    envelope: Envelope
    source: bytes


@dataclass(frozen=True)
class Origin:
    """Who made a signature.

    Attributes:
        signer: Name under which the policy trusts the maker.
        key_id: securesystemslib id of the lasting key; None where each signature has a new key.
    """

    signer: str
    key_id: str | None = None


def read_bundle(path: Path) -> bytes:
    """Read a signature file, never more of it than JSON may be long.

    Raises:
        EvidenceError: Missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError as exc:
        raise EvidenceError("signature missing", where=path.name) from exc
    except OSError as exc:
        raise EvidenceError(f"signature cannot be read ({exc.strerror})", where=path.name) from exc


def parse_bundle(data: bytes, *, where: str) -> SignatureBundle:
    """Read a bundle of any kind.

    Raises:
        EvidenceError: Not JSON, another media type, unknown fields, or not exactly one signature.
    """
    bundle = require_fields(
        parse_json(data, where=where),
        {"mediaType", "verificationMaterial", "dsseEnvelope"},
        set(),
        where=where,
    )
    if bundle["mediaType"] != MEDIA_TYPE:
        raise EvidenceError(f"media type is not {MEDIA_TYPE}", where=where)
    material = bundle["verificationMaterial"]
    if not isinstance(material, dict):
        raise EvidenceError("verification material is not an object", where=where)
    envelope = parse_envelope(bundle["dsseEnvelope"], where=where)
    if len(envelope.signatures) != 1 or envelope.signatures[0].key_id:
        raise EvidenceError("does not hold exactly one signature without key id", where=where)
    return SignatureBundle(material, envelope, data)


def parse_resources(payload: bytes, *, where: str) -> dict[str, str]:
    """Return path -> digest of a signed statement, refusing what lets files go unseen.

    Raises:
        EvidenceError: Another statement, another hashing configuration than whole files with
            SHA-256 and nothing ignored, a name twice, or a subject that disagrees.
    """
    statement = require_fields(
        parse_json(payload, where=where),
        {"_type", "subject", "predicateType", "predicate"},
        set(),
        where=where,
    )
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
        raise EvidenceError("signed statement is not an OpenSSF model signature v1.0", where=where)
    predicate = statement["predicate"]
    if not isinstance(predicate, dict):
        raise EvidenceError("predicate is not an object", where=where)
    _check_serialization(predicate.get("serialization"), where=where)
    found: dict[str, str] = {}
    root = hashlib.sha256()
    resources = predicate.get("resources")
    if not isinstance(resources, list) or not resources:
        raise EvidenceError("no file was signed", where=where)
    for item in resources:
        entry = require_fields(item, {"name", "algorithm", "digest"}, set(), where=where)
        name = entry["name"]
        if not isinstance(name, str) or name in found:
            raise EvidenceError("a signed name is not text or appears twice", where=where)
        if entry["algorithm"] != "sha256":
            raise EvidenceError(f"{name!r} was not hashed with sha256", where=where)
        try:
            found[name] = parse_digest(entry["digest"], where=where)
        except InputError as exc:
            raise EvidenceError(f"digest of {name!r} is malformed", where=where) from exc
        root.update(bytes.fromhex(found[name].removeprefix("sha256:")))
    _check_subject(statement["subject"], root.hexdigest(), where=where)
    return found


def _check_serialization(value: Any, *, where: str) -> None:
    """Refuse every hashing configuration but: whole files, SHA-256, no links, nothing ignored."""
    if not isinstance(value, dict):
        raise EvidenceError("hashing configuration is missing", where=where)
    if value.get("method") != "files" or value.get("hash_type") != "sha256":
        raise EvidenceError("was not signed as whole files with sha256", where=where)
    if value.get("allow_symlinks") is not False:
        raise EvidenceError("was signed with symbolic links allowed", where=where)
    if value.get("ignore_paths", []) != []:
        raise EvidenceError("was signed with ignored paths, which nothing covers", where=where)


def _check_subject(subject: Any, root: str, *, where: str) -> None:
    try:
        (only,) = subject
        named = only["digest"]["sha256"]
    except (TypeError, ValueError, KeyError) as exc:
        raise EvidenceError("does not have one subject with a sha256 digest", where=where) from exc
    if named != root:
        raise EvidenceError("subject digest disagrees with the signed files", where=where)
