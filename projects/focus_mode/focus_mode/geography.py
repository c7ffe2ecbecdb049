"""The lie of a made-up land: what never changes from month to month in a cell.

Six hidden fields of unit variance (sums of 24 plane waves, 60 to 180 km long) make the land:
roughness R, wetness W, woods F, towns U, tillage C and ridges H. With x and y running from 0 to 1
from west to east and south to north, and n standard normal of its own in each place:

    elevation_m        1080 - 800 x + 70 H + 25 R + 6 n
    slope_deg          1.6 exp(0.75 R + 0.1 n)
    relief_m           45 exp(0.6 R + 0.3 H + 0.1 n)
    river_distance_km  9 exp(-0.75 W + 0.1 n)
    forest_ratio       s(-2.6 + 1.2 x + 1.0 F + 0.1 n)      s(v) = 1 / (1 + exp(-v))
    crop_ratio         s(0.2 - 0.3 F + 0.9 C + 0.1 n)
    urban_ratio        s(-3.6 + 1.1 U + 0.1 n)
    wetland_ratio      s(-3.4 + 1.0 W + 0.5 x + 0.1 n)

Classes, fixed per cell and known without noise:

    terrain    valley where W > 0.8; else breaks where R > 0.8; else hills where R > -0.2; else plain
    watershed  2 floor(3 y + 0.45 H, within 0..2) + 1 where 1080 - 800 x + 70 H < 680
    region     the largest of six scores, see :func:`_regions`

The fields are shorter than the distance over which latitude and longitude could stand for them,
so that the other columns are needed to tell the classes of a cell that was held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h3
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

BBOX = (-102.05, 37.0, -94.6, 40.0)
REGIONS = (
    "dry-uplands",
    "dry-croplands",
    "rough-grasslands",
    "river-lowlands",
    "moist-woodlands",
    "moist-croplands",
)
TERRAINS = ("plain", "hills", "breaks", "valley")
WATERSHED_COUNT = 6
RESOLUTION = 1.0 / 1024.0
"""Values are rounded to this, so that the last bits of a CPU's sine do not reach the digest."""
H3_RESOLUTION = 5
_STRIDE = 5
_HELD_OUT_STRIDE = 3
_KM_PER_DEG = 111.2
_WAVES = 24
_WAVELENGTHS_KM = (60.0, 180.0)
_DIVIDE_M = 680.0


@dataclass(frozen=True)
class Land:
    """What stays in every cell.

    Attributes:
        cells: H3 indices of resolution 5, sorted.
        parents: [c] rank of the parent, at resolution 4.
        is_held_out: [c], true for every third parent.
        eastness: [c] 0..1.
        northness: [c] 0..1.
        columns: [c, 10], the spatial columns.
        anomalies: [c, 6], the fields R, W, F, U, C, H.
        region: [c] index in :data:`REGIONS`.
        terrain: [c] index in :data:`TERRAINS`.
        watershed: [c] 0..5.
    """

    cells: tuple[str, ...]
    parents: NDArray[np.int64]
    is_held_out: NDArray[np.bool_]
    eastness: Doubles
    northness: Doubles
    columns: Doubles
    anomalies: Doubles
    region: NDArray[np.int64]
    terrain: NDArray[np.int64]
    watershed: NDArray[np.int64]


def lay_land(rng: np.random.Generator, *, is_small: bool) -> Land:
    """Make the land; a small one has every fifth parent of the whole.

    Args:
        rng: Where all randomness comes from.
        is_small: About 160 cells instead of about 800.
    """
    west, south, east, north = BBOX
    box = h3.LatLngPoly([(south, west), (south, east), (north, east), (north, west)])
    cells = sorted(h3.h3shape_to_cells(box, H3_RESOLUTION))
    if is_small:
        cells = [c for c, k in zip(cells, rank_parents(cells), strict=True) if k % _STRIDE == 0]
    parents = rank_parents(cells)
    places = rounded(np.array([h3.cell_to_latlng(cell) for cell in cells]))
    x = (places[:, 1] - west) / (east - west)
    y = (places[:, 0] - south) / (north - south)
    middle_deg = (south + north) / 2
    east_km = x * (east - west) * _KM_PER_DEG * np.cos(np.radians(middle_deg))
    north_km = y * (north - south) * _KM_PER_DEG
    fields = np.stack([_field(rng, east_km, north_km) for _ in range(6)], axis=1)
    fields = rounded(fields)
    return Land(
        cells=tuple(cells),
        parents=parents,
        is_held_out=hold_out(cells),
        eastness=x,
        northness=y,
        columns=np.column_stack([places, _columns(rng, x, fields)]),
        anomalies=fields,
        region=_regions(x, fields),
        terrain=_terrains(fields),
        watershed=_watersheds(x, y, fields),
    )


