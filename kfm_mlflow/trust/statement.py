"""What others say about a release: in-toto Statement v1, built, signed and read.

A statement is bound to model name, release version, release id, policy, and the MLflow version
where there is one. Its payload is RFC 8785 canonical JSON built by hand (protobuf turns integers
into doubles). SLSA provenance keeps its official predicate, which other people's tools read: the
subject alone binds it, and the end of the run is its issue instant.

Whether a statement may be believed is asked in ``attestation.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes, parse_digest, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import IN_TOTO_PAYLOAD_TYPE, STATEMENT_TYPE, require_fields
from kfm_mlflow.trust.instants import format_instant, parse_instant, require_aware
from kfm_mlflow.trust.slsa import SLSA_KIND, SLSA_PREDICATE_TYPE, parse_predicate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kfm_mlflow.trust.keys import Signer

SCHEMA_VERSION = "1"
KINDS = (
    "validation",
    "vote",
    "decision",
    "canary-verdict",
    "rollback",
    "policy",
    "equivocation",
    "rollout-order",
    "checkpoint-certificate",
    "care-screening",
    "care-authority",
    "stac-item",
    "deployed-prov",
)
"""Kinds that :func:`build_statement` makes; ``slsa-provenance`` is one more."""
_PREFIX = f"{NAMESPACE}attestations/"
_REMEMBERED = 512
"""Statements kept parsed: the same ones are verified at every move of their release."""


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


def parse_binding(value: Any) -> Binding:
    """Read the binding of a predicate.

    Raises:
        EvidenceError: A field is missing, foreign, or not of its form.
    """
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


@dataclass(frozen=True)
class Statement:
    """A verified payload, read; ``kind`` is None when unknown."""

    value: dict[str, Any]
    kind: str | None
    binding: Binding
    claims: Mapping[str, Any]
    issued_at: datetime
    expires_at: datetime | None


@lru_cache(maxsize=_REMEMBERED)
def parse_statement(payload: bytes) -> Statement:
    """Read a payload; what it says follows from its bytes, so nobody may change the answer.

    Raises:
        EvidenceError: It is no statement of ours, or contradicts itself.
    """
    statement = require_fields(
        parse_json(payload, where="attestation"),
        {"_type", "subject", "predicateType", "predicate"},
        set(),
        where="statement",
    )
    if statement["_type"] != STATEMENT_TYPE:
        raise EvidenceError(f"is not of type {STATEMENT_TYPE}", where="statement")
    if statement["predicateType"] == SLSA_PREDICATE_TYPE:
        claims = statement["predicate"]
        issued_at = parse_predicate(claims).finished_at
        binding = subject_binding(statement["subject"])
        return Statement(statement, SLSA_KIND, binding, claims, issued_at, None)
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
    binding = parse_binding(predicate["binding"])
    if statement["subject"] != _subject(binding, binding.release_id):
        raise EvidenceError("subject disagrees with the binding", where="statement")
    kinds = {predicate_type(kind): kind for kind in KINDS}
    stated, expires = statement["predicateType"], predicate["expires_at"]
    return Statement(
        statement,
        kinds.get(stated) if isinstance(stated, str) else None,
        binding,
        predicate["claims"],
        parse_instant(predicate["issued_at"], where="issued_at"),
        None if expires is None else parse_instant(expires, where="expires_at"),
    )


def subject_binding(subject: Any) -> Binding:
    """Return what a subject binds a statement to.

    A release version holds no ``@`` (a model name may), so the last one parts the two.

    Raises:
        EvidenceError: It names no release.
    """
    if not isinstance(subject, list) or len(subject) != 1:
        raise EvidenceError("must have one subject", where="statement")
    entry = require_fields(subject[0], {"name", "digest"}, set(), where="subject")
    digest = require_fields(entry["digest"], {"sha256"}, set(), where="subject")["sha256"]
    name = entry["name"] if isinstance(entry["name"], str) else ""
    model_name, _, version = name.rpartition("@")
    return parse_binding(Binding(model_name, version, digest).to_dict())
