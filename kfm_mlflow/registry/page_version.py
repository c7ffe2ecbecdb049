"""The page of one version as values: what the next level asks, what there is, who must still vote.

Reads through the store; decides nothing.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import KfmError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import listing
from kfm_mlflow.registry.authorities import authorities_of
from kfm_mlflow.registry.page_decision import Decided, decided, loud_in
from kfm_mlflow.registry.page_documents import (
    SHOWN_WITH,
    Beside,
    Documents,
    beside_frozen,
    frozen_documents,
    may_be_shown,
)
from kfm_mlflow.registry.page_drift import DriftChecked, drift_checked
from kfm_mlflow.registry.page_evidence import (
    Ballot,
    Evidenced,
    ballots_of,
    evidenced,
    signature_of,
    verified_attestations,
)
from kfm_mlflow.registry.page_graph import Lineage, build_lineage
from kfm_mlflow.registry.prov_api import deployed_of
from kfm_mlflow.registry.recheck import recheck_version
from kfm_mlflow.registry.translate import answer_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.registry.store import KfmStore

_log = logging.getLogger(__name__)
HISTORY_ROWS = 20


@dataclass(frozen=True)
class VersionPage:
    """Everything on the page of a version."""

    snapshot: Snapshot
    policy: Policy
    frozen_at: str
    following: Level | None
    report: Mapping[str, Any] | None
    report_digest: str
    problem: str
    held: Decided | None
    evidence: tuple[Evidenced, ...]
    drift: DriftChecked | None
    ballots: tuple[Ballot, ...]
    tally: Mapping[str, Any]
    documents: Documents | None
    lineage: Lineage | None
    hidden: bool
    history: tuple[Decided, ...]
    more_before: int | None
    loud: tuple[tuple[str, str], ...]
    rechecked: Mapping[str, Any] | None
    recheck_problem: str
    authorities: Mapping[str, Any] | None
    authorities_problem: str

    @property
    def uri(self) -> str:
        """The version as one word of a command line."""
        return shlex.quote(f"models:/{self.snapshot.model_name}/{self.snapshot.version}")


def load_version(store: KfmStore, name: str, version: int) -> VersionPage:
    """Gather the page of a version.

    Raises:
        MlflowException: 404 when there is no such version.
    """
    snapshot = store.snapshot(name, version)
    policy = store.admission.policy(snapshot.family)
    key = snapshot.model_name
    with store.ManagedSessionMaker(read_only=True) as session:
        rows = listing.ledger_rows(session, model=key, version=version, limit=HISTORY_ROWS + 1)
        last = listing.last_move(session, key, version)
        frozen_at = listing.frozen_at(session, key, version)
    following, report, digest, problem = _next(store, snapshot)
    held = decided(last) if last else None
    if held and held.report.get("to_level") != str(snapshot.level):
        held = None  # Taken down since, or archived by a successor.
    rechecked, recheck_problem = _rechecked(store, snapshot)
    beside, documents, hidden = Beside((), ""), None, False
    lineage: Lineage | None = None
    if snapshot.release is not None:
        beside = beside_frozen(store.admission, snapshot.release)
        hidden = not (may_be_shown(report) if report else _still_shown(rechecked))
        if not hidden:
            documents = frozen_documents(store.admission, snapshot.release, policy)
            lineage = _lineage(store, snapshot, beside, documents.item)
    authorities, authorities_problem = _authorities(store, snapshot)
    envelopes = verified_attestations(store, snapshot, policy, beside)
    history = tuple(decided(row) for row in rows[:HISTORY_ROWS])
    frozen = snapshot.release.release_id if snapshot.release else ""
    voted_id = frozen or str((report or {}).get("release_id", ""))
    return VersionPage(
        snapshot=snapshot,
        policy=policy,
        frozen_at=frozen_at,
        following=following,
        report=report,
        report_digest=digest,
        problem=problem,
        held=held,
        evidence=(
            *signature_of(beside, report or (held.report if held else None), frozen_at),
            *map(evidenced, envelopes),
        ),
        drift=drift_checked(envelopes, _run_id(store, snapshot)),
        ballots=ballots_of(
            store, snapshot, policy, following, envelopes=envelopes, release_id=voted_id
        ),
        tally=(report or {}).get("votes") or {},
        documents=documents,
        lineage=lineage,
        hidden=hidden,
        history=history,
        more_before=history[-1].row.seq if len(rows) > HISTORY_ROWS else None,
        loud=tuple(dict.fromkeys([*loud_in(report or {}), *(held.loud if held else ())])),
        rechecked=rechecked,
        recheck_problem=recheck_problem,
        authorities=authorities,
        authorities_problem=authorities_problem,
    )


def _next(
    store: KfmStore, snapshot: Snapshot
) -> tuple[Level | None, dict[str, Any] | None, str, str]:
    following = next(iter(list(Level)[snapshot.level.rank + 1 :]), None)
    if following is None:
        return None, None, "", ""
    try:
        report = store.check(snapshot.registered_name, snapshot.version, following).report
    except (MlflowException, KfmError) as exc:
        return following, None, "", getattr(exc, "message", "") or str(exc)
    return following, report.to_dict(), report.digest, ""


def _run_id(store: KfmStore, snapshot: Snapshot) -> str | None:
    found = store.get_model_version(snapshot.registered_name, str(snapshot.version)).run_id
    return str(found) if found else None


def _lineage(
    store: KfmStore, snapshot: Snapshot, beside: Beside, item: Mapping[str, Any]
) -> Lineage | None:
    """Return the lineage from data to deployment; None when it can not be told."""
    try:
        document = deployed_of(store, snapshot, beside).document
    except (KfmError, MlflowException) as exc:
        _log.warning("%s v%s: %s", snapshot.model_name, snapshot.version, exc)
        return None
    return build_lineage(parse_json(document, where="lineage"), item)


def _rechecked(store: KfmStore, snapshot: Snapshot) -> tuple[dict[str, Any] | None, str]:
    """Return what recheck says of the level that is held, or why it can not say."""
    if snapshot.level is Level.CANDIDATE:
        return None, ""
    try:
        found = recheck_version(store, snapshot.registered_name, snapshot.version)
    except Exception as exc:  # noqa: BLE001 - as recheck itself: what cannot be judged is said
        _log.warning("%s v%s", snapshot.model_name, snapshot.version, exc_info=exc)
        return None, answer_to(exc).message if isinstance(exc, KfmError) else type(exc).__name__
    return found.to_dict(), ""


def _authorities(store: KfmStore, snapshot: Snapshot) -> tuple[dict[str, Any] | None, str]:
    """Return what authorities must say and said, with how to say it, or why nobody can tell."""
    try:
        found = authorities_of(store, snapshot)
    except KfmError as exc:
        _log.warning("%s v%s", snapshot.model_name, snapshot.version, exc_info=exc)
        return None, answer_to(exc).message
    uri = shlex.quote(f"models:/{snapshot.model_name}/{snapshot.version}")
    told = [item for item in found["regions"] if item["asked"] or item["approval"] or item["veto"]]
    for item in told:
        region = shlex.quote(item["region"])
        item["command"] = f'kfm care approve {uri} --region {region} --key KEY --reason "WHY"'
    return {**found, "regions": told, "quiet_count": len(found["regions"]) - len(told)}, ""


def _still_shown(rechecked: Mapping[str, Any] | None) -> bool:
    return rechecked is not None and not any(
        remark["gate"] in SHOWN_WITH or remark["code"] == "NO_DECISION"
        for remark in rechecked["remarks"]
    )
