"""Recheck: would what is promoted now still be admitted, under today's policy, keys and clock?

Rules:

1. It is the gates that judge, by the same evaluator and the same exemptions, from the level below
   to the level that is held; a restored release is asked what a restore asks. Nothing is written.
2. Evidence that only ran out is not a fault: votes and verdicts are given for one decision. What
   refuses today is therefore asked again as of that decision, still under today's limits, keys
   and council. If it passes then, votes that were merely spent say nothing, votes for another
   policy and validations that grew old make the version *stale*, and anything else a *recall*.
3. Bytes, signature, CARE and the authorities' word must hold today, whatever was so when it was
   decided, and by the regions file as it is now.
4. A decision that broke the glass is a recall once its time is over, and so is a level that no
   decision in the ledger gave.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from sqlalchemy import select, union

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import ALIASES, STAGES, Level
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.listing import last_move
from kfm_mlflow.registry.policy_events import claims_of
from kfm_mlflow.registry.rechecked import Ended, Rechecked, Remark, overdue, undecided, unjudged
from kfm_mlflow.registry.records import ReleaseRow
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.trust.instants import format_instant, parse_instant

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from kfm_mlflow.gates.findings import GateResult
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.registry.store import KfmStore

_log = logging.getLogger(__name__)

_RAN_OUT = frozenset(
    {
        "CANARY_VERDICT_INVALID",
        "CANARY_VERDICT_MISSING",
        "QUORUM_PENDING",
        "ROLLBACK_INVALID",
        "ROLLBACK_MISSING",
        "SPANS_UNKNOWN",
        "VALIDATION_EXPIRED",
        "VALIDATION_INVALID",
        "VALIDATION_MISSING",
    }
)
"""What a gate finds when its evidence ran out, or was given for another policy. Every other finding
of today is a fault of today: a veto, a verdict that failed, a metric outside a limit."""
_SPENT = frozenset({"canary", "rollback_approval", "votes"})
"""Gates whose evidence is given for one decision, and has done its work once that is made."""
_OF_VERDICT = frozenset({"SPANS_UNKNOWN"})
"""What another gate finds when it has no good canary verdict to read, which was given for one
decision, too."""

_SILENT = Finding(
    "GATE_SILENT", Verdict.INCONCLUSIVE, "no finding", "the gate found nothing at all"
)


@dataclass(frozen=True)
class _Decided:
    """The decision in the ledger that gave a version its level."""

    seq: int
    at: datetime
    claims: dict[str, Any]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.claims["report"]
        return found


def _decided(session: Session, name: str, version: int, level: Level) -> _Decided | None:
    row = last_move(session, name, version)
    if row is None:
        return None
    found = _Decided(row.seq, parse_instant(row.at, where="ledger"), claims_of(row.body))
    return found if found.report["to_level"] == level else None


def _release(session: Session, name: str, release_id: str) -> ReleaseRow | None:
    row = session.execute(
        select(tables.release).where(
            tables.release.c.model == name, tables.release.c.release_id == release_id
        )
    ).first()
    if row is None:
        return None
    return ReleaseRow(int(row.version), row.release_id, row.release_version, row.frozen_uri)


def _as_decided(
    store: KfmStore, session: Session, snapshot: Snapshot, decided: _Decided
) -> tuple[Snapshot, Move]:
    """Return version and move as they stood when the level was given, to be judged now."""
    report = decided.report
    target = _release(session, snapshot.model_name, report["rollback_target"])
    below = list(Level)[snapshot.level.rank - 1]
    then = replace(
        snapshot,
        level=below,
        epoch=int(report["epoch"]),
        production=target.version if target else None,
        production_release=target,
    )
    move = Move(
        model_name=snapshot.model_name,
        version=snapshot.version,
        from_level=below,
        to_level=snapshot.level,
        epoch=then.epoch,
        production=then.production,
        now=store.admission.clock(),
        restores=bool(report["restores"]),
    )
    return then, move


def _as_of_then(
    store: KfmStore, then: Snapshot, move: Move, policy: Policy, decided: _Decided
) -> dict[str, GateResult]:
    """Return what each gate would have said when it was decided, without any exemption."""
    report = store.admission.judge(
        then,
        replace(move, now=decided.at, policy_digest=decided.report["policy_digest"]),
        policy.model_copy(update={"exemptions": ()}),
    )
    return {gate.gate: gate for gate in report.gates}


def _glass(decided: _Decided, now: datetime) -> tuple[frozenset[tuple[str, str]], list[Ended]]:
    """Return (gate, code) of what broken glass still passes over, and what it no longer does."""
    block = decided.claims.get("break_glass")
    if not block:
        return frozenset(), []
    if now < parse_instant(block["expires_at"], where="break_glass"):
        return frozenset((item["gate"], item["code"]) for item in block["passed_over"]), []
    ended = [
        Ended(
            "break-glass",
            item["gate"],
            item["code"],
            ", ".join(block["roles"]),
            f"{block['reason']} (ticket {block['ticket']})",
            block["expires_at"],
        )
        for item in block["passed_over"] or ({"gate": "", "code": ""},)
    ]
    return frozenset(), ended


def _exempted(decided: _Decided, blocking: set[tuple[str, str]], now: datetime) -> list[Ended]:
    """Return the exemptions that the decision rested on, and that no longer hold."""
    return [
        Ended(
            "exemption",
            gate["gate"],
            finding["code"],
            waiver["owner"],
            waiver["reason"],
            waiver["until"],
        )
        for gate in decided.report["gates"]
        for finding in gate["findings"]
        if (waiver := finding.get("waiver"))
        and waiver["by"] == "exemption"
        and (gate["gate"], finding["code"]) in blocking
        and parse_instant(waiver["until"], where="waiver") <= now
    ]


def _remarks(
    result: GateResult,
    *,
    decided: _Decided,
    policy: Policy,
    before: GateResult | None,
    passed_over: frozenset[tuple[str, str]],
) -> list[Remark]:
    """Return what a gate's refusal of today means.

    Args:
        result: What it says today.
        decided: The decision that gave the level.
        policy: Today's policy.
        before: What the gate says as of then, when that can matter.
        passed_over: (gate, code) of what broken glass still passes over.
    """
    found = [f for f in result.findings if f.effect is not Verdict.PASS] or [_SILENT]
    if all((result.gate, finding.code) in passed_over for finding in found):
        until = decided.claims["break_glass"]["expires_at"]
        why = f"passed over until {until}"
        return [Remark(result.gate, finding, "break-glass", why) for finding in found]
    if before is None or any(finding.code not in _RAN_OUT for finding in found):
        return [Remark(result.gate, finding, "recall") for finding in found]
    if before.verdict is not Verdict.PASS:
        # What was wrong then, and not that it also ran out since.
        wrong = [f for f in before.findings if f.effect is not Verdict.PASS]
        return [Remark(result.gate, finding, "recall") for finding in wrong]
    under, at = decided.report["policy_digest"], format_instant(decided.at)
    is_spent = result.gate in _SPENT or all(finding.code in _OF_VERDICT for finding in found)
    if under == policy.digest and is_spent:
        return []
    why = (
        f"was enough on {at} and has run out since"
        if under == policy.digest or not is_spent
        else f"was given on {at} under policy {under}, in force is {policy.digest}"
    )
    return [Remark(result.gate, finding, "stale", why) for finding in found]


def recheck_version(store: KfmStore, name: str, version: int) -> Rechecked:
    """Judge one promoted version again.

    Raises:
        KfmError: The family has no policy, or the ledger's row cannot be read.
    """
    snapshot = store.snapshot(name, version)
    policy = current_policy(store.admission.policy(snapshot.family))
    now = store.admission.clock()
    with store.ManagedSessionMaker(read_only=False) as session:
        decided = _decided(session, snapshot.model_name, version, snapshot.level)
        if decided is not None:
            then, move = _as_decided(store, session, snapshot, decided)
    key = snapshot.model_name
    found = Rechecked(key, version, snapshot.family, snapshot.level, 0, "", policy.digest, ())
    if decided is None:
        return replace(found, remarks=(undecided(snapshot.level),))
    report = store.admission.judge(then, move, policy)
    refusing = [r for r in report.gates if r.mode == "enforce" and r.verdict is not Verdict.PASS]
    before: dict[str, GateResult] = {}
    if any(finding.code in _RAN_OUT for _, finding in report.blocking):
        before = _as_of_then(store, then, move, policy, decided)
    passed_over, late = _glass(decided, now)
    remarks = [
        remark
        for result in refusing
        for remark in _remarks(
            result,
            decided=decided,
            policy=policy,
            before=before.get(result.gate),
            passed_over=passed_over,
        )
    ]
    codes = {(gate, finding.code) for gate, finding in report.blocking}
    return replace(
        found,
        seq=decided.seq,
        decided_under=str(decided.report["policy_digest"]),
        remarks=(
            *(overdue(item) for item in late[:1]),
            *remarks,
        ),
        ended=(*late, *_exempted(decided, codes, now)),
    )


def _promoted(store: KfmStore, session: Session) -> list[str]:
    """Return the models of which a version may stand above candidate, by name."""
    workspace = store._get_active_workspace()  # noqa: SLF001 - MLflow's own name for it
    versions, aliases = SqlModelVersion.__table__, SqlRegisteredModelAlias.__table__
    named = union(
        select(versions.c.name).where(
            versions.c.workspace == workspace,
            versions.c.current_stage.in_(sorted(set(STAGES.values()))),
        ),
        select(aliases.c.name).where(
            aliases.c.workspace == workspace, aliases.c.alias.in_(ALIASES[Level.CANARY])
        ),
    )
    found = sorted(str(name) for name in session.execute(named).scalars())
    return [name for name in found if store._governed(session, name)]  # noqa: SLF001 - the store asks no door here


def recheck(
    store: KfmStore, *, family: str | None = None, name: str | None = None
) -> list[Rechecked]:
    """Judge everything again that stands above candidate in a workspace, by model and version.

    Args:
        store: The registry.
        family: Only models of this family.
        name: Only this registered model.

    Returns:
        One entry per promoted version; what cannot be judged is a recall, and stops no other.
    """
    with store.ManagedSessionMaker(read_only=False) as session:
        names = [name] if name else _promoted(store, session)
    found = []
    for model_name in names:
        for version, level in sorted(store.levels(model_name).items()):
            try:
                entry = recheck_version(store, model_name, version)
            except Exception as exc:  # noqa: BLE001 - one version that cannot be judged hides no other
                _log.warning("%s v%s cannot be rechecked", model_name, version, exc_info=exc)
                entry = unjudged(store.key_of(model_name), version, level, exc)
            if family in (None, entry.family) or not entry.family:
                found.append(entry)
    return found
