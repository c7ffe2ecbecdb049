"""A made-up world to train Focus Mode on, whose truth is known: rows, classes and next months.

Nothing in it is an observation, and it names and places no people's land. Its formulas stand in
:mod:`focus_mode.geography` (the land), :mod:`focus_mode.months` (what changes) and
:mod:`focus_mode.evidence` (the situation and the domain that leads); docs/focus-world.md has them
all. The same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from focus_mode.evidence import decide, responses
from focus_mode.geography import BBOX, lay_land, rounded
from focus_mode.months import MOVING, see, severity, simulate
from kfm_mlflow.canonical import canonical_bytes, digest_bytes
from kfm_mlflow.focus.columns import COLUMN_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from focus_mode.geography import Land
    from focus_mode.months import States

    Floats = NDArray[np.float32]
    Whole = NDArray[np.int64]

NAME = "made-up-focus-world"
START_YEAR = 2023
MONTH_COUNTS = {"default": 24, "small": 8}
THRESHOLDS = {
    "temperature_c": (1.6, 22.7),
    "precipitation_mm": (19.0, 75.0),
    "soil_moisture_ratio": (0.27, 0.57),
    "streamflow_percentile": (29.0, 68.0),
    "runoff_mm": (3.0, 11.0),
    "evapotranspiration_mm": (15.0, 84.0),
    "snow_water_mm": (0.0, 20.0),
    "groundwater_depth_m": (22.0, 47.0),
    "drought_index": (-0.2, 2.0),
    "heat_day_count": (0.0, 9.0),
    "storm_day_count": (2.0, 6.0),
    "flood_stage_ratio": (0.46, 0.75),
    "fire_danger_index": (35.0, 75.0),
    "cape_j_kg": (340.0, 1600.0),
}
"""About the 20th and 80th percentile of every told column in worlds of other seeds than 42."""
NEXT_CLIMATE = ("temperature_c", "precipitation_mm")
NEXT_HYDROLOGY = ("soil_moisture_ratio", "streamflow_percentile")


@dataclass(frozen=True)
class World:
    """Rows of cells and months, and the truth about each.

    Attributes:
        name: Of the data set.
        rows: float32 [n, 36] in the order of :data:`~kfm_mlflow.focus.columns.COLUMNS`.
        cells: H3 index of each row.
        months: [n] from 0.
        times: "YYYY-MM" of each row.
        region: [n] index in :data:`~focus_mode.geography.REGIONS`.
        terrain: [n] index in :data:`~focus_mode.geography.TERRAINS`.
        watershed: [n] 0..5.
        situation: [n] index in :data:`~kfm_mlflow.focus.columns.SITUATIONS`.
        leading_domain: [n] index in :data:`~kfm_mlflow.focus.columns.DOMAINS`.
        next_climate: float32 [n, 2], next month's :data:`NEXT_CLIMATE`.
        next_hydrology: float32 [n, 2], next month's :data:`NEXT_HYDROLOGY`.
        next_hazard: float32 [n], severity of next month, 0..1.
        thresholds: Of each told column, below what it is low and above what it is high.
        is_held_out: [n], by the cell's H3 parent: no parent has rows on both sides.
        bbox: West, south, east, north in degrees, of the cells' centres.
        digest: ``sha256:<hex>`` of all values above.
    """

    name: str
    rows: Floats
    cells: tuple[str, ...]
    months: Whole
    times: tuple[str, ...]
    region: Whole
    terrain: Whole
    watershed: Whole
    situation: Whole
    leading_domain: Whole
    next_climate: Floats
    next_hydrology: Floats
    next_hazard: Floats
    thresholds: Mapping[str, tuple[float, float]]
    is_held_out: NDArray[np.bool_]
    bbox: tuple[float, float, float, float]
    digest: str

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.rows)


def generate_world(*, seed: int = 42, size: Literal["default", "small"] = "default") -> World:
    """Make a world: month by month all cells, so that a cell's rows are a stride apart.

    Args:
        seed: Of numpy's PCG64, from which all randomness comes.
        size: ``default`` has about 800 cells and 24 months, ``small`` about 160 and 8.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    land = lay_land(rng, is_small=size == "small")
    count = MONTH_COUNTS[size]
    states = {name: rounded(z) for name, z in simulate(rng, land, count + 1).items()}
    seen = see(rng, land, states)
    spatial = np.broadcast_to(land.columns, (count + 1, *land.columns.shape))
    table = rounded(np.concatenate([spatial, *(seen[name] for name in MOVING)], axis=2))
    table = table.astype(np.float32)
    leading, situation = _truth(land, states, count)
    after = table[1:].reshape(-1, len(COLUMN_NAMES))
    months = np.repeat(np.arange(count), len(land.cells))
    return seal(
        name=NAME,
        rows=table[:-1].reshape(-1, len(COLUMN_NAMES)),
        cells=land.cells * count,
        months=months,
        region=np.tile(land.region, count),
        terrain=np.tile(land.terrain, count),
        watershed=np.tile(land.watershed, count),
        situation=situation,
        leading_domain=leading,
        next_climate=after[:, [COLUMN_NAMES.index(name) for name in NEXT_CLIMATE]],
        next_hydrology=after[:, [COLUMN_NAMES.index(name) for name in NEXT_HYDROLOGY]],
        next_hazard=rounded(severity(states["hazards"][1:])).astype(np.float32).ravel(),
        is_held_out=np.tile(land.is_held_out, count),
        times=tuple(f"{START_YEAR + m // 12}-{m % 12 + 1:02d}" for m in months.tolist()),
        thresholds=THRESHOLDS,
        bbox=BBOX,
    )


def seal(**parts: object) -> World:
    """Make a world of its parts, with the digest of all of them."""
    named = sorted(parts.items())
    arrays = [
        np.ascontiguousarray(part, "<f4" if part.dtype.kind == "f" else "<i8").tobytes()
        for _, part in named
        if isinstance(part, np.ndarray)
    ]
    plain = {key: part for key, part in named if not isinstance(part, np.ndarray)}
    digest = digest_bytes(canonical_bytes(plain) + b"".join(arrays))
    return World(**parts, digest=digest)  # type: ignore[arg-type]


def _truth(land: Land, states: States, count: int) -> tuple[Whole, Whole]:
    found = [
        responses(
            {"spatial": land.anomalies, **{name: states[name][month] for name in MOVING}},
            np.full(len(land.cells), month),
        )
        for month in range(count)
    ]
    return decide(np.concatenate(found))
