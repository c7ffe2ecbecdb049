"""Anomalies put into fields on purpose, so that it is known which fields are unlike their season.

Four kinds, each weaker than an ordinary day's weather, so that no cell by itself gives it away:

============ ==================================================================================
hot-spot     a Gaussian bump of 0.8 deviations and radius 1.5 cells at a random place
dipole       two bumps of opposite sign, 5 cells apart, 0.6 deviations each
stripe       a wave along the latitudes, 3 cells long, 0.25 deviations
torn         two halves of the field from different days of the same season
============ ==================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

KINDS = ("hot-spot", "dipole", "stripe", "torn")
SHARE = 0.1
"""Of the fields that get one."""
_BUMP, _DIPOLE, _STRIPE = 0.8, 0.6, 0.25
_RADIUS, _APART, _WAVE = 1.5, 5, 3.0


def inject(
    fields: Floats, spread: NDArray[np.float64], partner: NDArray[np.int64], *, seed: int
) -> tuple[Floats, NDArray[np.bool_], tuple[str, ...]]:
    """Put anomalies into a tenth of the fields.

    Args:
        fields: [n, lat, lon], physical units.
        spread: Standard deviation of an ordinary field about its season, broadcastable to a field.
        partner: [n]: another field of the same season, from which the torn ones take a half.
        seed: Of places and choices.

    Returns:
        The fields, which have an anomaly, and of what kind ("" without).
    """
    rng = np.random.Generator(np.random.PCG64([seed, 11]))
    out = fields.copy()
    count = max(len(KINDS), round(SHARE * len(fields)))
    chosen = rng.permutation(len(fields))[:count]
    kinds = [""] * len(fields)
    for k, at in enumerate(chosen):
        kinds[at] = KINDS[k % len(KINDS)]
        out[at] = _with(kinds[at], fields[at], fields[partner[at]], spread, rng)
    marked = np.array([bool(kind) for kind in kinds])
    return out, marked, tuple(kinds)


def _with(
    kind: str,
    field: Floats,
    other: Floats,
    spread: NDArray[np.float64],
    rng: np.random.Generator,
) -> Floats:
    lat_count, lon_count = field.shape
    row = rng.integers(2, lat_count - 2)
    column = rng.integers(_APART, lon_count - _APART)
    sign = 1.0 if rng.random() < 0.5 else -1.0  # noqa: PLR2004 - a coin
    if kind == "torn":
        out = field.copy()
        half = lon_count // 2
        # The other half keeps its own mean, so that the seam is no cliff that anybody would see.
        shift = field[:, half:].mean() - other[:, half:].mean()
        out[:, half:] = other[:, half:] + shift
        return out
    if kind == "hot-spot":
        added = _BUMP * _bump(field.shape, row, column)
    elif kind == "dipole":
        left, right = column - _APART // 2, column + _APART - _APART // 2
        added = _DIPOLE * (_bump(field.shape, row, left) - _bump(field.shape, row, right))
    else:
        wave = np.sin(2.0 * np.pi * np.arange(lat_count) / _WAVE + rng.random() * 2.0 * np.pi)
        added = _STRIPE * np.repeat(wave[:, None], lon_count, axis=1)
    changed: Floats = (field + sign * spread * added).astype(np.float32)
    return changed


def _bump(shape: tuple[int, ...], row: float, column: float) -> NDArray[np.float64]:
    lat, lon = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    bump: NDArray[np.float64] = np.exp(-0.5 * ((lat - row) ** 2 + (lon - column) ** 2) / _RADIUS**2)
    return bump
