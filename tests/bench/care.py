"""Wall time of masking points against converting them to cells, and against a loop over h3.

Masking checks every coordinate, converts with h3ronpy, applies the rules of regions, ``k`` and
nesting, and returns one cell per point. The first peer is h3ronpy's ``coordinates_to_cells`` of the
same points to the same resolution, which keeps no rule; the second is ``h3.latlng_to_cell`` point
by point, on a part of them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import h3
import numpy as np
from h3ronpy.vector import coordinates_to_cells
from report import Row, paired_ratio, spread_of

from kfm_mlflow.care.generalise import generalise_points
from kfm_mlflow.care.regions import load_regions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

GOAL = 1.20
ROUNDS = {"small": 9, "full": 21}
POINT_COUNT = 1_000_000
LOOP_COUNT = 50_000
RESOLUTION = 7
_KANSAS = (-102.05, 37.0, -94.6, 40.0)
_IN_REGIONS = (-95.95, 39.25, -95.3, 40.0)


def _points(bbox: tuple[float, float, float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
    west, south, east, north = bbox
    random = np.random.default_rng(7)
    return random.uniform(south, north, POINT_COUNT), random.uniform(west, east, POINT_COUNT)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall_s, processor_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - processor_s


def _measure(what: str, bbox: tuple[float, float, float, float], rounds: int) -> list[Row]:
    lat, lon = _points(bbox)
    coverage = load_regions(None).coverage(datetime.now(UTC), mode="h3-focus-generalized")

    def mask() -> object:
        return generalise_points(lat, lon, coverage)

    def convert() -> object:
        return coordinates_to_cells(lat, lon, RESOLUTION)

    def loop() -> object:
        pairs = zip(lat[:LOOP_COUNT].tolist(), lon[:LOOP_COUNT].tolist(), strict=True)
        return [h3.latlng_to_cell(*at, RESOLUTION) for at in pairs]

    mask(), convert()
    ours, theirs, looped = [], [], []
    for turn in range(rounds):
        first, second = (mask, convert) if turn % 2 else (convert, mask)
        times = {first: _timed(first), second: _timed(second)}
        ours.append(times[mask])
        theirs.append(times[convert])
        looped.append(_timed(loop)[0] * POINT_COUNT / LOOP_COUNT)
    wall = [[cost[0] for cost in costs] for costs in (ours, theirs)]
    processor = paired_ratio([cost[1] for cost in ours], [cost[1] for cost in theirs])
    our_s = f"{spread_of(wall[0]).median:.3f} s"
    return [
        Row(
            what,
            our_s,
            "`h3ronpy.vector.coordinates_to_cells` of the same points",
            f"{spread_of(wall[1]).median:.3f} s",
            paired_ratio(*wall),
            GOAL,
            f"{POINT_COUNT} points to H3 r{RESOLUTION}, four regions, k 3; processor time "
            f"{processor.median:.3f} ({processor.low:.3f} to {processor.high:.3f})",
        ),
        Row(
            what,
            our_s,
            f"a loop over `h3.latlng_to_cell`, from {LOOP_COUNT} of them",
            f"{spread_of(looped).median:.3f} s",
            paired_ratio(wall[0], looped),
            None,
            "the loop keeps no rule",
        ),
    ]


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: Not used.
    """
    del work_dir
    rounds = ROUNDS[size]
    return [
        *_measure("mask points all over Kansas", _KANSAS, rounds),
        *_measure("mask points in and around the regions", _IN_REGIONS, rounds),
    ]
