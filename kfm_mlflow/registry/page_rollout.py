"""The page of a model's rollout as values: what the controller told, what it signed, what was done.

Everything about the rollout itself was worked out by the controller and stands in its journal; here
it is only shown. A journal is written from elsewhere, so it is held against its schema first, and
no text of it is shown in which a restricted name or a place stands that the policy keeps back.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mlflow.exceptions import MlflowException

from kfm_mlflow.errors import KfmError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.registry import listing, records
from kfm_mlflow.registry.journal import read_lease
from kfm_mlflow.registry.page_decision import Decided, decided
from kfm_mlflow.registry.page_documents import Beside
from kfm_mlflow.registry.page_evidence import verified_attestations
from kfm_mlflow.registry.plan_drawing import draw_plan
from kfm_mlflow.registry.rollout_orders import RESTING_PHASES
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from markupsafe import Markup

    from kfm_mlflow.care.mask_places import Judge
    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.store import KfmStore

_log = logging.getLogger(__name__)
HISTORY_ROWS = 20
LIVE_S, RESTING_S = 3, 15
"""How often the page reads itself again while a rollout is under way, and at rest."""
REPORTS = ("rollback_report.json", "drift_summary.json", "sovereignty_conflict.json")
_NOT_SHOWN = "(not shown: a name or a place in it may not be published)"
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


@dataclass(frozen=True)
class CanaryVerdict:
    """What a controller signed about the candidate.

    Attributes:
        verifies: ``PASS`` when the signature is one that the policy trusts.
    """

    at: str
    verdict: str
    weight_pct: float | None
    reason: str
    signer: str
    verifies: str


@dataclass(frozen=True)
class RolloutPage:
    """Everything on the page of a rollout.

    Attributes:
        name: The model's key.
        told: The journal's narrative, its texts fit to be shown; None without one.
        problem: Why there is none; empty when there is, or nobody ever served the model.
        carried: Whether a controller holds the lease on this model's rollouts now.
        now: The registry's clock.
        live_s: After how long the page reads itself again; None when it is not to.
        reports: (file name, address) of the three reports of the last rollback.
        more_before: Ledger row that the next page of the history begins before.
    """

    name: str
    levels: Mapping[int, Level]
    told: Mapping[str, Any] | None
    problem: str
    carried: bool
    now: datetime
    live_s: int | None
    drawing: Markup | None
    verdicts: tuple[CanaryVerdict, ...]
    reports: tuple[tuple[str, str], ...]
    history: tuple[Decided, ...]
    more_before: int | None

    @property
    def registered_name(self) -> str:
        """The model as MLflow calls it."""
        return split_key(self.name)[1]

    def until(self, instant: str | None) -> str:
        """Say how far off an instant of the journal is."""
        if instant is None:
            return ""
        left_s = (datetime.fromisoformat(instant) - self.now).total_seconds()
        return f"in {spoken(left_s)}" if left_s >= 0 else f"{spoken(-left_s)} ago"


def spoken(seconds: float) -> str:
    """Write a duration in its two largest units."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    for unit_s, unit, part_s, part in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def load_rollout(store: KfmStore, name: str, *, live: bool) -> RolloutPage:
    """Gather the page of a model's rollout.

    Args:
        store: The registry.
        name: Registered model.
        live: Whether the page reads itself again.

    Raises:
        MlflowException: 404 when there is no such model.
    """
    levels = store.levels(name)
    key = store.key_of(name)
    with store.ManagedSessionMaker(read_only=True) as session:
        family = records.family(session, key) or store.admission.policies.family_of(name)
        stored = records.read_journal(session, key)
        rows = listing.ledger_rows(session, model=key, limit=HISTORY_ROWS + 1)
    policy, now = store.admission.policy(family), store.admission.clock()
    journal, problem = _judged(stored[1]) if stored else (None, "")
    verdicts = _verdicts(store, name, journal["candidate"], policy) if journal else ()
    told, verdicts = _publishable(policy, now, journal["narrative"] if journal else None, verdicts)
    history = tuple(decided(row) for row in rows[:HISTORY_ROWS])
    resting = told is None or told["phase"] in RESTING_PHASES
    return RolloutPage(
        name=key,
        levels=levels,
        told=told,
        problem=problem,
        carried=bool(read_lease(store, name)["holder"]),
        now=now.astimezone(UTC),
        live_s=(RESTING_S if resting else LIVE_S) if live else None,
        drawing=draw_plan(told) if told and told["steps"] else None,
        verdicts=verdicts,
        reports=_reports(store, name, journal) if journal else (),
        history=history,
        more_before=history[-1].row.seq if len(rows) > HISTORY_ROWS else None,
    )


