"""Made-up tornado days whose true probability is known.

The rate of a cell and month is a season (one peak in late May, a small second one in autumn)
times a place (a ridge from the south-west to the centre) times a year (gamma with mean 1, shape 8:
some years are busy everywhere). Nothing here is an observation.
"""

from __future__ import annotations

import calendar
import json
from datetime import date

import h3
import numpy as np

from hazard.records import TornadoDays, count_days, domain_cells
from kfm_mlflow.canonical import digest_bytes

NAME = "made-up-tornado-days"
YEARS = tuple(range(1950, 2006))
_PER_CELL_YEAR = 0.35
_BUSY_SHAPE = 8.0


def season(month: int) -> float:
    """Return the share of a year's tornado days in a month, 1 to 12."""
    weights = [_bump(m) for m in range(1, 13)]
    return weights[month - 1] / sum(weights)


def _bump(month: int) -> float:
    return float(
        np.exp(-((month - 5.4) ** 2) / 2.2) + 0.08 * np.exp(-((month - 10.0) ** 2) / 1.5) + 0.004
    )


def place(lat_deg: float, lon_deg: float) -> float:
    """Return how many times as many tornado days as on average a place has."""
    along = (lon_deg + 98.3) / 3.7
    ridge = lat_deg - (38.0 + 0.6 * along)
    return float(0.55 + 0.9 * np.exp(-(ridge**2) / 0.5) * np.exp(-(along**2) / 0.8))


def true_probability(lat_deg: float, lon_deg: float, month: int) -> float:
    """Return the mean probability that a day of a month is a tornado day at a place."""
    per_day = _PER_CELL_YEAR * place(lat_deg, lon_deg) * season(month) / 30.4
    return float(1.0 - (1.0 + per_day / _BUSY_SHAPE) ** -_BUSY_SHAPE)


def generate_tornado_days(seed: int = 42) -> TornadoDays:
    """Draw the tornado days of 56 years; the same seed gives the same days."""
    rng = np.random.Generator(np.random.PCG64(seed))
    cells = sorted(domain_cells())
    centres = [h3.cell_to_latlng(cell) for cell in cells]
    places = np.array([place(*centre) for centre in centres])
    days: set[tuple[str, date]] = set()
    for year in YEARS:
        busy = rng.gamma(_BUSY_SHAPE, 1.0 / _BUSY_SHAPE)
        for month in range(1, 13):
            length = calendar.monthrange(year, month)[1]
            rate = busy * _PER_CELL_YEAR * places * season(month) / 30.4
            hit = rng.random((len(cells), length)) < -np.expm1(-rate)[:, None]
            days |= {(cells[c], date(year, month, int(d) + 1)) for c, d in np.argwhere(hit)}
    listed = sorted((cell, day.isoformat()) for cell, day in days)
    text = json.dumps(listed, separators=(",", ":"))
    return count_days(days, name=NAME, digest=digest_bytes(text.encode("ascii")))
