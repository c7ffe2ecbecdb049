"""Which rule holds for an H3 cell: all regions of a file in one index, asked a column at a time.

1. Where regions overlap, the strictest holds: the lowest ceiling and the highest ``k_min``.
2. A coarser cell touches whatever its descendants touch, so going up never loosens a rule.
3. The cover of a region takes every cell that overlaps it and one ring around, because a child may
   reach out of its parent; it is kept compacted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.care.cells import dense_keys, resolutions
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
_RESOLUTION_BIT, _RESOLUTION_MASK = np.uint64(52), np.uint64(0xF)
_COARSE_MASK = np.uint64(0xC << 52)
"""Bits of the resolution that none below 4 has."""
_LINE_MASK, _LINE_BITS, _DIGIT_BITS = np.uint64((1 << 52) - 1), np.uint64(45), np.uint64(3)
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
class _Spans:
    """The covers as spans of one line, each with the strictest rule that holds in it.

    Base cell and digits of an H3 index, read as one number, order cells so that the descendants of
    any cell are neighbours. So a cell is a span, a cover is a set of spans, and what touches a cell
    are the spans that overlap its own, be they coarser or finer.

    Attributes:
        starts: First number of each span, sorted, from 0 on; spans outside all regions among them.
        ceilings: One for each.
        k_mins: The same.
        touched_before: Number of spans in regions before each one, and before the end.
    """

    starts: Cells
    ceilings: Ceilings
    k_mins: Integers
    touched_before: Integers

    def overlapped(self, cells: Cells) -> tuple[Integers, Integers]:
        """Return the first and the last span that each cell overlaps."""
        low, high = _ends(cells)
        first = np.searchsorted(self.starts, low, side="right") - 1
        return first, np.searchsorted(self.starts, high, side="right") - 1

    def strictest(self, cells: Cells) -> tuple[Ceilings, Integers]:
        """Return the lowest ceiling and the highest ``k_min`` of what each cell overlaps."""
        first, last = self.overlapped(cells)
        ceilings, k_mins = self.ceilings[first], self.k_mins[first]
        rows = np.flatnonzero(first != last)
        if not rows.size:
            return ceilings, k_mins
        which: slice | Integers = slice(None)
        one, count = rows, last[rows] - first[rows] + 1
        if count.sum() > self.starts.size:
            # Different cells of one resolution overlap no span twice, so this stays linear.
            _, index, which = np.unique(cells[rows], return_index=True, return_inverse=True)
            one, count = rows[index], count[index]
        begins = np.cumsum(count) - count
        spans = np.arange(count.sum()) + np.repeat(first[one] - begins, count)
        ceilings[rows] = np.minimum.reduceat(self.ceilings[spans], begins)[which]
        k_mins[rows] = np.maximum.reduceat(self.k_mins[spans], begins)[which]
        return ceilings, k_mins


def _ends(cells: Cells) -> tuple[Cells, Cells]:
    """Return the first and the last number of each cell's span; see :class:`_Spans`."""
    high = cells & _LINE_MASK  # digits finer than its own are all ones
    own = (cells >> _RESOLUTION_BIT) & _RESOLUTION_MASK
    low: Cells = high >> (_LINE_BITS - _DIGIT_BITS * own) << (_LINE_BITS - _DIGIT_BITS * own)
    return low, high


def _build_spans(
    cells: Cells, ceilings: Ceilings, k_mins: Integers, outside: tuple[int, int]
) -> _Spans:
    low, high = _ends(cells)
    behind = high + np.uint64(1)
    starts = np.unique(np.concatenate([np.zeros(1, dtype=np.uint64), low, behind]))
    first = np.searchsorted(starts, low)
    count = np.searchsorted(starts, behind) - first
    rows = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    found_ceilings = np.full(starts.size, outside[0], dtype=np.int8)
    found_k_mins = np.full(starts.size, outside[1], dtype=np.int64)
    np.minimum.at(found_ceilings, rows, np.repeat(ceilings, count))
    np.maximum.at(found_k_mins, rows, np.repeat(k_mins, count))
    touched = np.zeros(starts.size + 1, dtype=np.int64)
    touched[rows + 1] = 1
    return _Spans(starts, found_ceilings, found_k_mins, np.cumsum(touched))


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
    _spans: _Spans = field(repr=False)
    _near: NDArray[np.bool_] = field(repr=False)
    _covers: tuple[tuple[Cells, Ceilings], ...] = field(repr=False)

    @cached_property
    def strictest(self) -> tuple[int, int]:
        """The lowest ceiling and the highest ``k_min`` that hold anywhere."""
        return int(self._spans.ceilings.min()), int(self._spans.k_mins.max())

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
        # Cells coarser than the table have no key in it.
        near = self._near[_near_keys(cells)] | ((cells & _COARSE_MASK) == 0)
        rows = np.flatnonzero(near)
        if rows.size:
            ceilings[rows], k_mins[rows] = self._spans.strictest(cells[rows])
        return ceilings, k_mins

    def ceilings(self, cells: Cells) -> Ceilings:
        """Return the finest H3 resolution at which each cell may be published; -1 for none."""
        return self.lookup(cells)[0]

    def k_mins(self, cells: Cells) -> Integers:
        """Return the smallest number of records that each cell may stand for."""
        return self.lookup(cells)[1]

    def touches(self, cells: Cells) -> NDArray[np.bool_]:
        """Return whether each cell may touch a region."""
        first, last = self._spans.overlapped(cells)
        before = self._spans.touched_before
        touching: NDArray[np.bool_] = before[last + 1] > before[first]
        return touching

    def without_k_min(self) -> Coverage:
        """Return the same with no ``k_min``, for what is not counted in records."""
        spans = replace(self._spans, k_mins=np.ones_like(self._spans.k_mins))
        return replace(self, k_min=1, _spans=spans)

    def covering(self) -> Iterable[tuple[Cells, Ceilings]]:
        """Return the covers of all regions, resolution by resolution, with their ceilings."""
        return self._covers


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
    covers_of = tuple(
        _strictest(cells[own == resolution], ceilings[own == resolution])
        for resolution in np.unique(own)
    )
    spans = _build_spans(cells, ceilings, k_mins, (ceiling, k_min))
    step_ratio = mode.max_border_step_ratio
    return Coverage(ceiling, k_min, step_ratio, tuple(rules), spans, _near(cells, own), covers_of)


def _strictest(cells: Cells, ceilings: Ceilings) -> tuple[Cells, Ceilings]:
    """Return each cell once, sorted, with the lowest of its ceilings."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[starts], np.minimum.reduceat(ceilings[order], starts)


def _near(cells: Cells, own: NDArray[np.int8]) -> NDArray[np.bool_]:
    table = np.zeros(1 << (7 + 3 * _NEAR_RESOLUTION), dtype=np.bool_)
    table[_near_keys(cells[own >= _NEAR_RESOLUTION])] = True
    for resolution in range(_NEAR_RESOLUTION):
        # A coarse cell holds whatever keys begin with its own.
        span = 8 ** (_NEAR_RESOLUTION - resolution)
        for key in dense_keys(cells[own == resolution], resolution).tolist():
            table[key * span : (key + 1) * span] = True
    return table
