"""Wall time of screening a release that publishes many cells, against a plain spatial join.

The release publishes a table of 100,000 H3 cells with counts, under 500 regions. Screening asks
every question of the room: ceilings, ``k``, gradients, names, coordinates, labels, consent. The peer
answers one part of one of them with a library: it reads the same table with pandas and asks
shapely's STRtree which cell centres lie in which region.
"""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import h3
import numpy as np
from h3ronpy import cells_parse
from h3ronpy.vector import cells_to_coordinates
from report import Row, paired_ratio, spread_of

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.screen import screen_release
from kfm_mlflow.care.screen_subject import OutputGrid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

CELL_COUNT, REGION_COUNT = 100_000, 500
RESOLUTION = 7
ROUNDS = {"small": 3, "full": 7}
_BBOX = (-104.0, 34.0, -94.0, 42.0)
_NOW = datetime(2026, 6, 15, tzinfo=UTC)
_CARE = {
    "masking": "h3-climate-generalized",
    "scope": "public-generalized",
    "authority": None,
    "labels": [],
    "h3_max_resolution": RESOLUTION,
    "notes": [],
}


def _features() -> list[dict[str, Any]]:
    """Return 500 boxes of a quarter degree on a grid."""
    west, south, east, north = _BBOX
    random = np.random.default_rng(3)
    found = []
    for k in range(REGION_COUNT):
        x = west + (k % 25 + 0.3) * (east - west) / 25
        y = south + (k // 25 + 0.3) * (north - south) / 20
        ring = [[x, y], [x + 0.25, y], [x + 0.25, y + 0.25], [x, y + 0.25], [x, y]]
        properties = {
            "id": f"region-{k}",
            "authority": "Example Council",
            "h3_max_resolution": RESOLUTION,
            "k_min": int(random.integers(3, 6)),
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        found.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return found


def _table() -> str:
    """Return a CSV of 100,000 cells with at least ten records each."""
    west, south, east, north = _BBOX
    outline = h3.LatLngPoly([(south, west), (south, east), (north, east), (north, west)])
    cells = sorted(h3.polygon_to_cells(outline, RESOLUTION))[:CELL_COUNT]
    if len(cells) != CELL_COUNT:
        raise RuntimeError(f"the domain has {len(cells)} cells only")
    counts = np.random.default_rng(4).integers(10, 500, CELL_COUNT)
    lines = [f"{cell},{count}" for cell, count in zip(cells, counts, strict=True)]
    return "h3_cell,count\n" + "\n".join(lines) + "\n"


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: Not used.
    """
    del work_dir
    import pandas as pd
    import shapely

    features, text = _features(), _table()
    data = canonical_bytes({"type": "FeatureCollection", "features": features})
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    grid = OutputGrid(_BBOX, h3_resolution=RESOLUTION)
    found: list[str] = []

    def screen() -> object:
        regions = parse_regions(data, where="bench")
        screening = screen_release(_CARE, grid, {"outputs.csv": text}, regions, _NOW)
        found[:] = [f"{check.id} {check.status}" for check in screening.checks if check.findings]
        return screening

    def join() -> object:
        cells = cells_parse(pd.read_csv(io.StringIO(text))["h3_cell"].to_numpy())
        at = cells_to_coordinates(cells)
        points = shapely.points(np.asarray(at["lng"]), np.asarray(at["lat"]))
        return shapely.STRtree(shapes).query(points, predicate="within")

    screen(), join()
    ours, theirs = [], []
    for turn in range(ROUNDS[size]):
        for work, kept in ((screen, ours), (join, theirs))[:: 1 if turn % 2 else -1]:
            kept.append(_timed(work))
    return [
        Row(
            f"screen a release of {CELL_COUNT:,} cells under {REGION_COUNT} regions",
            f"{spread_of(ours).median:.2f} s",
            "read the table, and `shapely.STRtree` for its centres",
            f"{spread_of(theirs).median:.2f} s",
            paired_ratio(ours, theirs),
            None,
            f"regions are read and covered each time; found: {'; '.join(found) or 'nothing'}",
        )
    ]
