"""Council members who contradict themselves: a ledger row as soon as the second vote arrives.

The tally excludes them whenever it counts; this keeps the proof, whatever becomes of the move. Both
votes are kept and named by digest, so that anybody can check their signatures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.registry import records
from kfm_mlflow.trust.ledger import EQUIVOCATION
from kfm_mlflow.trust.quorum import Vote, find_equivocation, parse_vote
from kfm_mlflow.trust.statement import build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Admission, Snapshot
    from kfm_mlflow.trust.attestation import AttestationReport


def read_votes(
    envelopes: Iterable[bytes], policy: Policy, admission: Admission
) -> dict[bytes, Vote]:
    """Return envelope -> vote, of those that are votes and count under a policy now."""
    found: dict[bytes, Vote] = {}
    for envelope in envelopes:
        report = read_attestation(envelope, policy.trust, admission.clock())
        if report.ok and report.kind == "vote":
            try:
                found[envelope] = parse_vote(report.statement or {}, signers=report.signers)
            except EvidenceError:  # signed nonsense: nothing that anybody could contradict
                continue
    return found


def record_equivocation(
    session: Session,
    new: bytes,
    report: AttestationReport,
    *,
    snapshot: Snapshot,
    subject: str,
    known: Mapping[bytes, Vote],
    policy: Policy,
    admission: Admission,
) -> None:
    """Append a row when a vote contradicts one that its voter cast before on the same proposal.

    Args:
        session: Open transaction, holding the model's lock.
        new: The vote's envelope.
        report: What it proves.
        snapshot: The version, read before the lock was taken.
        subject: What the vote is kept under.
        known: The votes in it; those that came in between are read here.
        policy: Whose council votes.
        admission: Signs the row.
    """
    bound = report.binding
    if bound is None:
        return
    kept = records.attestations(session, subject)
    if new in kept:
        return
    late = set(kept) - set(snapshot.envelopes)
    votes = {**known, **read_votes(late, policy, admission)}
    now = admission.clock()
    vote = read_votes([new], policy, admission).get(new)
    choices = find_equivocation(vote, votes.values(), now) if vote else ()
    if vote is None or not choices:
        return
    contradicting = [
        digest_bytes(envelope)
        for envelope, other in votes.items()
        if (other.voter, other.proposal_digest) == (vote.voter, vote.proposal_digest)
    ]
    claims = {
        "voter": vote.voter,
        "proposal_digest": vote.proposal_digest,
        "choices": list(choices),
        "votes": sorted([*contradicting, digest_bytes(new)]),
        "actor": "registry",
        "reason": f"{vote.voter} cast {' and '.join(choices)} on one proposal; neither counts",
    }
    binding = replace(bound, model_name=snapshot.model_name, version=snapshot.version)
    statement = build_statement("equivocation", binding, claims, now)
    records.append_ledger(
        session,
        kind=EQUIVOCATION,
        model=snapshot.model_name,
        version=snapshot.version,
        body=sign_statement(statement, admission.signer).decode("utf-8"),
        now=now,
    )
