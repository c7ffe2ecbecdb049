"""From rows of the ledger to who was what, when, and why. Pure.

Rules kept here:

1. Only rows of kind ``moved`` change levels: to the level in the report of the signed decision.
2. Promoting to Production takes the Production version before to candidate, without a row of its
   own; the successor's decision is the one that did it.
3. The order of rows is what happened. Where a clock went back, a row counts from the row before.

Signatures are not looked at here: verify first (``trust/ledger_rows.py``).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.policy.levels import Level, parse_level
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.ledger import MOVED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime


_CERTIFIED = (
    "ledger_id",
    "auditor",
    "reviewed_by",
    "status",
    "timestamp",
    "model_id",
    "checkpoint_id",
    "checksum_sha256",
    "certificate_digest",
)


@dataclass(frozen=True)
class Entry:
    """A row of the ledger, read: the columns, and what the statement in it says.

    Attributes:
        seq: Number of the row.
        at: When it was written, as it stands there.
        kind: ``moved``, ``refused``, ``policy``, ``equivocation``, ``rollout-order``,
            ``checkpoint-certificate``, or what a newer release wrote.
        model: Registered model, or ``policy:<family>``.
        version: Model version; 0 where there is none.
        hash: Of the row.
        actor: Who asked.
        authenticated: Whether the server knew that it was they; None where it is not said.
        roles: Roles that they held.
        reason: Why, in their words.
        outcome: ``allowed``, ``warned``, ``allowed-break-glass`` or ``refused``.
        from_level: Level before; empty where no move was asked for.
        to_level: Level asked for.
        verdict: Worst of the enforced gates.
        decision_digest: Of the report.
        policy_digest: Policy in force.
        release_id: What was judged.
        release_version: Its human tag.
        rollback_target: Release to go back to.
        evidence: Digests of the attestations that were read.
        votes: The council's tally; empty where it was not asked.
        not_passed: Findings that did not pass, or were passed over, each with its gate and mode.
        break_glass: The emergency, if one was declared.
        change: Of a policy row, digests ``before`` and ``after``, and the exemptions.
        contradiction: Of an equivocation, the ``voter`` and the ``choices`` that it cast.
        ordered: Of an order to the rollout controller, the ``order`` and its ``to_version``.
        certified: Of a certificate, the council's record and which checkpoint it is of.
        cause: Of a version that was taken down, or came back for one, why, in fixed words; None
            where it is not said. See :mod:`kfm_mlflow.gates.cause`.
        signed_by: Key ids that the envelope names.
    """

    seq: int
    at: str
    kind: str
    model: str
    version: int
    hash: str
    actor: str = ""
    authenticated: bool | None = None
    roles: tuple[str, ...] = ()
    reason: str = ""
    outcome: str = ""
    from_level: str = ""
    to_level: str = ""
    verdict: str = ""
    decision_digest: str = ""
    policy_digest: str = ""
    release_id: str = ""
    release_version: str = ""
    rollback_target: str = ""
    frozen_uri: str = ""
    restores: bool = False
    evidence: tuple[str, ...] = ()
    votes: Mapping[str, Any] = field(default_factory=dict)
    not_passed: tuple[Mapping[str, Any], ...] = ()
    break_glass: Mapping[str, Any] | None = None
    change: Mapping[str, Any] | None = None
    contradiction: Mapping[str, Any] | None = None
    ordered: Mapping[str, Any] | None = None
    certified: Mapping[str, Any] | None = None
    cause: Mapping[str, Any] | None = None
    signed_by: tuple[str, ...] = ()

    @property
    def approving(self) -> tuple[str, ...]:
        """Council members whose approval was counted."""
        return tuple(str(name) for name in self.votes.get("approving", ()))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, for programs that ask ``kfm ledger show``."""
        return asdict(self)


def read_entry(row: Mapping[str, Any]) -> Entry:
    """Read a row as the API and exported files hold it.

    Args:
        row: With seq, at, kind, model, version, body and hash.

    Raises:
        EvidenceError: The body holds no statement.
    """
    try:
        columns = {name: row[name] for name in ("seq", "at", "kind", "model", "version", "hash")}
        envelope = json.loads(row["body"])
        predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        claims, binding = predicate["claims"], predicate["binding"]
        signed_by = tuple(str(item.get("keyid", "")) for item in envelope["signatures"])
        said = _decision(claims) if "report" in claims else _event(claims, binding)
        said["policy_digest"] = str(binding["policy_digest"] or "")
        asked = _asked(claims)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as exc:
        raise EvidenceError("holds no statement", where=f"row {row.get('seq')}") from exc
    return Entry(**columns, **asked, **said, signed_by=signed_by)


def _asked(claims: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "actor": str(claims.get("actor", "")),
        "authenticated": claims.get("authenticated"),
        "roles": tuple(str(role) for role in claims.get("roles", ())),
        "reason": str(claims.get("reason", "")),
    }


