"""Worlds of one's own: a CSV file of rows and what is known about each, read and written.

A file has ``cell``, ``time``, the 36 columns of :mod:`kfm_mlflow.focus.columns` and the labels
below. Its rows may stand in any order: the world is the same, byte for byte.

====================================================== =============================================
``region``, ``terrain``, ``watershed``                 whole numbers 0..5, 0..3 and 0..5, one per
                                                       cell
``situation``                                          calm, drought, flood, storm, heat or fire
``leading_domain``                                     the domain that carries the evidence of it
``next_temperature_c``, ``next_precipitation_mm``,     what the same cell has one month later
``next_soil_moisture_ratio``,
``next_streamflow_percentile``
``next_hazard_severity``                               0..1, one month later
====================================================== =============================================
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING

import h3
import numpy as np

from focus_mode.geography import H3_RESOLUTION, REGIONS, TERRAINS, WATERSHED_COUNT, hold_out
from focus_mode.world import NEXT_CLIMATE, NEXT_HYDROLOGY, seal
from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.column_values import numbers_of_column, shown_briefly
from kfm_mlflow.focus.columns import COLUMN_NAMES, COLUMNS, DOMAINS, SITUATIONS, Column
from kfm_mlflow.focus.rows import PLACE_COLUMNS, rows_of_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from focus_mode.world import World
    from kfm_mlflow.focus.rows import FocusRows

LEAST_ROWS = 30
"""Fewer rows cannot train the model."""
_BY_NAME = {column.name: column for column in COLUMNS}
_CLASSES = (
    Column("region", "spatial", "1", 0, len(REGIONS) - 1, "region"),
    Column("terrain", "spatial", "1", 0, len(TERRAINS) - 1, "terrain"),
    Column("watershed", "spatial", "1", 0, WATERSHED_COUNT - 1, "watershed"),
)
_NAMED = {"situation": SITUATIONS, "leading_domain": DOMAINS}
_NEXT = tuple(
    replace(_BY_NAME[name], name=f"next_{name}") for name in (*NEXT_CLIMATE, *NEXT_HYDROLOGY)
)
_SEVERITY = Column("next_hazard_severity", "hazards", "1", 0, 1, "severity of next month's hazards")
LABELS = (
    *(column.name for column in _CLASSES),
    *_NAMED,
    *(column.name for column in _NEXT),
    _SEVERITY.name,
)


def read_world(path: Path) -> World:
    """Read a world from a CSV file in UTF-8.

    Months are counted from January of the first year. Held out are the cells of every third H3
    parent. A quantity is low below the 20th and high above the 80th percentile of the rows that
    are not held out.

    Raises:
        DataError: The file cannot be read, has fewer than 30 rows or fewer than two H3 parents,
            or a value does not fit; names column, row (from 1, below the header) and remedy.
    """
    columns = _read_columns(path)
    where = path.name
    missing = [name for name in LABELS if name not in columns]
    if missing:
        raise DataError(
            f"has no column {', '.join(missing)}",
            where=where,
            remedy="give what is known of each row; docs/focus-world.md has the columns",
        )
    found = rows_of_table(
        columns,
        where=where,
        resolution=H3_RESOLUTION,
        least_count=LEAST_ROWS,
        beside=LABELS,
        is_text=True,
    )
    order = sorted(range(len(found)), key=lambda k: (found.times[k], found.cells[k]))
    # Refusals count the file's rows: labels are checked in the file's order and sorted after.
    labels = {name: part[order] for name, part in _labels(columns, found, where).items()}
    cells = tuple(found.cells[k] for k in order)
    times = tuple(found.times[k] for k in order)
    rows, is_held_out = found.rows[order], hold_out(cells)
    if is_held_out.all():
        raise DataError(
            "has cells of one H3 parent only", where=where, remedy="give cells further apart"
        )
    return seal(
        name=path.stem,
        rows=rows,
        cells=cells,
        times=times,
        months=_months(times),
        is_held_out=is_held_out,
        thresholds=_thresholds(rows[~is_held_out]),
        bbox=_bbox(cells),
        **labels,
    )


def write_world(path: Path, world: World) -> None:
    """Write a world's rows and labels as :func:`read_world` reads them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*PLACE_COLUMNS, *COLUMN_NAMES, *LABELS])
    numbers = np.column_stack([world.next_climate, world.next_hydrology, world.next_hazard])
    for k, (cell, time) in enumerate(zip(world.cells, world.times, strict=True)):
        classes = [world.region[k], world.terrain[k], world.watershed[k]]
        named = [SITUATIONS[world.situation[k]], DOMAINS[world.leading_domain[k]]]
        values = [*world.rows[k].tolist(), *classes, *named, *numbers[k].tolist()]
        writer.writerow([cell, time, *values])
    write_bytes(path, out.getvalue().encode())


