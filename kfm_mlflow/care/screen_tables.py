"""Checks of published tables over H3 cells: detail, small counts, differences, gradients.

The attacks that are looked for are those of statistical disclosure control: small cells
(k-anonymity, Sweeney 2002), nested cells whose difference is a small cell, two counts of one cell
that differ by a few (tracker, Denning 1979), one suppressed cell beside its total (Cox 1980,
complementary suppression), and a cell in which everybody has the same value (homogeneity,
Machanavajjhala 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.modes import find_mode, k_min_of_mode
from kfm_mlflow.care.screening import CareFinding, Status
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from kfm_mlflow.care.regions import Region
    from kfm_mlflow.care.screen_published import Row, Table
    from kfm_mlflow.care.screen_subject import Subject


@dataclass(frozen=True)
class Judge:
    """What is too few, and how a finding says so.

    Attributes:
        subject: The release.
        mode_k_min: Smallest number of records that its masking mode promises.
    """

    subject: Subject
    mode_k_min: int

    def k_min(self, regions: Sequence[Region]) -> int:
        """Return how many records a cell in these regions must stand for; 1 outside all."""
        return max([self.mode_k_min, *(r.k_min for r in regions)]) if regions else 1

    def found(
        self, what: str, where: str, region: Region, numbers: tuple[str, str, str]
    ) -> CareFinding:
        """Return a conflict over one region."""
        return CareFinding(
            Status.CONFLICT, what, "S-F05", where, *numbers, self.subject.called(region)
        )


def disclosure(subject: Subject, tables: Sequence[Table]) -> Iterator[CareFinding]:
    """Ask whether published counts, alone or by subtraction, tell of fewer than ``k_min``."""
    judge = Judge(subject, k_min_of_mode(subject.care.get("masking")))
    touching = {
        row.cell: found
        for table in tables
        for row in table.rows
        if (found := subject.touching(row.cell))
    }
    for table in tables:
        rows = [row for row in table.rows if row.cell in touching]
        yield from first_each(_too_fine(judge, table, rows, touching))
        yield from first_each(_small(judge, table, rows, touching))
        yield from first_each(_recoverable(judge, table, touching))
    yield from first_each(_nested(judge, tables, touching))
    yield from first_each(_tracked(judge, tables, touching))


def first_each(findings: Iterator[CareFinding]) -> Iterator[CareFinding]:
    """Yield the first finding of each kind: a table of a million cells needs no million lines."""
    seen = set()
    for finding in findings:
        kind = (finding.what, finding.where, finding.region)
        if kind not in seen:
            seen.add(kind)
            yield finding


_Touching = Mapping[str, tuple["Region", ...]]


def _too_fine(
    judge: Judge, table: Table, rows: Sequence[Row], touching: _Touching
) -> Iterator[CareFinding]:
    import h3

    for row in rows:
        resolution = h3.get_resolution(row.cell)
        for region in touching[row.cell]:
            if resolution > region.ceiling:
                yield CareFinding(
                    Status.CONFLICT,
                    "published cells finer than its ceiling",
                    "S-F01",
                    table.where,
                    f"{cell_side_km(resolution):.2f}",
                    f"{cell_side_km(region.ceiling):.2f}",
                    "km",
                    judge.subject.called(region),
                )


def _small(
    judge: Judge, table: Table, rows: Sequence[Row], touching: _Touching
) -> Iterator[CareFinding]:
    for row in rows:
        regions = touching[row.cell]
        k_min = judge.k_min(regions)
        if row.count is not None and 0 < row.count < k_min:
            numbers = (f"{row.count:g}", f"{k_min}", "records")
            yield judge.found("cell stands for too few records", table.where, regions[0], numbers)
        shares = [share for share in row.shares.values() if share > 0]
        if k_min > 1 and shares and any(share < k_min for share in shares):
            numbers = (f"{min(shares):g}", f"{k_min}", "records")
            yield judge.found("category stands for too few", table.where, regions[0], numbers)
        if k_min > 1 and len(row.shares) > 1 and len(shares) == 1:
            numbers = ("1 category", "2 or more", "")
            yield judge.found("all records of a cell are alike", table.where, regions[0], numbers)


def _recoverable(judge: Judge, table: Table, touching: _Touching) -> Iterator[CareFinding]:
    """Yield a suppressed count that its total and its neighbours give back."""
    hidden = [row for row in table.rows if row.is_suppressed]
    told = [row.count for row in table.rows if row.count is not None]
    if table.total is None or len(hidden) != 1 or hidden[0].cell not in touching:
        return
    regions = touching[hidden[0].cell]
    rest, k_min = table.total - sum(told), judge.k_min(regions)
    if rest < k_min:
        numbers = ("1 suppressed cell", "none or 2", "")
        yield judge.found(
            "suppressed count follows from the total", table.where, regions[0], numbers
        )


def _nested(judge: Judge, tables: Sequence[Table], touching: _Touching) -> Iterator[CareFinding]:
    """Yield a cell that lies in another: what the difference stands for may be very few."""
    import h3

    counted = {row.cell for t in tables for row in t.rows if row.count is not None}
    for table in tables:
        own = {row.cell for row in table.rows}
        with_counted = own | counted
        for row in table.rows:
            among = with_counted if row.count is not None else own
            for resolution in range(h3.get_resolution(row.cell)):
                parent = h3.cell_to_parent(row.cell, resolution)
                if parent in among and (parent in touching or row.cell in touching):
                    regions = touching.get(row.cell) or touching[parent]
                    yield judge.found(
                        "cell and its parent are both published",
                        table.where,
                        regions[0],
                        ("nested", "one of them", ""),
                    )


def _tracked(judge: Judge, tables: Sequence[Table], touching: _Touching) -> Iterator[CareFinding]:
    """Yield two counts of one cell whose difference is too few records."""
    counts = [
        {row.cell: row.count for row in t.rows if row.count is not None and row.cell in touching}
        for t in tables
    ]
    for (first, one), (_, other) in combinations(zip(tables, counts, strict=True), 2):
        for cell in one.keys() & other.keys():
            regions = touching[cell]
            difference, k_min = abs(one[cell] - other[cell]), judge.k_min(regions)
            if 0 < difference < k_min:
                numbers = (f"{difference:g}", f"{k_min}", "records")
                yield judge.found(
                    "two counts of a cell differ by too few", first.where, regions[0], numbers
                )


def gradients(subject: Subject, tables: Sequence[Table]) -> Iterator[CareFinding]:
    """Ask whether a published field falls or rises so steeply at a border that it draws it."""
    try:
        limit = find_mode(str(subject.care.get("masking"))).max_border_step_ratio
    except InputError:
        limit = None
    if limit is None:
        return
    for table in tables:
        yield from first_each(_steps(subject, table, limit))


def _steps(subject: Subject, table: Table, limit: float) -> Iterator[CareFinding]:
    import h3

    columns = {name for row in table.rows for name in row.values}
    inside = {row.cell: found for row in table.rows if (found := subject.touching(row.cell))}
    for name in sorted(columns):
        field = {row.cell: row.values[name] for row in table.rows if name in row.values}
        outside = [value for cell, value in field.items() if cell not in inside]
        spread = max(outside) - min(outside) if outside else 0.0
        for cell in sorted(inside.keys() & field.keys()) if spread > 0 else ():
            near = [n for n in h3.grid_disk(cell, 1) if n in field and n not in inside]
            step = max((abs(field[cell] - field[n]) for n in near), default=0.0) / spread
            if step > limit:
                yield CareFinding(
                    Status.CONFLICT,
                    "field steps at the border by more than its mode allows",
                    "S-F03",
                    table.where,
                    f"{step:.2f}",
                    f"{limit:.2f}",
                    "of the range outside",
                    subject.called(inside[cell][0]),
                )