def _judged(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return a journal, or why it can not be told."""
    try:
        journal = json.loads(text)
    except ValueError:
        return None, "The journal is no JSON."
    is_fleet = isinstance(journal, dict) and "batch" in journal
    problems = schema_problems("fleet_journal" if is_fleet else "rollout_journal", journal)
    if not problems:
        return journal, ""
    phase = journal.get("phase") if isinstance(journal, dict) else None
    stands = f" It stands at {phase}." if isinstance(phase, str) else ""
    return None, f"The journal is from a controller of another version: {problems[0]}.{stands}"


def _verdicts(
    store: KfmStore, name: str, version: int | None, policy: Policy
) -> tuple[CanaryVerdict, ...]:
    """Return what was signed about the candidate as a canary, the newest first."""
    if version is None:
        return ()
    try:
        snapshot = store.snapshot(name, version)
    except (MlflowException, KfmError) as exc:  # deleted since
        _log.warning("%s v%s: %s", name, version, exc)
        return ()
    found = [
        CanaryVerdict(
            report.issued_at.isoformat() if report.issued_at else "",
            str(claims.get("verdict", "")),
            100 * ratio if isinstance(ratio := claims.get("canary_weight_ratio"), float) else None,
            str(claims.get("reason", "")),
            ", ".join(report.signers),
            "PASS" if report.ok else "FAIL",
        )
        for report in verified_attestations(store, snapshot, policy, Beside((), ""))
        if report.kind == "canary-verdict" and (claims := report.claims or {})
    ]
    return tuple(sorted(found, key=lambda verdict: verdict.at, reverse=True))


def _reports(store: KfmStore, name: str, journal: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return where the reports of the last rollback are kept: with the run of its version."""
    version = journal["candidate"]
    if version is None or not journal["reports_written"]:
        return ()
    try:
        run_id = store.get_model_version(name, str(version)).run_id
    except MlflowException as exc:  # deleted since
        _log.warning("%s v%s: %s", name, version, exc)
        return ()
    asked = [(report, {"path": f"rollback/v{version}/{report}"}) for report in REPORTS]
    return tuple(
        (report, "/get-artifact?" + urlencode({"run_uuid": run_id, **path}))
        for report, path in asked
        if run_id
    )


# -- what may be shown -----------------------------------------------------------------------------


def _publishable(
    policy: Policy,
    now: datetime,
    told: Mapping[str, Any] | None,
    verdicts: tuple[CanaryVerdict, ...],
) -> tuple[dict[str, Any] | None, tuple[CanaryVerdict, ...]]:
    """Leave out texts that hold what the regions keep back; all of them, if nobody can tell."""
    texts = list(dict.fromkeys([*_texts(told or {}), *(verdict.reason for verdict in verdicts)]))
    try:
        unclean = _judge(policy, now).unclean(texts)
    except KfmError as exc:
        _log.warning("texts of a rollout are not shown: %s", exc)
        unclean = set(texts)
    shown = {text: _NOT_SHOWN if text in unclean else text for text in texts}
    clean = tuple(replace(verdict, reason=shown[verdict.reason]) for verdict in verdicts)
    return (None if told is None else _replaced(told, shown)), clean


def _judge(policy: Policy, now: datetime) -> Judge:
    from kfm_mlflow.care.mask_terms import terms_of_policy

    return terms_of_policy(current_policy(policy)).at(now)[1]


_FREE = frozenset({"happening", "reason", "next", "on_deadline", "to_do", "measured", "ends"})
"""Fields whose text somebody else may have had a word in."""


def _texts(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, str) and name in _FREE:
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, name)


def _replaced(value: Any, shown: Mapping[str, str], name: str = "") -> Any:
    if isinstance(value, str) and name in _FREE:
        return shown[value]
    if isinstance(value, dict):
        return {key: _replaced(item, shown, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, shown, name) for item in value]
    return value
