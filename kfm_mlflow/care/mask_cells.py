"""Columns of H3 cells of an answer: reading them fast, and generalising them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, format_cells, resolutions
from kfm_mlflow.care.partition import finest_partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.coverage import Coverage

_TEXT_LENGTH, _MARK = 15, "|"


def read_cells(texts: Sequence[Any]) -> Cells | None:
    """Read a column whose every item is the text of an H3 cell; None when one is not.

    An index is 15 hexadecimal digits, so a column is read as one run of bytes.
    """
    import h3ronpy

    first = texts[0] if texts else None
    if not isinstance(first, str) or len(first) != _TEXT_LENGTH or first[0] != "8":
        return None
    try:
        run = _MARK + _MARK.join(texts)
        # Marks in all their places and in no other: every item has 15 characters.
        count = len(texts)
        if run.count(_MARK) != count or run[:: _TEXT_LENGTH + 1] != _MARK * count:
            return None
        data = bytes.fromhex(run.replace(_MARK, "0"))
    except (TypeError, ValueError):
        return None
    # Blanks are skipped, so a wrong length shows a text that only looked like one.
    if len(data) != 8 * count:
        return None
    cells = np.frombuffer(data, dtype=">u8").astype(np.uint64)
    valid = np.asarray(h3ronpy.cells_valid(cells, booleanarray=True))
    return cells if valid.all() else None


def is_cell(value: Any) -> bool:
    """Return whether a value is the text of an H3 cell."""
    return isinstance(value, str) and read_cells([value]) is not None


def finest_of(cells: Cells, joint: Sequence[slice], coverage: Coverage) -> Cells:
    """Return the cell under which each place is published; 0 where it is withheld.

    Args:
        cells: One or more, in any order and as often as they come; each is one record.
        joint: Runs of places that belong to one record.
        coverage: Whose rules hold.
    """
    if _stand_as_they_are(cells, coverage):
        return cells
    found, position, counts = np.unique(cells, return_inverse=True, return_counts=True)
    if not joint:
        return finest_partition(found, counts, coverage)[position]
    record_of = np.arange(cells.size)
    for run in joint:
        record_of[run] = run.start
    records = (position, record_of)
    return finest_partition(found, counts, coverage, records=records)[position]


def _stand_as_they_are(cells: Cells, coverage: Coverage) -> bool:
    """Return whether cells of one resolution may all be published, each record alone."""
    own = resolutions(cells)
    finest = int(own.max())
    if own.min() != finest:
        return False
    # What holds for the strictest rule of all holds for whichever it is.
    ceiling, k_min = coverage.strictest
    if finest <= ceiling and k_min <= 1:
        return True
    ceilings, k_mins = coverage.lookup(cells)
    return bool(k_mins.max() <= 1 and ceilings.min() >= finest)


def means_of(
    cells: Cells, values: Sequence[float], coverage: Coverage
) -> tuple[dict[str, float], int, int]:
    """Return a field over cells made coarse enough: values that fall into one cell, as their mean.

    Values of a field are no records, so ``k_min`` is not asked of them, as of pixels.

    Returns:
        Cell -> value, sorted; how many cells were changed, and how many withheld.
    """
    found, position = np.unique(cells, return_inverse=True)
    ones = np.ones(found.size, dtype=np.int64)
    published = finest_partition(found, ones, coverage.without_k_min())[position]
    kept = published != WITHHELD
    changed = int((kept & (published != cells)).sum())
    out, group = np.unique(published[kept], return_inverse=True)
    column = np.asarray(values, dtype=np.float64)[kept]
    count = np.bincount(group, minlength=out.size)
    mean = np.bincount(group, weights=column, minlength=out.size) / np.maximum(count, 1)
    # Numbers of a field stay so, or the next pass would take what is left for counts.
    return dict(zip(format_cells(out), mean.tolist(), strict=True)), changed, int((~kept).sum())


def count_of(counts: dict[str, int], kind: str, count: int) -> None:
    """Add to the number of a kind; none leaves it out."""
    if count:
        counts[kind] = counts.get(kind, 0) + count
