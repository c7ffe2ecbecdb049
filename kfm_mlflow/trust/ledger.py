"""The ledger's hash chain: each row carries the hash of the one before.

Pure: it knows neither tables nor transactions. A row is its fields plus ``prev_hash`` and
``row_hash``; ``row_hash`` is the SHA-256 of the RFC 8785 form of ``{"fields": …, "prev_hash": …}``.
Cutting rows off the end leaves a valid chain, and so does writing all of it anew: whoever wants to
see that keeps the head (see ``ledger_head.py``). Who signed the rows is ``ledger_rows.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GENESIS = f"sha256:{'0' * 64}"
"""The ``prev_hash`` of the first row."""

MOVED = "moved"
REFUSED = "refused"
POLICY = "policy"
EQUIVOCATION = "equivocation"
ROLLOUT_ORDER = "rollout-order"
CHECKPOINT_CERTIFICATE = "checkpoint-certificate"
"""Kinds of rows: decisions, allowed and refused, changes of the policy they rest on, council
members found to contradict themselves, what operators ordered a rollout to do, and checkpoints
that a council certified."""

_CHAIN_FIELDS = frozenset({"prev_hash", "row_hash"})


@dataclass(frozen=True)
class LedgerFinding:
    """The first place where a ledger is broken.

    Attributes:
        index: Position of the bad row, from 0; the number of rows when the end is missing.
        problem: What is wrong with it, as the rest of a sentence that begins with the row.
    """

    index: int
    problem: str

    @property
    def number(self) -> int:
        """The row's number as people count them and as its ``seq`` should say: from 1."""
        return self.index + 1

    def __str__(self) -> str:
        """Return one sentence that names the row."""
        return f"row {self.number} {self.problem}"


def row_hash(prev_hash: str, fields: Mapping[str, Any]) -> str:
    """Return ``sha256:<hex>`` of a row.

    Args:
        prev_hash: Hash of the row before, or :data:`GENESIS`.
        fields: Everything else in the row, as plain JSON; without ``prev_hash`` and ``row_hash``.

    Raises:
        InputError: The fields are not canonical JSON, or name a field of the chain itself.
    """
    if not _CHAIN_FIELDS.isdisjoint(fields):
        raise InputError("fields may not name prev_hash or row_hash", where="ledger row")
    return digest_json({"fields": dict(fields), "prev_hash": prev_hash})


def link_problem(row: Mapping[str, Any], previous: str) -> str | None:
    """Return how a row does not hold to the one before; None when it does.

    Args:
        row: ``prev_hash``, ``row_hash`` and the fields.
        previous: Hash of the row before, or :data:`GENESIS`.
    """
    if row.get("prev_hash") != previous:
        return "does not follow the row before it"
    fields = {key: value for key, value in row.items() if key not in _CHAIN_FIELDS}
    try:
        expected = row_hash(previous, fields)
    except InputError as exc:
        return f"cannot be hashed ({exc})"
    return None if row.get("row_hash") == expected else "was changed after it was written"


def verify_chain(
    rows: Iterable[Mapping[str, Any]], *, head: str | None = None
) -> LedgerFinding | None:
    """Return the first bad row of a chain; None when all are good.

    Args:
        rows: In order, from the first; each holds ``prev_hash``, ``row_hash`` and its fields.
        head: ``row_hash`` that the last row must have, as kept elsewhere; None leaves the end
            unchecked.
    """
    previous, count = GENESIS, 0
    for index, row in enumerate(rows):
        count = index + 1
        problem = link_problem(row, previous)
        if problem is not None:
            return LedgerFinding(index, problem)
        previous = row["row_hash"]
    if head is not None and previous != head:
        return LedgerFinding(
            count, f"is not there: the chain ends after {count} rows with another head"
        )
    return None
