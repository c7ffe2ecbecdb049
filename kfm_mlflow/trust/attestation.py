"""Signed statements of other parties about a release: in-toto Statement v1 in a DSSE envelope.

Rules kept here:

1. Every statement is bound: model name, release version, release id, policy, and the MLflow
   version where there is one. The subject repeats name and release id, and both must agree.
2. The payload is RFC 8785 canonical JSON built by hand (protobuf turns integers into doubles).
3. Nothing of an envelope is read before a trusted signature over it verified.
4. One key is one signer, however many names or signatures it appears under.
5. Statements have an issue instant and may expire; both are judged against the caller's clock.
6. SLSA provenance keeps its official predicate, which other people's tools read: the subject alone
   binds it, and the end of the run is its issue instant.

Which kinds are needed, and from whom, is the policy's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import (
    NAMESPACE,
    canonical_bytes,
    digest_bytes,
    parse_digest,
    parse_json,
)
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    STATEMENT_TYPE,
    Envelope,
    parse_envelope,
    require_fields,
)
from kfm_mlflow.trust.instants import format_instant, is_future, parse_instant, require_aware
from kfm_mlflow.trust.signing_key import FOREIGN_KEY
from kfm_mlflow.trust.slsa import SLSA_KIND, SLSA_PREDICATE_TYPE, parse_predicate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.trust.keys import Signer, TrustedKey

SCHEMA_VERSION = "1"
KINDS = (
    "validation",
    "vote",
    "decision",
    "canary-verdict",
    "rollback",
    "policy",
    "equivocation",
    "care-screening",
    "care-authority",
    "stac-item",
    "deployed-prov",
)
"""Kinds that :func:`build_statement` makes; ``slsa-provenance`` is one more."""
_PREFIX = f"{NAMESPACE}attestations/"
_WHERE = "attestation"
_REMEMBERED = 512
"""Envelopes kept parsed: the same ones are verified at every move of their release."""
_REMEMBERED_BYTES = 2**17
"""A longer envelope is parsed each time, so that strangers' cannot fill the memory."""