def _decision(claims: Mapping[str, Any]) -> dict[str, Any]:
    report = claims["report"]
    names = ("from_level", "to_level", "verdict", "release_id", "release_version")
    return {
        **{name: str(report[name]) for name in names},
        "outcome": str(claims["outcome"]),
        "decision_digest": str(claims["report_digest"]),
        "rollback_target": str(report.get("rollback_target", "")),
        "frozen_uri": str(claims.get("frozen_uri", "")),
        "restores": bool(report.get("restores", False)),
        "evidence": tuple(str(digest) for digest in report.get("evidence", ())),
        "votes": dict(report.get("votes") or {}),
        "not_passed": tuple(
            {"gate": gate["gate"], "mode": gate["mode"], **finding}
            for gate in report["gates"]
            for finding in gate["findings"]
            if finding["verdict"] != "PASS" or finding.get("waiver")
        ),
        "break_glass": claims.get("break_glass"),
        "cause": claims.get("cause"),
    }


def _event(claims: Mapping[str, Any], binding: Mapping[str, Any]) -> dict[str, Any]:
    if "proposal_digest" in claims:
        return {
            "release_id": str(binding["release_id"]),
            "release_version": str(binding["release_version"]),
            "evidence": tuple(str(digest) for digest in claims["votes"]),
            "contradiction": {name: claims[name] for name in ("voter", "choices")},
        }
    if "certificate_digest" in claims:
        return {
            "release_id": str(binding["release_id"]),
            "release_version": str(binding["release_version"]),
            "evidence": tuple(str(digest) for digest in claims["votes"]),
            "certified": {name: str(claims[name]) for name in _CERTIFIED},
        }
    if "order" in claims:
        return {
            "release_id": str(binding["release_id"]),
            "release_version": str(binding["release_version"]),
            "ordered": {name: claims[name] for name in ("order", "to_version")},
        }
    names = ("family", "before", "after", "exemptions")
    return {"change": {name: claims.get(name) for name in names}}


@dataclass(frozen=True)
class Tenure:
    """A version at a level, from one decision to another.

    Attributes:
        version: Model version.
        level: What it was.
        since: Instant (aware) from which it was so.
        by: The decision; on another version where that one took its place.
        until: Instant (aware) from which it was not so any more; None while it is.
        ended_by: The decision that ended it.
    """

    version: int
    level: Level
    since: datetime
    by: Entry
    until: datetime | None = None
    ended_by: Entry | None = None

    @property
    def displaced(self) -> bool:
        """Whether another version's promotion put this one here."""
        return self.by.version != self.version

    def holds_at(self, instant: datetime) -> bool:
        """Return whether it was so at an instant; at the end of it, it is not."""
        return self.since <= instant and (self.until is None or instant < self.until)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "version": self.version,
            "level": str(self.level),
            "since": _text(self.since),
            "until": None if self.until is None else _text(self.until),
            "displaced_by": self.by.version if self.displaced else None,
            "row": self.by.seq,
            "decision": self.by.to_dict(),
            "ended_by_row": None if self.ended_by is None else self.ended_by.seq,
        }


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class History:
    """What rows of the ledger did to one model; feed it every row, in order."""

    def __init__(self, model: str) -> None:
        """Begin before the first row: everything is a candidate that nobody asked about."""
        self.model = model
        self.past: list[Tenure] = []
        self._now: dict[int, Tenure] = {}
        self._clock: datetime | None = None

    @property
    def present(self) -> tuple[Tenure, ...]:
        """What is now of every version that ever moved, in order of versions."""
        return tuple(self._now[version] for version in sorted(self._now))

    def add(self, entry: Entry) -> None:
        """Take in the next row; rows of other models and kinds change nothing.

        Raises:
            EvidenceError: The row is a move, and has no instant or no level.
        """
        if entry.kind != MOVED or entry.model != self.model:
            return
        where = f"row {entry.seq}"
        at = parse_instant(entry.at, where=where)
        self._clock = at = at if self._clock is None else max(at, self._clock)
        try:
            level = parse_level(entry.to_level)
        except InputError as exc:
            raise EvidenceError(str(exc), where=where) from exc
        if level is Level.PRODUCTION:
            for version, tenure in list(self._now.items()):
                if tenure.level is Level.PRODUCTION and version != entry.version:
                    self._write(version, Level.CANDIDATE, at, entry)
        self._write(entry.version, level, at, entry)

    def _write(self, version: int, level: Level, at: datetime, entry: Entry) -> None:
        old = self._now.get(version)
        if old is not None:
            if old.level is level:
                return
            self.past.append(Tenure(version, old.level, old.since, old.by, at, entry))
        self._now[version] = Tenure(version, level, at, entry)

    def levels(self) -> dict[int, Level]:
        """Return the level of every version that is above candidate now."""
        return {t.version: t.level for t in self.present if t.level is not Level.CANDIDATE}

    def at(self, instant: datetime) -> tuple[Tenure, ...]:
        """Return what was at an instant (aware): highest level first, then by version.

        Versions that had not moved by then are not in it: they were candidates.
        """
        found = [t for t in (*self.past, *self._now.values()) if t.holds_at(instant)]
        return tuple(sorted(found, key=lambda t: (-t.level.rank, t.version)))


def history_of(entries: Iterable[Entry], model: str) -> History:
    """Return a model's history from all rows, or from the model's own, in order."""
    history = History(model)
    for entry in entries:
        history.add(entry)
    return history