def rank_parents(cells: Sequence[str]) -> NDArray[np.int64]:
    """Return for each cell the place of its H3 parent among the sorted parents of all."""
    parents = [h3.cell_to_parent(cell) for cell in cells]
    return np.asarray(np.unique(parents, return_inverse=True)[1], np.int64)


def hold_out(cells: Sequence[str]) -> NDArray[np.bool_]:
    """Return which cells are held out: those of the first, fourth, seventh … sorted H3 parent."""
    return np.asarray(rank_parents(cells) % _HELD_OUT_STRIDE == 0)


def rounded(values: Doubles) -> Doubles:
    """Return the values on the grid of :data:`RESOLUTION`, without negative zeros."""
    grid: Doubles = np.rint(values / RESOLUTION) * RESOLUTION + 0.0
    return grid


def logistic(values: Doubles) -> Doubles:
    """Return 1 / (1 + exp(-v))."""
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


def _field(rng: np.random.Generator, east_km: Doubles, north_km: Doubles) -> Doubles:
    """Return a smooth field of mean 0 and variance 1 in expectation."""
    wavelength = rng.uniform(*_WAVELENGTHS_KM, _WAVES)
    heading = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
    phase = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
    along = np.outer(east_km, np.cos(heading)) + np.outer(north_km, np.sin(heading))
    waves: Doubles = np.cos(2.0 * np.pi * along / wavelength + phase)
    return np.asarray(waves.sum(axis=1) * np.sqrt(2.0 / _WAVES))


def _level_m(x: Doubles, ridges: Doubles) -> Doubles:
    return 1080.0 - 800.0 * x + 70.0 * ridges


def _columns(rng: np.random.Generator, x: Doubles, fields: Doubles) -> Doubles:
    rough, wet, woods, towns, tilled, ridges = fields.T
    n = rng.standard_normal((8, len(x)))
    return np.stack(
        [
            _level_m(x, ridges) + 25.0 * rough + 6.0 * n[0],
            1.6 * np.exp(0.75 * rough + 0.1 * n[1]),
            45.0 * np.exp(0.6 * rough + 0.3 * ridges + 0.1 * n[2]),
            9.0 * np.exp(-0.75 * wet + 0.1 * n[3]),
            logistic(-2.6 + 1.2 * x + woods + 0.1 * n[4]),
            logistic(0.2 - 0.3 * woods + 0.9 * tilled + 0.1 * n[5]),
            logistic(-3.6 + 1.1 * towns + 0.1 * n[6]),
            logistic(-3.4 + wet + 0.5 * x + 0.1 * n[7]),
        ],
        axis=1,
    )


def _regions(x: Doubles, fields: Doubles) -> NDArray[np.int64]:
    """Return the index of the largest score; e = 3.4 (x - 0.5) has about unit variance."""
    rough, wet, woods, _, tilled, ridges = fields.T
    e = 3.4 * (x - 0.5)
    scores = [
        0.7 * ridges - 0.9 * e,
        0.9 * tilled - 0.7 * e,
        1.0 * rough - 0.3 * woods + 0.2,
        1.0 * wet,
        0.9 * woods + 0.7 * e,
        0.6 * tilled - 0.3 * rough + 0.7 * e + 0.2,
    ]
    return np.asarray(np.argmax(np.stack(scores), axis=0))


def _terrains(fields: Doubles) -> NDArray[np.int64]:
    rough, wet = fields[:, 0], fields[:, 1]
    conditions = [wet > 0.8, rough > 0.8, rough > -0.2]  # noqa: PLR2004 the module's text
    return np.asarray(np.select(conditions, [3, 2, 1], 0))


def _watersheds(x: Doubles, y: Doubles, fields: Doubles) -> NDArray[np.int64]:
    ridges = fields[:, 5]
    band = np.floor(np.clip(3.0 * y + 0.45 * ridges, 0.0, 2.999)).astype(np.int64)
    return np.asarray(2 * band + (_level_m(x, ridges) < _DIVIDE_M))
