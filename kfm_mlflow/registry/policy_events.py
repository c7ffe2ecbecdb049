"""A change of policy is an event in the ledger, like a move.

Whenever a registry starts under a policy whose digest is not the one recorded last, it appends a
signed row: from which digest to which. Decisions name the digest they were made under, so the
ledger says for every one of them which policy that was, since when, and what came after it.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from kfm_mlflow.registry import records, tables
from kfm_mlflow.trust.ledger import POLICY
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Admission
    from kfm_mlflow.registry.moves import MovingStore

_LOCK = "policies"
_MODEL_PREFIX = "policy:"
"""MLflow allows no colon in a model's name, so that no model is ever called so."""


def claims_of(body: str) -> dict[str, Any]:
    """Return what the signed statement in a ledger row says; its signature is checked elsewhere."""
    claims: dict[str, Any] = json.loads(base64.b64decode(json.loads(body)["payload"]))["predicate"][
        "claims"
    ]
    return claims


_LAST = (
    select(tables.ledger.c.seq)
    .where(tables.ledger.c.model == bindparam("called"), tables.ledger.c.version == 0)
    .order_by(tables.ledger.c.seq.desc())
    .limit(1)
)


def last_change(session: Session, family: str) -> int | None:
    """Return the ledger row that says which policy a family is under; None when none does."""
    return session.execute(_LAST, {"called": f"{_MODEL_PREFIX}{family}"}).scalar()


def recorded_digest(session: Session, family: str) -> str | None:
    """Return the digest of a family's policy that the ledger recorded last; None when none was."""
    body = session.execute(
        select(tables.ledger.c.body)
        .where(tables.ledger.c.model == f"{_MODEL_PREFIX}{family}", tables.ledger.c.version == 0)
        .order_by(tables.ledger.c.seq.desc())
        .limit(1)
    ).scalar()
    return None if body is None else str(claims_of(body)["after"])


def _signed(policy: Policy, before: str | None, admission: Admission) -> str:
    claims = {
        "family": policy.family,
        "before": before,
        "after": policy.digest,
        "actor": "registry",
        "reason": "the registry started under this policy",
        "exemptions": [item.model_dump(mode="json") for item in policy.exemptions],
    }
    binding = Binding(
        model_name=f"{_MODEL_PREFIX}{policy.family}",
        release_version="policy",
        release_id=policy.digest,
        policy_digest=policy.digest,
        version=0,
    )
    statement = build_statement("policy", binding, claims, admission.clock())
    return sign_statement(statement, admission.signer).decode("utf-8")


def record_policies(store: MovingStore) -> list[str]:
    """Append a row for every family whose policy is not the one recorded last.

    Safe when several workers start at once: the first to take the lock writes, the others find
    that there is nothing left to say.

    Returns:
        The families for which a row was written.
    """
    policies = store.admission.policies.policies
    with store.ManagedSessionMaker(read_only=False) as session:
        if all(recorded_digest(session, name) == p.digest for name, p in policies.items()):
            return []
    changed = []
    with store.unit_of_work(_LOCK) as session:
        for name, policy in sorted(policies.items()):
            before = recorded_digest(session, name)
            if before == policy.digest:
                continue
            records.append_ledger(
                session,
                kind=POLICY,
                model=f"{_MODEL_PREFIX}{name}",
                version=0,
                body=_signed(policy, before, store.admission),
                now=store.admission.clock(),
            )
            changed.append(name)
    return changed