def _read_columns(path: Path) -> dict[str, list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError("cannot be read as UTF-8 text", where=path.name) from exc
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except (csv.Error, ValueError) as exc:
        reason = "has no header" if isinstance(exc, ValueError) else f"is no CSV file ({exc})"
        raise DataError(reason, where=path.name, remedy="write it as RFC 4180 has it") from exc
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"has column {', '.join(twice)} twice", where=path.name)
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise DataError(
                f"row {number} has {len(line)} values, the header {len(header)}",
                where=path.name,
                remedy="give each column one value per row",
            )
    return {name: [line[k] for line in lines] for k, name in enumerate(header)}


def _labels(
    columns: Mapping[str, Sequence[str]], found: FocusRows, where: str
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    def read(column: Column) -> list[float]:
        return numbers_of_column(column, columns[column.name], where=where, is_text=True)

    classes = {column.name: _classes(column, read(column), found, where) for column in _CLASSES}
    named = {name: _indices(name, columns[name], known, where) for name, known in _NAMED.items()}
    after = np.array([read(column) for column in _NEXT], np.float32).T
    return {
        **classes,
        **named,
        "next_climate": after[:, : len(NEXT_CLIMATE)],
        "next_hydrology": after[:, len(NEXT_CLIMATE) :],
        "next_hazard": np.array(read(_SEVERITY), np.float32),
    }


def _classes(
    column: Column, values: Sequence[float], found: FocusRows, where: str
) -> NDArray[np.int64]:
    """Return whole numbers that are the same in all rows of a cell."""
    known: dict[str, float] = {}
    for number, (cell, value) in enumerate(zip(found.cells, values, strict=True), start=1):
        if not value.is_integer():
            fault, remedy = "no whole number", f"give {column.low:g} to {column.high:g}"
        elif known.setdefault(cell, value) != value:
            fault, remedy = "another than in an earlier row of its cell", "give one per cell"
        else:
            continue
        raise DataError(f"{column.name} is {fault} in row {number}", where=where, remedy=remedy)
    return np.array(values, np.int64)


def _indices(
    name: str, values: Sequence[str], known: Sequence[str], where: str
) -> NDArray[np.int64]:
    for number, value in enumerate(values, start=1):
        if value not in known:
            raise DataError(
                f"{name} is {shown_briefly(value)} in row {number}",
                where=where,
                remedy=f"give one of {', '.join(known)}",
            )
    return np.array([known.index(value) for value in values], np.int64)


def _months(times: Sequence[str]) -> NDArray[np.int64]:
    first = int(min(times)[:4])
    return np.array([12 * (int(time[:4]) - first) + int(time[5:]) - 1 for time in times], np.int64)


def _thresholds(rows: NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    told = [k for k, column in enumerate(COLUMNS) if column.is_told]
    low, high = np.quantile(rows[:, told].astype(np.float64), [0.2, 0.8], axis=0)
    ends = zip(low.tolist(), high.tolist(), strict=True)
    return {COLUMN_NAMES[k]: pair for k, pair in zip(told, ends, strict=True)}


def _bbox(cells: Sequence[str]) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the centres, widened to whole hundredths of a degree."""
    centres = np.array([h3.cell_to_latlng(cell) for cell in set(cells)])
    (south, west), (north, east) = (
        np.floor(centres.min(axis=0) * 100) / 100,
        np.ceil(centres.max(axis=0) * 100) / 100,
    )
    return float(west), float(south), float(east), float(north)
