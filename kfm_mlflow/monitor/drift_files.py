"""Reading inputs to check from a file: NetCDF grids or rows, Parquet and CSV tables.

A grid is cut into rows of the shape that the release's baseline has. What is near on a grid is
alike, so its rows are not independent: all rows of one time step (level, member) are one block,
unless the caller says over how many degrees the field forgets itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import DataError
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift_baseline import DriftBaseline

MAX_TABLE_BYTES = 512 * 2**20
MAX_CELL_COUNT = 2**26
_LATITUDES, _LONGITUDES = ("latitude", "lat"), ("longitude", "lon")
_NETCDF, _TABLES = (".nc", ".nc4", ".netcdf"), (".parquet", ".csv")
_SHOWN = 8


@dataclass(frozen=True)
class Reading:
    """How to read a file.

    Attributes:
        names: Field of the baseline -> variable or column of the file; others are called alike.
        block: Column (variable along the rows) with the block number of each row.
        block_deg: Of a grid: edge of the squares whose rows are one block, in degrees.
        coarsen: Of a grid: how many cells along each axis are averaged into one cell of a row.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    block: str | None = None
    block_deg: float | None = None
    coarsen: int = 1


def load_sample(path: Path, baseline: DriftBaseline, how: Reading | None = None) -> DriftSample:
    """Read the fields of a baseline from a file.

    Args:
        path: ``.nc``, ``.parquet`` or ``.csv``.
        baseline: Which fields, in rows of which shape.
        how: Names and blocks.

    Returns:
        What of the baseline's fields is there.

    Raises:
        DataError: The file cannot be read, is too large, or holds none of the fields.
    """
    how, suffix = how or Reading(), path.suffix.lower()
    unknown = sorted(set(how.names) - set(baseline.fields))
    if unknown:
        raise DataError(
            f"the release has no field {unknown[0]!r}",
            where="--field",
            remedy=f"its fields are {', '.join(sorted(baseline.fields)[:_SHOWN])}",
        )
    if not path.is_file():
        raise DataError("no such file", where=path.name, remedy="give a file of current inputs")
    if suffix in _NETCDF:
        return _load_netcdf(path, baseline, how)
    if suffix in _TABLES:
        return _load_table(path, baseline, how)
    raise DataError(
        f"{suffix or 'a file without an ending'} is not read",
        where=path.name,
        remedy="give .nc, .parquet or .csv",
    )


def _wanted(baseline: DriftBaseline, how: Reading, there: list[str], where: str) -> dict[str, str]:
    names = {name: how.names.get(name, name) for name in baseline.fields}
    found = {name: source for name, source in names.items() if source in there}
    asked = [*how.names.values(), *([how.block] if how.block else [])]
    absent = [name for name in asked if name not in there]
    if absent or not found:
        raise DataError(
            f"has no {absent[0]!r}"
            if absent
            else f"has none of the fields {', '.join(sorted(names)[:_SHOWN])}",
            where=where,
            remedy=f"it has {', '.join(there[:_SHOWN]) or 'nothing'}; "
            f"name one by --field {next(iter(names))}=NAME",
        )
    return found


def _load_table(path: Path, baseline: DriftBaseline, how: Reading) -> DriftSample:
    import pandas as pd
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no stubs

    if path.stat().st_size > MAX_TABLE_BYTES:
        raise DataError(
            f"{path.stat().st_size} bytes is more than {MAX_TABLE_BYTES}",
            where=path.name,
            remedy="draw some ten thousand rows at random",
        )
    try:
        table = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pa.ArrowException) as exc:
        raise DataError(f"cannot be read ({_line(exc)})", where=path.name) from exc
    found = _wanted(baseline, how, [str(name) for name in table.columns], path.name)
    fields = {}
    for name, source in found.items():
        column = table[source]
        if not pd.api.types.is_numeric_dtype(column):
            raise DataError(
                "is not a column of numbers",
                where=f"{path.name}: {source}",
                remedy="correct the rows that hold text",
            )
        fields[name] = FieldRows(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return DriftSample(fields, _labels(table[how.block].to_numpy()) if how.block else None)


def _labels(values: NDArray[Any]) -> NDArray[np.int64]:
    # Any labels will do: stations, days, coarse cells.
    return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64)


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]


