"""Rows of the ledger, verified whole: chain, signature, and columns against what was signed.

Rules kept here:

1. The columns are convenience; what counts is the signed statement in ``body``. A row whose
   columns say something else than its statement is bad, however well it is chained.
2. A row that somebody else signed is bad, and the key is named.
3. Rows are numbered from 1 without gaps.
4. Nothing is remembered but the row before: a ledger of any length is read in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json, parse_json
from kfm_mlflow.errors import EvidenceError, InputError, LedgerError
from kfm_mlflow.trust.attestation import AttestationReport, verify_envelope
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.keys import TrustedKey
from kfm_mlflow.trust.ledger import (
    CHECKPOINT_CERTIFICATE,
    EQUIVOCATION,
    MOVED,
    POLICY,
    REFUSED,
    ROLLOUT_ORDER,
    LedgerFinding,
    link_problem,
)
from kfm_mlflow.trust.ledger_head import LedgerHead, head_finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kfm_mlflow.trust.keys import PublicKey

STATEMENTS = {
    MOVED: "decision",
    REFUSED: "decision",
    POLICY: "policy",
    EQUIVOCATION: "equivocation",
    ROLLOUT_ORDER: "rollout-order",
    CHECKPOINT_CERTIFICATE: "checkpoint-certificate",
}
"""Kind of a row -> kind of the statement in it."""

COLUMNS = frozenset({"seq", "at", "kind", "model", "version", "body", "prev_hash", "hash"})
"""What a row consists of."""


@dataclass(frozen=True)
class LedgerReport:
    """What a ledger proves.

    Attributes:
        row_count: Rows that are good, from the first.
        head: The last of them.
        finding: The first bad row; None when there is none.
        signatures_checked: Whether signatures were verified, too.
    """

    row_count: int
    head: LedgerHead
    finding: LedgerFinding | None
    signatures_checked: bool


def chain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it is hashed, from how tables and the API name it (``hash``)."""
    return {("row_hash" if name == "hash" else name): value for name, value in row.items()}


class _Walk:
    """Where a verification stands: behind the last good row."""

    def __init__(self, keys: Sequence[PublicKey], kept: LedgerHead | None) -> None:
        self._trusted = [TrustedKey(f"registry key {key.key_id[:16]}", key.pem) for key in keys]
        self._kept = kept
        self._seen = LedgerHead()
        self.end = LedgerHead()

    def step(self, row: Mapping[str, Any]) -> LedgerFinding | None:
        """Go on to the next row; stay where it is bad."""
        seq = self.end.seq + 1
        problem = _shape_problem(row) or link_problem(chain_row(row), self.end.hash)
        if problem is None and row["seq"] != seq:
            problem = f"calls itself row {str(row['seq'])[:20]}"
        if problem is None and self._trusted:
            problem = row_problem(row, self._trusted)
        if problem is not None:
            return LedgerFinding(seq - 1, problem)
        self.end = LedgerHead(seq, row["hash"], row["at"])
        if self._kept is None or seq <= self._kept.seq:
            self._seen = self.end
        return None

    def finish(self) -> LedgerFinding | None:
        """Compare with the head that was kept."""
        return None if self._kept is None else head_finding(self._kept, self._seen, self.end)


def verify_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    keys: Sequence[PublicKey] = (),
    kept: LedgerHead | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> LedgerReport:
    """Verify a ledger from its first row; stops at the first bad one.

    Args:
        rows: In order; each with seq, at, kind, model, version, body, prev_hash and hash.
        keys: The registry's public keys, present and former; none verifies the chain alone.
        kept: A head that was kept elsewhere.
        progress: Told the number of every row that is good.
    """
    walk = _Walk(keys, kept)
    finding: LedgerFinding | None = None
    for row in rows:
        finding = walk.step(row)
        if finding is not None:
            break
        progress(walk.end.seq)
    return LedgerReport(
        row_count=walk.end.seq,
        head=walk.end,
        finding=finding or walk.finish(),
        signatures_checked=bool(keys),
    )


def checked_rows(
    rows: Iterable[dict[str, Any]], keys: Sequence[PublicKey], kept: LedgerHead
) -> Iterator[dict[str, Any]]:
    """Hand on the rows of a ledger as they are found good.

    Raises:
        LedgerError: A row is bad, or the rows do not reach the head; names the row.
    """
    walk = _Walk(keys, kept)
    for row in rows:
        finding = walk.step(row)
        if finding is not None:
            raise LedgerError(str(finding), where="ledger")
        yield row
    finding = walk.finish()
    if finding is not None:
        raise LedgerError(str(finding), where="ledger")


def _shape_problem(row: Mapping[str, Any]) -> str | None:
    wrong = sorted(str(name)[:40] for name in COLUMNS.symmetric_difference(row))
    return f"lacks a column or has one too many: {', '.join(wrong[:5])}" if wrong else None


def row_problem(row: Mapping[str, Any], trusted: Sequence[TrustedKey]) -> str | None:
    """Return what is wrong with one row's signature, statement or columns; None when nothing is.

    Args:
        row: As in :func:`verify_rows`.
        trusted: The registry's keys.
    """
    kind, body = row.get("kind"), str(row.get("body"))
    if kind not in STATEMENTS:
        return f"is of kind {str(kind)[:40]!r}, which this version of kfm-mlflow does not know"
    try:
        written_at = parse_instant(row.get("at"), where="at")
    except EvidenceError as exc:
        return f"is not dated ({exc})"
    # The row's own instant is the clock: a statement may not be younger than its row.
    report = verify_envelope(body.encode(), trusted, written_at, kind=STATEMENTS[str(kind)])
    if not report.signers:
        return f"is not signed by the registry: {'; '.join(report.problems)}{_named(body)}"
    if not report.ok:
        return f"holds a bad statement: {'; '.join(report.problems)}"
    return _column_problem(row, report)


def _named(body: str) -> str:
    """Return which keys an envelope names; nothing when it cannot be read."""
    try:
        envelope = parse_envelope(parse_json(body.encode(), where="body"), where="body")
    except EvidenceError:
        return ""
    names = ", ".join(item.key_id[:64] or "an unnamed key" for item in envelope.signatures[:3])
    return f"; it names key {names}"


def _column_problem(row: Mapping[str, Any], report: AttestationReport) -> str | None:
    binding, claims = report.binding, report.claims or {}
    if binding is None:
        return "is about nothing"
    said = [("model", binding.model_name), ("version", binding.version)]
    if report.kind == "decision":
        try:
            said += _said_by(claims)
        except (KeyError, TypeError, InputError) as exc:
            return f"holds a decision that contradicts itself ({type(exc).__name__}: {exc})"
    for column, value in said:
        if row[column] != value:
            return (
                f"says {column} {str(row[column])[:80]!r}, and the statement signed in it "
                f"{str(value)[:80]!r}"
            )
    return None


def _said_by(claims: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what a decision says of its row's columns."""
    report = claims["report"]
    if claims["report_digest"] != digest_json(report):
        raise InputError("the report has another digest than stated")
    passed, refused = report["verdict"] == "PASS", claims["outcome"] == "refused"
    if passed is refused:
        raise InputError(f"{claims['outcome']} with verdict {report['verdict']}")
    return [
        ("model", report["model_name"]),
        ("version", report["version"]),
        ("kind", REFUSED if refused else MOVED),
    ]
