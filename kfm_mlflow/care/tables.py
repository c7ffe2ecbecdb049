"""Making the rows of a table coarse enough: exact coordinates out, one H3 cell in.

The cell column is what counts when there is one: a table that was generalised comes back as it is,
and what somebody gave coarsely never becomes finer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, format_cells, parse_cells
from kfm_mlflow.care.generalise import (
    Generalised,
    base_resolution,
    cells_of_points,
    check_coordinates,
    make_notes,
)
from kfm_mlflow.care.partition import finest_partition
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.coverage import Coverage

CELL_COLUMN = "h3_cell"


def generalise_table(
    frame: pd.DataFrame,
    coverage: Coverage,
    *,
    lat: str = "lat",
    lon: str = "lon",
    cell: str = CELL_COLUMN,
) -> Generalised[pd.DataFrame]:
    """Replace the places of a table's rows by cells under which they may be published.

    Every row is one record. Columns other than the three are left as they are; a place that hides
    in one of them is for the screening to find.

    Args:
        frame: With a column of H3 cells, or of latitudes and of longitudes.
        coverage: Whose rules hold.
        lat: Name of the column of latitudes.
        lon: Name of the column of longitudes.
        cell: Name of the column of cells; where a table has it, it is taken and the coordinates
            are not read.

    Returns:
        The rows that may be published, in their order and with their index, without ``lat`` and
        ``lon``, with ``cell`` as text.

    Raises:
        DataError: A column is missing, or a place is no place; names the row, counted from 0.
        InputError: Something is not an H3 cell.
    """
    given, has_cells = _given(frame, coverage, lat, lon, cell)
    found, position, counts = np.unique(given, return_inverse=True, return_counts=True)
    out = finest_partition(found, counts.astype(np.int64), coverage)[position]
    kept = out != WITHHELD
    value = frame.loc[kept].drop(columns=[name for name in (lat, lon) if name in frame.columns])
    value[cell] = format_cells(out[kept])
    withheld = int((~kept).sum())
    masked = int((kept & (out != given)).sum()) if has_cells else int(kept.sum())
    return Generalised(value, len(frame), masked, withheld, make_notes(coverage, withheld))


def _given(
    frame: pd.DataFrame, coverage: Coverage, lat: str, lon: str, cell: str
) -> tuple[Cells, bool]:
    if cell in frame.columns:
        return parse_cells(frame[cell].tolist(), where=cell), True
    missing = [name for name in (lat, lon) if name not in frame.columns]
    if missing:
        raise DataError(
            "there is no such column",
            where=", ".join(missing),
            remedy=f"name the columns of latitude and longitude, or give {cell}",
        )
    lat_deg, lon_deg = _numbers(frame[lat], lat), _numbers(frame[lon], lon)
    check_coordinates(lat_deg, lon_deg)
    return cells_of_points(lat_deg, lon_deg, base_resolution(coverage, None)), False


def _numbers(column: Any, name: str) -> Any:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.flatnonzero(np.isnan(numbers))
    if wrong.size:
        raise DataError(
            "is no number",
            where=f"{name}: row {int(wrong[0])}",
            remedy="drop the row or give its place",
        )
    return np.ascontiguousarray(numbers)
