"""Daily near-surface temperature over Kansas, made up but shaped like the real thing.

The terrain is fixed: plains that fall from 1,200 m in the west to 230 m in the east, relief with
creased drainage lines, meandering rivers and the one-sided escarpment of the Flint Hills. A day
is season + west-east and north-south gradient + lapse rate + weather + sometimes a front + cold
air that pools in the valleys on calm nights. Creases, fronts and escarpments are sharper than a
bicubic can draw, and show in the block means, so that a network can learn them.

Nothing here is an observation, and nobody should read climate out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from downscaling.fieldset import FieldSet, digest_fields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

BBOX = (-102.05, 37.0, -94.6, 40.0)
YEAR_START_AT = datetime(2001, 1, 1, 12, tzinfo=UTC)
YEAR_DAY_COUNT = 365
LAT_COUNT = 100
LON_COUNT = 248
LAPSE_K_PER_M = 0.0065
RESOLUTION_K = 1.0 / 64.0
"""Values are rounded to this, so that the last bits of a CPU's sine do not reach the digest."""

_TERRAIN_SEED = 1861  # the terrain is the same under every seed
_FRONT_SHARE = 0.45
_DAY_TO_DAY_CORRELATION = 0.7


@dataclass(frozen=True)
class _Terrain:
    lat: Doubles
    lon: Doubles
    elevation_m: Doubles
    hollow: Doubles  # 0 on ridges .. about 1 in valleys


