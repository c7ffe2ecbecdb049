"""Votes in, certificate out: whether a council has approved one proposal.

Pure: the clock is a parameter, and signatures were checked by the caller. Rules:

1. A vote counts for exactly one proposal digest, of a member, while it is not expired.
2. With threshold ``byzantine``, ``ceil((n + f + 1) / 2)`` distinct members must approve, where
   ``f = (n - 1) // 3``. Two such quorums share more than f members, so f liars cannot certify two
   contradicting proposals, and ``n - f`` honest approvers always suffice. Below four members
   f is 0 and nothing is tolerated; such a council never reaches a byzantine threshold.
3. With threshold k it is called ``k-of-n`` and promises no more than that.
4. A denial or veto by a holder of a veto role stops everything, whatever else was cast, even by
   that same member.
5. A member with two different choices for one proposal is an equivocator: it counts for nothing
   and is named. Who changes their mind asks for a new epoch.
6. A level may ask for more distinct approvals than the threshold does; the larger number counts.
7. To abstain or to escalate approves nothing and stops nothing: both are named, so that somebody
   sees them, and neither lets f liars block the others.

Source of the quorum size: 2q - n > f and q <= n - f (Castro and Liskov, OSDI 1999; for n that is
not 3f + 1 the smallest q is the one above).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.policy.trust import has_twins
from kfm_mlflow.trust.dsse import require_fields
from kfm_mlflow.trust.instants import format_instant, is_future, parse_instant, require_aware

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

Choice = Literal["approve", "deny", "abstain", "escalate", "veto"]
Reason = Literal["quorum_not_met", "insufficient_bft_fleet_size", "insufficient_clearance"]
_TOO_SMALL = "a byzantine threshold needs"
MIN_BYZANTINE_MEMBERS = 4


@dataclass(frozen=True)
class Proposal:
    """One move that is voted on; its digest is what a vote names.

    Attributes:
        model_name: Registered model, by its key.
        release_id: ``sha256:<hex>`` of the release.
        from_level: Level before the move.
        to_level: Level after it.
        policy_digest: Policy under which it is proposed.
        epoch: Grows each time the same move is put to the vote again.
    """

    model_name: str
    release_id: str
    from_level: str
    to_level: str
    policy_digest: str
    epoch: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form whose digest names the proposal."""
        return {
            "model_name": self.model_name,
            "release_id": self.release_id,
            "from_level": str(self.from_level),
            "to_level": str(self.to_level),
            "policy_digest": self.policy_digest,
            "epoch": self.epoch,
        }

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the canonical proposal."""
        return digest_json(self.to_dict())


@dataclass(frozen=True)
class Vote:
    """One member's word on one proposal; instants are aware."""

    voter: str
    choice: Choice
    reason: str
    cast_at: datetime
    expires_at: datetime | None
    proposal_digest: str


@dataclass(frozen=True)
class Member:
    """A council member and the roles that it holds."""

    name: str
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Council:
    """Who votes and how many must agree.

    Attributes:
        members: Names are unique.
        threshold: ``byzantine``, or a number k of at least 1.
        required_roles: Roles of each of which at least one holder must approve.
        veto_roles: Roles whose holders stop everything by one denial.
        approvals: Level -> least number of distinct approvals on the way into it.
    """

    members: tuple[Member, ...]
    threshold: Literal["byzantine"] | int = "byzantine"
    required_roles: tuple[str, ...] = ()
    veto_roles: tuple[str, ...] = ()
    approvals: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a council that could count somebody twice or pass with nobody."""
        if has_twins(member.name for member in self.members):
            raise InputError("a member is named twice", where="council")
        if self.threshold != "byzantine" and self.threshold < 1:
            raise InputError(f"threshold {self.threshold} is below 1", where="council")


@dataclass(frozen=True)
class Tally:
    """What the votes amount to.

    Attributes:
        outcome: ``reached`` is a certificate; ``pending`` may become one; ``vetoed`` will not.
        approving: Members that count as approving, sorted.
        denying: Members that deny or veto, sorted.
        abstaining: Members that abstain, sorted.
        escalating: Members that ask for a higher body, sorted.
        needed: Distinct approvals that are asked for.
        f: Liars that are tolerated; 0 for k-of-n.
        missing_roles: Required roles of which nobody approves.
        equivocators: Members excluded for contradicting themselves, sorted.
        vetoing: Members that stopped it, sorted.
        scheme: What may honestly be claimed of the count.
        findings: One sentence for each vote that did not count, and for what else is odd.
        proposal_digest: What was voted on.
    """

    outcome: Literal["reached", "pending", "vetoed"]
    approving: tuple[str, ...]
    denying: tuple[str, ...]
    abstaining: tuple[str, ...]
    escalating: tuple[str, ...]
    needed: int
    f: int
    missing_roles: tuple[str, ...]
    equivocators: tuple[str, ...]
    vetoing: tuple[str, ...]
    scheme: Literal["byzantine-fault-tolerant", "k-of-n"]
    findings: tuple[str, ...]
    proposal_digest: str

    @property
    def reached(self) -> bool:
        """Whether this is a certificate."""
        return self.outcome == "reached"

    @property
    def reason(self) -> Reason | None:
        """Why it is none yet, in one word; None when it is one, or was stopped."""
        if self.outcome != "pending":
            return None
        if any(text.startswith(_TOO_SMALL) for text in self.findings):
            return "insufficient_bft_fleet_size"
        if self.missing_roles and len(self.approving) >= self.needed:
            return "insufficient_clearance"
        return "quorum_not_met"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that stands in a decision."""
        return {
            "schema_version": "1",
            "outcome": self.outcome,
            "approving": list(self.approving),
            "denying": list(self.denying),
            "abstaining": list(self.abstaining),
            "escalating": list(self.escalating),
            "needed": self.needed,
            "f": self.f,
            "missing_roles": list(self.missing_roles),
            "equivocators": list(self.equivocators),
            "vetoing": list(self.vetoing),
            "scheme": self.scheme,
            "findings": list(self.findings),
            "proposal_digest": self.proposal_digest,
        }