@dataclass(frozen=True)
class Binding:
    """What a statement is about.

    Attributes:
        model_name: Registered model; of what is said of a version in a registry, its key
            (``model_key.py``).
        release_version: Human tag of the release, for example ``v11.2.2``.
        release_id: ``sha256:<hex>`` of the release's manifest.
        policy_digest: Policy under which the statement was made; None when it does not depend on
            one, as a measurement does.
        version: MLflow model version; None when the release was not registered yet.
    """

    model_name: str
    release_version: str
    release_id: str
    policy_digest: str | None = None
    version: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that stands in the predicate."""
        return {
            "model_name": self.model_name,
            "release_version": self.release_version,
            "release_id": self.release_id,
            "policy_digest": self.policy_digest,
            "version": self.version,
        }


@dataclass(frozen=True)
class AttestationReport:
    """What an envelope proves.

    Attributes:
        ok: A trusted signature verified and nothing below is wrong.
        kind: One of :data:`KINDS` or ``slsa-provenance``; None when unknown.
        statement: The verified statement; None when no trusted signature covers it.
        signers: Names of the distinct trusted keys that signed, in the order of the trusted list.
        problems: One sentence per fault.
        binding: What the statement is about.
        claims: What it says: the caller's own predicate, or that of SLSA.
        issued_at: When it was made, by its own word.
        expires_at: Until when it holds; None for ever.
        digest: ``sha256:<hex>`` of the envelope's bytes.
    """

    ok: bool
    kind: str | None
    statement: Mapping[str, Any] | None
    signers: tuple[str, ...]
    problems: tuple[str, ...]
    binding: Binding | None = None
    claims: Mapping[str, Any] | None = None
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    digest: str = ""


def predicate_type(kind: str) -> str:
    """Return the predicate type URI of a kind.

    Raises:
        InputError: There is no such kind.
    """
    if kind == SLSA_KIND:
        return SLSA_PREDICATE_TYPE
    if kind not in KINDS:
        raise InputError(
            f"{kind!r} is no kind of attestation",
            where="kind",
            remedy=f"use one of {', '.join((*KINDS, SLSA_KIND))}",
        )
    return f"{_PREFIX}{kind}/v1"


def build_statement(
    kind: str,
    binding: Binding,
    predicate: Mapping[str, Any],
    at: datetime,
    expires_at: datetime | None = None,
) -> dict[str, Any]:
    """Build an in-toto statement.

    Args:
        kind: One of :data:`KINDS`.
        binding: What it is about.
        predicate: What it says; plain JSON, placed under ``predicate.claims``.
        at: When it is made (aware).
        expires_at: Until when it holds (aware, exclusive); None for ever.

    Raises:
        InputError: Unknown kind, an instant without time zone, a malformed digest, expiry not
            after issue, or a predicate that is not canonical JSON.
    """
    if kind == SLSA_KIND:
        raise InputError("has a predicate of its own", where=kind, remedy="build_slsa_statement()")
    release_id = parse_digest(binding.release_id, where="release_id")
    if binding.policy_digest is not None:
        parse_digest(binding.policy_digest, where="policy_digest")
    if expires_at is not None and require_aware(expires_at, where="expires_at") <= require_aware(
        at, where="at"
    ):
        raise InputError("expires before it is made", where="expires_at")
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": _subject(binding, release_id),
        "predicateType": predicate_type(kind),
        "predicate": {
            "schema_version": SCHEMA_VERSION,
            "binding": {**binding.to_dict(), "release_id": release_id},
            "issued_at": format_instant(at, where="at"),
            "expires_at": None if expires_at is None else format_instant(expires_at),
            "claims": dict(predicate),
        },
    }
    canonical_bytes(statement)
    return statement


def build_slsa_statement(binding: Binding, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """Build the in-toto statement of a training run.

    Args:
        binding: Model name, release version and release id stand in the subject; policy digest
            and version are not part of provenance and must be None.
        predicate: From :func:`kfm_mlflow.trust.slsa.build_predicate`.

    Raises:
        InputError: A malformed digest, or a binding to more than a release.
        EvidenceError: The predicate is none of ours.
    """
    release_id = parse_digest(binding.release_id, where="release_id")
    if binding.policy_digest is not None or binding.version is not None:
        raise InputError("provenance is bound to a release alone", where=SLSA_KIND)
    parse_predicate(predicate)
    return {
        "_type": STATEMENT_TYPE,
        "subject": _subject(binding, release_id),
        "predicateType": SLSA_PREDICATE_TYPE,
        "predicate": dict(predicate),
    }


def _subject(binding: Binding, release_id: str) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{binding.model_name}@{binding.release_version}",
            "digest": {"sha256": release_id.removeprefix("sha256:")},
        }
    ]


def sign_statement(statement: Mapping[str, Any], signer: Signer) -> bytes:
    """Sign a statement.

    Args:
        statement: From :func:`build_statement`.
        signer: Whose word it is.

    Returns:
        A DSSE envelope as canonical JSON on one line, without newline.

    Raises:
        InputError: The statement is not canonical JSON.
    """
    from securesystemslib.dsse import Envelope as VendorEnvelope

    envelope = VendorEnvelope(canonical_bytes(dict(statement)), IN_TOTO_PAYLOAD_TYPE, {})
    envelope.sign(signer.crypto_signer)
    return canonical_bytes(envelope.to_dict())


def add_signature(envelope: bytes, signer: Signer) -> bytes:
    """Sign the payload of an envelope that others signed already.

    The caller has verified and read the envelope: a signature endorses what it covers.

    Raises:
        EvidenceError: The envelope is malformed.
    """
    from securesystemslib.dsse import Envelope as VendorEnvelope

    value = parse_json(envelope, where=_WHERE)
    parse_envelope(value, where=_WHERE)
    theirs = VendorEnvelope.from_dict(value)
    theirs.sign(signer.crypto_signer)
    return canonical_bytes(theirs.to_dict())


def _find_signers(
    envelope: Envelope, trusted: Sequence[TrustedKey], now: datetime
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of distinct trusted signers, and what is wrong.

    A key may stand in the list twice, with two periods of validity; it is one signer. A signature
    that claims a trusted key and does not verify is always a problem; keys that are out of date
    or unreadable are one only when nobody else signed.
    """
    names: dict[str, str] = {}
    broken: dict[str, str] = {}
    reasons: list[str] = []
    for candidate in trusted:
        try:
            key = candidate.public_key
            expired = candidate.problem_at(now)
        except InputError as exc:
            reasons.append(str(exc))
            continue
        mine = [item for item in envelope.signatures if item.key_id == key.key_id]
        if not mine:
            continue
        if not all(key.verifies(item.signature, envelope.pae) for item in mine):
            text = f"signature under the key of {candidate.name!r} does not verify"
            broken.setdefault(key.key_id, text)
        elif expired is not None:
            reasons.append(f"signed, but {expired}")
        else:
            names.setdefault(key.key_id, candidate.name)
    problems = list(broken.values())
    if not names:
        problems += reasons or ([] if broken else [FOREIGN_KEY])
    return tuple(names.values()), problems


