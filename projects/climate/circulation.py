"""Made-up large-scale weather over North America: what the drivers and anomaly tasks look at.

Two fields on 12 by 20 cells, geopotential height at 500 hPa (m) and specific humidity at 850 hPa
(g/kg), are a season plus six fixed patterns times daily amplitudes (first order autoregressive,
0.85) plus a seventh pattern times the product of the first two amplitudes plus unstructured noise.
Nothing here is an observation.
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

NAME = "made-up-circulation"
URI = "generated:circulation?seed=42"
BBOX = (-140.0, 20.0, -60.0, 60.0)
LAT_COUNT, LON_COUNT = 12, 20
PATTERN_COUNT = 6
YEAR_DAY_COUNT = 365
YEAR_COUNT = 8
TRAIN_YEAR_COUNT = 6
START_AT = datetime(1998, 1, 1, 12, tzinfo=UTC)
END_AT = START_AT + timedelta(days=YEAR_COUNT * YEAR_DAY_COUNT - 1)
VARIABLES = ("specific_humidity_850", "z500")
AMPLITUDES = np.array([60.0, 2.0])
"""Standard deviation of one pattern: metres of height, g/kg of humidity."""
RESOLUTION = 1.0 / 1024.0
_PATTERN_SEED = 1979
_PERSISTENCE = 0.85
_NOISE_RATIO = 0.15


@dataclass(frozen=True)
class Circulation:
    """Daily fields.

    Attributes:
        fields: float64 [day, 2, lat, lon]: height in m, humidity in g/kg.
        amplitudes: float64 [day, 6]: of the patterns, standard deviation 1.
        day_of_year: int [day], from 0.
        digest: ``sha256:<hex>`` of the fields.
    """

    fields: Doubles
    amplitudes: Doubles
    day_of_year: NDArray[np.int64]
    digest: str

    @property
    def is_training(self) -> NDArray[np.bool_]:
        """Whether a day lies in the first six years."""
        return np.arange(len(self.fields)) < TRAIN_YEAR_COUNT * YEAR_DAY_COUNT


def patterns() -> Doubles:
    """Return the seven fixed patterns, [7, 2, lat, lon], smooth, of standard deviation 1."""
    rng = np.random.Generator(np.random.PCG64(_PATTERN_SEED))
    white = np.fft.rfft2(rng.standard_normal((PATTERN_COUNT + 1, 2, 2 * LAT_COUNT, 2 * LON_COUNT)))
    ky = np.fft.fftfreq(2 * LAT_COUNT)[:, None] * 2 * LAT_COUNT
    kx = np.fft.rfftfreq(2 * LON_COUNT)[None, :] * 2 * LON_COUNT
    smooth = np.exp(-((ky**2 + kx**2) / 8.0))
    made = np.fft.irfft2(white * smooth, s=(2 * LAT_COUNT, 2 * LON_COUNT))
    cut: Doubles = made[..., :LAT_COUNT, :LON_COUNT]
    cut -= cut.mean(axis=(2, 3), keepdims=True)
    scaled: Doubles = cut / cut.std(axis=(2, 3), keepdims=True)
    return scaled


def season_waves(day_of_year: NDArray[np.int64]) -> Doubles:
    """Return [day, 2]: sine and cosine of the time of the year, 0 at mid January."""
    phase = 2.0 * np.pi * (day_of_year - 15) / YEAR_DAY_COUNT
    return np.stack([np.sin(phase), np.cos(phase)], axis=1)


def generate_circulation(seed: int = 42) -> Circulation:
    """Make eight years of daily fields; the same seed gives the same bytes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    day_count = YEAR_COUNT * YEAR_DAY_COUNT
    amplitudes = np.empty((day_count, PATTERN_COUNT))
    state = rng.standard_normal(PATTERN_COUNT)
    for day in range(day_count):
        fresh = rng.standard_normal(PATTERN_COUNT)
        state = _PERSISTENCE * state + np.sqrt(1.0 - _PERSISTENCE**2) * fresh
        amplitudes[day] = state
    day_of_year = np.arange(day_count) % YEAR_DAY_COUNT
    weight = np.hstack([amplitudes, 0.6 * amplitudes[:, :1] * amplitudes[:, 1:2]])
    anomaly = np.tensordot(weight, patterns(), axes=1)
    anomaly += _NOISE_RATIO * rng.standard_normal(anomaly.shape)
    lat = np.linspace(20.0, 60.0, LAT_COUNT)[:, None]
    warm = -season_waves(day_of_year)[:, 1][:, None, None]
    height = 5600.0 - 9.0 * (lat - 40.0) + (60.0 + 1.5 * (lat - 40.0)) * warm
    humidity = 7.0 - 0.12 * (lat - 40.0) + 3.0 * warm
    mean = np.stack([height, humidity], axis=1)
    fields = mean + AMPLITUDES[:, None, None] * 0.5 * anomaly
    fields = np.round(fields / RESOLUTION) * RESOLUTION
    digest = digest_bytes(fields.astype("<f4").tobytes())
    return Circulation(fields, amplitudes, day_of_year, digest)
