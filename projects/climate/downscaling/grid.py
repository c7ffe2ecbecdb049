"""Find the latitude-longitude grid of a CF data set, and put it in order.

A horizontal axis is recognised by ``standard_name``, else by units (``degrees_north`` and the
other spellings of CF §4.1 and §4.2), else by the names ``lat``, ``latitude``, ``lon``,
``longitude``, else by ``axis`` Y or X together with units of degrees (a projected grid has ``axis``
too, in metres).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from downscaling.fieldset import GLOBAL_SPAN_DEG, runs_around_globe
from downscaling.geometry import FINE_SIZE, min_column_count
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import xarray as xr
    from numpy.typing import NDArray

_SHOWN_NAME_COUNT = 12
_TORN_STEPS = 1.5  # a step this many times the usual one is a hole in the grid


@dataclass(frozen=True)
class _Kind:
    standard_name: str
    units: str
    unit_spellings: frozenset[str]
    names: frozenset[str]
    axis: str


_LATITUDE = _Kind(
    "latitude",
    "degrees_north",
    frozenset({"degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"}),
    frozenset({"lat", "latitude"}),
    "Y",
)
_LONGITUDE = _Kind(
    "longitude",
    "degrees_east",
    frozenset({"degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"}),
    frozenset({"lon", "longitude"}),
    "X",
)


@dataclass(frozen=True)
class Grid:
    """The axes of a data set, ascending, and how to bring its fields into their order.

    Attributes:
        dims: Dimensions of latitude and longitude.
        lat: float64 [lat], ascending.
        lon: float64 [lon], ascending.
        lat_order: Rows of a field of the file in ascending order.
        lon_order: Columns of a field of the file in ascending order.
    """

    dims: tuple[Hashable, Hashable]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    lat_order: NDArray[np.intp]
    lon_order: NDArray[np.intp]


def find_grid(dataset: xr.Dataset, where: str) -> Grid:
    """Return the grid of a data set.

    Args:
        dataset: As opened.
        where: The file, for errors.

    Raises:
        DataError: Latitude or longitude is missing, curvilinear, repeats a value or is not a
            number, or the grid is too small for a patch in both parts of the longitude split.
    """
    names = [_coordinate(dataset, kind) for kind in (_LATITUDE, _LONGITUDE)]
    _require_found(dataset, names, where)
    for name in names:
        if dataset[name].ndim != 1:
            raise DataError(
                f"{name} has {dataset[name].ndim} dimensions, not one",
                where=where,
                remedy="regrid to a regular latitude-longitude grid",
            )
    lat = np.asarray(dataset[names[0]].values, dtype=np.float64)
    lon, lon_order = _ascending_longitudes(np.asarray(dataset[names[1]].values, dtype=np.float64))
    lat_order = np.argsort(lat, kind="stable")
    lat = lat[lat_order]
    for name, axis in zip(names, (lat, lon), strict=True):
        if not np.isfinite(axis).all() or (np.diff(axis) <= 0).any():
            raise DataError(
                f"{name} repeats a value or has one that is not a number",
                where=where,
                remedy="every coordinate value must be there once",
            )
    _require_size(lat, lon, where)
    dims = (dataset[names[0]].dims[0], dataset[names[1]].dims[0])
    return Grid(dims, lat, lon, lat_order, lon_order)


def _require_found(dataset: xr.Dataset, names: list[Hashable | None], where: str) -> None:
    missing = [
        kind for kind, name in zip((_LATITUDE, _LONGITUDE), names, strict=True) if name is None
    ]
    if not missing:
        return
    shown = ", ".join(sorted(map(str, dataset.variables))[:_SHOWN_NAME_COUNT]) or "no variables"
    wanted = " and ".join(f"{kind.standard_name} (units {kind.units})" for kind in missing)
    raise DataError(
        f"has no {' and no '.join(kind.standard_name for kind in missing)} coordinate"
        f" (it has: {shown})",
        where=where,
        remedy=f"add a coordinate variable for {wanted}",
    )


def _require_size(lat: NDArray[np.float64], lon: NDArray[np.float64], where: str) -> None:
    least = min_column_count(is_global=len(lon) > 1 and runs_around_globe(lon))
    if len(lat) < FINE_SIZE or len(lon) < least:
        raise DataError(
            f"a grid of {len(lat)} latitudes by {len(lon)} longitudes is too small for patches of"
            f" {FINE_SIZE} by {FINE_SIZE} that are split by longitude",
            where=where,
            remedy=f"give at least {FINE_SIZE} latitudes by {least} longitudes",
        )


def _coordinate(dataset: xr.Dataset, kind: _Kind) -> Hashable | None:
    """Return the variable with the best evidence; among equals a one-dimensional one."""

    def units_of(name: Hashable) -> str:
        return str(dataset[name].attrs.get("units", "")).strip().lower()

    tests: tuple[Callable[[Hashable], bool], ...] = (
        lambda name: dataset[name].attrs.get("standard_name") == kind.standard_name,
        lambda name: units_of(name) in kind.unit_spellings,
        lambda name: str(name).lower() in kind.names and name in dataset.coords,
        lambda name: str(name).lower() in kind.names,
        lambda name: (
            dataset[name].attrs.get("axis") == kind.axis and units_of(name).startswith("degree")
        ),
    )
    numbers = [n for n in dataset.variables if dataset[n].ndim and dataset[n].dtype.kind in "fiu"]
    for test in tests:
        named = [name for name in numbers if test(name)]
        if named:
            return min(named, key=lambda name: (dataset[name].ndim != 1, str(name)))
    return None


def _ascending_longitudes(
    lon: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Order longitudes within [-180, 180), or keep [0, 360) where that tears the grid apart."""
    half_turn = GLOBAL_SPAN_DEG / 2
    inside = (lon >= -half_turn) & (lon < half_turn)
    wrapped = np.where(inside, lon, (lon + half_turn) % GLOBAL_SPAN_DEG - half_turn)
    order = np.argsort(wrapped, kind="stable")
    steps = np.diff(wrapped[order])
    if steps.size and np.isfinite(steps).all() and steps.max() > _TORN_STEPS * np.median(steps):
        eastward = np.where(wrapped < 0.0, wrapped + GLOBAL_SPAN_DEG, wrapped)
        eastward_order = np.argsort(eastward, kind="stable")
        if np.diff(eastward[eastward_order]).max() < steps.max():
            return eastward[eastward_order], eastward_order
    return wrapped[order], order
