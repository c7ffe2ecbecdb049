"""``kfm care mask``: write a file that may be published."""

from __future__ import annotations

import csv
import json
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.care.mask_terms import DEFAULT_MODE, MaskTerms
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import DataError, InputError, KfmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.care.masking import Masked

    Write = Callable[[Path], object]

_SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".geojson": "geojson",
    ".json": "geojson",
    ".nc": "netcdf",
    ".nc4": "netcdf",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--mode", default=DEFAULT_MODE, show_default=True, help="Masking mode.")
@click.option(
    "--regions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Regions file; without it, the packaged, illustrative extents.",
)
@click.option("--lat", help="Column or coordinate of latitudes.")
@click.option("--lon", help="Column or coordinate of longitudes.")
@click.option("--cell", help="Column of H3 cells.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def mask(
    *,
    file: Path,
    output: Path,
    mode: str,
    regions: Path | None,
    lat: str | None,
    lon: str | None,
    cell: str | None,
    as_json: bool,
) -> None:
    """Write FILE (CSV, Parquet, GeoJSON or NetCDF) so that it may be published.

    Coordinates become H3 cells, and fields blocks, that are no finer than the regions allow; rows
    and values that may not be shown at all are left out; texts with a restricted name or a place
    are replaced. Rows are counted from 0. What is printed is for you: how much was withheld can
    show a group that is too small.
    """
    if output.exists():
        raise InputError("exists already", where=str(output), remedy="choose another file")
    kind = _SUFFIXES.get(file.suffix.lower())
    if kind is None or _SUFFIXES.get(output.suffix.lower()) != kind:
        raise InputError(
            f"cannot be written as {output.name}" if kind else "is of no known kind",
            where=file.name,
            remedy=f"use one of {', '.join(_SUFFIXES)}, the same for both",
        )
    terms = MaskTerms(load_regions(regions), mode)
    named = {"lat": lat, "lon": lon, "cell": cell}
    if kind in {"netcdf", "geojson"} and any(named[n] for n in _NOT_ASKED[kind]):
        raise InputError(f"is not asked of {kind}", where=f"--{_NOT_ASKED[kind][-1]}")
    try:
        done, write = _READERS[kind](file, terms, named)
    except KfmError as exc:
        raise DataError(str(exc), where=file.name) from exc
    _write(output, write)
    said = {
        "input": str(file),
        "output": str(output),
        "mode": mode,
        "regions_digest": terms.regions.digest,
        "masked": dict(done.counts),
        "masked_count": done.masked_count,
        "withheld_count": done.withheld_count,
    }
    click.echo(json.dumps(said) if as_json else _sentence(output, done))


_AS_LONG = "give one header, and rows that are as long as it"
_NOT_ASKED = {"geojson": ("lat", "lon", "cell"), "netcdf": ("cell",)}


def _sentence(output: Path, done: Masked) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(done.counts.items()))
    return f"{output}: {counts or 'nothing'} masked, {done.withheld_count} withheld"


def _write(output: Path, write: Write) -> None:
    """Write beside the file and move it there, so that nobody sees half of it."""
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".kfm-") as folder:
            made = Path(folder) / output.name
            write(made)
            made.replace(output)
    except OSError as exc:
        raise InputError(f"cannot be written ({exc.strerror or exc})", where=str(output)) from exc


def _frame(
    frame: Any, terms: MaskTerms, named: dict[str, str | None], write: Callable[[Any, Path], object]
) -> tuple[Masked, Write]:
    from kfm_mlflow.care.mask_files import mask_frame, place_columns

    if not any(place_columns(frame, **named)):
        held = ", ".join(str(column) for column in frame.columns[:20])
        raise DataError(
            "no column is known to hold places",
            remedy=f"name them with --lat and --lon, or --cell; the table has: {held}",
        )
    done = mask_frame(frame, terms, datetime.now(UTC), **named)
    return done, lambda path: write(done.value, path)


def _csv(file: Path, terms: MaskTerms, named: dict[str, str | None]) -> tuple[Masked, Write]:
    import pandas as pd

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = next(filter(None, csv.reader(stream)), [])
        if not header:
            raise DataError("is empty", remedy="give a header and rows")
        twice = next((at for at, name in enumerate(header) if name in header[:at]), None)
        if twice is not None:
            # The reader would call the second one `lat.1`, which nobody takes for a latitude.
            first = header.index(header[twice])
            said = f"columns {first} and {twice} (counted from 0) have the same name"
            raise DataError(said, remedy="give every column a name of its own")
        with warnings.catch_warnings():
            # Else what is too many becomes row names, and every value stands in another's column.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(file, index_col=False)
    except UnicodeDecodeError as exc:
        raise DataError("is not UTF-8 text", remedy="write it as UTF-8") from exc
    except pd.errors.ParserWarning as exc:
        raise DataError("has rows that are longer than its header", remedy=_AS_LONG) from exc
    except (ValueError, OSError, csv.Error) as exc:
        raise DataError("is no CSV file", remedy=_AS_LONG) from exc
    return _frame(frame, terms, named, lambda value, path: value.to_csv(path, index=False))


def _parquet(file: Path, terms: MaskTerms, named: dict[str, str | None]) -> tuple[Masked, Write]:
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
    except (ValueError, OSError) as exc:
        raise DataError("is no Parquet file", remedy="write it again") from exc
    # An index of places would come out unmasked.
    frame = frame.reset_index() if frame.index.name else frame.reset_index(drop=True)
    return _frame(frame, terms, named, lambda value, path: value.to_parquet(path, index=False))


def _geojson(file: Path, terms: MaskTerms, named: dict[str, str | None]) -> tuple[Masked, Write]:
    from kfm_mlflow.care.masking import mask_value

    del named
    value = parse_json(file.read_bytes(), where="")
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in {"FeatureCollection", "Feature"}:
        raise DataError("is not a GeoJSON Feature or FeatureCollection")
    if kind == "FeatureCollection" and not isinstance(value.get("features"), list):
        raise DataError("$.features: is no list", remedy="give a FeatureCollection its features")
    done = mask_value(value, terms, datetime.now(UTC))
    text = json.dumps(done.value, ensure_ascii=False, allow_nan=False)
    return done, lambda path: path.write_text(text, encoding="utf-8")


def _netcdf(file: Path, terms: MaskTerms, named: dict[str, str | None]) -> tuple[Masked, Write]:
    import xarray as xr

    from kfm_mlflow.care.mask_files import mask_field

    try:
        with xr.open_dataset(file, engine="h5netcdf") as opened:
            field = opened.load()
    except (ValueError, OSError, KeyError) as exc:
        raise DataError("is no NetCDF 4 file", remedy="write it as NetCDF 4 (HDF5)") from exc
    done = mask_field(field, terms, datetime.now(UTC), lat=named["lat"], lon=named["lon"])
    return done, lambda path: done.value.to_netcdf(path, engine="h5netcdf")


_READERS: dict[str, Callable[..., tuple[Masked, Write]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "geojson": _geojson,
    "netcdf": _netcdf,
}
