"""Which domain carries the evidence of what is going on, and how it does.

Every domain has hidden anomalies z of about unit variance, and for each situation s a pattern P of
length 1 among them (1.35 in the spatial domain, whose anomalies never change). The response of domain d to situation s is ``r[d, s] = P[d, s] . z[d]``, its
strength the largest of the six. **The leading domain is the strongest one, and the situation is the
one that it responds to most.** The other domains respond to other situations, less.

Heat is no candidate where :func:`warmth` is below 0.25 (November to February).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

ANOMALIES: dict[str, tuple[str, ...]] = {
    "spatial": ("roughness", "wetness", "woods", "towns", "tillage", "ridges"),
    "climate": ("temperature", "precipitation", "humidity", "wind"),
    "hydrology": ("soil", "streamflow", "runoff", "evapotranspiration", "groundwater", "snow"),
    "hazards": ("drought", "heat", "storm", "flood", "fire", "cape"),
    "narrative": SITUATIONS,
}
_WRITTEN: dict[str, dict[str, Sequence[float]]] = {
    "spatial": {
        "calm": (-0.6, 0, 0, -0.5, 0, -0.6),
        "drought": (0, -0.6, 0, 0, 0.8, 0),
        "flood": (0, 1, 0, 0, 0, 0),
        "storm": (0, 0, -0.3, 0, 0, 0.9),
        "heat": (0, 0, 0, 1, 0, 0),
        "fire": (0.6, 0, 0.8, 0, 0, 0),
    },
    "climate": {
        "calm": (-0.4, 0, 0, -0.9),
        "drought": (0.2, -0.9, -0.4, 0),
        "flood": (-0.3, 0.9, 0.3, 0),
        "storm": (0, 0.2, 0.6, 0.8),
        "heat": (0.95, 0, 0.3, 0),
        "fire": (0.2, 0, -0.8, 0.6),
    },
    "hydrology": {
        "calm": (0, 0, -0.6, -0.5, -0.6, 0),
        "drought": (-0.6, -0.6, 0, 0, 0.5, 0),
        "flood": (0.2, 0.9, 0.4, 0, 0, 0),
        "storm": (0.3, 0, 0.8, -0.5, 0, 0),
        "heat": (-0.3, 0, 0, 0.95, 0, 0),
        "fire": (-0.7, 0, 0, -0.6, 0.3, 0),
    },
    "hazards": {
        "calm": (-0.45, -0.1, -0.3, -0.5, -0.5, -0.4),
        "drought": (1, 0, 0, 0, 0.1, 0),
        "flood": (0, 0, 0.1, 1, 0, 0),
        "storm": (0, 0, 0.75, 0, 0, 0.65),
        "heat": (0.1, 1, 0, 0, 0, 0),
        "fire": (0.1, 0, 0, 0, 1, 0),
    },
    "narrative": {
        name: tuple(5.0 if k == own else -1.0 for k in range(len(SITUATIONS)))
        for own, name in enumerate(SITUATIONS)
    },
}
_SPATIAL_LENGTH = 1.35
PATTERNS: dict[str, Doubles] = {
    domain: np.array([np.asarray(rows[s]) / np.linalg.norm(rows[s]) for s in SITUATIONS])
    * (_SPATIAL_LENGTH if domain == "spatial" else 1.0)
    for domain, rows in _WRITTEN.items()
}
"""Of each domain, float64 [situation, anomaly]."""
LEAST_WARMTH = 0.25


def warmth(months: NDArray[np.int64]) -> Doubles:
    """Return (1 - cos(2 pi m / 12)) / 2 for months counted from a January: 0 then, 1 in July."""
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * (months % 12) / 12.0))


def responses(anomalies: dict[str, Doubles], months: NDArray[np.int64]) -> Doubles:
    """Return the response of every domain to every situation.

    Args:
        anomalies: Of each domain, [n, its anomalies].
        months: [n], counted from a January.

    Returns:
        float64 [n, domain, situation]; heat is -inf where it is too cold for it.
    """
    found = np.stack([anomalies[name] @ PATTERNS[name].T for name in DOMAINS], axis=1)
    found[warmth(months) < LEAST_WARMTH - 1e-9, :, SITUATIONS.index("heat")] = -np.inf
    return np.asarray(found)


def decide(found: Doubles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the leading domain and the situation that follow from responses [n, 5, 6]."""
    leading = found.max(axis=2).argmax(axis=1)
    return leading, found[np.arange(len(found)), leading].argmax(axis=1)
