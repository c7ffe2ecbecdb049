"""Published tables over H3 cells: anything in a release that gives numbers for them.

A JSON list of objects or parallel lists, a JSON object with cells as keys, a CSV with a column of
cells. Reading is all that is done here; :mod:`~kfm_mlflow.care.screen_tables` judges.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfm_mlflow.care.screen_subject import Subject

_CELL = re.compile(r"8[0-9a-f]{14}")
_COUNT_KEYS = frozenset(
    {"n", "k", "count", "counts", "records", "record_count", "samples", "sites", "rows", "total_n"}
)
_TOTAL_KEYS = frozenset({"total", "total_count", "sum", "all"})
_SUPPRESSED = frozenset({"*", "suppressed", "withheld", "na", "n/a", "-", "x", "(d)"})


@dataclass(frozen=True)
class Row:
    """What a table says of one cell.

    Attributes:
        cell: The H3 cell.
        count: How many records it stands for; None when it is suppressed or not told.
        is_suppressed: Whether the table says that it leaves the count out.
        shares: Category -> number of records.
        values: Column -> number.
    """

    cell: str
    count: float | None
    is_suppressed: bool
    shares: Mapping[str, float]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """A published table; ``where`` is its file and place in it."""

    where: str
    rows: tuple[Row, ...]
    total: float | None = None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - NaN is no number


def is_cell(value: Any) -> bool:
    """Return whether a value is an H3 cell in hexadecimal."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    return (
        isinstance(value, str) and bool(_CELL.fullmatch(value.lower())) and h3.is_valid_cell(value)
    )


def _row(cell: str, fields: Mapping[str, Any]) -> Row:
    count: float | None = None
    suppressed = False
    shares: dict[str, float] = {}
    values: dict[str, float] = {}
    for key, value in fields.items():
        name = str(key).lower()
        if isinstance(value, Mapping):
            numbers = {str(k): _number(v) for k, v in value.items()}
            shares.update({k: v for k, v in numbers.items() if v is not None})
        elif name in _COUNT_KEYS:
            count = _number(value)
            said = str(value).strip().lower()
            suppressed = count is None and (value is None or said in _SUPPRESSED or said[:1] == "<")
        elif (number := _number(value)) is not None:
            values[str(key)] = number
    return Row(cell.lower(), count, suppressed, shares, values)


def _total(fields: Mapping[str, Any]) -> float | None:
    found = (_number(v) for k, v in fields.items() if str(k).lower() in _TOTAL_KEYS)
    return next((number for number in found if number is not None), None)


def _json_tables(file: str, document: Any) -> Iterator[Table]:
    rest: list[tuple[str, Any, Mapping[str, Any]]] = [("$", document, {})]
    while rest:
        path, item, parent = rest.pop()
        if isinstance(item, list):
            rows = [
                _row(cell, {k: v for k, v in one.items() if v != cell})
                for one in item
                if isinstance(one, Mapping)
                and (cell := next((v for v in one.values() if is_cell(v)), None)) is not None
            ]
            if rows:
                yield Table(f"{file}: {path}", tuple(rows), _total(parent))
            else:
                rest += [(f"{path}[{i}]", v, {}) for i, v in enumerate(item) if _holds_more(v)]
        elif isinstance(item, Mapping):
            yield from _mapping_tables(file, path, item, parent)
            rest += [(f"{path}.{k}", v, item) for k, v in item.items() if _holds_more(v)]


def _holds_more(value: Any) -> bool:
    return isinstance(value, list | Mapping)


def _mapping_tables(
    file: str, path: str, item: Mapping[str, Any], parent: Mapping[str, Any]
) -> Iterator[Table]:
    cells = [key for key in item if is_cell(key)]
    if cells:
        counted = all(v is None or isinstance(v, int | str) for k, v in item.items() if is_cell(k))
        name = "count" if counted else "value"
        rows = tuple(
            _row(cell, item[cell] if isinstance(item[cell], Mapping) else {name: item[cell]})
            for cell in cells
        )
        yield Table(f"{file}: {path}", rows, _total(item) or _total(parent))
    for key, column in item.items():
        if isinstance(column, list) and column and all(is_cell(cell) for cell in column):
            others = {
                k: v
                for k, v in item.items()
                if k != key and isinstance(v, list) and len(v) == len(column)
            }
            rows = tuple(
                _row(cell, {k: v[i] for k, v in others.items()}) for i, cell in enumerate(column)
            )
            yield Table(f"{file}: {path}.{key}", rows, _total(item))


def _csv_table(file: str, text: str) -> Iterator[Table]:
    if not re.search(r"\b8[0-9a-fA-F]{14}\b", text):
        return
    lines = list(csv.DictReader(io.StringIO(text)))
    rows, total = [], None
    for line in lines:
        fields = {k: v for k, v in line.items() if isinstance(k, str) and isinstance(v, str)}
        cell = next((v for v in fields.values() if is_cell(v)), None)
        if cell is not None:
            rows.append(_row(cell, {k: v for k, v in fields.items() if v != cell}))
        elif any(v.strip().lower() in _TOTAL_KEYS for v in fields.values()):
            total = next((n for v in fields.values() if (n := _number(v)) is not None), None)
    if rows:
        yield Table(file, tuple(rows), total)


def published_tables(subject: Subject) -> list[Table]:
    """Return every table over H3 cells that a release publishes, in the order of its files."""
    found: list[Table] = []
    for path in sorted(subject.texts):
        if not re.search(r"8[0-9a-fA-F]{14}", subject.texts[path]):
            continue
        file = subject.regions.shown(path)
        if path in subject.documents:
            found += _json_tables(file, subject.documents[path])
        elif path.endswith((".csv", ".txt", ".md")):
            found += _csv_table(file, subject.texts[path])
    return found
