"""Certificates of checkpoints in the ledger: counted again here, then one row each.

Rules:

1. What a certificate says of its count is not read: the votes in it are counted under the policy
   that this registry has for the model's family.
2. The model need not be registered yet: checkpoints are certified before a release is made of one.
3. The same certificate is one row, however often it is sent. One checkpoint of a version has one
   digest: a second certificate that gives it other bytes is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import ConflictError, InputError
from kfm_mlflow.gates.access import may_attest
from kfm_mlflow.gates.certificates import Candidate, recount
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.registry import records, tables
from kfm_mlflow.registry.actor import current_actor
from kfm_mlflow.registry.decision import asker_of
from kfm_mlflow.registry.policy_events import claims_of
from kfm_mlflow.registry.translate import door, refuse
from kfm_mlflow.trust.ledger import CHECKPOINT_CERTIFICATE
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from kfm_mlflow.gates.access import Asker
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.store import KfmStore

SCHEMA = "quorum_certificate"
_MAX_NAME, _SHOWN = 200, 3


@door
def record_certificate(
    store: KfmStore, name: str, certificate: Mapping[str, Any]
) -> dict[str, Any]:
    """Append a council's certificate of a checkpoint to the ledger.

    Args:
        store: The registry.
        name: Registered model that the checkpoint is for, or that will be.
        certificate: ``docs/formats/quorum_certificate.md``.

    Returns:
        ``seq`` of the row, ``digest`` of the certificate, and whether it was ``recorded`` now.

    Raises:
        MlflowException: 400 it is no certificate, or names others than voted; 403 its votes do not
            hold, or who sends it may not; 409 the checkpoint is recorded with other bytes.
    """
    _require_name(name)
    if problems := schema_problems(SCHEMA, certificate):
        raise InputError("; ".join(problems[:_SHOWN]), where="certificate")
    key, now, actor = store.key_of(name), store.admission.clock(), current_actor()
    with store.ManagedSessionMaker(read_only=True) as session:
        family = records.family(session, key) or store.admission.policies.family_of(name)
    policy = store.admission.policy(family)
    asker = asker_of(actor, policy, None)
    _require_sender(policy, asker, name)
    candidate = Candidate(
        model_id=certificate["model_id"],
        version=certificate["version"],
        checkpoint_id=certificate["checkpoint_id"],
        digest=certificate["checksum_sha256"],
    )
    approving, wrong = recount(certificate, candidate, policy, now)
    if wrong:
        raise refuse(
            f"KFM refused a certificate of {candidate.checkpoint_id} for {name}: "
            f"{'; '.join(wrong[:_SHOWN])}"
        )
    if certificate["record"]["reviewed_by"] != ", ".join(approving):
        raise InputError(
            "names others than those whose approval counts", where="record.reviewed_by"
        )
    claims = {
        **certificate["record"],
        "model_id": candidate.model_id,
        "version": candidate.version,
        "checkpoint_id": candidate.checkpoint_id,
        "checksum_sha256": candidate.digest,
        "terms_digest": certificate["terms_digest"],
        "certificate_digest": digest_json(dict(certificate)),
        "votes": [digest_json(vote) for vote in certificate["votes"]],
        "actor": actor.name,
        "authenticated": actor.authenticated,
        "roles": list(asker.roles),
    }
    with store.unit_of_work(f"checkpoints:{key}") as session:
        known = _recorded(session, key, claims)
        if known is not None:
            return {"seq": known, "digest": claims["certificate_digest"], "recorded": False}
        binding = Binding(key, candidate.version, candidate.digest, policy.digest, version=0)
        statement = build_statement(CHECKPOINT_CERTIFICATE, binding, claims, now)
        seq = records.append_ledger(
            session,
            kind=CHECKPOINT_CERTIFICATE,
            model=key,
            version=0,
            body=sign_statement(statement, store.admission.signer).decode("utf-8"),
            now=now,
        )
    return {"seq": seq, "digest": claims["certificate_digest"], "recorded": True}


def _require_name(name: str) -> None:
    """Refuse a name that no registered model can have; rows about policies hold a colon."""
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set(":/"):
        raise InputError(f"{name[:40]!r} is no name of a registered model", where="model_name")


def _require_sender(policy: Policy, asker: Asker, name: str) -> None:
    found = may_attest(policy, asker, "vote", approves=False)
    if found.verdict is not Verdict.PASS and "operator" not in asker.roles:
        raise refuse(
            f"KFM refused a certificate for {name}: {found.detail}, or operator; {found.remedy}"
        )


def _recorded(session: Session, key: str, claims: Mapping[str, Any]) -> int | None:
    """Return the row that a certificate has already.

    Raises:
        ConflictError: The checkpoint is recorded with other bytes.
    """
    query = select(tables.ledger.c.seq, tables.ledger.c.body).where(
        tables.ledger.c.model == key, tables.ledger.c.kind == CHECKPOINT_CERTIFICATE
    )
    for seq, body in session.execute(query):
        known = claims_of(body)
        if known["certificate_digest"] == claims["certificate_digest"]:
            return int(seq)
        if known["checksum_sha256"] != claims["checksum_sha256"] and all(
            known[field] == claims[field] for field in ("model_id", "version", "checkpoint_id")
        ):
            raise ConflictError(
                f"row {seq} certifies {known['checkpoint_id']} of {known['version']} "
                "with other bytes",
                remedy="train under another version",
            )
    return None