def byzantine_quorum(member_count: int) -> tuple[int, int]:
    """Return the quorum and the tolerated liars ``(q, f)`` of n members.

    ``q = ceil((n + f + 1) / 2)``, ``f = (n - 1) // 3``; 4 gives (3, 1), 7 gives (5, 2).
    """
    f = max(0, (member_count - 1) // 3)
    return (member_count + f + 2) // 2, f


def build_vote_claims(
    proposal: Proposal, voter: str, choice: Choice, reason: str
) -> dict[str, Any]:
    """Build the claims of a ``vote`` attestation, to be signed with the voter's key.

    Raises:
        InputError: The choice is none, or the reason is empty.
    """
    if choice not in get_args(Choice):
        raise InputError(
            f"{choice!r} is no choice",
            where="choice",
            remedy=f"use one of {', '.join(get_args(Choice))}",
        )
    if not reason.strip():
        raise InputError("a vote needs a reason", where="reason")
    return {
        "voter": voter,
        "choice": choice,
        "reason": reason,
        "proposal": proposal.to_dict(),
        "proposal_digest": proposal.digest,
    }


def parse_vote(statement: Mapping[str, Any], *, signers: Sequence[str]) -> Vote:
    """Read a vote from a verified ``vote`` statement.

    Args:
        statement: ``AttestationReport.statement``.
        signers: ``AttestationReport.signers``; nobody can vote for somebody else.

    Raises:
        EvidenceError: A field is missing or malformed, the proposal does not have the digest that
            the vote names, it is about another release than the statement, or the voter did not
            sign.
    """
    try:
        predicate = statement["predicate"]
        claims, bound = predicate["claims"], predicate["binding"]
        issued, expires = predicate["issued_at"], predicate["expires_at"]
        theirs = (bound["model_name"], bound["release_id"])
    except (KeyError, TypeError) as exc:
        raise EvidenceError(f"is not a statement ({exc})", where="vote") from exc
    fields = require_fields(
        claims, {"voter", "choice", "reason", "proposal", "proposal_digest"}, set(), where="vote"
    )
    for name in ("voter", "choice", "reason", "proposal_digest"):
        if not isinstance(fields[name], str):
            raise EvidenceError(f"{name} is not text", where="vote")
    if fields["choice"] not in get_args(Choice):
        raise EvidenceError(f"{fields['choice'][:40]!r} is no choice", where="vote")
    if fields["voter"] not in signers:
        raise EvidenceError(
            f"of {fields['voter'][:80]!r} is not signed by that member's key", where="vote"
        )
    proposal = fields["proposal"]
    if not isinstance(proposal, dict) or _digest(proposal) != fields["proposal_digest"]:
        raise EvidenceError("proposal does not have the digest that the vote names", where="vote")
    if (proposal.get("model_name"), proposal.get("release_id")) != theirs:
        raise EvidenceError("proposal is about another release than the statement", where="vote")
    return Vote(
        voter=fields["voter"],
        choice=fields["choice"],
        reason=fields["reason"],
        cast_at=parse_instant(issued, where="issued_at"),
        expires_at=None if expires is None else parse_instant(expires, where="expires_at"),
        proposal_digest=fields["proposal_digest"],
    )


def _digest(value: Mapping[str, Any]) -> str | None:
    try:
        return digest_json(dict(value))
    except InputError:  # not canonical JSON, so it has no digest that anybody could name
        return None


def _why_ignored(
    vote: Vote, names: Iterable[str], proposal_digest: str, now: datetime
) -> str | None:
    """Return why a vote does not count; None when it does."""
    if vote.voter not in names:
        return f"vote of {vote.voter!r} ignored: not a member"
    if vote.proposal_digest != proposal_digest:
        return f"vote of {vote.voter!r} ignored: for another proposal"
    if is_future(vote.cast_at, now):
        return f"vote of {vote.voter!r} ignored: cast in the future"
    if vote.expires_at is not None and vote.expires_at <= now:
        return f"vote of {vote.voter!r} ignored: expired at {format_instant(vote.expires_at)}"
    return None


def _threshold(
    council: Council, to_level: str
) -> tuple[int, int, Literal["byzantine-fault-tolerant", "k-of-n"], str]:
    """Return needed approvals, tolerated liars, scheme, and why it cannot be reached (or "")."""
    count, asked = len(council.members), council.approvals.get(to_level, 0)
    if council.threshold == "byzantine":
        needed, f = byzantine_quorum(count)
        if count < MIN_BYZANTINE_MEMBERS:
            blocked = f"{_TOO_SMALL} {MIN_BYZANTINE_MEMBERS} members, the council has {count}"
            return max(needed, asked), 0, "k-of-n", blocked
    else:
        needed, f = council.threshold, 0
    needed = max(needed, asked)
    blocked = f"{needed} approvals are asked of {count} members" if needed > count else ""
    if council.threshold == "byzantine":
        return needed, f, "byzantine-fault-tolerant", blocked
    return needed, f, "k-of-n", blocked


def _saying(one_word: Mapping[str, Choice], *choices: Choice) -> tuple[str, ...]:
    """Return who says one of these things and nothing else, sorted."""
    return tuple(sorted(name for name, said in one_word.items() if said in choices))


def find_equivocation(vote: Vote, earlier: Iterable[Vote], now: datetime) -> tuple[Choice, ...]:
    """Return the choices that a new vote makes contradict each other, sorted; often none.

    Args:
        vote: Signed by its voter.
        earlier: Other votes, of anybody on anything; those that have run out contradict nothing.
        now: The instant (aware).

    Returns:
        Nothing when the member said the same before, or nothing: a choice is new only once.
    """
    said: set[Choice] = {
        other.choice
        for other in earlier
        if (other.voter, other.proposal_digest) == (vote.voter, vote.proposal_digest)
        and (other.expires_at is None or now < other.expires_at)
    }
    return tuple(sorted({*said, vote.choice})) if said and vote.choice not in said else ()


def tally(votes: Iterable[Vote], council: Council, proposal: Proposal, now: datetime) -> Tally:
    """Count the votes on one proposal.

    Args:
        votes: Signed by their voters, in any order; duplicates count once.
        council: Who may vote.
        proposal: What is voted on; votes on anything else are ignored with a finding.
        now: The instant (aware).

    Returns:
        The tally; it is ``reached`` only as long as ``now`` is before every counted expiry.

    Raises:
        InputError: ``now`` has no time zone.
    """
    at = require_aware(now, where="now")
    wanted = proposal.digest
    roles = {member.name: set(member.roles) for member in council.members}
    choices: dict[str, set[Choice]] = {}
    findings: set[str] = set()
    for vote in votes:
        ignored = _why_ignored(vote, roles, wanted, at)
        if ignored:
            findings.add(ignored)
        else:
            choices.setdefault(vote.voter, set()).add(vote.choice)
    equivocators = {name for name, cast in choices.items() if len(cast) > 1}
    findings |= {
        f"{name!r} cast contradicting votes and counts for nothing" for name in equivocators
    }
    one_word = {name: next(iter(cast)) for name, cast in choices.items() if len(cast) == 1}
    approving = _saying(one_word, "approve")
    escalating = _saying(one_word, "escalate")
    vetoing = {
        name
        for name, cast in choices.items()
        if cast & {"deny", "veto"} and roles[name] & set(council.veto_roles)
    }
    findings |= {
        f"veto of {name!r} counts as a denial: the member holds no veto role"
        for name, cast in choices.items()
        if "veto" in cast and name not in vetoing
    }
    findings |= {f"{name!r} asks for escalation" for name in escalating}
    held = {role for name in approving for role in roles[name]}
    missing = tuple(role for role in council.required_roles if role not in held)
    needed, f, scheme, blocked = _threshold(council, str(proposal.to_level))
    if blocked:
        findings.add(blocked)
    outcome: Literal["reached", "pending", "vetoed"] = "pending"
    if vetoing:
        outcome = "vetoed"
    elif len(approving) >= needed and not missing and not blocked:
        outcome = "reached"
    return Tally(
        outcome=outcome,
        approving=approving,
        denying=_saying(one_word, "deny", "veto"),
        abstaining=_saying(one_word, "abstain"),
        escalating=escalating,
        needed=needed,
        f=f,
        missing_roles=missing,
        equivocators=tuple(sorted(equivocators)),
        vetoing=tuple(sorted(vetoing)),
        scheme=scheme,
        findings=tuple(sorted(findings)),
        proposal_digest=wanted,
    )
