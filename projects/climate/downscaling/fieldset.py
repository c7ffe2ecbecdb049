"""A set of two-dimensional fields on one latitude-longitude grid, and its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

GLOBAL_SPAN_DEG = 360.0


@dataclass(frozen=True)
class FieldSet:
    """Fields of one or more variables that share a grid.

    Attributes:
        name: Short name for records (``kansas-daily-temperature``, the stem of a file).
        values: float32 [sample, lat, lon] in the variable's own unit, all finite.
        lat: float64 [lat], degrees north, ascending.
        lon: float64 [lon], degrees east, ascending; beyond 180 only where the grid crosses the
            antimeridian.
        units: The unit; ``z: m**2 s**-2, u: m s**-1`` where variables differ.
        labels: One per sample (``2001-07-04``, ``z/200hPa/Jan``).
        variables: One per sample: variable and vertical level (``z/200hPa``). Samples of one
            variable share their mean and standard deviation in normalised metrics.
        digest: ``sha256:<hex>``; of the file's bytes, of the Zarr tree, or :func:`digest_fields`.
        source: Where it comes from, in words or as the file's own ``source`` attribute.
        bbox: West, south, east, north in degrees within [-180, 180]: of the domain where it is
            generated, of the cell centres where it is read. West is greater than east where the
            grid crosses the antimeridian (RFC 7946 §5.2).
        start_at: First instant, aware UTC; None when the source does not say (a climatology).
        end_at: Last instant, aware UTC; None when the source does not say.
    """

    name: str
    values: NDArray[np.float32]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    units: str
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    digest: str
    source: str
    bbox: tuple[float, float, float, float]
    start_at: datetime | None
    end_at: datetime | None

    @property
    def is_global(self) -> bool:
        """Whether the last longitude is the western neighbour of the first."""
        return runs_around_globe(self.lon)


def runs_around_globe(lon: NDArray[np.float64]) -> bool:
    """Return whether ascending longitudes close the ring, to within half a step."""
    step = float(np.diff(lon).mean())
    return bool(lon[-1] - lon[0] + 1.5 * step >= GLOBAL_SPAN_DEG)


def digest_fields(
    values: NDArray[np.float32],
    lat: NDArray[np.float64],
    lon: NDArray[np.float64],
    *,
    units: str,
    labels: Sequence[str],
) -> str:
    """Return ``sha256:<hex>`` of fields in memory.

    The canonical form is one line of JSON (keys ``labels``, ``shape``, ``units`` in this order,
    no spaces, ASCII) ending in a newline, then ``lat`` and ``lon`` as little-endian float64, then
    ``values`` as little-endian float32 in C order.
    """
    head = {"labels": list(labels), "shape": list(values.shape), "units": units}
    digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n")
    digest.update(np.ascontiguousarray(lat, dtype="<f8").tobytes())
    digest.update(np.ascontiguousarray(lon, dtype="<f8").tobytes())
    digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"
