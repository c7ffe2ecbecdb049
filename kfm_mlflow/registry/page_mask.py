"""A sovereign region as it may be shown: whole H3 cells at its ceiling or coarser, by its id.

The polygons, the names and the authorities of a regions file are on no page, and of a region in
which nothing may be published now there is no cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from kfm_mlflow.care.regions import Region, RegionSet
    from kfm_mlflow.care.screen_subject import OutputGrid

MAX_CELLS = 4000
"""Most cells that one map draws, over all its regions."""


@dataclass(frozen=True)
class MaskedRegion:
    """A region as it may be shown.

    Attributes:
        number: What it is called on the map, from 1.
        id: What findings call it.
        ceiling: Finest H3 resolution that may be published now; -1 when nothing may.
        why: What makes that stricter than the region's own numbers; empty when nothing does.
        k_min: Smallest number of records that one published cell may stand for.
        consent: Status of the consent.
        published: In which cells the release publishes here, in words; empty when it does not say.
        drawn_resolution: Finest H3 resolution of the cells that are drawn; at most the ceiling.
        cells: Those cells.
    """

    number: int
    id: str
    ceiling: int
    why: str
    k_min: int
    consent: str
    published: str
    drawn_resolution: int
    cells: tuple[str, ...]


def generalised(
    region: Region,
    number: int,
    regions: RegionSet,
    now: datetime,
    *,
    grid: OutputGrid | None = None,
    max_cells: int = MAX_CELLS,
) -> MaskedRegion:
    """Return a region as it may be shown: whole cells, no finer than any ceiling there.

    Args:
        region: The region.
        number: What to call it on the map.
        regions: The file that it stands in.
        now: When it is shown (aware).
        grid: On which the release publishes.
        max_cells: Coarser cells are taken until there are no more than so many.
    """
    rule = region.rule_at(now)
    resolution, cells = (0, ()) if rule.is_withheld else _drawn(region, regions, now, max_cells)
    return MaskedRegion(
        number,
        regions.shown(region.id),
        rule.ceiling,
        "; ".join(rule.reasons),
        rule.k_min,
        region.consent.status,
        "" if rule.is_withheld else published_cells(region, grid),
        resolution,
        cells,
    )


def _drawn(
    region: Region, regions: RegionSet, now: datetime, max_cells: int
) -> tuple[int, tuple[str, ...]]:
    """Return cells of one resolution, coarser where another region asks for it, and the finest."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    from kfm_mlflow.care.cells import format_cells, parse_cells
    from kfm_mlflow.care.published import at_ceilings

    finest = max(map(h3.get_resolution, region.cells))
    resolution = min(region.rule_at(now).ceiling, finest)
    cells = _at_resolution(region.cells, resolution)
    while len(cells) > max_cells and resolution > 0:
        resolution -= 1
        cells = {h3.cell_to_parent(cell, resolution) for cell in cells}
    shown = format_cells(at_ceilings(parse_cells(sorted(cells)), regions, now))
    return max(map(h3.get_resolution, shown), default=0), tuple(sorted(shown))


def published_cells(region: Region, grid: OutputGrid | None) -> str:
    """Return in which cells a release publishes over a region, in words; empty when unknown."""
    from kfm_mlflow.care.cells import cell_side_km

    if grid is None:
        return ""
    if grid.h3_resolution is not None:
        side_km = cell_side_km(grid.h3_resolution)
        count = _count(region, grid.h3_resolution)
        return f"about {count} H3 cells of r{grid.h3_resolution}, {side_km:.1f} km"
    coarser = [r for r in range(16) if cell_side_km(r) <= grid.finest_km]
    like = f", as coarse as H3 r{min(coarser)}" if coarser else ""
    return f"grid cells of {grid.finest_km:.1f} km{like}"


def _count(region: Region, resolution: int) -> int:
    """Return about how many cells of a resolution a region touches, its margin among them."""
    import h3

    levels = [(cell, h3.get_resolution(cell)) for cell in region.cells]
    finer = {h3.cell_to_parent(cell, resolution) for cell, level in levels if level >= resolution}
    inner = [resolution - level for _, level in levels if level < resolution]
    return len(finer) + sum(int(7**depth) for depth in inner)


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
