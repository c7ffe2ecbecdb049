"""The signed decision: what the gates said of one move, who asked, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kfm_mlflow.gates.access import Asker, breakers
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.instants import format_instant
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from kfm_mlflow.gates.cause import Cause
    from kfm_mlflow.gates.findings import GateReport
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.actor import Actor
    from kfm_mlflow.trust.keys import Signer


@dataclass(frozen=True)
class Decision:
    """A verdict on one move, signed.

    Attributes:
        report: What the gates found; its digest is the decision's digest.
        frozen_uri: Where the frozen release can be read; empty when nothing was frozen.
        envelope: The decision as a DSSE envelope.
    """

    report: GateReport
    frozen_uri: str
    envelope: str

    @property
    def allowed(self) -> bool:
        """Whether the move may be written."""
        return self.report.verdict is Verdict.PASS


def asker_of(actor: Actor, policy: Policy, registrar: str | None) -> Asker:
    """Return an actor as the gates see them: without a name.

    Args:
        actor: Who asks.
        policy: Whose roles count.
        registrar: Who registered the version; None when nobody knows.
    """
    return Asker(
        authenticated=actor.authenticated,
        local=actor.is_local,
        roles=policy.access.roles_of(actor.name) if actor.authenticated else (),
        registered_it=None if registrar is None else registrar == actor.name,
    )


def break_glass_block(report: GateReport, policy: Policy) -> dict[str, Any] | None:
    """Return what a decision says about broken glass; None when nobody asked for it.

    It is there whether or not anything had to be passed over (``needed``), so that every use is
    seen. ``expires_at`` counts from the decision.
    """
    move = report.move
    asked = move.break_glass
    if asked is None:
        return None
    passed_over = [
        {"gate": gate, "code": finding.code, "detail": finding.detail}
        for gate, finding in report.waived
        if finding.waiver is not None and finding.waiver.by == "break-glass"
    ]
    return {
        "roles": list(breakers(policy, move.asker)),
        "reason": asked.reason,
        "ticket": asked.ticket,
        "hours": asked.hours,
        "expires_at": format_instant(move.now + timedelta(hours=asked.hours)),
        "needed": bool(passed_over),
        "passed_over": passed_over,
    }


def sign_decision(
    report: GateReport,
    policy: Policy,
    *,
    signer: Signer,
    actor: Actor,
    reason: str,
    frozen_uri: str,
    cause: Cause | None = None,
) -> Decision:
    """Sign what was decided, at the instant at which it was.

    The report holds policy digest, evidence digests, votes, findings and rollback target.
    """
    move = report.move
    asker = move.asker
    claims: dict[str, Any] = {
        "report": report.to_dict(),
        "report_digest": report.digest,
        "outcome": report.outcome,
        "actor": actor.name,
        "authenticated": actor.authenticated,
        "roles": list(asker.roles) if asker else [],
        "reason": reason,
        "frozen_uri": frozen_uri,
        "break_glass": break_glass_block(report, policy),
    }
    if cause is not None:
        claims["cause"] = cause.model_dump(mode="json")
    binding = Binding(
        model_name=move.model_name,
        release_version=report.release_version or "unknown",
        release_id=report.release_id or f"sha256:{'0' * 64}",
        policy_digest=report.policy_digest,
        version=move.version,
    )
    statement = build_statement("decision", binding, claims, move.now)
    return Decision(report, frozen_uri, sign_statement(statement, signer).decode("utf-8"))
