"""Whether a council certified a checkpoint: votes on its digest in, a certificate out, and back.

A certificate holds the signed votes themselves, so that whoever has the council's keys can count
again. It is counted at the instant of its latest vote: a quorum that was there stays a certificate
when votes run out later, and a vote that had run out by then does not count.

Votes name the *terms*: council and acceptance limits of the policy. When these change, a new vote
is asked for; any other edit of the policy leaves certificates as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, digest_json
from kfm_mlflow.errors import EvidenceError, InputError, KfmError
from kfm_mlflow.gates.evidence import keys_of_duty
from kfm_mlflow.gates.people import council_of
from kfm_mlflow.trust.attestation import binding_problems, verify_envelope
from kfm_mlflow.trust.quorum import Proposal, Tally, build_vote_claims, parse_vote, tally
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.checkpoints.records import CheckpointsManifest, ManifestEntry
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.trust.keys import Signer
    from kfm_mlflow.trust.quorum import Choice, Vote

FROM_STATE, TO_STATE = "saved", "certified"


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that is put to the vote.

    Attributes:
        model_id: As the manifest says.
        version: Release version, as the manifest says.
        checkpoint_id: Name of the checkpoint.
        digest: ``sha256:<hex>`` of its bytes.
    """

    model_id: str
    version: str
    checkpoint_id: str
    digest: str

    @classmethod
    def of(cls, manifest: CheckpointsManifest, entry: ManifestEntry) -> Candidate:
        """Return a listed checkpoint as a candidate."""
        return cls(manifest.model_id, manifest.version, entry.id, entry.checksum_sha256)


def terms_digest(policy: Policy) -> str:
    """Return ``sha256:<hex>`` of what a vote on a checkpoint holds under."""
    gate = policy.gates.checkpoints
    return digest_json(
        {
            # What a level asks for says nothing of checkpoints, which have none.
            "council": policy.trust.council.model_dump(mode="json", exclude={"approvals"}),
            "limits": None if gate is None else gate.model_dump(mode="json"),
        }
    )


def proposal_of(candidate: Candidate, policy: Policy) -> Proposal:
    """Return what the council votes on."""
    return Proposal(
        model_name=candidate.model_id,
        release_id=candidate.digest,
        from_level=FROM_STATE,
        to_level=TO_STATE,
        policy_digest=terms_digest(policy),
        epoch=1,
    )


def _binding(candidate: Candidate, policy: Policy) -> Binding:
    return Binding(
        candidate.model_id, candidate.version, candidate.digest, policy_digest=terms_digest(policy)
    )


def sign_vote(
    candidate: Candidate,
    policy: Policy,
    signer: Signer,
    *,
    choice: Choice,
    reason: str,
    now: datetime,
    expires_at: datetime | None,
) -> bytes:
    """Return a member's signed vote on a checkpoint, a DSSE envelope.

    Raises:
        InputError: The key is no member's, the choice is none, or there is no reason.
    """
    key_id = signer.public_key.key_id
    names = [
        key.name for key in keys_of_duty(policy.trust, "council") if key.public_key.key_id == key_id
    ]
    if not names:
        raise InputError(
            "is of no member of the policy's council",
            where="key",
            remedy="sign with a key that trust.council.members names",
        )
    claims = build_vote_claims(proposal_of(candidate, policy), names[0], choice, reason)
    statement = build_statement(
        "vote", _binding(candidate, policy), claims, at=now, expires_at=expires_at
    )
    return sign_statement(statement, signer)


def count_votes(
    envelopes: Sequence[bytes], candidate: Candidate, policy: Policy, now: datetime
) -> tuple[Tally, tuple[str, ...]]:
    """Count signed votes on a checkpoint.

    Args:
        envelopes: DSSE envelopes, of anybody on anything.
        candidate: What is voted on.
        policy: Whose council counts.
        now: Instant at which keys must be valid and votes not have run out (aware).

    Returns:
        The tally, and why envelopes were left out.
    """
    trusted = keys_of_duty(policy.trust, "council")
    binding = _binding(candidate, policy)
    votes: list[Vote] = []
    ignored: list[str] = []
    for envelope in envelopes:
        report = verify_envelope(envelope, trusted, now, kind="vote")
        problems = [*report.problems, *binding_problems(report, binding)]
        if problems or not report.ok:
            ignored += problems
            continue
        try:
            votes.append(parse_vote(report.statement or {}, signers=report.signers))
        except KfmError as exc:
            ignored.append(str(exc))
    return (
        tally(votes, council_of(policy), proposal_of(candidate, policy), now),
        tuple(ignored),
    )


