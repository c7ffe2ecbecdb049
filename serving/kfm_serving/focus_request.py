"""Requests to a Focus Mode release: cells that it knows, or rows of the 36 columns.

Three forms are read, one at a time: ``cells`` (with ``time``, which may be left out),
``dataframe_records`` and ``dataframe_split``. Whoever asks about a place that the release does not
list, or about another month, sends the row. Every mistake is a
:class:`~kfm_serving.scoring.ClientError` that names column, row and remedy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError, EvidenceError
from kfm_mlflow.focus.columns import COLUMN_NAMES
from kfm_mlflow.focus.rows import FocusRows, rows_of_table
from kfm_serving.scoring import ClientError, check_content_type, read_split

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

CONTEXT_PATH = "context_cells.json"
FORMS = ("cells", "dataframe_records", "dataframe_split")
MAX_ROWS = 10_000
"""Rows of one request; more hold a replica too long."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ContextCells:
    """What a release knows of its cells.

    Attributes:
        time: The month, ``YYYY-MM``.
        resolution: H3 resolution of all cells.
        bbox: West, south, east, north of the cells' centres in degrees.
        rows: H3 cell -> its 36 values, in the order of the columns.
    """

    time: str
    resolution: int
    bbox: Box
    rows: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class FocusRequest:
    """A request that the model can run.

    Attributes:
        asked: What is asked about.
        include_fusion: Whether the fused vectors are asked for.
        feeds: The model's one input name -> float32 [n, 36].
    """

    asked: FocusRows
    include_fusion: bool
    feeds: Mapping[str, NDArray[Any]]


def load_context(release_dir: Path) -> ContextCells | None:
    """Read the cells that a release knows; None when it lists none.

    Raises:
        EvidenceError: The document is malformed.
    """
    path = release_dir / CONTEXT_PATH
    if not path.is_file():
        return None
    document = load_json(path, where=CONTEXT_PATH)
    try:
        west, south, east, north = (float(edge) for edge in document["bbox"])
        order = [document["columns"].index(name) for name in COLUMN_NAMES]
        rows = {
            str(cell): tuple(float(values[k]) for k in order)
            for cell, values in document["cells"].items()
        }
        bbox = (west, south, east, north)
        return ContextCells(str(document["time"]), int(document["resolution"]), bbox, rows)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
        raise EvidenceError(f"is malformed ({exc})", where=CONTEXT_PATH) from exc


def parse_focus(
    body: bytes, content_type: str, *, input_name: str, context: ContextCells | None
) -> FocusRequest:
    """Read a request.

    Args:
        body: UTF-8 JSON.
        content_type: The header's value.
        input_name: What the model calls its input.
        context: What the release knows of its cells; None when it lists none.

    Raises:
        ClientError: 415 for the content type; 400 for everything that does not fit.
    """
    check_content_type(content_type)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ClientError(f"the body is not valid UTF-8 JSON ({exc})") from exc
    found = [form for form in FORMS if isinstance(document, dict) and form in document]
    if len(found) != 1:
        raise ClientError(
            f"the body must be a JSON object with exactly one of {', '.join(FORMS)}; it has "
            f"{', '.join(found) or 'none'}"
        )
    include_fusion = document.get("include_fusion", False)
    if not isinstance(include_fusion, bool):
        raise ClientError("include_fusion must be true or false")
    form = found[0]
    rows = (
        _known_rows(document["cells"], document.get("time"), context)
        if form == "cells"
        else _sent_rows(document[form], form, context)
    )
    return FocusRequest(rows, include_fusion, {input_name: rows.rows})


def _known_rows(cells: Any, time: Any, context: ContextCells | None) -> FocusRows:
    if context is None:
        raise ClientError("this release lists no cells; send rows as dataframe_records")
    if not isinstance(cells, list) or not cells:
        raise ClientError("cells must be a list of at least one H3 cell")
    _check_count(len(cells))
    if time is not None and time != context.time:
        raise ClientError(
            f"time: the release knows its cells in {context.time}; leave time out, or send the "
            "rows of another month as dataframe_records"
        )
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, str) or cell not in context.rows:
            raise ClientError(
                f"cells: item {number} is none of the {len(context.rows)} cells that this release "
                "knows; send its row as dataframe_records"
            )
    if len(set(cells)) != len(cells):
        raise ClientError("cells: one of them stands twice; ask about each once")
    values = np.array([context.rows[cell] for cell in cells], dtype=np.float32)
    return FocusRows(values, tuple(cells), (context.time,) * len(cells))


def _sent_rows(table: Any, form: str, context: ContextCells | None) -> FocusRows:
    if form == "dataframe_split":
        columns, rows = read_split(table)
        _check_count(len(rows))
        if len(set(columns)) != len(columns):
            raise ClientError("dataframe_split: a column stands twice; name each once")
        table = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    elif isinstance(table, list):
        _check_count(len(table))
    bbox, resolution = (None, None) if context is None else (context.bbox, context.resolution)
    try:
        return rows_of_table(table, where=form, bbox=bbox, resolution=resolution)
    except DataError as exc:
        raise ClientError(str(exc)) from exc


def _check_count(count: int) -> None:
    if count > MAX_ROWS:
        raise ClientError(f"{count} rows are too many at once; send at most {MAX_ROWS}")