def _parse_binding(value: Any) -> Binding:
    fields = require_fields(
        value,
        {"model_name", "release_version", "release_id", "policy_digest", "version"},
        set(),
        where="binding",
    )
    policy, version = fields["policy_digest"], fields["version"]
    for name in ("model_name", "release_version"):
        if not isinstance(fields[name], str) or not fields[name]:
            raise EvidenceError(f"{name} is not text", where="binding")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise EvidenceError("version is not an integer", where="binding")
    try:
        return Binding(
            model_name=fields["model_name"],
            release_version=fields["release_version"],
            release_id=parse_digest(fields["release_id"], where="release_id"),
            policy_digest=None if policy is None else parse_digest(policy, where="policy_digest"),
            version=version,
        )
    except InputError as exc:
        raise EvidenceError(str(exc), where="binding") from exc


def _parse_envelope(envelope: bytes) -> Envelope:
    return parse_envelope(parse_json(envelope, where=_WHERE), where=_WHERE)


_parse_again = lru_cache(maxsize=_REMEMBERED)(_parse_envelope)


@dataclass(frozen=True)
class _Statement:
    """A verified payload, read; ``kind`` is None when unknown."""

    value: dict[str, Any]
    kind: str | None
    binding: Binding
    claims: Mapping[str, Any]
    issued_at: datetime
    expires_at: datetime | None


@lru_cache(maxsize=_REMEMBERED)
def _parse_statement(payload: bytes) -> _Statement:
    """Read a payload; what it says follows from its bytes, so nobody may change the answer."""
    statement = require_fields(
        parse_json(payload, where=_WHERE),
        {"_type", "subject", "predicateType", "predicate"},
        set(),
        where="statement",
    )
    if statement["_type"] != STATEMENT_TYPE:
        raise EvidenceError(f"is not of type {STATEMENT_TYPE}", where="statement")
    if statement["predicateType"] == SLSA_PREDICATE_TYPE:
        claims = statement["predicate"]
        issued_at = parse_predicate(claims).finished_at
        binding = _subject_binding(statement["subject"])
        return _Statement(statement, SLSA_KIND, binding, claims, issued_at, None)
    predicate = require_fields(
        statement["predicate"],
        {"schema_version", "binding", "issued_at", "expires_at", "claims"},
        set(),
        where="predicate",
    )
    if predicate["schema_version"] != SCHEMA_VERSION:
        raise EvidenceError("schema_version is unknown", where="predicate")
    if not isinstance(predicate["claims"], dict):
        raise EvidenceError("claims is not an object", where="predicate")
    binding = _parse_binding(predicate["binding"])
    if statement["subject"] != _subject(binding, binding.release_id):
        raise EvidenceError("subject disagrees with the binding", where="statement")
    kinds = {predicate_type(kind): kind for kind in KINDS}
    stated, expires = statement["predicateType"], predicate["expires_at"]
    return _Statement(
        statement,
        kinds.get(stated) if isinstance(stated, str) else None,
        binding,
        predicate["claims"],
        parse_instant(predicate["issued_at"], where="issued_at"),
        None if expires is None else parse_instant(expires, where="expires_at"),
    )


def _subject_binding(subject: Any) -> Binding:
    """Return what a subject binds a statement to.

    A release version holds no ``@`` (a model name may), so the last one parts the two.
    """
    if not isinstance(subject, list) or len(subject) != 1:
        raise EvidenceError("must have one subject", where="statement")
    entry = require_fields(subject[0], {"name", "digest"}, set(), where="subject")
    digest = require_fields(entry["digest"], {"sha256"}, set(), where="subject")["sha256"]
    name = entry["name"] if isinstance(entry["name"], str) else ""
    model_name, _, version = name.rpartition("@")
    return _parse_binding(Binding(model_name, version, digest).to_dict())


