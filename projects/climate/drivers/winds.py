"""Zonal wind from geopotential on a file of reanalysis fields, by patches.

A row is a patch of 9 by 9 cells of the streamfunction, in 1e6 m2 s-1, and of latitude; what it
drives is the zonal wind at its centre. The streamfunction is the geopotential about the patch's own
mean, over the Coriolis parameter at its centre: the wind in balance with it is its slope at every
latitude (Holton and Hakim, "An Introduction to Dynamic Meteorology", 5th edition, section 6.2).
Towards the equator that balance is lost, and the parameter is not let below its size at 10 degrees.

Training patches lie in the western half of the longitudes, the held-out ones in the eastern half,
a patch apart: the strongest winds, over East Asia, are in no training row. The peer is the zonal
mean: the mean wind at that latitude, level and month over the western half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from downscaling.fields import load_fields
from drivers.case import Case, Days
from kfm_mlflow.errors import DataError
from prepared import Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from downscaling.fields import FieldSet

PATCH = 9
_STRIDE = 2
_HALF = PATCH // 2
_TURNING_RAD_PER_S = 7.292e-5  # of the Earth
_LEAST_LAT_DEG = 10.0
_UNIT = 1e6  # m2 s-1


def cut_winds(path: Path) -> Case:
    """Return both sides of the task on a file with ``z`` and ``u``.

    Args:
        path: NetCDF file or Zarr store.

    Raises:
        DataError: The file lacks one of the two, or their levels and months differ.
    """
    fields = load_fields(path)
    pairs = _pairs(fields, path.name)
    middle = len(fields.lon) // 2
    columns = {
        "learned": np.arange(_HALF, middle - _HALF - PATCH, _STRIDE),
        "held": np.arange(middle + _HALF, len(fields.lon) - _HALF, _STRIDE),
    }
    lines = np.arange(_HALF, len(fields.lat) - _HALF, _STRIDE)
    sides = {}
    for side, chosen in columns.items():
        rows, truth, mean = [], [], []
        for height, wind in pairs:
            patches = _patches(height, fields.lat, lines, chosen)
            rows.append(patches)
            at = wind[np.ix_(lines, chosen)]
            truth.append(at.ravel())
            usual = wind[lines][:, columns["learned"]].mean(axis=1)
            mean.append(np.repeat(usual, len(chosen)))
        sides[side] = Days(
            np.concatenate(rows),
            np.concatenate(truth)[:, None].astype(np.float64),
            {"zonal_mean": np.concatenate(mean)[:, None].astype(np.float64)},
        )
    source = Source(
        *(fields.name, path.name, fields.digest, fields.bbox, fields.start_at, fields.end_at),
        variables=("u", "z"),
        cell_size_deg=abs(float(fields.lat[1] - fields.lat[0])),
    )
    selections = ("western longitudes", "eastern longitudes")
    at_row, at_column = _windows(lines, columns["learned"])
    lat, lon = np.broadcast_arrays(fields.lat[at_row], fields.lon[at_column])
    places = tuple(np.tile(axis, (len(pairs), 1, 1)) for axis in (lat, lon))
    return Case(
        *(sides["learned"], sides["held"], ("zonal_wind",), source, selections),
        training_places=(places[0], places[1]),
    )


def _pairs(fields: FieldSet, where: str) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return (z, u) of each level and month."""
    by_name: dict[str, dict[str, int]] = {"z": {}, "u": {}}
    for k, label in enumerate(fields.labels):
        name, _, rest = label.partition("/")
        if name in by_name:
            by_name[name][rest] = k
    if not by_name["z"] or by_name["z"].keys() != by_name["u"].keys():
        raise DataError(
            f"has no z and u at the same levels and times (found {', '.join(fields.labels)[:200]})",
            where=where,
            remedy="give geopotential `z` and zonal wind `u` on one grid",
        )
    return [
        (fields.values[at], fields.values[by_name["u"][rest]])
        for rest, at in sorted(by_name["z"].items())
    ]


def _patches(
    height: NDArray[np.float32],
    lat: NDArray[np.float64],
    lines: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.float32]:
    at_row, at_column = _windows(lines, columns)
    cut = height[at_row, at_column]
    cut = cut - cut.mean(axis=(1, 2), keepdims=True)
    cut = cut / (_UNIT * coriolis(lat[at_row[:, _HALF : _HALF + 1]]))
    where = np.broadcast_to(lat[at_row].astype(np.float32), cut.shape)
    patches: NDArray[np.float32] = np.stack([cut, where], axis=1).astype(np.float32)
    return patches


def coriolis(lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Coriolis parameter in 1/s, of no smaller size than at 10 degrees of latitude."""
    away = np.where(lat_deg < 0.0, -1.0, 1.0) * np.maximum(np.abs(lat_deg), _LEAST_LAT_DEG)
    found: NDArray[np.float64] = 2.0 * _TURNING_RAD_PER_S * np.sin(np.radians(away))
    return found


def _windows(
    lines: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows [n, 9, 1] and the columns [n, 1, 9] of the patches' cells."""
    near = np.arange(-_HALF, _HALF + 1)
    row, column = np.meshgrid(lines, columns, indexing="ij")
    at_row = row.ravel()[:, None, None] + near[None, :, None]
    at_column = column.ravel()[:, None, None] + near[None, None, :]
    return at_row, at_column
