"""Making points, cells and areas coarse enough: the masking itself.

What comes out

1. is nowhere finer than the ceiling of any region that it touches, nor finer than what went in;
2. stands for as many records as the rules ask for, or is withheld;
3. is not nested: with a parent and its child both published, their difference is too;
4. depends only on what went in, not on its order, and is left alone when it comes in again.

:mod:`kfm_mlflow.care.partition` says why. Tables and rasters have files of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, format_cells, group_cells, parse_cells
from kfm_mlflow.care.modes import DEFAULT_CEILING, MAX_H3_RESOLUTION
from kfm_mlflow.care.partition import finest_partition
from kfm_mlflow.errors import DataError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.coverage import Coverage

_POLE_DEG, _HALF_DEG = 90.0, 180.0
_MAX_CELLS_PER_AREA = 10_000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Generalised(Generic[Value]):
    """What may be published, and how much was done to it.

    Attributes:
        value: What may be published.
        record_count: Records that came in.
        masked_count: Records that came out coarser than they came in.
        withheld_count: Records that did not come out. Not for publication: beside a total it would
            show a group that is too small.
        notes: Sentences for people; without names and places.
    """

    value: Value
    record_count: int
    masked_count: int
    withheld_count: int
    notes: tuple[str, ...] = ()


def make_notes(coverage: Coverage, withheld_count: int) -> tuple[str, ...]:
    """Return what may be told in public of how something was generalised."""
    notes = [f"no detail finer than H3 r{coverage.ceiling}"]
    limits = [rule.ceiling for rule in coverage.rules if not rule.is_withheld]
    if limits and min(limits) < coverage.ceiling:
        notes.append(f"coarser in sovereign regions, to r{min(limits)}")
    if withheld_count:
        notes.append("some records are withheld")
    return tuple(notes)


def generalise_points(
    lat_deg: Any, lon_deg: Any, coverage: Coverage, *, resolution: int | None = None
) -> Generalised[Cells]:
    """Replace points by the cells under which they may be published.

    Args:
        lat_deg: Latitudes, WGS 84.
        lon_deg: Longitudes, -180 to 180, as many.
        coverage: Whose rules hold.
        resolution: Of the cells where no rule asks for coarser ones; None takes the mode's
            ceiling, or 7 when the mode has none.

    Returns:
        One H3 cell per point, as a 64-bit number; 0 where it is withheld. Every place counts as
        masked.

    Raises:
        DataError: A coordinate is missing, no number, or off the globe; names the row and what to
            do, and tells when latitude and longitude look swapped.
        InputError: The resolution is not one of H3.
    """
    lat, lon = _column(lat_deg, "latitude"), _column(lon_deg, "longitude")
    check_coordinates(lat, lon)
    cells = cells_of_points(lat, lon, base_resolution(coverage, resolution))
    found, counts, position = group_cells(cells, base_resolution(coverage, resolution))
    published = finest_partition(found, counts, coverage)
    withheld = int(counts[published == WITHHELD].sum())
    return Generalised(
        published[position],
        cells.size,
        cells.size - withheld,
        withheld,
        make_notes(coverage, withheld),
    )


def base_resolution(coverage: Coverage, resolution: int | None) -> int:
    """Return the H3 resolution at which places are taken up.

    Raises:
        InputError: It is not 0 to 15.
    """
    if resolution is None:
        return min(coverage.ceiling, DEFAULT_CEILING)
    if not 0 <= resolution <= MAX_H3_RESOLUTION:
        raise InputError("is not from 0 to 15", where="resolution")
    return min(coverage.ceiling, resolution)


def _column(values: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.ascontiguousarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as exc:
        raise DataError("holds what is no number", where=name) from exc


def check_coordinates(lat_deg: NDArray[np.float64], lon_deg: NDArray[np.float64]) -> None:
    """Refuse coordinates that are no place.

    Raises:
        DataError: As :func:`generalise_points` says.
    """
    if lat_deg.size != lon_deg.size:
        raise DataError(f"{lat_deg.size} latitudes for {lon_deg.size} longitudes")
    if not lat_deg.size:
        return
    # NaN fails every comparison, so these two catch it, too.
    good_lat = -_POLE_DEG <= lat_deg.min() <= lat_deg.max() <= _POLE_DEG
    good_lon = -_HALF_DEG <= lon_deg.min() <= lon_deg.max() <= _HALF_DEG
    if good_lat and good_lon:
        return
    missing = ~(np.isfinite(lat_deg) & np.isfinite(lon_deg))
    if missing.any():
        raise DataError(
            "has no latitude or longitude",
            where=f"row {int(np.flatnonzero(missing)[0])}",
            remedy="drop the row or give its place",
        )
    off = (np.abs(lat_deg) > _POLE_DEG) | (np.abs(lon_deg) > _HALF_DEG)
    row = int(np.flatnonzero(off)[0])
    swapped = abs(lat_deg[row]) <= _HALF_DEG and abs(lon_deg[row]) <= _POLE_DEG
    raise DataError(
        "latitude and longitude look swapped" if swapped else "is off the globe",
        where=f"row {row}",
        remedy="give latitudes first" if swapped else "use degrees, longitudes from -180 to 180",
    )


def cells_of_points(
    lat_deg: NDArray[np.float64], lon_deg: NDArray[np.float64], resolution: int
) -> Cells:
    """Return the H3 cell of each point; the points have been checked."""
    from h3ronpy.vector import coordinates_to_cells

    return np.asarray(coordinates_to_cells(lat_deg, lon_deg, resolution))


def generalise_cells(
    cells: Iterable[str] | Mapping[str, int], coverage: Coverage
) -> Generalised[dict[str, int]]:
    """Coarsen H3 cells of any resolutions until every rule holds.

    Args:
        cells: H3 cells, one per record, or cell -> number of records; none below 1 counts.
        coverage: Whose rules hold.

    Returns:
        Cell -> number of records, sorted by cell.

    Raises:
        InputError: Something is not an H3 cell.
    """
    tally = Counter(dict(cells)) if isinstance(cells, Mapping) else Counter(cells)
    given = [(cell, count) for cell, count in tally.items() if count > 0]
    read = parse_cells([cell for cell, _ in given])
    found, position = np.unique(read, return_inverse=True)
    counts = np.bincount(position, weights=[count for _, count in given], minlength=found.size)
    counts = counts.astype(np.int64)
    published = finest_partition(found, counts, coverage)
    kept = published != WITHHELD
    out, group = np.unique(published[kept], return_inverse=True)
    total = np.bincount(group, weights=counts[kept], minlength=out.size).astype(np.int64)
    withheld = int(counts[~kept].sum())
    return Generalised(
        dict(zip(format_cells(out), total.tolist(), strict=True)),
        int(counts.sum()),
        int(counts[kept & (published != found)].sum()),
        withheld,
        make_notes(coverage, withheld),
    )


def generalise_polygons(
    areas: Sequence[Mapping[str, Any] | Iterable[str]], coverage: Coverage
) -> Generalised[list[list[str]]]:
    """Replace areas by the cells that cover them and may be published.

    Where a rule asks for ``k`` records, a published cell is shared by at least ``k`` of the areas.

    Args:
        areas: GeoJSON Polygons or MultiPolygons, or lists of H3 cells, one per record.
        coverage: Whose rules hold.

    Returns:
        One sorted list of cells per area. What may not be published is left out of it, so a list
        may be empty.

    Raises:
        DataError: An area is not valid; names its row.
        InputError: Something is not an H3 cell.
    """
    covers = [cells_of_area(area, row, coverage) for row, area in enumerate(areas)]
    sizes = [cover.size for cover in covers]
    every = np.concatenate([np.zeros(0, dtype=np.uint64), *covers])
    found, position = np.unique(every, return_inverse=True)
    record_of = np.repeat(np.arange(len(covers)), sizes)
    counts = np.bincount(position, minlength=found.size)
    published = finest_partition(found, counts, coverage, records=(position, record_of))
    ends = np.cumsum(sizes)[:-1]
    given = np.split(found[position], ends) if covers else []
    cut = np.split(published[position], ends) if covers else []
    kept = [np.unique(cells[cells != WITHHELD]) for cells in cut]
    pairs = list(zip(given, kept, strict=True))
    withheld = sum(bool(before.size) and not after.size for before, after in pairs)
    masked = sum(bool(after.size) and set(before) != set(after) for before, after in pairs)
    lists = [format_cells(cells) for cells in kept]
    return Generalised(lists, len(covers), masked, withheld, make_notes(coverage, withheld))


def cells_of_area(area: Mapping[str, Any] | Iterable[str], row: int, coverage: Coverage) -> Cells:
    """Return the cells that an area overlaps, no finer than the mode allows.

    Args:
        area: GeoJSON Polygon or MultiPolygon, or H3 cells.
        row: What to name in an error.
        coverage: Whose mode holds.

    Raises:
        DataError: The area is not valid.
        InputError: Something is not an H3 cell.
    """
    import h3
    from h3.api import numpy_int
    from shapely.geometry import shape

    from kfm_mlflow.care.shapes import parse_area

    if not isinstance(area, Mapping):
        return parse_cells(area, where=f"row {row}")
    drawn = shape(parse_area(dict(area), where=f"row {row}"))
    resolution = base_resolution(coverage, None)
    area_km2 = drawn.area * 111.32**2
    while resolution and area_km2 / h3.average_hexagon_area(resolution) > _MAX_CELLS_PER_AREA:
        resolution -= 1
    polygon = numpy_int.geo_to_h3shape(drawn)
    return np.asarray(
        numpy_int.h3shape_to_cells_experimental(polygon, resolution, "overlap"), dtype=np.uint64
    )
