"""OpenSSF Model Signing of a release directory with an EC key.

What is written is the vendor's bundle, so ``python -m model_signing verify key
--no-ignore-git-paths`` accepts it. Reading is our own and stricter:

1. Every file counts. A bundle that was signed with ignored paths, symbolic links, shards or
   another hash than SHA-256 is refused, whatever it covers.
2. The set of signed names equals the set of files, name by name and byte by byte; the OMS root
   digest is recomputed but never stands for it, because it does not cover names.
3. A key counts only while the policy trusts it, at the instant that the caller gives. Key bundles
   carry no trusted time, so a revoked key never counts.
4. The bundle has one form: unknown fields, log entries that nobody checks, a foreign key hint and
   loose base64 are refused. The vendor's fallback for pre-1.0 signatures is not taken.
5. Each byte of the release is read once; not at all when the caller passes the digests that it
   has just computed. Both ways run the same comparison.

The name of the directory, empty directories and file modes are not covered by the format. Which
model, version or policy is meant is not in it either: that is what attestations bind.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import MAX_JSON_BYTES, digest_bytes, parse_digest, parse_json, write_bytes
from kfm_mlflow.errors import EvidenceError, InputError, ManifestError, SignatureError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.dsse import STATEMENT_TYPE, Envelope, parse_envelope, require_fields
from kfm_mlflow.trust.instants import require_aware
from kfm_mlflow.trust.keys import TrustedKey, load_private_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.trust.keys import PublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
FOREIGN_KEY = "signed by a key that the policy does not trust"
_ANY_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)  # for a key without bounds, every instant is one


@dataclass(frozen=True)
class SignatureReport:
    """What a release's signature proves.

    Attributes:
        ok: Every file of the release, and no other, was signed by a key that is trusted now.
        signer: Name of that key's holder; None when no trusted key made the signature. It may be
            set when ``ok`` is false: then the signature is genuine but the files are not its.
        problems: One sentence per fault, each beginning with the file at fault.
        key_id: Key id of the signer.
        bundle_digest: ``sha256:<hex>`` of the signature file, when it could be read.
    """

    ok: bool
    signer: str | None
    problems: tuple[str, ...]
    key_id: str | None = None
    bundle_digest: str | None = None


def _read_bundle(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError as exc:
        raise EvidenceError("signature missing", where=path.name) from exc
    except OSError as exc:
        raise EvidenceError(f"signature cannot be read ({exc.strerror})", where=path.name) from exc


def _parse_bundle(data: bytes, *, where: str) -> tuple[Envelope, str | None]:
    """Return the envelope and the key hint of a bundle, nothing of which is verified yet."""
    bundle = require_fields(
        parse_json(data, where=where),
        {"mediaType", "verificationMaterial", "dsseEnvelope"},
        set(),
        where=where,
    )
    if bundle["mediaType"] != MEDIA_TYPE:
        raise EvidenceError(f"media type is not {MEDIA_TYPE}", where=where)
    material = bundle["verificationMaterial"]
    if not isinstance(material, dict) or "publicKey" not in material:
        raise EvidenceError("is not a signature made with a key", where=where)
    material = require_fields(material, {"publicKey"}, {"tlogEntries"}, where=where)
    if material.get("tlogEntries", []) != []:
        raise EvidenceError(
            "carries log entries, which are not checked for key signatures", where=where
        )
    hint = require_fields(material["publicKey"], set(), {"hint"}, where=where).get("hint")
    if hint is not None and not isinstance(hint, str):
        raise EvidenceError("key hint is not text", where=where)
    envelope = parse_envelope(bundle["dsseEnvelope"], where=where)
    if len(envelope.signatures) != 1 or envelope.signatures[0].key_id:
        raise EvidenceError("does not hold exactly one signature without key id", where=where)
    return envelope, hint


def _key_hint(key: PublicKey) -> str:
    return hashlib.sha256(key.pem.encode("ascii")).hexdigest()


def _find_signer(
    envelope: Envelope, hint: str | None, trusted: Sequence[TrustedKey], now: datetime
) -> tuple[TrustedKey | None, PublicKey | None, list[str]]:
    """Return the key that made the signature and is trusted now, or why there is none."""
    reasons: list[str] = []
    for candidate in trusted:
        try:
            key = candidate.public_key
            expired = candidate.problem_at(now)
        except InputError as exc:
            reasons.append(str(exc))
            continue
        if not key.verifies(envelope.signatures[0].signature, envelope.pae):
            continue
        if expired is not None:
            reasons.append(f"signed, but {expired}")
        elif hint and hint != _key_hint(key):
            reasons.append(f"names another key than the one of {candidate.name!r} that signed it")
        else:
            return candidate, key, []
    return None, None, reasons or [FOREIGN_KEY]


def _parse_resources(payload: bytes, *, where: str) -> dict[str, str]:
    """Return path -> digest of a signed statement, refusing what lets files go unseen."""
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


def _compare(signed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    problems = [f"{name}: signed but missing" for name in sorted(signed.keys() - found.keys())]
    problems += [f"{name}: not signed" for name in sorted(found.keys() - signed.keys())]
    problems += [
        f"{name}: bytes differ from what was signed"
        for name in sorted(signed.keys() & found.keys())
        if signed[name] != found[name]
    ]
    return problems


def verify_release(
    release_dir: Path,
    signature_path: Path,
    public_keys: Sequence[TrustedKey],
    now: datetime,
    *,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Check a release against its signature and the keys that are trusted now.

    Args:
        release_dir: The directory; not read when ``digests`` is given.
        signature_path: The bundle, beside the directory.
        public_keys: Keys that the policy trusts; each is tried. None means that nothing passes.
        now: The instant at which keys must be trusted (aware).
        digests: Path -> digest of every file, which the caller has computed from the bytes itself
            (``build_manifest(...).digests``), never taken from a document. The comparison is the
            same as without.

    Returns:
        The report; bad evidence is in ``problems``, never an exception.

    Raises:
        InputError: ``now`` has no time zone.
    """
    require_aware(now, where="now")
    where, bundle_digest = signature_path.name, None
    signer: TrustedKey | None = None
    key: PublicKey | None = None
    try:
        data = _read_bundle(signature_path)
        bundle_digest = digest_bytes(data)
        envelope, hint = _parse_bundle(data, where=where)
        signer, key, reasons = _find_signer(envelope, hint, public_keys, now)
        problems = [f"{where}: {reason}" for reason in reasons]
        if signer is not None:
            signed = _parse_resources(envelope.payload, where=where)
            if digests is None:
                digests = build_manifest(release_dir).digests
            found = {path: parse_digest(text, where=path) for path, text in digests.items()}
            problems = _compare(signed, found)
    except (EvidenceError, ManifestError, InputError) as exc:
        problems = [str(exc)]
    return SignatureReport(
        ok=signer is not None and not problems,
        signer=signer.name if signer else None,
        problems=tuple(problems),
        key_id=key.key_id if key else None,
        bundle_digest=bundle_digest,
    )


