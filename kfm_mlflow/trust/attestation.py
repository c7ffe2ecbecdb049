"""Whether a signed statement may be believed: in-toto Statement v1 in a DSSE envelope.

Rules kept here:

1. Every statement is bound (``statement.py``); the subject repeats name and release id, and both
   must agree.
2. Nothing of an envelope is read before a trusted signature over it verified.
3. One key is one signer, however many names or signatures it appears under.
4. Statements have an issue instant and may expire; both are judged against the caller's clock.

Which kinds are needed, and from whom, is the policy's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import Envelope, parse_envelope
from kfm_mlflow.trust.instants import format_instant, is_future, require_aware
from kfm_mlflow.trust.signing_key import FOREIGN_KEY
from kfm_mlflow.trust.slsa import SLSA_PREDICATE_TYPE
from kfm_mlflow.trust.statement import (
    Binding,
    parse_binding,
    parse_statement,
    predicate_type,
    subject_binding,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.trust.keys import TrustedKey

_WHERE = "attestation"
_REMEMBERED = 512
"""Envelopes kept parsed: the same ones are verified at every move of their release."""
_REMEMBERED_BYTES = 2**17
"""A longer envelope is parsed each time, so that strangers' cannot fill the memory."""


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


def _parse_envelope(envelope: bytes) -> Envelope:
    return parse_envelope(parse_json(envelope, where=_WHERE), where=_WHERE)


_parse_again = lru_cache(maxsize=_REMEMBERED)(_parse_envelope)


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
        said = parse_statement(parsed.payload)
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
                subject_binding(found["subject"])
                if found["predicateType"] == SLSA_PREDICATE_TYPE
                else parse_binding(found["predicate"]["binding"])
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
