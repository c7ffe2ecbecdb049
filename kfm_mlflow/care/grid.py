"""The pixels of a latitude-longitude grid: edges, areas, and which of them holds a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kfm_mlflow.care.cells import Integers

_WHOLE_DEG = 360.0
_EARTH_RADIUS_KM = 6371.0088
_LEAST_AREA_KM2 = 1e-12
_SEAM_DEG = 1e-6


@dataclass(frozen=True)
class Grid:
    """The edges of the pixels of a grid.

    Attributes:
        lats_deg: Ordered as the pixels are, one more than there are rows.
        lons_deg: Ordered as the pixels are, one more than there are columns.
    """

    lats_deg: NDArray[np.float64]
    lons_deg: NDArray[np.float64]

    @property
    def is_closed(self) -> bool:
        """Whether the last longitude is a neighbour of the first."""
        return bool(abs(self.lons_deg[-1] - self.lons_deg[0]) >= _WHOLE_DEG - _SEAM_DEG)

    def pixel_areas_km2(self) -> NDArray[np.float64]:
        """Return the mean area of the pixels of each latitude."""
        sines = np.sin(np.radians(np.clip(self.lats_deg, -90.0, 90.0)))
        width = np.radians(np.abs(np.diff(self.lons_deg)).mean())
        km2 = _EARTH_RADIUS_KM**2 * width * np.abs(np.diff(sines))
        areas: NDArray[np.float64] = np.maximum(km2, _LEAST_AREA_KM2)
        return areas

    def pixels(
        self, lats_deg: NDArray[np.float64], lons_deg: NDArray[np.float64]
    ) -> tuple[Integers, NDArray[np.bool_]]:
        """Return the number of the pixel that holds each place, and whether one does."""
        row, column = _bin(lats_deg, self.lats_deg), _bin(lons_deg, self.lons_deg)
        return row * (self.lons_deg.size - 1) + column, (row >= 0) & (column >= 0)


def edges_of(axis: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges between centres; a single one is as wide as a step of the other axis."""
    if axis.size == 1:
        half = abs(other[1] - other[0]) / 2 if other.size > 1 else 0.0
        return np.array([axis[0] - half, axis[0] + half])
    middle = (axis[1:] + axis[:-1]) / 2
    ends = [2 * axis[0] - middle[0]], [2 * axis[-1] - middle[-1]]
    return np.concatenate([ends[0], middle, ends[1]])


def _bin(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Integers:
    descending = edges[0] > edges[-1]
    place = np.searchsorted(edges[::-1] if descending else edges, values, side="right") - 1
    last = edges.size - 2
    off = (place < 0) | (place > last)
    return np.where(off, -1, last - place if descending else place).astype(np.int64)
