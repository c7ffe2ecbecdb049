"""Read fields from any CF NetCDF or Zarr that has latitude and longitude.

Every dimension besides latitude and longitude (month, level, time, member) is stacked into
samples. A file is refused, with what is missing and what to do, when it is no NetCDF or Zarr, has
no usable grid (see :mod:`downscaling.grid`), no numeric variable on it, or cells without a value.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscaling.fieldset import FieldSet
from downscaling.grid import Grid, find_grid
from kfm_mlflow.canonical import digest_path
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_SAMPLE_COUNT = 366
MAX_CELL_COUNT = 2**26
"""A longer series is thinned evenly to these limits (256 MiB of float32)."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PRESSURE_UNITS = {"millibar": "hPa", "millibars": "hPa", "mbar": "hPa", "mb": "hPa"}
_LEVEL_WORDS = frozenset({"level", "lev", "plev", "pressure", "height", "depth", "altitude"})
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_FORMAT_REMEDY = "give a CF NetCDF file (3 or 4) or the directory of a Zarr store"


@dataclass(frozen=True)
class _Sample:
    variable: str  # with its level, as FieldSet.variables
    label: str
    name: Hashable
    index: Mapping[Hashable, int]


def load_fields(path: Path) -> FieldSet:
    """Read a NetCDF file or a Zarr directory.

    Args:
        path: The file, or the directory of a Zarr store.

    Raises:
        DataError: See the module; ``where`` is the path's last part.
    """
    where = path.name
    with _opened(path) as dataset:
        grid = find_grid(dataset, where)
        samples = _thinned(_samples(dataset, grid, where), len(grid.lat) * len(grid.lon))
        values = np.stack([_values(dataset, sample, grid, where) for sample in samples])
        units = {str(s.name): str(dataset[s.name].attrs.get("units", "1")) for s in samples}
        start_at, end_at = _span(dataset)
        source = str(dataset.attrs.get("source") or dataset.attrs.get("title") or where)
    named_units = ", ".join(f"{name}: {unit}" for name, unit in units.items())
    west, east = (float(lon) if lon <= 180.0 else float(lon) - 360.0 for lon in grid.lon[[0, -1]])  # noqa: PLR2004 - degrees
    return FieldSet(
        name=path.stem,
        values=values,
        lat=grid.lat,
        lon=grid.lon,
        units=next(iter(units.values())) if len(set(units.values())) == 1 else named_units,
        labels=tuple(sample.label for sample in samples),
        variables=tuple(sample.variable for sample in samples),
        digest=digest_path(path),
        source=source,
        bbox=(west, float(grid.lat[0]), east, float(grid.lat[-1])),
        start_at=start_at,
        end_at=end_at,
    )


def _opened(path: Path) -> xr.Dataset:
    """Open lazily; times that cannot be decoded stay numbers."""
    engine, options = _engine(path)
    failure: Exception | None = None
    for decode_times in (True, False):
        try:
            with warnings.catch_warnings():
                # Odd calendars and attributes of other people's files; what matters is checked.
                warnings.simplefilter("ignore")
                return xr.open_dataset(
                    path,
                    engine=engine,
                    decode_times=decode_times,
                    decode_timedelta=False,
                    **options,
                )
        except Exception as exc:  # noqa: BLE001 - three vendors' readers, each with its own errors
            failure = exc
    raise DataError(
        f"cannot be opened by {engine} ({_one_line(failure)})",
        where=path.name,
        remedy=_FORMAT_REMEDY,
    ) from failure


