"""Gates on what people decide and prepare: the council's votes, the release to go back to.

Going back itself asks for a signature, too, where the policy names who signs it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError, KfmError
from kfm_mlflow.gates.evidence import trusted_keys
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import absent, binding_of, newest
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.attestation import binding_problems
from kfm_mlflow.trust.quorum import Council, Member, Proposal, Tally, parse_vote, tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.policy.trust import KeyPolicy


_APPROVE = "sign it: kfm move models:/NAME/BAD --to candidate --restore GOOD --key KEY --reason WHY"


def proposal_of(evidence_release_id: str, policy: Policy, move: Move) -> Proposal:
    """Return what the council votes on for a move."""
    return Proposal(
        model_name=move.model_name,
        release_id=evidence_release_id,
        from_level=str(move.from_level),
        to_level=str(move.to_level),
        policy_digest=move.policy_digest or policy.digest,
        epoch=move.epoch,
    )


def council_of(policy: Policy) -> Council:
    """Return the policy's council as the quorum counts it."""
    settings = policy.trust.council
    return Council(
        members=tuple(Member(member.name, member.roles) for member in settings.members),
        threshold=settings.threshold,
        required_roles=settings.required_roles,
        veto_roles=settings.veto_roles,
        approvals=settings.approvals.model_dump(),
    )


def _key_ids(keys: Iterable[KeyPolicy]) -> dict[str, str]:
    """Return name -> key id; a key that cannot be read has signed nothing, and is left out."""
    found: dict[str, str] = {}
    for key in trusted_keys(keys):
        with suppress(InputError):
            found[key.name] = key.public_key.key_id
    return found


def _maker_keys(evidence: Evidence, policy: Policy) -> set[str]:
    """Return the ids of the keys that signed or validated a release."""
    validated_by = {name for report in evidence.of_kind("validation") for name in report.signers}
    keys = _key_ids(policy.trust.validators)
    found = {keys[name] for name in validated_by & set(keys)}
    if evidence.signature is not None and evidence.signature.key_id:
        found.add(evidence.signature.key_id)
    return found


def _count(evidence: Evidence, policy: Policy, move: Move) -> tuple[Tally, list[str]]:
    binding = binding_of(evidence, move, policy_digest=move.policy_digest or policy.digest)
    votes, ignored = [], []
    keys, makers = _key_ids(policy.trust.council.members), _maker_keys(evidence, policy)
    for report in evidence.of_kind("vote"):
        problems = [*report.problems, *binding_problems(report, binding)]
        if problems or not report.ok:
            ignored += problems
            continue
        try:
            vote = parse_vote(report.statement or {}, signers=report.signers)
        except KfmError as exc:
            ignored.append(str(exc))
            continue
        if vote.choice == "approve" and keys.get(vote.voter) in makers:
            ignored.append(f"approval of {vote.voter!r}, whose key signed or validated the release")
            continue
        votes.append(vote)
    return tally(
        votes, council_of(policy), proposal_of(evidence.release_id, policy, move), move.now
    ), ignored


def tally_of(evidence: Evidence, policy: Policy, move: Move) -> dict[str, Any]:
    """Return the tally as it stands in a decision."""
    return _count(evidence, policy, move)[0].to_dict()


def votes(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the council's quorum approved exactly this move of exactly these bytes."""
    counted, ignored = _count(evidence, policy, move)
    count = f"votes {len(counted.approving)} of {counted.needed}"
    scheme = f"{count} ({counted.scheme})"
    # The one sentence of a refusal claims no more than the count is worth.
    short = scheme if counted.scheme == "k-of-n" else count
    remarks = "; ".join([*counted.findings, *(f"ignored: {reason}" for reason in ignored)])
    common: dict[str, Any] = {
        "observed": str(len(counted.approving)),
        "limit": f">= {counted.needed}",
        "unit": "votes",
    }
    if counted.outcome == "vetoed":
        names = ", ".join(counted.vetoing)
        return [
            Finding(
                "VETOED",
                Verdict.FAIL,
                f"vetoed by {names}",
                f"vetoed by {names}. {remarks}",
                **common,
            )
        ]
    if counted.outcome == "reached":
        return [
            Finding(
                "QUORUM_REACHED",
                Verdict.PASS,
                short,
                f"{scheme} {remarks}".strip(),
                **common,
            )
        ]
    if counted.reason == "insufficient_bft_fleet_size":
        return [
            Finding(
                "COUNCIL_TOO_SMALL",
                Verdict.INCONCLUSIVE,
                "council too small: escalate",
                f"{counted.reason}: {remarks}",
                remedy="ask a higher body; it names at least four members in trust.council.members",
                **common,
            )
        ]
    missing = "".join(f"; no approval of {role}" for role in counted.missing_roles)
    return [
        Finding(
            "QUORUM_PENDING",
            Verdict.INCONCLUSIVE,
            short,
            f"{counted.reason}: {scheme}{missing} {remarks}".strip(),
            remedy=f"kfm vote models:/{move.model_name}/{move.version} --to {move.to_level} "
            "--key KEY --approve",
            **common,
        )
    ]


def rollback_approval(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether somebody whom the policy names signed that this release comes back.

    The statement names both versions and the journey, so that it brings back this release in the
    place of that one, once, under this policy.
    """
    binding = binding_of(evidence, move, policy_digest=move.policy_digest or policy.digest)
    report, problems = newest(evidence, "rollback", binding, epoch=move.epoch)
    if report is None:
        return absent("rollback", problems, _APPROVE)
    claims = report.claims or {}
    said = (claims.get("restored_version"), claims.get("replaced_version"))
    if said != (move.version, move.production):
        return absent(
            "rollback",
            [f"brings back v{said[0]} for v{said[1]}, not v{move.version} for v{move.production}"],
            _APPROVE,
        )
    return [
        Finding(
            "ROLLBACK_APPROVED",
            Verdict.PASS,
            "rollback approved",
            f"{', '.join(report.signers)} signed that v{move.version} comes back for "
            f"v{move.production}: {str(claims.get('reason', ''))[:200]}",
        )
    ]


def rollback_target(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the release to go back to is there, whole, and named."""
    if move.production is None or move.production == move.version:
        return [
            Finding(
                "FIRST_RELEASE",
                Verdict.PASS,
                "first release",
                "nothing is Production yet: going back means serving nothing",
            )
        ]
    if evidence.target_problems:
        return [
            Finding(
                "TARGET_BROKEN",
                Verdict.FAIL,
                f"rollback target v{move.production} broken",
                problem,
                remedy="restore the frozen area from backup before releasing anything; what was "
                "Production before the registry was governed needs an exemption, once",
            )
            for problem in evidence.target_problems
        ]
    if not evidence.target_release_id:
        return [
            Finding("TARGET_UNKNOWN", Verdict.FAIL, "no rollback target", "no target was verified")
        ]
    return [
        Finding(
            "TARGET_VERIFIED",
            Verdict.PASS,
            f"goes back to v{move.production}",
            f"v{move.production} is whole",
            observed=evidence.target_release_id,
        )
    ]
