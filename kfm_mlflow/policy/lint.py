"""What a policy will do that its author may not expect; a wrong policy does not even load."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.models import LIMIT_GATES
from kfm_mlflow.policy.rollout import lint_rollout

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.models import Policy

MIN_BYZANTINE = 4
"""Members below which no liar can be tolerated (3f + 1 with f = 1)."""
SOON = timedelta(days=14)
"""How long before its end an exemption is mentioned."""


def lint_policy(policy: Policy, now: datetime) -> list[str]:
    """Return what a policy will do that its author may not expect; often nothing.

    Args:
        policy: The resolved policy.
        now: Instant (aware) at which exemptions are looked at.
    """
    return [
        *_lint_trust(policy),
        *_lint_levels(policy),
        *_lint_access(policy),
        *lint_rollout(policy.rollout),
        *_lint_drift(policy),
        *_lint_exemptions(policy, now),
    ]


def _asked(policy: Policy) -> set[str]:
    return {name for names in policy.levels.model_dump().values() for name in names}


def _lint_trust(policy: Policy) -> list[str]:
    notes: list[str] = []
    trust, asked = policy.trust, _asked(policy)
    for gate, duty, holders in (
        ("signature", "signers", trust.all_signers),
        ("validation", "validators", trust.validators),
        ("canary", "controllers", trust.controllers),
    ):
        if gate in asked and not holders:
            notes.append(f"trust.{duty} is empty: gate {gate} can never pass")
    size = len(trust.council.members)
    if "votes" in asked and not size:
        notes.append("trust.council.members is empty: gate votes can never pass")
    elif "votes" in asked and trust.council.threshold == "byzantine" and size < MIN_BYZANTINE:
        notes.append(f"trust.council has {size} members: Byzantine fault tolerance needs 4")
    for level, asked_count in trust.council.approvals.model_dump().items():
        if asked_count > size > 0:
            notes.append(
                f"trust.council.approvals.{level} is {asked_count} of {size} members: no release "
                f"can reach {level}"
            )
        if asked_count and "votes" not in policy.gate_names(Level(level)):
            notes.append(f"trust.council.approvals.{level}: the level does not ask gate votes")
    keys = [member.public_key for member in trust.council.members]
    if len(set(keys)) < len(keys):
        notes.append("one key is that of two council members: it has one vote, and counts once")
    notes += [
        f"trust.rollback_approvers names {duty}, and there is nobody in it"
        for duty in trust.rollback_approvers
        if not (trust.council.members if duty == "council" else trust.controllers)
    ]
    shared = {k.public_key for k in trust.signers} & {k.public_key for k in trust.validators}
    if shared - {None}:
        notes.append("one key is both signer and validator: nobody validates their own release")
    makers = {k.public_key for k in (*trust.signers, *trust.validators)} - {None}
    notes += [
        f"council member {member.name} holds a signer's or validator's key: no approval of what "
        "that key signed counts"
        for member in trust.council.members
        if member.public_key in makers
    ]
    return notes


def _lint_levels(policy: Policy) -> list[str]:
    notes: list[str] = []
    levels = policy.levels.model_dump()
    for name in sorted(_asked(policy)):
        mode = policy.gate(name).mode
        if mode != "enforce":
            notes.append(f"gates.{name}.mode is {mode}: it records and never refuses")
    notes += [
        f"levels.{level}: {name} without validation asks neither age nor identity"
        for level, names in levels.items()
        for name in LIMIT_GATES
        if name in names and "validation" not in names
    ]
    if not {"care", "integrity", "signature"} & set(policy.levels.production):
        notes.append("levels.production: without care, integrity or signature nothing is restored")
    return notes


def _lint_drift(policy: Policy) -> list[str]:
    """Say where drift is judged in another way before promotion than in canary and after."""
    gate, watch = policy.gates.drift, policy.rollout.analysis.drift
    if gate is None or watch is None:
        return []
    before, after = gate.plan.min_distance, watch.min_distance
    if before == after:
        return []
    note = (
        f"rollout.analysis.drift.minDistance is {after:g} and gates.drift.plan.min_distance "
        f"{before:g}: what is drift before promotion is not the same as after"
    )
    return [note]


def _lint_access(policy: Policy) -> list[str]:
    access = policy.access
    held = {role for role, names in access.roles.items() if names}
    if not held:
        if access.unauthenticated == "never":
            return ["access: no role has a user and unauthenticated is never: nobody can move"]
        return []
    notes = [
        f"access.may_move.{level.value}: no user has a role that may"
        for level in (Level.STAGING, Level.CANARY, Level.PRODUCTION)
        if not held & set(access.movers(Level.CANDIDATE, level))
    ]
    if not held & set(access.may_move.down):
        notes.append("access.may_move.down: no user can take a version down or roll back")
    return notes


def _lint_exemptions(policy: Policy, now: datetime) -> list[str]:
    notes: list[str] = []
    asked = _asked(policy)
    for index, exemption in enumerate(policy.exemptions):
        name = f"exemptions.{index} (gate {exemption.gate}, {exemption.owner})"
        ends = exemption.expires_at.isoformat()
        state = exemption.state_at(now)
        if state == "expired":
            notes.append(f"{name} expired at {ends}: it has no effect")
        elif exemption.expires_at - now <= SOON:
            notes.append(f"{name} expires soon, at {ends}")
        if state == "pending" and exemption.not_before is not None:
            notes.append(f"{name} has no effect before {exemption.not_before.isoformat()}")
        if exemption.gate not in asked:
            notes.append(f"{name}: no level asks for this gate")
        if exemption.gate == "votes" and state != "expired":
            notes.append(f"{name} lets releases pass without the council's quorum")
    return notes
