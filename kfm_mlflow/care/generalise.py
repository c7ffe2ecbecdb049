"""Making published cells coarse enough: the masking itself.

What comes out

1. is nowhere finer than the ceiling of any region that it touches, nor finer than what went in;
2. stands, where it touches a region, for at least the region's ``k_min`` records, or is withheld;
3. is not nested: with a parent and its child both published, their difference is too;
4. depends only on the counts, not on their order, and is left alone when it comes in again.

Counts are kept, except where a cell was withheld.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfm_mlflow.care.regions import RegionSet

FLOOR_RESOLUTION = 2
"""Merging for ``k_min`` stops here (about 86 000 km² a cell); what is still too few is withheld."""


def generalise_cells(
    cells: Iterable[str] | Mapping[str, int], regions: RegionSet
) -> dict[str, int]:
    """Coarsen H3 cells until every region's ceiling and ``k_min`` holds.

    Args:
        cells: H3 cells, one per record, or cell -> number of records.
        regions: Whose ceilings hold.

    Returns:
        Cell -> number of records, sorted by cell.

    Raises:
        InputError: Something is not an H3 cell.
    """
    counts = Counter(dict(cells)) if isinstance(cells, Mapping) else Counter(cells)
    current: Counter[str] = Counter()
    for cell, count in counts.items():
        if count > 0:
            current[_at_ceiling(cell, regions)] += count
    current = _without_nesting(current)
    while small := _too_small(current, regions):
        for cell in small:
            count = current.pop(cell)
            coarser = _coarser(cell)
            if coarser is not None:
                current[_at_ceiling(coarser, regions)] += count
        current = _without_nesting(current)
    return dict(sorted(current.items()))


def _at_ceiling(cell: str, regions: RegionSet) -> str:
    """Return the finest ancestor that no region it touches forbids; a parent touches more."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    while True:
        ceiling = regions.ceiling_at(cell)
        if ceiling is None or h3.get_resolution(cell) <= ceiling:
            return cell
        cell = h3.cell_to_parent(cell, ceiling)


def _coarser(cell: str) -> str | None:
    import h3

    resolution = h3.get_resolution(cell)
    return h3.cell_to_parent(cell, resolution - 1) if resolution > FLOOR_RESOLUTION else None


def _too_small(counts: Mapping[str, int], regions: RegionSet) -> list[str]:
    if all(region.k_min <= 1 for region in regions.regions):
        return []
    return [
        cell
        for cell, count in counts.items()
        if any(count < region.k_min for region in regions.touching(cell))
    ]


def _without_nesting(counts: Mapping[str, int]) -> Counter[str]:
    """Fold every cell into its coarsest ancestor that is there too."""
    import h3

    merged: Counter[str] = Counter()
    for cell, count in counts.items():
        ancestors = (h3.cell_to_parent(cell, r) for r in range(h3.get_resolution(cell)))
        merged[next((a for a in ancestors if a in counts), cell)] += count
    return merged
