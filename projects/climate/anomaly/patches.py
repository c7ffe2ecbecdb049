"""Patches of reanalysis fields about the zonal mean, for the anomaly task.

A row is a patch of 12 by 20 cells of a variable at a level, less the zonal mean of its latitudes
and divided by the deviation about it, both from the training longitudes and pooled over the
patch's latitudes; and the season of its month, where the file says one. Longitudes are dealt in
bands, in turns to training and to validation; patches of two bands are at least ten cells apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from downscaling.fields import load_fields
from kfm_mlflow.errors import DataError
from prepared import Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from downscaling.fields import FieldSet

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

LAT_SIZE, LON_SIZE = 12, 20
_STRIDE = 4
_BAND, _EDGE = 60, 5


@dataclass(frozen=True)
class Patches:
    """Rows of a file, on both sides of the split.

    Attributes:
        learned: Training rows, [n, 3, 12, 20].
        held: Held-out rows, [m, 3, 12, 20].
        learned_partner: For each training row another of its season, [n].
        held_partner: The same of the held-out rows, [m].
        source: Where they come from.
        training_places: Latitude and longitude of the training rows' values, [n, 12, 20] each.
    """

    learned: Floats
    held: Floats
    learned_partner: NDArray[np.int64]
    held_partner: NDArray[np.int64]
    source: Source
    training_places: tuple[Doubles, Doubles]


def cut_reanalysis(path: Path) -> Patches:
    """Cut patches of every field of a file.

    Raises:
        DataError: The grid is smaller than three patches.
    """
    fields = load_fields(path)
    if len(fields.lat) < LAT_SIZE or len(fields.lon) < 3 * LON_SIZE:
        raise DataError(
            f"has {len(fields.lat)} by {len(fields.lon)} cells",
            where=path.name,
            remedy=f"give at least {LAT_SIZE} latitudes and {3 * LON_SIZE} longitudes",
        )
    band = min(_BAND, len(fields.lon) // 2)
    number = np.arange(len(fields.lon)) // band
    is_training = number % 2 == 0
    lefts = _lefts(len(fields.lon), band, 0)
    learned, learned_group = _cut(fields, lefts, is_training)
    held, held_group = _cut(fields, _lefts(len(fields.lon), band, 1), is_training)
    partners = (_next_in(learned_group), _next_in(held_group))
    source = Source(
        *(fields.name, path.name, fields.digest, fields.bbox, fields.start_at, fields.end_at),
        variables=tuple(sorted(set(fields.variables))),
        cell_size_deg=abs(float(fields.lat[1] - fields.lat[0])),
    )
    return Patches(learned, held, *partners, source, _places(fields, lefts))


def _next_in(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the next patch of the same field and latitudes; of the last one, the first."""
    partner = np.arange(len(group))
    for value in np.unique(group):
        members = np.flatnonzero(group == value)
        partner[members] = np.roll(members, -1)
    return partner


def _tops(fields: FieldSet) -> NDArray[np.int64]:
    return np.arange(0, len(fields.lat) - LAT_SIZE + 1, _STRIDE)


def _places(fields: FieldSet, lefts: NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Return where the values of patches lie, in the order of ``_cut``."""
    top, left = (part.ravel() for part in np.meshgrid(_tops(fields), lefts, indexing="ij"))
    lat = fields.lat[top[:, None] + np.arange(LAT_SIZE)][:, :, None]
    lon = fields.lon[left[:, None] + np.arange(LON_SIZE)][:, None, :]
    lat_of, lon_of = np.broadcast_arrays(lat, lon)
    count = len(fields.values)
    return np.tile(lat_of, (count, 1, 1)), np.tile(lon_of, (count, 1, 1))


def _lefts(lon_count: int, band: int, parity: int) -> NDArray[np.int64]:
    """Return the left columns of patches inside every second band."""
    starts = range(parity * band, lon_count - band + 1, 2 * band)
    inside = np.arange(_EDGE, band - _EDGE - LON_SIZE + 1, _STRIDE)
    return np.concatenate([start + inside for start in starts])


def _cut(
    fields: FieldSet, columns: NDArray[np.int64], is_training: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.int64]]:
    rows, groups = [], []
    for sample, values in enumerate(fields.values):
        known = values[:, is_training].astype(np.float64)
        away = values - known.mean(axis=1, keepdims=True)
        spread = away[:, is_training].std(axis=1)
        phase = 0.0 if "Jul" not in fields.labels[sample] else np.pi
        for top in _tops(fields):
            usual = float(np.sqrt(np.square(spread[top : top + LAT_SIZE]).mean()))
            season = np.zeros((2, LAT_SIZE, LON_SIZE))
            season[1] = np.cos(phase)
            for left in columns:
                patch = away[top : top + LAT_SIZE, left : left + LON_SIZE] / usual
                rows.append(np.concatenate([patch[None], season]))
                groups.append(sample * len(fields.lat) + top)
    return np.asarray(rows, np.float32), np.asarray(groups)
