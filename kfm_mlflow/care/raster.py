"""Making gridded fields coarse enough: one value per block of pixels, and no cliff at a border.

A pixel is taken for the H3 cell that holds its centre, made as coarse as the strictest region that
the pixel touches asks for; pixels of one cell form a block and get their mean. What a block shows
is then one value per cell of its resolution. Pixels are no records, so a region's ``k_min`` does
not count them; instead a block holds at least half of its cell's area in pixels, or is merged, so
that no sliver at the edge of a grid shows a single pixel.

Blocks depend on the grid alone, never on the values. Where a published value in a region differs
from its neighbour outside by more than the mode allows, the block in the region is withheld.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, cell_side_km, parents, resolutions
from kfm_mlflow.care.generalise import (
    Generalised,
    cells_of_points,
    check_coordinates,
    make_notes,
)
from kfm_mlflow.care.grid import Grid, edges_of
from kfm_mlflow.care.partition import finest_partition
from kfm_mlflow.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr
    from numpy.typing import NDArray

    from kfm_mlflow.care.cells import Cells, Integers
    from kfm_mlflow.care.coverage import Ceilings, Coverage

_HALF_DEG, _WHOLE_DEG = 180.0, 360.0


@dataclass(frozen=True)
class Blocks:
    """How a grid is published.

    Attributes:
        shape: Number of latitudes and of longitudes.
        block: Number of the block of each pixel, row by row; -1 where it is withheld.
        block_count: Number of blocks.
        in_region: Whether a block touches a region.
        needs: Smallest number of pixels with a value of each block.
        is_closed: Whether the last longitude is a neighbour of the first.
    """

    shape: tuple[int, int]
    block: Integers
    block_count: int
    in_region: NDArray[np.bool_]
    needs: Integers
    is_closed: bool


def generalise_raster(
    field: xr.DataArray | xr.Dataset, coverage: Coverage, *, lat: str = "lat", lon: str = "lon"
) -> Generalised[Any]:
    """Replace the pixels of a field by blocks that may be published.

    Args:
        field: With one-dimensional coordinates of latitude and longitude, each increasing or
            decreasing; longitudes -180 to 180 or 0 to 360. Other dimensions are kept. In a data
            set, variables without both dimensions are left as they are.
        coverage: Whose rules hold.
        lat: Name of the latitude.
        lon: Name of the longitude.

    Returns:
        The same field, floating point, NaN where it is withheld. Counts are of pixels, over all
        variables and other dimensions.

    Raises:
        DataError: A coordinate is missing, not one-dimensional, not ordered, or no place.
        InputError: The field is not of numbers.
    """
    import xarray as xr

    lats, lons = _axis(field, lat), _axis(field, lon)
    blocks = blocks_of_grid(lats, lons, coverage)
    if isinstance(field, xr.DataArray):
        array, masked, withheld = _array(field, blocks, coverage, lat, lon)
        notes = make_notes(coverage, withheld)
        return Generalised(array, field.size, masked, withheld, notes)
    value, masked, withheld, size = field.copy(), 0, 0, 0
    for name, variable in field.data_vars.items():
        if lat in variable.dims and lon in variable.dims:
            value[name], changed, hidden = _array(variable, blocks, coverage, lat, lon)
            masked, withheld, size = masked + changed, withheld + hidden, size + variable.size
    return Generalised(value, size, masked, withheld, make_notes(coverage, withheld))


def _axis(field: Any, name: str) -> NDArray[np.float64]:
    if name not in field.coords or field[name].ndim != 1 or field[name].size == 0:
        raise DataError(
            "is no one-dimensional coordinate",
            where=name,
            remedy="name the coordinates of latitude and longitude",
        )
    try:
        values = np.asarray(field[name].values, dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise DataError("holds what is no number", where=name) from exc
    steps = np.diff(values)
    if not (np.isfinite(values).all() and ((steps > 0).all() or (steps < 0).all())):
        raise DataError("is not ordered", where=name, remedy="sort the field by it")
    return values


def blocks_of_grid(
    lats_deg: NDArray[np.float64], lons_deg: NDArray[np.float64], coverage: Coverage
) -> Blocks:
    """Return how a grid is published.

    Args:
        lats_deg: Centres, ordered.
        lons_deg: Centres, ordered, -180 to 180 or 0 to 360.
        coverage: Whose rules hold.
    """
    wrapped = np.where(lons_deg > _HALF_DEG, lons_deg - _WHOLE_DEG, lons_deg)
    lat, lon = (axis.ravel() for axis in np.meshgrid(lats_deg, wrapped, indexing="ij"))
    check_coordinates(lat, lon)
    fine = cells_of_points(lat, lon, coverage.ceiling)
    grid = Grid(edges_of(lats_deg, lons_deg), edges_of(lons_deg, lats_deg))
    limits, touched = _limits(fine, grid, coverage)
    open_ = limits >= 0
    cells, position = np.unique(parents(fine[open_], limits[open_]), return_inverse=True)
    counts = np.bincount(position, minlength=cells.size).astype(np.int64)
    pixel_km2 = np.repeat(grid.pixel_areas_km2(), lons_deg.size)[open_]
    needs = _least_pixels(cells, position, counts, pixel_km2)
    # A pixel is no record: what a region asks of records is not asked of pixels.
    cut = finest_partition(cells, counts, coverage.without_k_min(), needs=needs)
    found, of_cell = np.unique(cut, return_inverse=True)
    if found.size and found[0] == WITHHELD:
        of_cell, found = of_cell - 1, found[1:]
    block = np.full(fine.size, -1, dtype=np.int64)
    block[open_] = of_cell[position]
    in_region = np.zeros(found.size, dtype=np.bool_)
    in_region[block[touched & (block >= 0)]] = True
    asked = np.zeros(found.size, dtype=np.int64)
    np.maximum.at(asked, of_cell[of_cell >= 0], needs[of_cell >= 0])
    return Blocks(
        (lats_deg.size, lons_deg.size), block, found.size, in_region, asked, grid.is_closed
    )


def _limits(fine: Cells, grid: Grid, coverage: Coverage) -> tuple[Ceilings, NDArray[np.bool_]]:
    """Return the strictest ceiling of each pixel, and whether it touches a region.

    A pixel finer than the cells of a cover is found by its centre; one that is coarser, by the
    cells of the cover whose centres lie in it.
    """
    from h3ronpy.vector import cells_to_coordinates

    limits, touched = coverage.ceilings(fine), coverage.touches(fine)
    for cells, ceiling in _spread(grid, coverage):
        where = cells_to_coordinates(cells)
        lat, lon = (np.asarray(where[name]) for name in ("lat", "lng"))
        for turn in (-_WHOLE_DEG, 0.0, _WHOLE_DEG):
            pixel, hit = grid.pixels(lat, lon + turn)
            limits[pixel[hit]] = np.minimum(limits[pixel[hit]], ceiling)
            touched[pixel[hit]] = True
    return limits, touched


def _spread(grid: Grid, coverage: Coverage) -> Iterable[tuple[Cells, int]]:
    """Yield the covers in cells no larger than half a pixel, those of one ceiling together."""
    import h3ronpy

    covers = list(coverage.covering())
    if not covers:
        return
    side_km = float(np.sqrt(grid.pixel_areas_km2().min()))
    finest = max(int(resolutions(cells).max()) for cells, _ in covers)
    wanted = next((r for r in range(finest) if cell_side_km(r) <= side_km / 2), finest)
    for cells, ceilings in covers:
        for ceiling in np.unique(ceilings).tolist():
            some = cells[ceilings == ceiling]
            if resolutions(some[:1])[0] < wanted:
                some = np.asarray(h3ronpy.change_resolution(some, wanted))
            yield some, ceiling


def _least_pixels(
    cells: Cells, position: Integers, counts: Integers, pixel_km2: NDArray[np.float64]
) -> Integers:
    """Return how many pixels make half of each cell's area."""
    import h3ronpy

    if not cells.size:
        return counts
    mean_km2 = np.bincount(position, weights=pixel_km2, minlength=cells.size) / counts
    return (np.asarray(h3ronpy.cells_area_km2(cells)) / (2 * mean_km2)).astype(np.int64)


