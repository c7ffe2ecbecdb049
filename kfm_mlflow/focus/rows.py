"""Reading Focus Mode rows that a person gives: every check of a table, in one place.

A table has the 36 columns of :mod:`~kfm_mlflow.focus.columns` and, beside them, ``cell`` (an H3
index) and ``time`` (``YYYY-MM``). Rows are counted from 1. A refusal names the column, the first
row at fault and what to do; it quotes neither cells nor coordinates, for it may stand in a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import compress
from typing import TYPE_CHECKING

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.column_values import numbers_of_column, shown_briefly
from kfm_mlflow.focus.columns import COLUMN_NAMES, COLUMNS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    Bbox = tuple[float, float, float, float]

PLACE_COLUMNS = ("cell", "time")
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_INDEX = re.compile(r"[0-9A-Fa-f]{15,16}")  # h3 raises on what is longer or negative
_FAR_EDGES = 2.5
_EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True)
class FocusRows:
    """Rows that passed every check.

    Attributes:
        rows: float32 [n, 36] in the order of :data:`~kfm_mlflow.focus.columns.COLUMNS`.
        cells: H3 index of each row, all of one resolution.
        times: "YYYY-MM" of each row.
    """

    rows: NDArray[np.float32]
    cells: tuple[str, ...]
    times: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.cells)


def rows_of_table(
    table: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
    *,
    where: str,
    bbox: Bbox | None = None,
    resolution: int | None = None,
    least_count: int = 1,
    beside: Collection[str] = (),
    is_text: bool = False,
) -> FocusRows:
    """Check a table and return its rows.

    Args:
        table: One mapping per row, or one sequence per column.
        where: What to call the table in a refusal.
        bbox: West, south, east, north in degrees that the centres of the cells must lie in;
            None for anywhere.
        resolution: The H3 resolution that cells must have; None for any one.
        least_count: Fewest rows that will do: 1 to be answered, more to train.
        beside: Names of further columns that may stand in the table; they are not read here.
        is_text: Whether numbers are written as text, as a CSV file has them.

    Raises:
        DataError: There are too few rows, a column is missing, unknown or of another length; a
            value is blank, no number or beyond what its unit allows; a cell is no H3 index, of
            another resolution, outside of the domain or far from the row's coordinates; a time
            is no month; or a cell has a month twice.
    """
    columns = _columns(table, where)
    _check_names(columns, where, beside)
    count = len(columns["cell"])
    if count < least_count:
        raise DataError(
            f"has {count} {'row' if count == 1 else 'rows'}, at least {least_count} are needed",
            where=where,
            remedy="give more cells or months",
        )
    import numpy as np

    rows = np.empty((count, len(COLUMNS)), np.float32)
    for k, column in enumerate(COLUMNS):
        rows[:, k] = numbers_of_column(column, columns[column.name], where=where, is_text=is_text)
    times = _months(columns["time"], where)
    cells = _cells(columns["cell"], where, resolution)
    _check_places(rows, cells, bbox, where)
    _check_twice(cells, times, where)
    return FocusRows(rows, cells, times)


def _columns(table: object, where: str) -> dict[str, list[Any]]:
    """Return the table by columns; what a row does not name is None there."""
    if isinstance(table, Mapping):
        columns = {str(name): _listed(name, values, where) for name, values in table.items()}
    elif isinstance(table, Sequence) and not isinstance(table, str | bytes):
        for number, row in enumerate(table, start=1):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"row {number} is {type(row).__name__}, not an object of column names",
                    where=where,
                    remedy='give {"cell": …, "time": …, "latitude_deg": …, …}',
                )
        names = dict.fromkeys(name for row in table for name in row)
        columns = {str(name): [row.get(name) for row in table] for name in names}
    else:
        raise DataError(f"is {type(table).__name__}, not a table", where=where)
    if not any(columns.values()):
        raise DataError("is empty", where=where, remedy="give at least one row")
    return columns


def _listed(name: object, values: object, where: str) -> list[Any]:
    import numpy as np

    if isinstance(values, np.ndarray):
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    raise DataError(
        f"column {name} is {type(values).__name__}, not a list of values",
        where=where,
        remedy="give each column one value per row",
    )


def _check_names(columns: Mapping[str, list[Any]], where: str, beside: Collection[str]) -> None:
    known = (*PLACE_COLUMNS, *COLUMN_NAMES)
    missing = [name for name in known if name not in columns]
    unknown = [name for name in columns if name not in known and name not in beside]
    if missing:
        near = [(name, get_close_matches(name, unknown, 1)) for name in missing]
        meant = next((f"; is {found[0]} meant to be {name}?" for name, found in near if found), "")
        raise DataError(
            f"has no column {', '.join(missing)}{meant}",
            where=where,
            remedy="give all 36 columns, cell and time",
        )
    if unknown:
        raise DataError(
            f"has unknown columns {', '.join(map(repr, unknown))}",
            where=where,
            remedy="leave them out: a model reads 36 columns, cell and time",
        )
    lengths = {name: len(values) for name, values in columns.items()}
    for name, length in lengths.items():
        if length != lengths["cell"]:
            raise DataError(
                f"column {name} has {length} values, column cell {lengths['cell']}",
                where=where,
                remedy="give each column one value per row",
            )


def _months(values: list[Any], where: str) -> tuple[str, ...]:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str) or not _MONTH.fullmatch(value):
            raise DataError(
                f"time is {shown_briefly(value)} in row {number}, not a month",
                where=where,
                remedy="give it as YYYY-MM",
            )
    return tuple(values)


def _cells(values: list[Any], where: str, resolution: int | None) -> tuple[str, ...]:
    import h3

    level = resolution
    for number, value in enumerate(values, start=1):
        is_index = isinstance(value, str) and _INDEX.fullmatch(value) and h3.is_valid_cell(value)
        if not is_index:
            raise DataError(
                f"cell is no H3 index in row {number}",
                where=where,
                remedy="give it as text of 15 hexadecimal digits, such as 8526ad03fffffff",
            )
        found = h3.get_resolution(value)
        level = found if level is None else level
        if found != level:
            raise DataError(
                f"cell has H3 resolution {found} in row {number}, not {level}",
                where=where,
                remedy=f"give all cells at resolution {level}",
            )
    return tuple(map(h3.int_to_str, map(h3.str_to_int, values)))


def _check_places(
    rows: NDArray[np.float32], cells: Sequence[str], bbox: Bbox | None, where: str
) -> None:
    import h3
    import numpy as np

    centres = {cell: h3.cell_to_latlng(cell) for cell in set(cells)}
    placed = np.array([centres[cell] for cell in cells])
    latitude, longitude = placed.T
    if bbox is not None:
        west, south, east, north = bbox
        is_outside = (latitude < south) | (latitude > north) | (longitude < west)
        for number in compress(range(1, len(cells) + 1), is_outside | (longitude > east)):
            raise DataError(
                f"cell lies outside of the model's domain in row {number}",
                where=where,
                remedy=f"ask for cells within {west:g}, {south:g}, {east:g}, {north:g}",
            )
    own, read = np.radians(placed), np.radians(rows[:, :2].astype(np.float64))
    half = np.sin((own - read) / 2.0) ** 2
    arc = half[:, 0] + np.cos(own[:, 0]) * np.cos(read[:, 0]) * half[:, 1]
    away_km = 2.0 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(arc, 0.0, 1.0)))
    limit_km = _FAR_EDGES * h3.average_hexagon_edge_length(h3.get_resolution(cells[0]), "km")
    for number in compress(range(1, len(cells) + 1), away_km > limit_km):
        raise DataError(
            f"latitude_deg and longitude_deg lie {away_km[number - 1]:.0f} km from the centre of "
            f"the cell in row {number}",
            where=where,
            remedy="give the coordinates of that cell, latitude and longitude not exchanged",
        )


def _check_twice(cells: Iterable[str], times: Iterable[str], where: str) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, key in enumerate(zip(cells, times, strict=True), start=1):
        first = seen.setdefault(key, number)
        if first != number:
            raise DataError(
                f"cell and time of row {number} are those of row {first}",
                where=where,
                remedy="give each cell once a month",
            )
