"""A sovereign region as it may be shown: whole H3 cells at its ceiling or coarser, by its id.

The polygons, the names and the authorities of a regions file are on no page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kfm_mlflow.care.regions import Region, RegionSet

MAX_CELLS = 4000
"""Most cells that one map draws, over all its regions."""


@dataclass(frozen=True)
class MaskedRegion:
    """A region as it may be shown.

    Attributes:
        number: What it is called on the map, from 1.
        id: What findings call it.
        ceiling: Finest H3 resolution that may be published.
        k_min: Smallest number of records that one published cell may stand for.
        consent: Status of the consent.
        drawn_resolution: H3 resolution of the cells that are drawn; at most the ceiling.
        cells: Those cells.
    """

    number: int
    id: str
    ceiling: int
    k_min: int
    consent: str
    drawn_resolution: int
    cells: tuple[str, ...]


def generalised(
    region: Region, number: int, regions: RegionSet, *, max_cells: int = MAX_CELLS
) -> MaskedRegion:
    """Return a region as it may be shown: whole cells, no finer than its ceiling.

    Args:
        region: The region.
        number: What to call it on the map.
        regions: The file that it stands in.
        max_cells: Coarser cells are taken until there are no more than so many.
    """
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    cover = region.cells
    resolution = min(region.ceiling, max(map(h3.get_resolution, cover)))
    cells = _at_resolution(cover, resolution)
    while len(cells) > max_cells and resolution > 0:
        resolution -= 1
        cells = {h3.cell_to_parent(cell, resolution) for cell in cells}
    return MaskedRegion(
        number,
        _shown_id(region, regions),
        region.ceiling,
        region.k_min,
        region.consent.status,
        resolution,
        tuple(sorted(cells)),
    )


def _at_resolution(cells: Iterable[str], resolution: int) -> set[str]:
    """Write a compacted cover in cells of one resolution; finer ones become their parents."""
    import h3

    found: set[str] = set()
    for cell in cells:
        if h3.get_resolution(cell) >= resolution:
            found.add(h3.cell_to_parent(cell, resolution))
        else:
            found.update(h3.cell_to_children(cell, resolution))
    return found


def _shown_id(region: Region, regions: RegionSet) -> str:
    from kfm_mlflow.care.passages import find_names

    restricted = [name for each in regions.regions for name in each.restricted_names]
    hit = find_names(region.id.replace("-", " "), restricted)
    return f"restricted name {regions.keyed_hash(hit[0])}" if hit else region.id