def _array(
    field: xr.DataArray, blocks: Blocks, coverage: Coverage, lat: str, lon: str
) -> tuple[xr.DataArray, int, int]:
    if not (np.issubdtype(field.dtype, np.floating) or np.issubdtype(field.dtype, np.integer)):
        raise InputError("is not of numbers", where=str(field.name or "field"))
    turned = field.transpose(..., lat, lon)
    before = turned.values.reshape(-1, blocks.block.size).astype(np.float64)
    after = blocks_of_values(before, blocks, coverage.max_border_step_ratio)
    dtype = field.dtype if np.issubdtype(field.dtype, np.floating) else np.float64
    value = turned.copy(data=after.reshape(turned.shape).astype(dtype)).transpose(*field.dims)
    had, has = np.isfinite(before), np.isfinite(after)
    return value, int((has & (after != before)).sum()), int((had & ~has).sum())


def blocks_of_values(
    values: NDArray[np.float64], blocks: Blocks, max_border_step_ratio: float | None
) -> NDArray[np.float64]:
    """Return what is published of values on a grid.

    Args:
        values: One row per field, one column per pixel, latitude by latitude; NaN is no value.
        blocks: How the grid is published.
        max_border_step_ratio: See :class:`~kfm_mlflow.care.modes.MaskingMode`.
    """
    published = np.full(values.shape, np.nan)
    pixels = np.flatnonzero(blocks.block >= 0)
    if not pixels.size:
        return published
    order = pixels[np.argsort(blocks.block[pixels], kind="stable")]
    starts = np.searchsorted(blocks.block[order], np.arange(blocks.block_count))
    sorted_ = values[:, order]
    finite = np.isfinite(sorted_)
    count = np.add.reduceat(finite, starts, axis=1, dtype=np.int64)
    total = np.add.reduceat(np.where(finite, sorted_, 0.0), starts, axis=1)
    low = np.minimum.reduceat(np.where(finite, sorted_, np.inf), starts, axis=1)
    high = np.maximum.reduceat(np.where(finite, sorted_, -np.inf), starts, axis=1)
    enough = (count > 0) & (count >= blocks.needs)
    mean = np.full(count.shape, np.nan)
    np.divide(total, count, out=mean, where=enough)
    # Rounding would let a mean of equal values differ from them, and the next pass from this one.
    shown = np.where(enough & (low == high), low, np.clip(mean, low, high))
    if max_border_step_ratio is not None:
        _withhold_cliffs(shown, blocks, max_border_step_ratio)
    published[:, order] = np.where(finite, shown[:, blocks.block[order]], np.nan)
    return published