def _engine(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the xarray engine that the first bytes ask for, and its options."""
    if path.is_dir():
        if any((path / name).is_file() for name in _ZARR_MARKS):
            return "zarr", {"consolidated": False}
        magic = b""
    else:
        try:
            with path.open("rb") as stream:
                magic = stream.read(4)
        except OSError as exc:
            raise DataError(
                f"cannot be read ({exc.strerror})", where=path.name, remedy=_FORMAT_REMEDY
            ) from exc
    if magic == b"\x89HDF":
        return "h5netcdf", {}
    if magic[:3] == b"CDF":
        return "scipy", {}
    raise DataError("is neither NetCDF nor Zarr", where=path.name, remedy=_FORMAT_REMEDY)


def _one_line(exc: Exception | None) -> str:
    return " ".join(str(exc).split())


def _samples(dataset: xr.Dataset, grid: Grid, where: str) -> list[_Sample]:
    found: list[_Sample] = []
    for name, variable in dataset.data_vars.items():
        if not set(grid.dims) <= set(variable.dims) or variable.dtype.kind not in "fiu":
            continue
        other = [dim for dim in variable.dims if dim not in grid.dims]
        for place in itertools.product(*(range(variable.sizes[dim]) for dim in other)):
            index = dict(zip(other, place, strict=True))
            level: list[str] = []
            rest: list[str] = []
            for dim, at in index.items():
                (level if _is_level(dataset, dim) else rest).append(_part(dataset, dim, at))
            key = "/".join([str(name), *level])
            found.append(_Sample(key, "/".join([key, *rest]), name, index))
    if not found:
        raise DataError(
            f"has no numeric variable on ({grid.dims[0]}, {grid.dims[1]})",
            where=where,
            remedy="give a variable with these two dimensions",
        )
    return found


def _is_level(dataset: xr.Dataset, dim: Hashable) -> bool:
    if dim not in dataset.coords:
        return False
    attrs = dataset[dim].attrs
    text = f"{dim} {attrs.get('standard_name', '')} {attrs.get('long_name', '')}"
    return attrs.get("axis") == "Z" or not _LEVEL_WORDS.isdisjoint(
        text.lower().replace("_", " ").split()
    )


def _part(dataset: xr.Dataset, dim: Hashable, at: int) -> str:
    """Name one place along a dimension: ``2001-07-04``, ``Jan``, ``200hPa``, ``member3``."""
    if dim not in dataset.coords:
        return f"{dim}{at}"
    coordinate = dataset[dim]
    value = coordinate.values[at]
    if coordinate.dtype.kind == "M":
        return str(value.astype("datetime64[m]")).removesuffix("T00:00")
    if str(dim).lower() == "month" and value in range(1, len(_MONTHS) + 1):
        return _MONTHS[int(value) - 1]
    if coordinate.dtype.kind in "fiu":
        unit = str(coordinate.attrs.get("units", ""))
        return f"{float(value):g}{'' if ' ' in unit else _PRESSURE_UNITS.get(unit.lower(), unit)}"
    return str(value)


def _thinned(samples: list[_Sample], cell_count: int) -> list[_Sample]:
    keep = min(len(samples), MAX_SAMPLE_COUNT, max(1, MAX_CELL_COUNT // cell_count))
    return [samples[k * len(samples) // keep] for k in range(keep)]


def _values(dataset: xr.Dataset, sample: _Sample, grid: Grid, where: str) -> NDArray[np.float32]:
    try:
        field = dataset[sample.name].isel(sample.index).transpose(*grid.dims).values
    except Exception as exc:  # a broken chunk: three vendors' readers, each with its own errors
        raise DataError(
            f"{sample.label} cannot be read ({_one_line(exc)})",
            where=where,
            remedy="fetch the file again",
        ) from exc
    values = np.asarray(field, dtype=np.float32)[grid.lat_order][:, grid.lon_order]
    bad_count = int(values.size - np.isfinite(values).sum())
    if bad_count:
        raise DataError(
            f"{sample.label} has {bad_count} of {values.size} cells without a value",
            where=where,
            remedy="fill them, or crop the file to where every cell has one",
        )
    return values


def _span(dataset: xr.Dataset) -> tuple[datetime | None, datetime | None]:
    """Return first and last instant of the time coordinate, else of the ACDD attributes."""
    for name in sorted(dataset.coords, key=lambda name: (name != "time", str(name))):
        times = np.atleast_1d(dataset[name].values)
        if times.dtype.kind == "M" and not np.isnat(times).all():
            seconds = times[~np.isnat(times)].astype("datetime64[s]").astype(np.int64)
            first, last = int(seconds.min()), int(seconds.max())
            return datetime.fromtimestamp(first, tz=UTC), datetime.fromtimestamp(last, tz=UTC)
    try:
        start, end = (
            datetime.fromisoformat(str(dataset.attrs[f"time_coverage_{side}"]))
            for side in ("start", "end")
        )
    except (KeyError, ValueError):
        return None, None
    return _aware(start), _aware(end)


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
