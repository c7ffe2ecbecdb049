"""The fixed geometry: an 8 by 8 coarse patch stands for a 32 by 32 fine patch.

Coarse is the mean over 4 by 4 blocks of fine. Longitudes are split into training and validation
so that no validation cell is nearer than one patch width to a training cell, also around the
globe. This file holds the numbers and the arithmetic only; it draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FACTOR = 4
COARSE_SIZE = 8
FINE_SIZE = COARSE_SIZE * FACTOR
TRAIN_RATIO = 0.75


def block_mean(fine: Floats) -> Floats:
    """Average 4 by 4 blocks.

    Args:
        fine: Fields [n, 4 h, 4 w].

    Returns:
        Fields [n, h, w], float32; the sums run in float64.
    """
    count, height, width = fine.shape
    blocks = fine.reshape(count, height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    mean: Floats = blocks.mean(axis=(2, 4), dtype="float64").astype("float32")
    return mean


@dataclass(frozen=True)
class LongitudeSplit:
    """Half-open column ranges of the two parts; the columns between them belong to neither."""

    train_start: int
    train_stop: int
    validation_start: int
    validation_stop: int


def min_column_count(*, is_global: bool) -> int:
    """Return the fewest longitudes that hold a training patch, the gaps and a validation patch."""
    return FINE_SIZE * (4 if is_global else 3)


def split_longitudes(column_count: int, *, is_global: bool) -> LongitudeSplit:
    """Divide columns, west to east, into training, gap and validation.

    Three quarters of the columns that are left beside the gaps train (fewer where validation
    would not hold a patch). On a grid that runs around the globe a second gap closes the ring.

    Args:
        column_count: Longitudes of the fine grid; at least :func:`min_column_count`.
        is_global: Whether the last column is the western neighbour of the first.

    Raises:
        ValueError: There are too few columns; readers refuse such a grid before.
    """
    least = min_column_count(is_global=is_global)
    if column_count < least:
        raise ValueError(f"{column_count} longitudes are fewer than {least}")
    gap_count = 2 if is_global else 1
    usable = column_count - gap_count * FINE_SIZE
    train_stop = max(FINE_SIZE, min(int(usable * TRAIN_RATIO), usable - FINE_SIZE))
    validation_start = train_stop + FINE_SIZE
    return LongitudeSplit(
        0, train_stop, validation_start, train_stop + FINE_SIZE + usable - train_stop
    )