def build_certificate(
    envelopes: Sequence[bytes],
    candidate: Candidate,
    policy: Policy,
    now: datetime,
    *,
    auditor: str,
) -> dict[str, Any]:
    """Return the certificate of a quorum.

    Args:
        envelopes: The votes.
        candidate: What they approve.
        policy: Whose council counts.
        now: When it is counted (aware).
        auditor: Who counts; stands in the record.

    Raises:
        EvidenceError: The quorum is not reached.
    """
    from kfm_mlflow.canonical import parse_json

    counted, ignored = count_votes(envelopes, candidate, policy, now)
    if not counted.reached:
        missing = [f"no approval of {role}" for role in counted.missing_roles]
        stopped = [f"vetoed by {name}" for name in counted.vetoing]
        raise EvidenceError(
            f"{len(counted.approving)} of {counted.needed} approvals"
            + "".join(f"; {text}" for text in (*stopped, *missing, *counted.findings, *ignored)),
            where=candidate.checkpoint_id,
            remedy="let more members vote: kfm checkpoints vote",
        )
    return {
        "schema_version": "1",
        "model_id": candidate.model_id,
        "version": candidate.version,
        "checkpoint_id": candidate.checkpoint_id,
        "checksum_sha256": candidate.digest,
        "terms_digest": terms_digest(policy),
        "tally": counted.to_dict(),
        "votes": sorted(
            (parse_json(envelope, where="vote") for envelope in envelopes), key=canonical_bytes
        ),
        "record": {
            "ledger_id": ledger_id(candidate, now),
            "auditor": auditor,
            "reviewed_by": ", ".join(counted.approving),
            "status": "approved",
            "timestamp": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    }


def ledger_id(candidate: Candidate, now: datetime) -> str:
    """Return the name of the record, as documented: ``ledger_2025q4_…_checkpoints``."""
    return f"ledger_{now.year}q{(now.month + 2) // 3}_{candidate.model_id}_checkpoints"


def certificate_problems(
    certificate: Mapping[str, Any] | None, candidate: Candidate, policy: Policy, now: datetime
) -> tuple[str, ...]:
    """Say why a certificate does not hold for a checkpoint; nothing when it does.

    See :func:`recount`.
    """
    return recount(certificate, candidate, policy, now)[1]


def recount(
    certificate: Mapping[str, Any] | None, candidate: Candidate, policy: Policy, now: datetime
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Count the votes of a certificate again; what it says of the count is not read.

    Args:
        certificate: As parsed; None when there is none.
        candidate: The checkpoint.
        policy: Whose council counts, under which terms.
        now: No vote may be of a later instant (aware).

    Returns:
        Members whose approval counts, and why it does not hold; nothing when it does.
    """
    wrong = _form_problem(certificate, candidate, policy)
    if wrong or certificate is None:
        return (), (wrong,)
    try:
        envelopes = [canonical_bytes(vote) for vote in certificate["votes"]]
    except KfmError as exc:
        return (), (f"a vote of the certificate cannot be read ({exc})",)
    trusted = keys_of_duty(policy.trust, "council")
    cast = [
        report.issued_at
        for report in (verify_envelope(e, trusted, now, kind=None) for e in envelopes)
        if report.issued_at is not None and report.issued_at <= now
    ]
    if not cast:
        return (), ("no vote of the certificate is signed by a member",)
    counted, ignored = count_votes(envelopes, candidate, policy, max(cast))
    if counted.reached:
        return counted.approving, ()
    return counted.approving, (
        f"{len(counted.approving)} of {counted.needed} approvals",
        *(f"vetoed by {name}" for name in counted.vetoing),
        *(f"no approval of {role}" for role in counted.missing_roles),
        *counted.findings,
        *ignored,
    )


def _form_problem(
    certificate: Mapping[str, Any] | None, candidate: Candidate, policy: Policy
) -> str:
    """Say why a certificate is none of this checkpoint under these terms; empty when it may be."""
    if certificate is None:
        return "there is no certificate"
    if certificate.get("checksum_sha256") != candidate.digest:
        return "the certificate is of another checkpoint"
    if certificate.get("terms_digest") != terms_digest(policy):
        return "the certificate is of another council, or of other limits"
    listed = certificate.get("votes")
    return "" if isinstance(listed, list) and listed else "the certificate holds no votes"