def _time_problems(issued_at: datetime, expires_at: datetime | None, now: datetime) -> list[str]:
    problems = []
    if is_future(issued_at, now):
        problems.append(f"not yet valid: issued at {format_instant(issued_at)}")
    if expires_at is not None and expires_at <= now:
        problems.append(f"expired at {format_instant(expires_at)}")
    if expires_at is not None and expires_at <= issued_at:
        problems.append("expires before it was issued")
    return problems


def verify_envelope(
    envelope: bytes, trusted: Sequence[TrustedKey], now: datetime, *, kind: str | None = None
) -> AttestationReport:
    """Check a signed statement.

    Args:
        envelope: A DSSE envelope in JSON.
        trusted: Keys that count; none means that nothing passes.
        now: The instant at which keys and statement must hold (aware).
        kind: The kind that is wanted; None accepts every known one.

    Returns:
        The report; bad evidence is in ``problems``, never an exception. A trusted key's name on a
        signature that does not verify is a problem even beside a good one.

    Raises:
        InputError: ``now`` has no time zone, or ``kind`` is none of :data:`KINDS`.
    """
    at = require_aware(now, where="now")
    wanted = None if kind is None else predicate_type(kind)
    digest = digest_bytes(envelope)
    signers: tuple[str, ...] = ()
    problems: list[str] = []
    try:
        again = len(envelope) <= _REMEMBERED_BYTES
        parsed = _parse_again(envelope) if again else _parse_envelope(envelope)
        signers, problems = _find_signers(parsed, trusted, at)
        if not signers:
            return _refused((), problems, digest)
        said = _parse_statement(parsed.payload)
    except EvidenceError as exc:
        return _refused(signers, [*problems, str(exc)], digest)
    stated = said.value["predicateType"]
    if said.kind is None:
        problems.append(f"unknown predicate type {str(stated)[:120]!r}")
    elif wanted is not None and stated != wanted:
        problems.append(f"is a {said.kind} attestation, not {kind}")
    problems += _time_problems(said.issued_at, said.expires_at, at)
    return AttestationReport(
        ok=not problems,
        kind=said.kind,
        statement=said.value,
        signers=signers,
        problems=tuple(problems),
        binding=said.binding,
        claims=said.claims,
        issued_at=said.issued_at,
        expires_at=said.expires_at,
        digest=digest,
    )


def _refused(signers: tuple[str, ...], problems: Sequence[str], digest: str) -> AttestationReport:
    """Return a report that passes on nothing of a statement that cannot be read or believed."""
    return AttestationReport(
        ok=False,
        kind=None,
        statement=None,
        signers=signers,
        problems=tuple(problems),
        digest=digest,
    )


def binding_problems(
    found: AttestationReport | Mapping[str, Any] | Binding | None, expected: Binding
) -> list[str]:
    """Return how a statement is about something else than expected; empty when it is not.

    Args:
        found: A report, a verified statement, or a binding.
        expected: What it has to be about. A ``policy_digest`` or ``version`` of None is not asked
            for. A statement made before registration has no version; it is then bound by name,
            release version and release id alone, which is enough because those never change.
    """
    if isinstance(found, AttestationReport):
        found = found.binding
    if found is None:
        return ["not bound to any release"]
    if not isinstance(found, Binding):
        try:
            found = (
                _subject_binding(found["subject"])
                if found["predicateType"] == SLSA_PREDICATE_TYPE
                else _parse_binding(found["predicate"]["binding"])
            )
        except (EvidenceError, KeyError, TypeError) as exc:
            return [f"not bound to any release ({exc})"]
    problems = []
    for field, label in (
        ("model_name", "model"),
        ("release_version", "release version"),
        ("release_id", "release id"),
    ):
        theirs, ours = getattr(found, field), getattr(expected, field)
        if theirs != ours:
            problems.append(f"is about {label} {theirs!r}, not {ours!r}")
    if expected.policy_digest is not None and found.policy_digest != expected.policy_digest:
        problems.append(
            f"was made under policy {found.policy_digest}, not {expected.policy_digest}"
        )
    if None not in (expected.version, found.version) and found.version != expected.version:
        problems.append(f"is about version {found.version}, not {expected.version}")
    return problems
