"""What masking adds to a served answer with 1,000 cells, against writing the same answer.

The peer is ``json.dumps`` of the answer, which every server does; the goal is an absolute one, so it
is stated as the ratio of the added time to 0.2 ms. The answer is what models mostly give: a list of
cells and a list of values, no finer than any ceiling; the same as rows; and one resolution too fine,
where every cell is replaced.
"""

from __future__ import annotations

import gc
import json
import random
import time
from typing import TYPE_CHECKING, Any

import h3
from report import Row, paired_ratio, spread_of

from kfm_mlflow.care import MaskTerms, mask
from kfm_mlflow.care.regions import load_regions

if TYPE_CHECKING:
    from pathlib import Path

GOAL_MS = 0.2
ROUNDS = {"small": 200, "full": 1000}
_CELL_COUNT = 1000
_KANSAS = (-102.0, 37.0, -94.6, 40.0)


def _answers() -> dict[str, tuple[Any, bool]]:
    """Return what is answered -> the answer, and whether the goal is asked of it."""
    chosen, (west, south, east, north) = random.Random(1), _KANSAS
    cells: dict[str, None] = {}
    while len(cells) < _CELL_COUNT:
        at = chosen.uniform(south, north), chosen.uniform(west, east)
        cells[h3.latlng_to_cell(*at, 7)] = None
    fine = [h3.cell_to_center_child(cell, 8) for cell in cells]
    values = [round(chosen.gauss(285.0, 4.0), 3) for _ in cells]
    rows = [{"h3_cell": c, "value": v} for c, v in zip(cells, values, strict=True)]
    return {
        "columns, coarse enough": ({"cells": list(cells), "values": values}, True),
        "rows, coarse enough": (rows, False),
        "columns, all too fine": ({"cells": fine, "values": values}, False),
    }


def _timed_ms(work: Any) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def _measure(what: str, answer: Any, rounds: int, *, is_asked: bool) -> list[Row]:
    terms = MaskTerms(load_regions(None), "h3-climate-generalized")
    if mask(answer, terms).withheld:
        raise RuntimeError(f"{what}: withheld")
    added, written = [], []
    gc.disable()
    try:
        for _ in range(rounds):
            added.append(_timed_ms(lambda: mask(answer, terms)))
            written.append(_timed_ms(lambda: json.dumps(answer)))
    finally:
        gc.enable()
    ours = f"{spread_of(added).median:.3f} ms added"
    title = f"mask an answer of {_CELL_COUNT} cells ({what})"
    rows = [
        Row(
            title,
            ours,
            "`json.dumps` of it",
            f"{spread_of(written).median:.3f} ms",
            paired_ratio(added, written),
            note="four regions",
        )
    ]
    if is_asked:
        promised = [GOAL_MS] * rounds
        ratio = paired_ratio(added, promised)
        rows.append(Row(title, ours, "the promise", f"{GOAL_MS} ms", ratio, 1.0))
    return rows


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: Not used.
    """
    del work_dir
    return [
        row
        for what, (answer, is_asked) in _answers().items()
        for row in _measure(what, answer, ROUNDS[size], is_asked=is_asked)
    ]
