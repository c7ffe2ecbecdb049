"""Asking what two releases tell together that neither tells alone.

Who kept the tables of the predecessor may subtract them from the new ones. What is left of a cell
of one release, when the cells in it that the other publishes are taken away, stands for a few
records, or for an area smaller than may be published. H3 cells are nested or apart, so for two
partitions these remainders are all that subtraction isolates. Sources: sequential releases (Wang
and Fung 2006), incremental data (Byun et al. 2006), m-invariance (Xiao and Tao 2007), differencing
of areas (Duke-Williams and Rees 1998), complementary suppression (Cox 1980).

Only one predecessor is looked at, and not what three releases tell together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from kfm_mlflow.care.modes import k_min_of_mode
from kfm_mlflow.care.screen_published import Table
from kfm_mlflow.care.screen_tables import Judge, first_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kfm_mlflow.care.regions import Region
    from kfm_mlflow.care.screen_published import Row
    from kfm_mlflow.care.screen_subject import Subject
    from kfm_mlflow.care.screening import CareFinding

_CHILD_COUNT = 7
_MOST_LISTED = 2_401
"""Cells of a remainder that are looked at one by one (four resolutions down); of a larger one, all
regions that the whole touches are taken for touched."""
_COUNTS = "counts, subtracted from the predecessor's, tell of too few records"
_SHARES = "a category's counts, subtracted from the predecessor's, tell of too few records"
_VALUES = "values, subtracted from the predecessor's, tell of too small an area"


@dataclass(frozen=True)
class _Left:
    """What is left of a cell of one release when cells of the other are taken away.

    Attributes:
        what: What it tells when it is too small.
        whole: The cell.
        taken: The cells in it that are taken away.
        record_count: How many records are left; None when nobody counts them.
    """

    what: str
    whole: str
    taken: tuple[str, ...]
    record_count: float | None = None

    @cached_property
    def resolution(self) -> int:
        """The finest resolution of the cells that are taken away."""
        import h3  # type: ignore[import-untyped]  # it ships no stubs

        return int(max(h3.get_resolution(cell) for cell in self.taken))

    @cached_property
    def cell_count(self) -> int:
        """Cells of that resolution that are left."""
        import h3

        covered = sum(h3.cell_to_children_size(cell, self.resolution) for cell in self.taken)
        return int(max(h3.cell_to_children_size(self.whole, self.resolution) - covered, 0))

    def too_few(self, region: Region, k_min: int) -> tuple[str, str, str] | None:
        """Return what is observed, its limit and their unit; None when it is nothing, or enough.

        Where nobody counts records, ``k`` cells at the region's ceiling are the least.
        """
        finer = self.resolution - region.ceiling
        area = k_min * _CHILD_COUNT ** max(finer, 0)
        least = -(-area // _CHILD_COUNT ** max(-finer, 0))
        observed, limit, unit = (
            (self.cell_count, least, f"cells of H3 r{self.resolution}")
            if self.record_count is None
            else (self.record_count, k_min, "records")
        )
        return (f"{observed:g}", f"{limit}", unit) if 0 < observed < limit else None


def differencing(
    subject: Subject, tables: Sequence[Table], earlier: Sequence[Table]
) -> Iterator[CareFinding]:
    """Ask whether tables isolate too few when those of the predecessor are subtracted.

    A cell that stands in a table several times (once a year, say) is compared in that order. Only
    when no two tables tell too much are all tables of one release subtracted from all of the other.

    Args:
        subject: The release.
        tables: What it publishes.
        earlier: What its predecessor, which people may have kept, published.
    """
    judge = Judge(subject, k_min_of_mode(subject.care.get("masking")))
    asked = _Asked(judge, cache(subject.touching))
    new, old = ([tuple(_layers(table)) for table in one] for one in (tables, earlier))
    pairs = (pair for mine in new for theirs in old for pair in zip(mine, theirs, strict=False))
    found = tuple(first_each(finding for pair in pairs for finding in asked.judged(*pair)))
    if not found and max(len(new), len(old)) > 1:
        found = tuple(first_each(asked.judged(_together(new), _together(old))))
    yield from found


def _layers(table: Table) -> Iterator[Table]:
    """Yield the table as tables in which no cell stands twice."""
    layers: list[dict[str, Row]] = []
    often: Counter[str] = Counter()
    for row in table.rows:
        if often[row.cell] == len(layers):
            layers.append({})
        layers[often[row.cell]][row.cell] = row
        often[row.cell] += 1
    for layer in layers:
        yield Table(table.where, tuple(layer.values()))


def _together(tables: Iterable[tuple[Table, ...]]) -> Table:
    """Return one table of the first layers of all, in which a cell that is counted comes first."""
    rows: dict[str, Row] = {}
    for layers in tables:
        for row in layers[0].rows:
            if row.cell not in rows or rows[row.cell].count is None:
                rows[row.cell] = row
    return Table("", tuple(rows.values()))


@dataclass(frozen=True)
class _Asked:
    """The questions to two tables, under the rules of one subject.

    Attributes:
        judge: Says how many are too few, and calls regions as findings do.
        touching: Cell -> the regions that it may touch.
    """

    judge: Judge
    touching: Callable[[str], tuple[Region, ...]]

    def judged(self, own: Table, other: Table) -> Iterator[CareFinding]:
        """Yield what a table, of which findings name the file, tells beside one of the other."""
        for left in (*self._left(own, other), *self._left(other, own)):
            few = {
                region.id: (region, numbers)
                for region in self.touching(left.whole)
                if (numbers := left.too_few(region, self.judge.k_min((region,))))
            }
            for region in self._near(left) if few else ():
                if region.id in few:
                    yield self.judge.found(left.what, own.where, *few[region.id])

    def _left(self, wholes: Table, parts: Table) -> Iterator[_Left]:
        """Yield what is left of each cell in a region that holds cells of the other table."""
        import h3

        coarse = {row.cell: row for row in wholes.rows if self.touching(row.cell)}
        levels = sorted({h3.get_resolution(cell) for cell in coarse})
        inside: dict[str, list[Row]] = {}
        for row in parts.rows:
            own = h3.get_resolution(row.cell)
            for level in (level for level in levels if level <= own):
                if (cell := h3.cell_to_parent(row.cell, level)) in coarse:
                    inside.setdefault(cell, []).append(row)
        for cell, rows in inside.items():
            yield from _subtracted(coarse[cell], rows)

    def _near(self, left: _Left) -> tuple[Region, ...]:
        """Return the regions that what is left may touch; the whole's, when it is none or large."""
        import h3

        touched, finest = self.touching(left.whole), left.resolution
        if left.cell_count == 0 or h3.cell_to_children_size(left.whole, finest) > _MOST_LISTED:
            return touched
        gone = {child for cell in left.taken for child in h3.cell_to_children(cell, finest)}
        rest = set(h3.cell_to_children(left.whole, finest)) - gone
        near = {region.id for cell in rest for region in self.touching(cell)}
        return tuple(region for region in touched if region.id in near)


def _subtracted(whole: Row, parts: Sequence[Row]) -> Iterator[_Left]:
    """Yield what is left of a cell, by everything that both tables tell."""
    counted = [row for row in parts if row.count is not None]
    if whole.count is not None and counted:
        difference = abs(whole.count - sum(row.count or 0 for row in counted))
        yield _Left(_COUNTS, whole.cell, _cells(counted), difference)
    shared = [row for row in parts if row.shares]
    for category, count in whole.shares.items() if shared else ():
        difference = abs(count - sum(row.shares.get(category, 0) for row in shared))
        yield _Left(_SHARES, whole.cell, _cells(shared), difference)
    if whole.count is not None and len(counted) == len(parts):
        return  # Records are known, and were asked about.
    taken = {_cells([row for row in parts if name in row.values]) for name in whole.values}
    for cells in sorted(taken - {()}):
        yield _Left(_VALUES, whole.cell, cells)


def _cells(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(sorted(row.cell for row in rows))
