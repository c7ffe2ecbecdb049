"""Which rule holds for an H3 cell: all regions of a file in one index, asked a column at a time.

1. Where regions overlap, the strictest holds: the lowest ceiling and the highest ``k_min``.
2. A coarser cell touches whatever its descendants touch, so going up never loosens a rule.
3. The cover of a region takes every cell that overlaps it and one ring around, because a child may
   reach out of its parent; it is kept compacted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.care.cells import dense_keys, parents, resolutions
from kfm_mlflow.care.modes import DEFAULT_CEILING, MAX_H3_RESOLUTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from kfm_mlflow.care.cells import Cells, Integers
    from kfm_mlflow.care.modes import MaskingMode
    from kfm_mlflow.care.regions import Region
    from kfm_mlflow.care.rules import Rule

    Ceilings = NDArray[np.int8]

_NEAR_RESOLUTION = 4
_MAX_COVER_CELLS = 100_000
_MAX_COVER_RESOLUTION = 9
_WIDEST_STRIP_DEG = 90.0


def cover_cells(shape: object, ceiling: int) -> Cells:
    """Return every H3 cell that may touch an area, with one ring around, compacted.

    Args:
        shape: A shapely area in longitude and latitude, within -180 to 180.
        ceiling: Of the region; the cover is at least one finer, unless it would be too large.
    """
    import h3ronpy
    from h3.api import numpy_int  # type: ignore[import-untyped]  # it ships no stubs

    resolution = _cover_resolution(shape, ceiling)
    found = [np.zeros(0, dtype=np.uint64)]
    for strip in _strips(shape):
        polygon = numpy_int.geo_to_h3shape(strip)
        found.append(numpy_int.h3shape_to_cells_experimental(polygon, resolution, "overlap"))
    cover = np.unique(np.concatenate(found))
    ring = np.unique(np.asarray(h3ronpy.grid_disk(cover, 1, flatten=True)))
    return np.unique(np.asarray(h3ronpy.compact(ring)))


def _cover_resolution(shape: object, ceiling: int) -> int:
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    resolution = min(_MAX_COVER_RESOLUTION, max(ceiling, DEFAULT_CEILING) + 1)
    # Planar, so an upper bound away from the equator.
    area_km2 = shape.area * 111.32**2  # type: ignore[attr-defined]
    while resolution and area_km2 / h3.average_hexagon_area(resolution) > _MAX_COVER_CELLS:
        resolution -= 1
    return resolution


def _strips(shape: object) -> Iterable[object]:
    """Cut a wide area: H3 takes an edge longer than 180 degrees for one across the antimeridian."""
    from shapely import get_parts
    from shapely.geometry import box

    west, _, east, _ = shape.bounds  # type: ignore[attr-defined]
    if east - west <= _WIDEST_STRIP_DEG:
        yield shape
        return
    for start in np.arange(-180.0, 180.0, _WIDEST_STRIP_DEG):
        part = box(start, -90.0, start + _WIDEST_STRIP_DEG, 90.0).intersection(shape)
        yield from (p for p in get_parts(part) if p.geom_type == "Polygon" and p.area)


@dataclass(frozen=True)
class _Level:
    """Cells of one resolution, sorted, with the rule that holds in each."""

    cells: Cells
    ceilings: Ceilings
    k_mins: Integers

    @classmethod
    def strictest(cls, cells: Cells, ceilings: Ceilings, k_mins: Integers) -> _Level:
        order = np.argsort(cells, kind="stable")
        ordered = cells[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        return cls(
            ordered[starts],
            np.minimum.reduceat(ceilings[order], starts),
            np.maximum.reduceat(k_mins[order], starts),
        )

    def lower(self, at: Cells, rows: Integers, ceilings: Ceilings, k_mins: Integers) -> None:
        """Apply the rules of the cells ``at`` to the rows that they belong to."""
        place = np.searchsorted(self.cells, at)
        place[place == self.cells.size] = 0
        hit = self.cells[place] == at
        rows, place = rows[hit], place[hit]
        ceilings[rows] = np.minimum(ceilings[rows], self.ceilings[place])
        k_mins[rows] = np.maximum(k_mins[rows], self.k_mins[place])


@dataclass(frozen=True)
class Coverage:
    """The rules of all regions at one instant, under one masking mode.

    Attributes:
        ceiling: Finest H3 resolution outside every region; 15 when the mode masks nothing.
        k_min: Smallest number of records of a published cell outside every region.
        max_border_step_ratio: See :class:`~kfm_mlflow.care.modes.MaskingMode`.
        rules: Of the regions, in their order.
    """

    ceiling: int
    k_min: int
    max_border_step_ratio: float | None
    rules: tuple[Rule, ...]
    _inside: dict[int, _Level] = field(repr=False)
    _above: dict[int, _Level] = field(repr=False)
    _near: NDArray[np.bool_] = field(repr=False)

    def lookup(self, cells: Cells) -> tuple[Ceilings, Integers]:
        """Return ceiling and ``k_min`` of each cell.

        Args:
            cells: Of any resolutions.

        Returns:
            Finest H3 resolution at which something there may be published, -1 for none; and the
            smallest number of records.
        """
        ceilings = np.full(cells.size, self.ceiling, dtype=np.int8)
        k_mins = np.full(cells.size, self.k_min, dtype=np.int64)
        own = resolutions(cells)
        # Cells coarser than the table have no key in it.
        rows = np.flatnonzero((own < _NEAR_RESOLUTION) | self._near[_near_keys(cells)])
        if not rows.size:
            return ceilings, k_mins
        near, own = cells[rows], own[rows]
        coarsest, finest = int(own.min()), int(own.max())
        for resolution, level in self._inside.items():
            if resolution <= finest:
                some = slice(None) if resolution <= coarsest else own >= resolution
                level.lower(parents(near[some], resolution), rows[some], ceilings, k_mins)
        for resolution in range(coarsest, finest + 1):
            if resolution in self._above:
                some = slice(None) if coarsest == finest else own == resolution
                self._above[resolution].lower(near[some], rows[some], ceilings, k_mins)
        return ceilings, k_mins

    def ceilings(self, cells: Cells) -> Ceilings:
        """Return the finest H3 resolution at which each cell may be published; -1 for none."""
        return self.lookup(cells)[0]

    def k_mins(self, cells: Cells) -> Integers:
        """Return the smallest number of records that each cell may stand for."""
        return self.lookup(cells)[1]

    def touches(self, cells: Cells) -> NDArray[np.bool_]:
        """Return whether each cell may touch a region."""
        found = np.zeros(cells.size, dtype=np.bool_)
        own = resolutions(cells)
        for resolution, level in self._inside.items():
            found |= (own >= resolution) & np.isin(parents(cells, resolution), level.cells)
        for resolution, level in self._above.items():
            found |= (own == resolution) & np.isin(cells, level.cells)
        return found

    def without_k_min(self) -> Coverage:
        """Return the same with no ``k_min``, for what is not counted in records."""
        levels = [
            {at: replace(level, k_mins=np.ones_like(level.k_mins)) for at, level in kept.items()}
            for kept in (self._inside, self._above)
        ]
        return replace(self, k_min=1, _inside=levels[0], _above=levels[1])

    def covering(self) -> Iterable[tuple[Cells, Ceilings]]:
        """Yield the covers of all regions, resolution by resolution, with their ceilings."""
        return ((level.cells, level.ceilings) for level in self._inside.values())


def _near_keys(cells: Cells) -> Integers:
    return dense_keys(cells, _NEAR_RESOLUTION)


def build_coverage(
    regions: Sequence[Region], rules: Sequence[Rule], mode: MaskingMode, k_min: int
) -> Coverage:
    """Build the index.

    Args:
        regions: Whose covers count.
        rules: One for each.
        mode: What is promised of everything.
        k_min: Smallest number of records of any published cell.
    """
    covers = [region.cover for region in regions]
    cells = np.concatenate([np.zeros(0, dtype=np.uint64), *covers])
    sizes = [cover.size for cover in covers]
    ceiling = MAX_H3_RESOLUTION if mode.ceiling is None else mode.ceiling
    limits = np.array([min(rule.ceiling, ceiling) for rule in rules], dtype=np.int8)
    least = np.array([max(rule.k_min, mode.k_min, k_min) for rule in rules], dtype=np.int64)
    ceilings, k_mins = np.repeat(limits, sizes), np.repeat(least, sizes)
    own = resolutions(cells)
    inside, above = {}, {}
    for resolution in range(MAX_H3_RESOLUTION + 1):
        here, finer = own == resolution, own > resolution
        if here.any():
            inside[resolution] = _Level.strictest(cells[here], ceilings[here], k_mins[here])
        if finer.any():
            up = parents(cells[finer], resolution)
            above[resolution] = _Level.strictest(up, ceilings[finer], k_mins[finer])
    return Coverage(
        ceiling, k_min, mode.max_border_step_ratio, tuple(rules), inside, above, _near(cells, own)
    )


def _near(cells: Cells, own: NDArray[np.int8]) -> NDArray[np.bool_]:
    table = np.zeros(1 << (7 + 3 * _NEAR_RESOLUTION), dtype=np.bool_)
    table[_near_keys(cells[own >= _NEAR_RESOLUTION])] = True
    for resolution in range(_NEAR_RESOLUTION):
        # A coarse cell holds whatever keys begin with its own.
        span = 8 ** (_NEAR_RESOLUTION - resolution)
        for key in dense_keys(cells[own == resolution], resolution).tolist():
            table[key * span : (key + 1) * span] = True
    return table
