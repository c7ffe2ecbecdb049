"""Evidence and votes on a version's page: what is signed, by whom, and who must still vote."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import DataError, KfmError
from kfm_mlflow.gates.evidence import policy_regions, read_attestation
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.people import council_of, proposal_of
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.trust.quorum import parse_vote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.registry.page_documents import Beside
    from kfm_mlflow.registry.store import KfmStore
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.quorum import Vote


@dataclass(frozen=True)
class Evidenced:
    """One piece of evidence.

    Attributes:
        kind: What it says something about.
        signer: Who signed it, as the policy calls them; empty when nobody trusted did.
        digest: ``sha256:<hex>``.
        at: When it was made; of the signature, since when it lies beside the frozen release.
        until: Until when it holds; empty for ever.
        verdict: ``PASS`` when it verifies now.
        remark: Why not, or what it says.
    """

    kind: str
    signer: str
    digest: str
    at: str
    until: str
    verdict: str
    remark: str


@dataclass(frozen=True)
class Ballot:
    """One council member and what they said about the move at hand.

    Attributes:
        member: Name.
        roles: What they stand for.
        needed: Roles of theirs that the policy requires.
        choice: Their choice; empty when they did not vote, or their vote does not count.
        reason: Their reason.
        until: Until when the vote holds.
        command: How they vote.
    """

    member: str
    roles: tuple[str, ...]
    needed: tuple[str, ...]
    choice: str
    reason: str
    until: str
    command: str


def verified_attestations(
    store: KfmStore, snapshot: Snapshot, policy: Policy, beside: Beside
) -> list[AttestationReport]:
    """Return what every envelope about a version proves now, by kind and time."""
    now = store.admission.clock()
    unique = {
        digest_bytes(data): data
        for data in (*(data for _, data in beside.envelopes), *snapshot.envelopes)
    }
    try:
        regions = policy_regions(current_policy(policy))
    except DataError:  # the gates say so; nobody then speaks for a region
        regions = None
    reports = [
        read_attestation(unique[key], policy.trust, now, regions=regions) for key in sorted(unique)
    ]
    return sorted(reports, key=lambda report: (str(report.kind), str(report.issued_at)))


def signature_of(
    beside: Beside, report: Mapping[str, Any] | None, frozen_at: str
) -> list[Evidenced]:
    """Return the signature of the whole release as gate ``signature`` found it; at most one."""
    if not beside.signature_digest:
        return []
    gate = next((g for g in (report or {}).get("gates", ()) if g["gate"] == "signature"), None)
    found = gate["findings"] if gate else []
    return [
        Evidenced(
            "signature of the whole release",
            ", ".join(item["observed"] for item in found if item["observed"]),
            beside.signature_digest,
            frozen_at,
            "",
            gate["verdict"] if gate else "INCONCLUSIVE",
            "; ".join(item["detail"] for item in found),
        )
    ]


def evidenced(report: AttestationReport) -> Evidenced:
    """Return an attestation as a line of the page."""
    claims = report.claims or {}
    says = [str(claims[key]) for key in ("choice", "verdict", "outcome") if key in claims]
    return Evidenced(
        str(report.kind or "unknown"),
        ", ".join(report.signers),
        report.digest,
        report.issued_at.isoformat() if report.issued_at else "",
        report.expires_at.isoformat() if report.expires_at else "",
        "PASS" if report.ok else "FAIL",
        "; ".join([*says, *report.problems]),
    )


def vote_command(name: str, version: int, level: Level, member: str) -> str:
    """Return what a council member types to approve a move."""
    uri, key = shlex.quote(f"models:/{name}/{version}"), shlex.quote(f"{member}.pem")
    return f'kfm vote {uri} --to {level} --key {key} --approve --reason "WHY"'


def ballots_of(
    store: KfmStore,
    snapshot: Snapshot,
    policy: Policy,
    following: Level | None,
    *,
    envelopes: Sequence[AttestationReport],
    release_id: str,
) -> tuple[Ballot, ...]:
    """Return every member with their vote on the next move; empty when it asks for no votes.

    Args:
        store: The registry.
        snapshot: The version.
        policy: Its family's policy.
        following: Level that it moves to next; None when there is none.
        envelopes: What every envelope about it proves.
        release_id: Of what is voted on, frozen or not; empty when nobody knows.
    """
    if following is None or not release_id or "votes" not in policy.gate_names(following):
        return ()
    name, version = snapshot.model_name, snapshot.version
    move = Move(
        name,
        version,
        snapshot.level,
        following,
        snapshot.epoch,
        snapshot.production,
        store.admission.clock(),
    )
    wanted = proposal_of(release_id, policy, move).digest
    votes: dict[str, Vote] = {}
    for report in envelopes:
        vote = _vote(report)
        if vote is not None and vote.proposal_digest == wanted:
            votes[vote.voter] = vote
    council = council_of(policy)
    ballots = []
    for member in council.members:
        cast = votes.get(member.name)
        ballots.append(
            Ballot(
                member.name,
                member.roles,
                tuple(role for role in member.roles if role in council.required_roles),
                cast.choice if cast else "",
                cast.reason if cast else "",
                cast.expires_at.isoformat() if cast and cast.expires_at else "",
                vote_command(name, version, following, member.name),
            )
        )
    return tuple(ballots)


def _vote(report: AttestationReport) -> Vote | None:
    if not report.ok or report.kind != "vote":
        return None
    try:
        return parse_vote(report.statement or {}, signers=report.signers)
    except KfmError:
        return None