def _withhold_cliffs(shown: NDArray[np.float64], blocks: Blocks, ratio: float) -> None:
    """Withhold blocks in a region that differ too much from a neighbour outside."""
    inside, outside = _border(blocks)
    if not inside.size:
        return
    apart = shown[:, ~blocks.in_region]
    high = np.where(np.isfinite(apart), apart, -np.inf).max(axis=1, keepdims=True)
    low = np.where(np.isfinite(apart), apart, np.inf).min(axis=1, keepdims=True)
    limit = ratio * np.maximum(high - low, 0.0)
    # Of NaN, nothing is known to differ.
    steep = np.abs(shown[:, inside] - shown[:, outside]) > limit
    rows, pairs = np.nonzero(steep)
    shown[rows, inside[pairs]] = np.nan


def _border(blocks: Blocks) -> tuple[Integers, Integers]:
    """Return pairs of neighbouring blocks, the first in a region and the second outside."""
    grid = blocks.block.reshape(blocks.shape)
    sides = [(grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:])]
    if blocks.is_closed:
        sides.append((grid[:, -1:], grid[:, :1]))
    first = np.concatenate([a.ravel() for a, _ in sides])
    second = np.concatenate([b.ravel() for _, b in sides])
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    crossing = blocks.in_region[first] != blocks.in_region[second]
    pairs = np.unique(np.stack([first[crossing], second[crossing]]), axis=1)
    swap = ~blocks.in_region[pairs[0]]
    return np.where(swap, pairs[1], pairs[0]), np.where(swap, pairs[0], pairs[1])
