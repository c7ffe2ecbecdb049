"""The ledger's hash chain: each row carries the hash of the one before.

Pure: it knows neither tables nor transactions. A row is its fields plus ``prev_hash`` and
``row_hash``; ``row_hash`` is the SHA-256 of the RFC 8785 form of ``{"fields": …, "prev_hash": …}``.
Cutting rows off the end leaves a valid chain, so whoever wants to see that keeps the head.
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

_CHAIN_FIELDS = frozenset({"prev_hash", "row_hash"})


@dataclass(frozen=True)
class LedgerFinding:
    """The first place where a chain is broken.

    Attributes:
        index: Position of the bad row, from 0; the number of rows when the end is missing.
        problem: What is wrong with it, in one sentence.
    """

    index: int
    problem: str


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
        fields = {key: value for key, value in row.items() if key not in _CHAIN_FIELDS}
        if row.get("prev_hash") != previous:
            return LedgerFinding(index, f"row {index} does not follow the row before it")
        try:
            expected = row_hash(previous, fields)
        except InputError as exc:
            return LedgerFinding(index, f"row {index} cannot be hashed ({exc})")
        if row.get("row_hash") != expected:
            return LedgerFinding(index, f"row {index} was changed after it was written")
        previous = expected
    if head is not None and previous != head:
        return LedgerFinding(
            count, f"the chain ends after {count} rows with another head than recorded"
        )
    return None
