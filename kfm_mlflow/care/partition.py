"""The finest partition that keeps every rule: k-anonymity by merging, with nothing nested.

Seen as a tree of H3 cells, what is published is a cut: every record lies in exactly one published
cell, or is withheld. A cell may be published if it is no finer than its ceiling and all records
under it are at least its ``k``. Such cuts have one that is finest everywhere, and it is found from
the bottom up: a cell that may not be published takes its whole parent with it. Hence

1. no published cell lies in another, so no difference of two shows a smaller one;
2. the result depends on cells and counts only, not on their order;
3. cutting again changes nothing, and a stricter rule never gives a finer cell;
4. nothing becomes finer than it came, because a record given at a coarse cell stops the cut there.

Merging for ``k`` ends at :data:`FLOOR_RESOLUTION`; what is still too few there is withheld.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, parents, resolutions

if TYPE_CHECKING:
    from kfm_mlflow.care.cells import Cells, Integers
    from kfm_mlflow.care.coverage import Coverage

FLOOR_RESOLUTION = 2
"""Merging for ``k`` stops here (about 86 000 km² a cell)."""


def finest_partition(
    cells: Cells,
    counts: Integers,
    coverage: Coverage,
    *,
    needs: Integers | None = None,
    records: tuple[Integers, Integers] | None = None,
) -> Cells:
    """Return the cell under which each given one is published.

    Args:
        cells: Different cells, of any resolutions.
        counts: Records of each, at least 1.
        coverage: Whose ceilings and ``k_min`` hold.
        needs: Smallest count of what each cell is published in, besides; a region's may be higher.
        records: Where a record lies in several cells, pairs of position in ``cells`` and number
            of the record; they are then counted once, and ``counts`` is not read.

    Returns:
        One ancestor, or the cell itself, for each; 0 where it is withheld.
    """
    least = np.zeros(cells.size, dtype=np.int64) if needs is None else needs
    given, current = resolutions(cells), cells.copy()
    ceilings, k_mins = coverage.lookup(cells)
    if records is None and cells.size and given.min() == given.max():
        stands = (given <= ceilings) & (counts >= np.maximum(k_mins, least))
        if stands.all():
            return current
    current[ceilings < 0] = WITHHELD
    waiting = set(np.unique(given).tolist())
    while waiting:
        resolution = max(waiting)
        waiting.remove(resolution)
        coarse = current[(given == resolution) & (current != WITHHELD)]
        _take_up(current, cells, np.unique(coarse), resolution)
        here = np.flatnonzero((resolutions(current) == resolution) & (current != WITHHELD))
        if not here.size:
            continue
        found, group = np.unique(current[here], return_inverse=True)
        ceilings, least_here = coverage.lookup(found)
        np.maximum.at(least_here, group, least[here])
        too_few = _totals(here, group, found.size, counts, records) < least_here
        up = (ceilings < resolution) | (too_few & (resolution > FLOOR_RESOLUTION))
        above = parents(found, max(resolution - 1, 0))
        # Next to a region that is closed there is no way up: every ancestor touches it.
        may_rise = (coverage.ceilings(above) >= 0) & (resolution > 0)
        current[here[((up & ~may_rise) | (too_few & ~up))[group]]] = WITHHELD
        risen = np.unique(above[up & may_rise])
        _take_up(current, cells, risen, resolution - 1)
        waiting |= {resolution - 1} if risen.size else set()
    return current


def _take_up(current: Cells, cells: Cells, ancestors: Cells, resolution: int) -> None:
    """Publish all records under some cells in those, also what was withheld for being too few."""
    if not ancestors.size:
        return
    below = np.flatnonzero(resolutions(cells) >= resolution)
    up = parents(cells[below], resolution)
    place = np.minimum(np.searchsorted(ancestors, up), ancestors.size - 1)
    inside = ancestors[place] == up
    current[below[inside]] = up[inside]


def _totals(
    here: Integers,
    group: Integers,
    size: int,
    counts: Integers,
    records: tuple[Integers, Integers] | None,
) -> Integers:
    if records is None:
        return np.bincount(group, weights=counts[here], minlength=size).astype(np.int64)
    where = np.full(counts.size, -1, dtype=np.int64)
    where[here] = group
    cell_of, record_of = records
    pairs = np.stack([where[cell_of], record_of])
    pairs = np.unique(pairs[:, pairs[0] >= 0], axis=1)
    return np.bincount(pairs[0], minlength=size)
