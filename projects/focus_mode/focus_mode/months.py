"""How the hidden anomalies of a made-up land go from month to month, and what is seen of them.

In a month m (0 is a January) let c = cos(2 pi m / 12) and w = (1 - c) / 2. Next month's anomalies:

    temperature'   0.35 temperature - 0.45 humidity + 0.35 c wind
    precipitation' 0.15 precipitation + 0.55 humidity - 0.3 tanh(temperature wind)
    humidity'      0.30 humidity + 0.20 precipitation
    wind'          0.20 wind
    soil'          0.45 soil - 0.45 groundwater + 0.20 precipitation
    streamflow'    0.25 streamflow + 0.60 runoff + 0.60 max(c, 0) snow
    runoff'        0.20 runoff + 0.30 soil
    evapotrans.'   0.35 evapotranspiration + 0.20 soil
    groundwater'   0.60 groundwater - 0.20 soil
    snow'          0.50 snow
    drought'       0.60 drought - 0.15 soil + 0.20 heat
    heat'          0.35 heat + 0.50 w drought
    storm'         0.15 storm + 0.75 cape
    flood'         0.40 flood + 0.50 storm
    fire'          0.35 fire + 0.50 drought
    cape'          0.30 cape
    reports'       0.15 reports, of each of the six

and to each is added a shock: 0.35 times a standard normal of the cell, 0.35 times one that its H3
parent shares, and what a happening brings. Every cell and month draws a happening, that is a domain
and a situation: to that domain's anomalies it adds U(2.2, 3.2) times the situation's pattern, to
each other domain's U(0, 1) times the pattern of some other drawn situation, a false trail. The
spatial domain's anomalies never change: where a happening is drawn there, the land decides. No shock is shared between parents: the months of
training cells tell nothing of the shocks of held-out ones.

What is seen is made from the anomalies plus 0.1 times a standard normal, see :func:`_climate`,
:func:`_hydrology`, :func:`_hazards` and :func:`_reports`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from focus_mode.evidence import ANOMALIES, PATTERNS, warmth
from focus_mode.geography import logistic
from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from focus_mode.geography import Land

    Doubles = NDArray[np.float64]
    from kfm_mlflow.focus.columns import Domain

    States = dict[Domain, Doubles]

MOVING = DOMAINS[1:]
"""The domains whose anomalies change from month to month."""
LEADING_SHARES = (0.27, 0.22, 0.13, 0.15, 0.23)
STRONG = (2.2, 3.2)
WEAK = (0.0, 1.0)
SHOCK = 0.35
READING_NOISE = 0.1
_SPIN_UP_MONTHS = 12


def simulate(rng: np.random.Generator, land: Land, month_count: int) -> States:
    """Return the hidden anomalies of each moving domain, float64 [month, cell, anomaly].

    A year passes before month 0, so that nothing is left of the still state at its start.
    """
    state: States = {name: np.zeros((len(land.cells), len(ANOMALIES[name]))) for name in MOVING}
    kept = []
    for month in range(-_SPIN_UP_MONTHS, month_count):
        state = _next(state, month - 1)
        shocks = _shocks(rng, land, month)
        state = {name: state[name] + shocks[name] for name in MOVING}
        kept.append(state)
    months = kept[_SPIN_UP_MONTHS:]
    return {name: np.stack([state[name] for state in months]) for name in MOVING}


def see(rng: np.random.Generator, land: Land, states: States) -> States:
    """Return the columns of each moving domain, float64 [month, cell, column], as they are seen."""
    read = {
        name: states[name] + READING_NOISE * rng.standard_normal(states[name].shape)
        for name in MOVING
    }
    months = np.arange(len(states["climate"]))[:, None]
    return {
        "climate": _climate(land, months, read["climate"]),
        "hydrology": _hydrology(land, months, read["hydrology"]),
        "hazards": _hazards(months, read["hazards"]),
        "narrative": _reports(read["narrative"]),
    }


def severity(hazards: Doubles) -> Doubles:
    """Return 0..1 from hidden hazard anomalies [..., 6].

    It is s((r - 1.2) / 0.6) with r the largest response of the hazards to anything but calm.
    """
    found = hazards @ PATTERNS["hazards"][1:].T
    return logistic((found.max(axis=-1) - 1.2) / 0.6)


def situation_odds(month: int) -> Doubles:
    """Return how likely each situation is drawn in a month: heat in summer, storms in spring."""
    warm = float(warmth(np.array(month)))
    spring = 0.5 + 0.5 * np.cos(2.0 * np.pi * (month - 4) / 12.0)
    odds = np.array([0.9, 1.0, 0.6 + 0.6 * spring, 0.6 + 0.8 * spring, 2.0 * warm**2, 0.9])
    return np.asarray(odds / odds.sum())


def _shocks(rng: np.random.Generator, land: Land, month: int) -> States:
    count = len(land.cells)
    leading = rng.choice(len(DOMAINS), count, p=LEADING_SHARES)
    odds = situation_odds(month)
    found: States = {}
    for k, name in enumerate(MOVING, start=1):
        situation = rng.choice(len(SITUATIONS), count, p=odds)
        size = np.where(leading == k, rng.uniform(*STRONG, count), rng.uniform(*WEAK, count))
        width = len(ANOMALIES[name])
        own = rng.standard_normal((count, width))
        shared = rng.standard_normal((land.parents.max() + 1, width))[land.parents]
        found[name] = SHOCK * (own + shared) + size[:, None] * PATTERNS[name][situation]
    return found


def _next(state: States, month: int) -> States:
    """Apply the table of the module's text."""
    c = np.cos(2.0 * np.pi * month / 12.0)
    warm = (1.0 - c) / 2.0
    temperature, precipitation, humidity, wind = state["climate"].T
    soil, streamflow, runoff, evapotranspiration, groundwater, snow = state["hydrology"].T
    drought, heat, storm, flood, fire, cape = state["hazards"].T
    climate = [
        0.35 * temperature - 0.45 * humidity + 0.35 * c * wind,
        0.15 * precipitation + 0.55 * humidity - 0.3 * np.tanh(temperature * wind),
        0.3 * humidity + 0.2 * precipitation,
        0.2 * wind,
    ]
    hydrology = [
        0.45 * soil - 0.45 * groundwater + 0.2 * precipitation,
        0.25 * streamflow + 0.6 * runoff + 0.6 * max(c, 0.0) * snow,
        0.2 * runoff + 0.3 * soil,
        0.35 * evapotranspiration + 0.2 * soil,
        0.6 * groundwater - 0.2 * soil,
        0.5 * snow,
    ]
    hazards = [
        0.6 * drought - 0.15 * soil + 0.2 * heat,
        0.35 * heat + 0.5 * warm * drought,
        0.15 * storm + 0.75 * cape,
        0.4 * flood + 0.5 * storm,
        0.35 * fire + 0.5 * drought,
        0.3 * cape,
    ]
    return {
        "climate": np.stack(climate, axis=1),
        "hydrology": np.stack(hydrology, axis=1),
        "hazards": np.stack(hazards, axis=1),
        "narrative": 0.15 * state["narrative"],
    }


