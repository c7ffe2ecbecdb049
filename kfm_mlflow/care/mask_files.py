"""Masking tables and fields: what files hold. Wrong input raises, and names row or column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.mask_cells import read_cells
from kfm_mlflow.care.mask_geometry import place_keys
from kfm_mlflow.care.mask_json import WITHHELD_TEXT
from kfm_mlflow.care.masking import Masked
from kfm_mlflow.care.raster import generalise_raster
from kfm_mlflow.care.tables import CELL_COLUMN, generalise_table
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    import xarray as xr

    from kfm_mlflow.care.mask_places import Judge
    from kfm_mlflow.care.mask_terms import MaskTerms

_LAT_NAMES, _LON_NAMES = ("lat", "latitude", "y"), ("lon", "longitude", "lng", "x")


def mask_frame(
    frame: pd.DataFrame,
    terms: MaskTerms,
    now: datetime,
    *,
    lat: str | None = None,
    lon: str | None = None,
    cell: str | None = None,
) -> Masked:
    """Mask the rows of a table: one cell for its coordinates, and its texts.

    Args:
        frame: The table; every row is one record.
        terms: By which rules.
        now: The instant (aware).
        lat: Column of latitudes; None finds it by its name.
        lon: Column of longitudes; None finds it by its name.
        cell: Column of H3 cells; None finds one that holds nothing else.

    Raises:
        DataError: A named column is missing, a place is no place (names the row, counted from 0),
            there are several pairs of coordinates, or names of columns or index give something
            away.
        InputError: Something that should be a cell is none.
    """
    coverage, judge = terms.at(now)
    lat, lon, cell = place_columns(frame, lat=lat, lon=lon, cell=cell)
    if lat is None and cell is None:
        shown, counts, withheld = frame.copy(), {}, 0
    else:
        found = generalise_table(
            frame, coverage, lat=lat or "", lon=lon or "", cell=cell or CELL_COLUMN
        )
        kind = "points" if cell is None or cell not in frame.columns else "cells"
        shown, withheld = found.value, found.withheld_count
        counts = {kind: found.masked_count} if found.masked_count else {}
    if not judge.is_clean(" ".join(str(name) for name in shown.columns)):
        raise DataError("a column's name holds what may not be shown", remedy="rename the column")
    texts = _mask_texts(shown, judge)
    return Masked(shown, counts={**counts, **texts}, withheld_count=withheld)


def place_columns(
    frame: pd.DataFrame,
    *,
    lat: str | None = None,
    lon: str | None = None,
    cell: str | None = None,
) -> tuple[str | None, str | None, str | None]:
    """Return the columns of latitudes, longitudes and cells of a table; None for what it lacks.

    Args:
        frame: The table.
        lat: Named by a person.
        lon: Named by a person.
        cell: Named by a person.

    Raises:
        DataError: A named column is missing, or there are several pairs of coordinates.
    """
    asked = [name for name in (lat, lon, cell) if name is not None and name not in frame.columns]
    if asked:
        held = ", ".join(str(column) for column in frame.columns[:20])
        raise DataError(
            "there is no such column", where=", ".join(asked), remedy=f"the table has: {held}"
        )
    if cell is None:
        cell = next((str(c) for c in frame.columns if _is_cells(frame[c])), None)
    return (*_coordinates(frame, lat, lon), cell)


def _coordinates(
    frame: pd.DataFrame, lat: str | None, lon: str | None
) -> tuple[str | None, str | None]:
    if lat is not None and lon is not None:
        return lat, lon
    if (lat is None) != (lon is None):
        raise DataError("one of two columns is named", remedy="name latitude and longitude")
    pairs = place_keys({str(column): None for column in frame.columns})
    if len(pairs) > 1:
        raise DataError(
            "there are several columns of coordinates",
            where=", ".join(name for pair in pairs.values() for name in pair),
            remedy="name those that count, and drop the others",
        )
    return next(iter(pairs.values()), (None, None))


def _is_cells(column: Any) -> bool:
    return (
        column.dtype.kind in "OTU" and len(column) > 0 and read_cells(column.tolist()) is not None
    )


def _mask_texts(frame: pd.DataFrame, judge: Judge) -> dict[str, int]:
    count = 0
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind not in "OTU" or _is_cells(column):
            continue
        texts = [text for text in column.unique().tolist() if isinstance(text, str)]
        if not texts or judge.is_clean("\n".join(texts)):
            continue
        unclean = judge.unclean(texts)
        hidden = column.isin(unclean)
        frame[name] = column.mask(hidden, WITHHELD_TEXT)
        count += int(hidden.sum())
        if not judge.is_clean("\n".join(text for text in texts if text not in unclean)):
            raise DataError("its texts together hold a restricted name or a place", where=str(name))
    return {"texts": count} if count else {}


def mask_field(
    field: xr.DataArray | xr.Dataset,
    terms: MaskTerms,
    now: datetime,
    *,
    lat: str | None = None,
    lon: str | None = None,
) -> Masked:
    """Mask a gridded field, and the texts of its attributes.

    Args:
        field: With coordinates of latitude and longitude.
        terms: By which rules.
        now: The instant (aware).
        lat: Name of the latitude; None takes one of the usual.
        lon: Name of the longitude; None takes one of the usual.

    Raises:
        DataError: There are no such coordinates, or they are no grid.
        InputError: A variable is not of numbers.
    """
    coverage, judge = terms.at(now)
    lat = lat or next((name for name in _LAT_NAMES if name in field.coords), "lat")
    lon = lon or next((name for name in _LON_NAMES if name in field.coords), "lon")
    found = generalise_raster(field, coverage, lat=lat, lon=lon)
    shown = found.value
    counts = {"pixels": found.masked_count} if found.masked_count else {}
    parts = [shown, *(shown.variables.values() if hasattr(shown, "data_vars") else ())]
    texts = sum(_mask_attributes(part, judge) for part in parts)
    names = " ".join(str(name) for name in (*getattr(shown, "data_vars", ()), *shown.coords))
    if not judge.is_clean(names):
        raise DataError("a variable's name holds what may not be shown", remedy="rename it")
    if texts:
        counts["texts"] = texts
    return Masked(shown, counts=counts, withheld_count=found.withheld_count)


def _mask_attributes(part: Any, judge: Judge) -> int:
    kept = {}
    for key, value in part.attrs.items():
        # A bounding box in numbers is text to whoever reads it.
        kept[key] = value if judge.is_clean(f"{key} {value}") else WITHHELD_TEXT
    hidden = sum(kept[key] is not value for key, value in part.attrs.items())
    part.attrs = kept
    return hidden
