"""Masking JSON: every place in an answer is found, and all of them are generalised together.

What counts as a place

1. text that is an H3 cell, a list of such, and an object with cells as keys;
2. two keys of an object, or two columns, that say latitude and longitude (``lat``, ``site_lon``);
3. every GeoJSON geometry.

Coordinates become cells: keys and columns go and ``h3_cell`` comes, and a feature keeps its
properties, gets ``h3_cells``, and has no geometry any more (RFC 7946, section 3.2). What is
withheld takes its row, its feature or its object along. One partition holds for the whole answer,
so that no difference of two parts shows more than either. What masks leaves alone comes out equal.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, format_cells, resolutions
from kfm_mlflow.care.generalise import generalise_cells
from kfm_mlflow.care.mask_cells import count_of, finest_of, is_cell, means_of, read_cells
from kfm_mlflow.care.mask_geometry import (
    GEOMETRIES,
    cells_of_coordinates,
    cells_of_geometry,
    place_keys,
)
from kfm_mlflow.care.mask_nodes import (
    DROP,
    ONE_RECORD_KEY,
    Both,
    Cell,
    Column,
    Constant,
    Feature,
    Keyed,
    List,
    Object,
    Required,
    Table,
    Text,
)
from kfm_mlflow.care.mask_shapes import field_of, holds_more, is_axis, kinds_of, may_place
from kfm_mlflow.care.tables import CELL_COLUMN
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.coverage import Coverage
    from kfm_mlflow.care.mask_nodes import Node
    from kfm_mlflow.care.mask_places import Judge

WITHHELD_TEXT = "[withheld]"
_MOST_DEPTH = 60
_LARGEST_PLAIN_INTEGER = 2**53
_SCALARS = {str, int, float, bool, type(None)}


class MaskingError(Exception):
    """Something came out finer than its ceiling: a fault of masking, not of the answer."""


class Reading:
    """An answer that is being read, and then what may be published of it.

    Attributes:
        published: The cell under which each place that was read is published.
        counts: Kind -> number of places, texts or pixels that were changed.
        withheld_count: Parts that were left out.
    """

    def __init__(self, coverage: Coverage, judge: Judge) -> None:
        """Begin reading.

        Args:
            coverage: What holds where.
            judge: What holds of texts and of loose numbers.
        """
        self.published: Cells = np.zeros(0, dtype=np.uint64)
        self.counts: dict[str, int] = {}
        self.withheld_count = 0
        self._coverage = coverage
        self._judge = judge
        self._chunks: list[tuple[Cells, str]] = []
        self._given: dict[int, Any] = {}
        self._joint: list[slice] = []
        self._size = 0
        self._texts: dict[str, None] = {}
        self._unclean: set[str] = set()

    # -- writing -------------------------------------------------------------------------------

    def is_unclean(self, text: str) -> bool:
        """Return whether a text may not be shown."""
        return text in self._unclean

    def shown(self, text: Any) -> Any:
        """Return a text, or what stands for one that may not be shown."""
        return WITHHELD_TEXT if isinstance(text, str) and text in self._unclean else text

    def shown_all(self, column: Sequence[Any]) -> Sequence[Any]:
        """Return a column with its texts shown."""
        return [self.shown(text) for text in column] if self._unclean else column

    @property
    def has_unclean(self) -> bool:
        """Whether any text may not be shown."""
        return bool(self._unclean)

    def texts_at(self, at: slice) -> list[str]:
        """Return cells as text; those that stayed as they were given."""
        if self.is_as_given(at):
            given: list[str] = self._given[at.start]
            return given
        return format_cells(self.published[at])

    def is_as_given(self, at: slice) -> bool:
        """Return whether cells came as text and are published as they came."""
        if not isinstance(self._given.get(at.start), list):
            return False
        unchanged = self.published is self._all
        return unchanged or np.array_equal(self.published[at], self._all[at])

    def cells_at(self, at: slice) -> list[str]:
        """Return the cells of one record, sorted, each once; none when all are withheld."""
        cells = np.unique(self.published[at])
        return format_cells(cells[cells != WITHHELD])

    # -- reading -------------------------------------------------------------------------------

    def mask(self, value: Any) -> Any:
        """Return a JSON value masked.

        Raises:
            DataError: It cannot be masked; says why, and where without names.
            InputError: Something that should be a cell is none.
        """
        node = self._read(value, "$", 0)
        self._publish()
        self._judge_texts()
        found = node.write(self)
        if found is DROP or (isinstance(value, str) and value in self._unclean):
            raise DataError("nothing of it may be published")
        return found

    def _publish(self) -> None:
        self._all = np.concatenate([np.zeros(0, dtype=np.uint64), *(c for c, _ in self._chunks)])
        if not self._all.size:
            return
        self.published = finest_of(self._all, self._joint, self._coverage)
        if self.published is self._all and all(kind == "cells" for _, kind in self._chunks):
            return
        start = 0
        for chunk, kind in self._chunks:
            out = self.published[start : start + chunk.size]
            changed = out != chunk if kind == "cells" else np.ones(chunk.size, dtype=np.bool_)
            hidden = int((out == WITHHELD).sum())
            if kind == "geometries":
                changed, hidden = changed[:1], int(hidden == chunk.size)
            count_of(self.counts, kind, int(changed.sum()) - hidden)
            self.withheld_count += hidden
            start += chunk.size
        if self.published is self._all:
            return
        # Asked again, of what came out: masking that is wrong is a fault of ours, and loud.
        shown = self.published[self.published != WITHHELD]
        if (resolutions(shown) > self._coverage.ceilings(shown)).any():
            raise MaskingError

    def _judge_texts(self) -> None:
        texts = list(self._texts)
        if not texts or self._judge.is_clean("\n".join(texts)):
            return
        self._unclean = self._judge.unclean(texts)
        count_of(self.counts, "texts", len(self._unclean))
        if not self._judge.is_clean("\n".join(t for t in texts if t not in self._unclean)):
            raise DataError("its texts together hold a restricted name or a place")

    def _note(self, text: str) -> None:
        self._texts[text] = None

    def _add(self, cells: Cells, kind: str, given: Any = None, *, joint: bool = False) -> slice:
        at = slice(self._size, self._size + cells.size)
        self._chunks.append((cells, kind))
        if cells.size:
            self._given[self._size] = given
        self._size += cells.size
        if joint:
            self._joint.append(at)
        return at

    def _read(  # noqa: PLR0911 - one return per type of JSON
        self, value: Any, path: str, depth: int
    ) -> Node:
        if depth > _MOST_DEPTH:
            raise DataError("is nested too deeply")
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return self._object(value, path, depth)
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
            return self._read(value, path, depth)
        if isinstance(value, list | tuple):
            return self._list(list(value), path, depth)
        if isinstance(value, bool) or value is None:
            return Constant(value)
        if isinstance(value, int | float):
            self._number(value)
            return Constant(value)
        if isinstance(value, date):
            return Constant(value)
        raise DataError(f"holds a value of type {type(value).__name__[:40]}", where=path)

    def _number(self, value: float) -> None:
        # An H3 cell may be written as a whole number.
        is_large = isinstance(value, int) and abs(value) > _LARGEST_PLAIN_INTEGER
        if is_large and not self._judge.is_clean(str(value)):
            raise DataError("holds a number that is a cell in a region")

    def _text(self, value: str) -> Node:
        cells = read_cells([value])
        if cells is not None:
            return Cell(self._add(cells, "cells", [value]))
        self._note(value)
        return Text(value)

    def _list(self, value: list[Any], path: str, depth: int) -> Node:
        cells = read_cells(value)
        if cells is not None:
            at = self._add(cells, "cells", value)
            return Column(Table({}, {"": at}, len(value), "columns"))
        kinds = set(map(type, value))
        if kinds <= {int, float}:
            self._numbers(value, kinds)
            return Constant(value)
        if kinds == {dict} and (table := self._rows(value, path)) is not None:
            return table
        return List([self._read(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)])

    def _numbers(self, value: list[Any], kinds: set[type]) -> None:
        if int in kinds and max(map(abs, value)) > _LARGEST_PLAIN_INTEGER:
            for number in value:
                self._number(number)
        if float in kinds and self._judge.numbers_fix_place(value):
            raise DataError("holds numbers that are a place in a region")

    # -- tables --------------------------------------------------------------------------------

    def _rows(self, rows: list[dict[Any, Any]], path: str) -> Node | None:
        keys = rows[0].keys()
        if not keys or "type" in keys or set(map(len, rows)) != {len(keys)}:
            return None
        if any(map(is_cell, keys)):
            return None
        try:
            columns = {key: list(map(operator.itemgetter(key), rows)) for key in keys}
        except KeyError:
            return None
        table = self._table(columns, len(rows), "rows", path)
        return None if table is None else replace(table, rows=rows)

    def _table(
        self, columns: Mapping[Any, list[Any]], size: int, form: str, path: str
    ) -> Table | None:
        """Read columns; None when one is not of scalars, or none is a place."""
        found = {
            name: cells
            for name, column in columns.items()
            if isinstance(name, str) and (cells := read_cells(column)) is not None
        }
        rest = {name: column for name, column in columns.items() if name not in found}
        kinds = {name: kinds_of(column) for name, column in rest.items()}
        if not all(kind <= _SCALARS for kind in kinds.values()):
            return None
        places = {name: self._add(cells, "cells", columns[name]) for name, cells in found.items()}
        for prefix, (lat, lon) in place_keys(columns).items():
            name = f"{prefix}_{CELL_COLUMN}" if prefix else CELL_COLUMN
            if name not in columns:
                cells = self._points(columns[lat], columns[lon], path)
                places[name] = self._add(cells, "points")
            del rest[lat], rest[lon]
        if not places and form != "rows":
            return None
        for name in (*rest, *places):
            if isinstance(name, str):
                self._note(name)
        for name, column in rest.items():
            self._column(column, kinds[name])
        if {"x", "y"} <= rest.keys():
            pairs = zip(rest["y"], rest["x"], strict=True)
            self._loose(list(pairs))
        return Table(rest, places, size, form)

    def _column(self, column: Sequence[Any], kinds: set[type]) -> None:
        for kind in kinds:
            if kind is str:
                self._texts.update(dict.fromkeys(t for t in column if isinstance(t, str)))
            elif kind is int:
                self._numbers([n for n in column if type(n) is int], {int})
        floats = column if kinds == {float} else [n for n in column if isinstance(n, float)]
        if floats and self._judge.numbers_fix_place(floats):
            raise DataError("holds numbers that are a place in a region")

    def _loose(self, pairs: list[tuple[Any, Any]]) -> None:
        numbers = [p for p in pairs if all(isinstance(v, int | float) for v in p)]
        if self._judge.pairs_fix_place(numbers):
            raise DataError("holds an x and a y that are a place in a region")

    def _points(self, lat: Any, lon: Any, path: str) -> Cells:
        return cells_of_coordinates(lat, lon, path, self._coverage)

    def _geometry(self, value: Mapping[Any, Any], path: str) -> slice:
        cells = cells_of_geometry(value, path, self._coverage)
        return self._add(cells, "geometries", joint=True)

    # -- objects -------------------------------------------------------------------------------

    def _object(self, value: Mapping[Any, Any], path: str, depth: int) -> Node:
        kind = value.get("type")
        if isinstance(kind, str) and kind in GEOMETRIES and len(value) > 1:
            at = Cell(self._geometry(value, path), is_list=True)
            return Object({}, {ONE_RECORD_KEY: at})
        if kind == "Feature":
            return self._feature(value, path, depth)
        if kind == "FeatureCollection":
            value = {key: item for key, item in value.items() if key != "bbox"}
        keyed = self._keyed_by_cells(value, path, depth)
        if keyed is not None:
            return keyed
        split = self._split(value, path)
        if split is not None:
            return split
        grid = self._grid(value)
        if grid is not None:
            return grid
        return self._columns(value, path, depth)

    def _columns(self, value: Mapping[Any, Any], path: str, depth: int) -> Node:
        """Read an object; flat lists of one length beside a list of places are a table."""
        lists = {
            k: list(v)
            for k, v in value.items()
            if isinstance(v, list | tuple) and k != ONE_RECORD_KEY
        }
        flat = {
            key: column for key, column in lists.items() if column and not holds_more(column[0])
        }
        for size in sorted({len(column) for column in flat.values()}):
            group = {key: column for key, column in flat.items() if len(column) == size}
            table = self._table(group, size, "columns", path) if may_place(group) else None
            if table is not None:
                rest = {key: item for key, item in value.items() if key not in group}
                beside = self._columns(rest, path, depth)
                return Table(table.columns, table.places, size, "columns", beside)
        return self._record(value, path, depth)

    def _record(self, value: Mapping[Any, Any], path: str, depth: int) -> Node:
        own: dict[str, Node] = {}
        rest = dict(value)
        for prefix, (lat, lon) in place_keys(value).items():
            if value[lat] is None and value[lon] is None:
                continue
            name = f"{prefix}_{CELL_COLUMN}" if prefix else CELL_COLUMN
            if isinstance(value[lat], list | tuple | Mapping):
                raise DataError("latitudes and longitudes do not belong together", where=path)
            if name not in value:
                cells = self._points([value[lat]], [value[lon]], path)
                own[name] = Cell(self._add(cells, "points"))
                self._note(name)
            del rest[lat], rest[lon]
        if {"x", "y"} <= rest.keys():
            self._loose([(rest["y"], rest["x"])])
        return Object(self._items(rest, path, depth), own)

    def _items(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[Any, Node]:
        nodes: dict[Any, Node] = {}
        for key, item in value.items():
            if isinstance(key, str):
                self._note(key)
            if key == ONE_RECORD_KEY and isinstance(item, list | tuple):
                cells = read_cells(list(item))
                if cells is None:
                    raise DataError("holds what is no H3 cell", where=f"{path}.{key}")
                nodes[key] = Cell(self._add(cells, "cells", joint=True), is_list=True)
            else:
                nodes[key] = self._read(item, f"{path}.{key}", depth + 1)
        return nodes

    def _split(self, value: Mapping[Any, Any], path: str) -> Node | None:
        names, rows = value.get("columns"), value.get("data")
        if not isinstance(names, list) or not isinstance(rows, list) or not names or not rows:
            return None
        if not value.keys() <= {"columns", "data", "index"} or len(set(map(str, names))) < len(
            names
        ):
            return None
        if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
            return None
        if any(map(is_cell, names)):
            return None
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        return self._table(columns, len(rows), "split", path)

    def _keyed_by_cells(self, value: Mapping[Any, Any], path: str, depth: int) -> Node | None:
        keys = [key for key in value if is_cell(key)]
        if not keys:
            return None
        if len(keys) < len(value):
            keyed = self._object({key: value[key] for key in keys}, path, depth)
            others = {key: item for key, item in value.items() if key not in set(keys)}
            return Both(keyed, self._object(others, path, depth))
        cells = read_cells(keys)
        if cells is None:
            raise DataError("has a key that is no H3 cell", where=path)
        values = list(value.values())
        if all(type(v) is int and v >= 0 for v in values):
            found = generalise_cells(value, self._coverage)
            count_of(self.counts, "cells", found.masked_count)
            self.withheld_count += found.withheld_count
            return Constant(found.value)
        if all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            means, changed, hidden = means_of(cells, values, self._coverage)
            count_of(self.counts, "cells", changed)
            self.withheld_count += hidden
            return Constant(means)
        nodes = [self._read(item, f"{path}[cell]", depth + 1) for item in values]
        return Keyed([Cell(self._add(cells[i : i + 1], "cells")) for i in range(len(keys))], nodes)

    def _grid(self, value: Mapping[Any, Any]) -> Node | None:
        pairs = place_keys(value)
        if list(pairs) != [""]:
            return None
        lat, lon = pairs[""]
        axes = [value[lat], value[lon]]
        if not all(is_axis(axis) for axis in axes):
            return None
        shape = tuple(len(axis) for axis in axes)
        fields = {
            key: array
            for key, item in value.items()
            if isinstance(item, list) and (array := field_of(item, shape)) is not None
        }
        if not fields:
            return None
        from kfm_mlflow.care.mask_fields import mask_lists

        rest = {key: item for key, item in value.items() if key not in {*fields, lat, lon}}
        beside = self._columns(rest, "$", 1)
        done, changed, hidden = mask_lists(axes[0], axes[1], fields, self._coverage)
        count_of(self.counts, "pixels", changed)
        self.withheld_count += hidden
        shown = {lat: axes[0], lon: axes[1], **done}
        for key in shown:
            self._note(str(key))
        return Both(Object({key: Constant(item) for key, item in shown.items()}), beside)

    # -- GeoJSON -------------------------------------------------------------------------------

    def _feature(self, value: Mapping[Any, Any], path: str, depth: int) -> Node:
        rest = {key: item for key, item in value.items() if key not in {"geometry", "bbox"}}
        geometry = value.get("geometry")
        properties = value.get("properties")
        has_cells = isinstance(properties, Mapping) and ONE_RECORD_KEY in properties
        if geometry is None or has_cells:
            if geometry is not None or "geometry" in value:
                rest["geometry"] = None
            return Required(self._columns(rest, path, depth), has_cells)
        if not isinstance(geometry, Mapping):
            raise DataError("is no GeoJSON geometry", where=f"{path}.geometry")
        at = Cell(self._geometry(geometry, f"{path}.geometry"), is_list=True)
        return Feature(self._columns(rest, path, depth), at)