def _vendor_sign(release_dir: Path, key_path: Path, password: bytes | None) -> bytes:
    """Let model-signing hash and sign a directory; return its bundle."""
    from model_signing import hashing, signing

    everything = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    with tempfile.TemporaryDirectory(prefix="kfm-sign-") as folder:
        target = Path(folder) / "model.sig"
        try:
            signing.Config().use_elliptic_key_signer(
                private_key=key_path, password=password
            ).set_hashing_config(everything).sign(release_dir, target)
        except Exception as exc:
            # The vendor lets through whatever its dependencies raise and documents no type.
            raise SignatureError(
                f"model-signing failed ({type(exc).__name__}: {exc})", where=str(release_dir)
            ) from exc
        return target.read_bytes()


def sign_release(
    release_dir: Path, signature_path: Path, key_path: Path, *, password: bytes | None = None
) -> SignatureReport:
    """Sign every file of a release; the signature lies outside the directory.

    The new bundle is checked by :func:`verify_release` against an own reading of the directory
    before it appears, so a release that changes meanwhile is never signed half.

    Args:
        release_dir: The release.
        signature_path: Where the bundle goes; an older one is replaced.
        key_path: EC P-256 private key in PEM.
        password: Of the key, if it is encrypted.

    Returns:
        The report of the new signature; ``signer`` is the file name of the key.

    Raises:
        InputError: The key is unusable, or the signature would lie inside the release.
        ManifestError: The directory holds what no release may hold.
        SignatureError: The vendor failed, or the directory changed meanwhile.
    """
    signer = load_private_key(key_path, password=password)
    if signature_path.resolve().is_relative_to(release_dir.resolve()):
        raise InputError(
            "lies inside the release that it signs",
            where=str(signature_path),
            remedy="put the signature beside the directory",
        )
    digests = build_manifest(release_dir).digests
    # The vendor treats a password for a key without one as an error; load_private_key does not.
    encrypted = b"ENCRYPTED" in key_path.read_bytes()
    bundle = _vendor_sign(release_dir, key_path, password if encrypted else None)
    with tempfile.TemporaryDirectory(prefix="kfm-sign-") as folder:
        draft = Path(folder) / signature_path.name
        draft.write_bytes(bundle)
        own = TrustedKey(name=key_path.name, public_key_pem=signer.public_key.pem)
        report = verify_release(release_dir, draft, [own], _ANY_INSTANT, digests=digests)
    if not report.ok:
        raise SignatureError("; ".join(report.problems), where=str(release_dir))
    write_bytes(signature_path, bundle)
    return report


def enforce_signature(report: SignatureReport) -> None:
    """Raise when a release's signature is not good.

    Raises:
        SignatureError: Naming every problem.
    """
    if not report.ok:
        raise SignatureError("; ".join(report.problems) or "signature is not good")