def generate_kansas(seed: int = 42, day_count: int = 120) -> FieldSet:
    """Make daily fields spread evenly over one year.

    Args:
        seed: Of the weather (NumPy's PCG64); the same seed gives the same bytes.
        day_count: Days, 1 to 365; day ``k`` is number ``365 k / day_count`` of the year.

    Returns:
        Temperature in degrees Celsius on 100 by 248 cells of 0.03 degree.

    Raises:
        ValueError: ``day_count`` is outside 1..365.
    """
    if not 1 <= day_count <= YEAR_DAY_COUNT:
        raise ValueError(f"day_count {day_count} is outside 1..{YEAR_DAY_COUNT}")
    terrain = _terrain()
    rng = np.random.Generator(np.random.PCG64(seed))
    days = [k * YEAR_DAY_COUNT // day_count for k in range(day_count)]
    weather = np.zeros_like(terrain.elevation_m)
    fields = np.empty((day_count, LAT_COUNT, LON_COUNT), dtype=np.float32)
    previous_day = -YEAR_DAY_COUNT
    for index, day in enumerate(days):
        memory = _DAY_TO_DAY_CORRELATION ** (day - previous_day)
        fresh = _noise(rng, slope=4.0)
        weather = memory * weather + np.sqrt(1.0 - memory**2) * fresh
        activity_k = 0.6 + 3.2 * rng.random()
        field = _climate(terrain, day) + activity_k * weather + _day_detail(terrain, rng)
        fields[index] = np.round(field / RESOLUTION_K) * RESOLUTION_K
        previous_day = day
    instants = [YEAR_START_AT + timedelta(days=day) for day in days]
    labels = tuple(f"{instant:%Y-%m-%d}" for instant in instants)
    return FieldSet(
        name="kansas-daily-temperature",
        values=fields,
        lat=terrain.lat,
        lon=terrain.lon,
        units="degC",
        labels=labels,
        variables=("t2m",) * day_count,
        digest=digest_fields(fields, terrain.lat, terrain.lon, units="degC", labels=labels),
        source=f"generated (seed {seed}, {day_count} days); not an observation",
        bbox=BBOX,
        start_at=instants[0],
        end_at=instants[-1],
    )


def _noise(rng: np.random.Generator, *, slope: float) -> Doubles:
    """Return an isotropic field of unit variance whose power falls as wavenumber ** -slope.

    It is cut from a torus twice as large, so that opposite edges are not neighbours.
    """
    rows, columns = 2 * LAT_COUNT, 2 * LON_COUNT
    white = np.fft.rfft2(rng.standard_normal((rows, columns)))
    ky = np.fft.fftfreq(rows)[:, None]
    kx = np.fft.rfftfreq(columns)[None, :]
    wavenumber = np.hypot(ky, kx)
    wavenumber[0, 0] = np.inf
    outer_scale = 1.0 / LON_COUNT
    spectrum = (wavenumber**2 + outer_scale**2) ** (-slope / 4.0)
    field = np.fft.irfft2(white * spectrum, s=(rows, columns))
    field /= field.std()
    cut: Doubles = field[:LAT_COUNT, :LON_COUNT]
    return cut


def _terrain() -> _Terrain:
    west, south, east, north = BBOX
    lat = south + (np.arange(LAT_COUNT) + 0.5) * (north - south) / LAT_COUNT
    lon = west + (np.arange(LON_COUNT) + 0.5) * (east - west) / LON_COUNT
    x, y = np.meshgrid(lon, lat)
    rng = np.random.Generator(np.random.PCG64(_TERRAIN_SEED))
    eastness = (x - west) / (east - west)
    # |noise| has V-shaped creases along its zero lines: a drainage network.
    crease = np.exp(-np.abs(_noise(rng, slope=4.6)) / 0.12)
    crease += 0.7 * np.exp(-np.abs(_noise(rng, slope=4.2)) / 0.10)
    river = np.zeros_like(x)
    for base, swing, turns, phase in (
        (38.1, 0.25, 2.3, 0.4),
        (39.1, 0.18, 3.1, 2.0),
        (37.4, 0.12, 4.2, 4.1),
    ):
        course = base + swing * np.sin(2.0 * np.pi * turns * eastness + phase)
        river += np.exp(-np.abs(y - course) / 0.05)
    edge_lon = -96.45 + 0.15 * np.sin(2.0 * np.pi * (y - south) / 1.7)
    flint_hills = np.where(
        x < edge_lon, np.exp((x - edge_lon) / 0.6), np.exp((edge_lon - x) / 0.03)
    )
    hollow = np.clip(0.55 * crease + 0.75 * river, 0.0, 1.3)
    elevation = 1200.0 - 970.0 * eastness**0.9 + 30.0 * _noise(rng, slope=3.8)
    elevation += 130.0 * flint_hills - 90.0 * hollow
    return _Terrain(lat=lat, lon=lon, elevation_m=elevation, hollow=hollow)


def _climate(terrain: _Terrain, day: int) -> Doubles:
    """Return season, gradients and lapse rate of one day of the year, in degrees Celsius."""
    season = 13.0 - 13.5 * np.cos(2.0 * np.pi * (day - 18) / YEAR_DAY_COUNT)
    northward = -0.9 - 0.4 * np.cos(2.0 * np.pi * (day - 18) / YEAR_DAY_COUNT)
    eastward = 0.15
    gradient = northward * (terrain.lat - 38.5)[:, None] + eastward * (terrain.lon + 98.3)[None, :]
    field: Doubles = season + gradient - LAPSE_K_PER_M * (terrain.elevation_m - 600.0)
    return field


def _day_detail(terrain: _Terrain, rng: np.random.Generator) -> Doubles:
    """Return cold pools and, on some days, a front; draws the same count of numbers every day."""
    calm, chance, angle, offset, jump = rng.random(5)
    detail: Doubles = -2.2 * calm**2 * terrain.hollow
    if chance < _FRONT_SHARE:
        x = (terrain.lon + 98.3)[None, :]
        y = (terrain.lat - 38.5)[:, None]
        heading = np.pi * (angle - 0.5) * 0.8
        curved = x * np.cos(heading) + y * np.sin(heading) + 0.08 * np.sin(3.0 * y)
        distance = curved - 6.0 * (offset - 0.5)
        detail = detail + (2.0 + 4.0 * jump) * 0.5 * np.tanh(distance / 0.03)
    return detail
