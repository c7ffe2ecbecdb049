"""Tornado days per H3 cell, year and month, from records of the Storm Prediction Center's form.

A tornado day of a cell is a calendar day on which at least one tornado began in it: a day with
five touchdowns is one day. Only where a tornado began is looked at; end points are recorded for a
part of them.
"""

from __future__ import annotations

import calendar
import csv
import io
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import h3
import numpy as np

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

H3_RESOLUTION = 4
MONTH_COUNT = 12
BBOX = (-102.05, 37.0, -94.6, 40.0)
"""West, south, east, north of Kansas in degrees."""
_COLUMNS = ("yr", "mo", "dy", "slat", "slon")
_FIRST_YEAR = 1900


@dataclass(frozen=True)
class TornadoDays:
    """Counts of tornado days.

    Attributes:
        name: Of the data set.
        cells: H3 cells of resolution 4 whose centre lies in the domain or in which a tornado
            began, sorted.
        years: Ascending, without gaps.
        counts: int16 [cell, year, month]: days with at least one tornado that began there.
        day_counts: int16 [year, month]: days of the month.
        digest: ``sha256:<hex>`` of what was read.
    """

    name: str
    cells: tuple[str, ...]
    years: tuple[int, ...]
    counts: NDArray[np.int16]
    day_counts: NDArray[np.int16]
    digest: str

    @property
    def start_at(self) -> datetime:
        """First instant of the first year."""
        return datetime(self.years[0], 1, 1, tzinfo=UTC)

    @property
    def end_at(self) -> datetime:
        """Last day of the last year."""
        return datetime(self.years[-1], 12, 31, tzinfo=UTC)


def load_tornadoes(path: Path) -> TornadoDays:
    """Read a CSV with the columns ``yr, mo, dy, slat, slon`` (degrees), one row per tornado.

    Raises:
        DataError: The file cannot be read, a column is missing, or a row holds what is no date or
            no place of the domain; names row and column.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError("cannot be read as UTF-8 text", where=path.name) from exc
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"has no column {', '.join(missing)}",
            where=path.name,
            remedy=f"give a CSV with the columns {', '.join(_COLUMNS)}",
        )
    days = set(_days(reader, path.name))
    if not days:
        raise DataError("holds no tornado", where=path.name, remedy="give at least two years")
    return count_days(days, name=path.stem, digest=digest_bytes(data))


def _days(rows: Iterable[dict[str, str]], where: str) -> Iterator[tuple[str, date]]:
    west, south, east, north = BBOX
    slack = 0.2  # degrees; the state's border is not its bounding box
    for number, row in enumerate(rows, start=2):
        values = {}
        for name in _COLUMNS:
            try:
                values[name] = float(row[name])
            except (TypeError, ValueError) as exc:
                raise DataError(
                    f"{str(row[name])[:40]!r} is no number",
                    where=f"{where}, row {number}, column {name}",
                    remedy="correct the row or leave it out",
                ) from exc
        try:
            day = date(int(values["yr"]), int(values["mo"]), int(values["dy"]))
        except (ValueError, OverflowError) as exc:
            raise DataError(
                f"is no date ({exc})",
                where=f"{where}, row {number}, columns yr, mo, dy",
                remedy="correct the row or leave it out",
            ) from exc
        lat, lon = values["slat"], values["slon"]
        inside = (
            south - slack <= lat <= north + slack
            and west - slack <= lon <= east + slack
            and day.year >= _FIRST_YEAR
        )
        if not inside:
            raise DataError(
                "lies outside Kansas, or before 1900",
                where=f"{where}, row {number}, columns yr, slat, slon",
                remedy="degrees north and east are expected, west is negative",
            )
        yield h3.latlng_to_cell(lat, lon, H3_RESOLUTION), day


def domain_cells() -> frozenset[str]:
    """Return the cells of resolution 4 whose centre lies in the domain."""
    west, south, east, north = BBOX
    outline = h3.LatLngPoly([(south, west), (south, east), (north, east), (north, west)])
    return frozenset(h3.polygon_to_cells(outline, H3_RESOLUTION))


def count_days(days: set[tuple[str, date]], *, name: str, digest: str) -> TornadoDays:
    """Count tornado days.

    Args:
        days: (cell, day) pairs; at least one.
        name: Of the data set.
        digest: Of what they were read from.

    Raises:
        DataError: All days lie in years of one parity, so that nothing can be held out.
    """
    cells = tuple(sorted(domain_cells() | {cell for cell, _ in days}))
    found = {day.year for _, day in days}
    years = tuple(range(min(found), max(found) + 1))
    if len(years) < 2:  # noqa: PLR2004 - one to learn from, one to test on
        raise DataError("covers one year only", where=name, remedy="give at least two years")
    index = {cell: k for k, cell in enumerate(cells)}
    counts = np.zeros((len(cells), len(years), MONTH_COUNT), np.int16)
    for cell, day in days:
        counts[index[cell], day.year - years[0], day.month - 1] += 1
    lengths = [[calendar.monthrange(y, m + 1)[1] for m in range(MONTH_COUNT)] for y in years]
    return TornadoDays(name, cells, years, counts, np.array(lengths, np.int16), digest)