def _climate(land: Land, months: NDArray[np.int64], z: Doubles) -> Doubles:
    """Return the climate columns; x, y and the elevation are the cell's.

    The normals are ``12.5 + 1.5 x - 1.5 y - 0.004 (elevation - 500) - 13.5 c`` degC and
    ``(22 + 45 x) (1 + 0.6 sin(2 pi (m - 2) / 12))`` mm.
    """
    temperature, precipitation, humidity, wind = np.moveaxis(z, -1, 0)
    x, y, elevation = land.eastness, land.northness, land.columns[:, 2]
    turn = 2.0 * np.pi * months / 12.0
    normal_c = 12.5 + 1.5 * x - 1.5 * y - 0.004 * (elevation - 500.0) - 13.5 * np.cos(turn)
    normal_mm = (22.0 + 45.0 * x) * (1.0 + 0.6 * np.sin(turn - np.pi / 3.0))
    ratio = np.exp(0.45 * precipitation)
    windy = (5.0 - 1.0 * x) * (1.0 + 0.15 * np.cos(turn - np.pi / 2.0))
    seen = [
        normal_c + 2.6 * temperature,
        2.6 * temperature,
        normal_mm * ratio,
        ratio,
        logistic(0.5 + 0.4 * (x - 0.5) + 0.5 * humidity),
        windy * np.exp(0.22 * wind),
        np.broadcast_to(np.sin(turn), (len(months), len(x))),
        np.broadcast_to(np.cos(turn), (len(months), len(x))),
    ]
    return np.stack(seen, axis=-1)


def _hydrology(land: Land, months: NDArray[np.int64], z: Doubles) -> Doubles:
    """Return the hydrology columns; snow lies while c > 0 only, deepest in the north-west."""
    soil, streamflow, runoff, evapotranspiration, groundwater, snow = np.moveaxis(z, -1, 0)
    x, y = land.eastness, land.northness
    turn = 2.0 * np.pi * months / 12.0
    cold = np.maximum(np.cos(turn), 0.0)
    warm = warmth(months)
    seen = [
        logistic(0.9 * (x - 0.5) + 0.35 * np.sin(turn) + 0.6 * soil),
        100.0 * logistic(1.1 * streamflow),
        (2.0 + 10.0 * x) * (1.0 + 0.5 * np.sin(turn)) * np.exp(0.5 * runoff),
        (10.0 + 90.0 * warm) * np.exp(0.22 * evapotranspiration),
        np.maximum(cold * (30.0 + 12.0 * y - 15.0 * x + 12.0 * snow), 0.0),
        (14.0 + 36.0 * (1.0 - x)) * np.exp(0.2 * groundwater - 0.1 * land.anomalies[:, 1]),
    ]
    return np.stack(seen, axis=-1)


def _hazards(months: NDArray[np.int64], z: Doubles) -> Doubles:
    """Return the hazard columns; the drought index rises with dryness, days are whole."""
    drought, heat, storm, flood, fire, cape = np.moveaxis(z, -1, 0)
    warm = warmth(months)
    spring = 0.5 + 0.5 * np.cos(2.0 * np.pi * (months - 4) / 12.0)
    seen = [
        np.clip(1.3 * drought, -5.0, 5.0),
        np.clip(np.rint(9.0 * warm**2 + 5.0 * warm * heat), 0.0, 31.0),
        np.clip(np.round(2.0 + 4.0 * spring + 2.2 * storm), 0.0, 31.0),
        np.minimum(0.55 * np.exp(0.32 * flood), 5.0),
        100.0 * logistic(-0.4 + fire),
        np.minimum((200.0 + 1500.0 * spring) * np.exp(0.45 * cape), 8000.0),
    ]
    return np.stack(seen, axis=-1)


def _reports(z: Doubles) -> Doubles:
    """Return the shares of six kinds of reports: exp(z) over their sum."""
    sizes = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(sizes / sizes.sum(axis=-1, keepdims=True))
