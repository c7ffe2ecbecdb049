"""Parts of an answer that were read, and what each becomes when places are known to be publishable.

A part is written once everything was read, because one partition holds for the whole answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kfm_mlflow.care.cells import WITHHELD
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.care.mask_json import Reading

ONE_RECORD_KEY = "h3_cells"
"""Under this key, all cells of a list belong to one record."""
DROP: Any = object()
"""What a part becomes that may not be published."""


class Node(Protocol):
    """A part of an answer that was read and can be written masked."""

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""


@dataclass(frozen=True)
class Constant:
    """What masking leaves alone."""

    value: Any

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        del done
        return self.value


@dataclass(frozen=True)
class Text:
    """A text."""

    value: str

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        return done.shown(self.value)


@dataclass(frozen=True)
class Cell:
    """One cell, or the cells of one record."""

    at: slice
    is_list: bool = False

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        found = done.cells_at(self.at)
        if not found:
            return DROP
        return found if self.is_list else found[0]


@dataclass(frozen=True)
class List:
    """A list; what is withheld leaves it."""

    items: list[Node]

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        return [value for item in self.items if (value := item.write(done)) is not DROP]


@dataclass(frozen=True)
class Object:
    """An object; with a place of its own that is withheld, it goes whole."""

    items: dict[Any, Node]
    own: dict[str, Node] = field(default_factory=dict)

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        found: dict[Any, Any] = {}
        for key, item in {**self.items, **self.own}.items():
            value = item.write(done)
            if value is DROP:
                if key in self.own or isinstance(item, Cell):
                    return DROP
            elif not (isinstance(key, str) and done.is_unclean(key)):
                found[key] = value
        return found


@dataclass(frozen=True)
class Feature:
    """A GeoJSON feature with a geometry."""

    item: Node
    places: Cell

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        cells = self.places.write(done)
        found = self.item.write(done)
        if cells is DROP or found is DROP:
            return DROP
        properties = {**(found.get("properties") or {}), ONE_RECORD_KEY: cells}
        return {**found, "geometry": None, "properties": properties}


@dataclass(frozen=True)
class Table:
    """Columns of equal length, some of them of places: written as columns, rows, or a split.

    Attributes:
        columns: What is no place.
        places: Column -> where its cells were noted.
        size: Number of rows.
        form: ``columns``, ``rows`` or ``split``.
        beside: What else the object holds.
        rows: The rows as they were given, when they were.
    """

    columns: Mapping[Any, Sequence[Any]]
    places: dict[str, slice]
    size: int
    form: str
    beside: Node | None = None
    rows: list[dict[Any, Any]] | None = None

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        kept = np.ones(self.size, dtype=np.bool_)
        for at in self.places.values():
            kept &= done.published[at] != WITHHELD
        rows = None if kept.all() else np.flatnonzero(kept).tolist()
        if self.rows is not None and rows is None and self._is_unchanged(done):
            return self.rows
        columns: dict[Any, Sequence[Any]] = {}
        for name, column in self.columns.items():
            if not (isinstance(name, str) and done.is_unclean(name)):
                columns[name] = done.shown_all(_taken(column, rows))
        for name, at in self.places.items():
            if not done.is_unclean(name):
                columns[name] = _taken(done.texts_at(at), rows)
        if self.form == "columns":
            rest = {} if self.beside is None else self.beside.write(done)
            return rest if rest is DROP else {**rest, **columns}
        table = [list(row) for row in zip(*columns.values(), strict=True)]
        if self.form == "split":
            return {"columns": list(columns), "data": table}
        return [dict(zip(columns, row, strict=True)) for row in table]

    def _is_unchanged(self, done: Reading) -> bool:
        """Return whether every text and every cell stays as it was given."""
        return not done.has_unclean and all(map(done.is_as_given, self.places.values()))


def _taken(column: Sequence[Any], rows: list[int] | None) -> Sequence[Any]:
    return column if rows is None else [column[row] for row in rows]


@dataclass(frozen=True)
class Required:
    """A feature whose cells stand in its properties: without any, it goes whole."""

    item: Node
    has_cells: bool

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        found = self.item.write(done)
        lost = self.has_cells and (
            found is DROP or ONE_RECORD_KEY not in (found.get("properties") or {})
        )
        return DROP if lost else found


@dataclass(frozen=True)
class Column:
    """A bare list of cells."""

    table: Table

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        return list(self.table.write(done)[""])


@dataclass(frozen=True)
class Keyed:
    """An object with cells as keys and anything as values."""

    keys: list[Cell]
    values: list[Node]

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        found: dict[str, Any] = {}
        for key, item in zip(self.keys, self.values, strict=True):
            cell, value = key.write(done), item.write(done)
            if cell is DROP or value is DROP:
                continue
            if found.setdefault(cell, value) != value:
                raise DataError("values of several cells fall into one and cannot be merged")
        return found


@dataclass(frozen=True)
class Both:
    """An object with cells among its keys."""

    keyed: Node
    others: Node

    def write(self, done: Reading) -> Any:
        """Return it masked, or :data:`DROP`."""
        found, rest = self.keyed.write(done), self.others.write(done)
        return DROP if rest is DROP else {**rest, **found}
