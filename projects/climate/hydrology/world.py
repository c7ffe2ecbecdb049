"""A made-up water balance over Kansas whose truth is known to the last millimetre.

Weather: temperature is a season plus day-to-day weather (first order autoregressive, 0.8);
precipitation a two-state Markov chain with gamma amounts, wetter in the east and in early summer.

Water, per day and in mm, in this order:

    snow      P falls as snow below 0 degC; melt = min(snow, 3 T) above
    inflow    rain + melt
    PET       0.16 max(T, 0)                      a temperature-only form, as in Oudin et al. (2005)
    ET        PET min(1, S / (0.7 W))             soil stress below 70 % of W
    runoff    inflow (S / W)**1.6 + 0.012 S + what exceeds W
    S         + inflow - ET - runoff              W = 160 mm, the capacity of the soil

so that P = ET + runoff + d(S + snow) holds every day. Nothing here is an observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.canonical import digest_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

NAME = "made-up-water-balance"
BBOX = (-102.05, 37.0, -94.6, 40.0)
START_AT = datetime(2001, 1, 1, tzinfo=UTC)
SITE_COUNT = 24
DAY_COUNT = 4 * 365
CAPACITY_MM = 160.0
MELT_MM_PER_K = 3.0
_STRESS_RATIO = 0.7
_PET_MM_PER_K = 0.16
_FAST_POWER = 1.6
_SLOW_RATIO = 0.012
_SPIN_UP_DAYS = 365
_OBSERVATION_NOISE = 0.03
RESOLUTION = 1.0 / 1024.0
"""Values are rounded to this, so that the last bits of a CPU's sine do not reach the digest."""


@dataclass(frozen=True)
class WaterYears:
    """Daily series of all sites; every array is float64 [site, day].

    Attributes:
        precipitation_mm: Rain and snow.
        temperature_c: Mean of the day.
        soil_mm: Soil moisture at the end of the day.
        runoff_mm: Of the day.
        et_mm: Evapotranspiration of the day.
        storage_mm: Soil and snow at the end of the day.
        digest: ``sha256:<hex>`` of all of them.
    """

    precipitation_mm: Doubles
    temperature_c: Doubles
    soil_mm: Doubles
    runoff_mm: Doubles
    et_mm: Doubles
    storage_mm: Doubles
    digest: str

    @property
    def end_at(self) -> datetime:
        """Last day."""
        return START_AT + timedelta(days=DAY_COUNT - 1)


def run_bucket(
    precipitation_mm: Doubles, temperature_c: Doubles
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Run the water balance of the module's text from half-full soil without snow.

    Args:
        precipitation_mm: [site, day].
        temperature_c: [site, day].

    Returns:
        Soil, runoff, evapotranspiration and storage, each [site, day].
    """
    soil = np.full(len(precipitation_mm), 0.5 * CAPACITY_MM)
    snow = np.zeros_like(soil)
    out = np.empty((4, *precipitation_mm.shape))
    for day in range(precipitation_mm.shape[1]):
        falls, warm = precipitation_mm[:, day], temperature_c[:, day]
        cold = warm < 0.0
        melt = np.minimum(snow, MELT_MM_PER_K * np.maximum(warm, 0.0))
        snow = snow + np.where(cold, falls, 0.0) - melt
        inflow = np.where(cold, 0.0, falls) + melt
        pet = _PET_MM_PER_K * np.maximum(warm, 0.0)
        et = np.minimum(soil, pet * np.minimum(1.0, soil / (_STRESS_RATIO * CAPACITY_MM)))
        runoff = inflow * (soil / CAPACITY_MM) ** _FAST_POWER + _SLOW_RATIO * soil
        runoff = np.minimum(runoff, soil + inflow - et)
        soil = soil + inflow - et - runoff
        excess = np.maximum(soil - CAPACITY_MM, 0.0)
        soil, runoff = soil - excess, runoff + excess
        out[:, :, day] = soil, runoff, et, soil + snow
    return out[0], out[1], out[2], out[3]


def generate_water_years(seed: int = 42) -> WaterYears:
    """Make four years of 24 sites, after a year of spin-up; the same seed gives the same bytes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    days = np.arange(-_SPIN_UP_DAYS, DAY_COUNT)
    eastness = np.linspace(0.0, 1.0, SITE_COUNT)[:, None]
    phase = 2.0 * np.pi * (days - 18) / 365.0
    weather = np.empty((SITE_COUNT, len(days)))
    state = rng.standard_normal(SITE_COUNT)
    for k in range(len(days)):
        state = 0.8 * state + 0.6 * rng.standard_normal(SITE_COUNT)
        weather[:, k] = state
    temperature = 12.5 + eastness - 13.5 * np.cos(phase) + 5.0 * weather
    chance = 0.14 + 0.10 * eastness + 0.08 * np.sin(2.0 * np.pi * (days - 70) / 365.0)
    wet = np.zeros(SITE_COUNT, bool)
    falls = np.zeros_like(temperature)
    for k in range(len(days)):
        again = np.where(wet, chance[:, k] + 0.25, chance[:, k])
        wet = rng.random(SITE_COUNT) < again
        falls[:, k] = np.where(wet, rng.gamma(0.7, 9.0 + 5.0 * eastness[:, 0]), 0.0)
    temperature, falls = _rounded(temperature), _rounded(falls)
    parts = [part[:, _SPIN_UP_DAYS:] for part in run_bucket(falls, temperature)]
    falls, temperature = falls[:, _SPIN_UP_DAYS:], temperature[:, _SPIN_UP_DAYS:]
    data = np.stack([falls, temperature, *map(_rounded, parts)]).astype("<f4").tobytes()
    return WaterYears(falls, temperature, *parts, digest=digest_bytes(data))


def observed(truth: Doubles, rng: np.random.Generator) -> Doubles:
    """Return what a gauge reads: the truth with 3 % of multiplicative noise; for training only."""
    read: Doubles = truth * (1.0 + _OBSERVATION_NOISE * rng.standard_normal(truth.shape))
    return read


def _rounded(values: Doubles) -> Doubles:
    whole: Doubles = np.round(values / RESOLUTION) * RESOLUTION
    return whole