def _load_netcdf(path: Path, baseline: DriftBaseline, how: Reading) -> DriftSample:
    import xarray as xr

    try:
        with xr.open_dataset(path, decode_times=False) as dataset:
            there = [str(name) for name in dataset.data_vars]
            found = _wanted(baseline, how, [*there, *map(str, dataset.coords)], path.name)
            parts = {
                name: _rows(dataset[source], baseline.fields[name].row_shape, how, path.name)
                for name, source in found.items()
            }
            blocks = _labels(dataset[how.block].values) if how.block else None
    except DataError:
        raise
    except (ValueError, OSError, KeyError, RuntimeError) as exc:
        raise DataError(f"cannot be read ({_line(exc)})", where=path.name) from exc
    if blocks is None:
        blocks = next(iter(parts.values()))[1]
    return DriftSample({name: rows for name, (rows, _) in parts.items()}, blocks)


def _axis(array: xr.DataArray, names: tuple[str, ...]) -> str | None:
    for dim in map(str, array.dims):
        known = array[dim].attrs.get("standard_name") if dim in array.coords else None
        if dim.lower() in names or known in names:
            return dim
    return None


def _rows(
    array: xr.DataArray, row_shape: tuple[int, ...], how: Reading, where: str
) -> tuple[FieldRows, NDArray[np.int64] | None]:
    """Return rows of a variable, and their blocks where it is a grid."""
    where = f"{where}: {array.name}"
    if array.size > MAX_CELL_COUNT:
        raise DataError(
            f"{array.size} cells are more than {MAX_CELL_COUNT}",
            where=where,
            remedy="select some time steps",
        )
    if array.dtype.kind not in "iuf":
        raise DataError(f"is {array.dtype}, not numbers", where=where)
    unit = str(array.attrs.get("units", ""))
    latitude, longitude = _axis(array, _LATITUDES), _axis(array, _LONGITUDES)
    if latitude is None or longitude is None or array.shape[1:] == row_shape:
        return FieldRows(np.asarray(array.values, dtype=np.float64), unit), None
    return _tiles(array.transpose(..., latitude, longitude), row_shape, how, where, unit)


def _coordinate(array: xr.DataArray, dim: str, limit: float, where: str) -> NDArray[np.float64]:
    values = np.asarray(array[dim].values, dtype=np.float64)
    if not np.isfinite(values).all() or np.abs(values).max() > limit:
        raise DataError(
            f"{dim} reaches {np.nanmax(np.abs(values)):g}",
            where=where,
            remedy=f"give degrees within {limit:g}; latitude and longitude may be swapped",
        )
    return values


def _tiles(
    array: xr.DataArray, row_shape: tuple[int, ...], how: Reading, where: str, unit: str
) -> tuple[FieldRows, NDArray[np.int64]]:
    latitude, longitude = map(str, array.dims[-2:])
    lat = _coordinate(array, latitude, 90.0, where)
    lon = _coordinate(array, longitude, 360.0, where)
    height, width = row_shape if len(row_shape) == 2 else (1, 1)  # noqa: PLR2004
    down, across = height * how.coarsen, width * how.coarsen
    rows, columns = len(lat) // down, len(lon) // across
    if len(row_shape) not in {0, 2} or not rows * columns:
        raise DataError(
            f"a grid of {len(lat)} by {len(lon)} cannot be cut into rows of {list(row_shape)}",
            where=where,
            remedy="give a larger grid, a smaller --coarsen, or rows as the model takes them",
        )
    grid = np.asarray(array.values, dtype=np.float64).reshape(-1, len(lat), len(lon))
    cut = grid[:, : rows * down, : columns * across]
    tiles = cut.reshape(-1, rows, height, how.coarsen, columns, width, how.coarsen)
    tiles = tiles.mean(axis=(3, 6)).transpose(0, 1, 3, 2, 4).reshape(-1, height, width)
    step = np.repeat(np.arange(len(grid)), rows * columns)
    if how.block_deg is None:
        blocks = step
    else:
        south = np.floor(lat[: rows * down : down] / how.block_deg)
        west = np.floor(lon[: columns * across : across] / how.block_deg)
        places = np.stack(np.meshgrid(south, west, indexing="ij"), axis=-1).reshape(-1, 2)
        square = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
        blocks = step * (int(square.max()) + 1) + np.tile(square, len(grid))
    kept = tiles if row_shape else tiles[:, 0, 0]
    return FieldRows(kept, unit), blocks.astype(np.int64)
