"""Targets that belong to other rows: how an honestly worse model is made on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dealt_order(count: int, shuffled_ratio: float, *, seed: int) -> NDArray[np.int64]:
    """Return 0..count-1 with the first share of it in random order.

    Args:
        count: Rows.
        shuffled_ratio: Share that is dealt anew, 0..1.
        seed: Of the order.

    Raises:
        ValueError: The share is outside 0..1.
    """
    if not 0.0 <= shuffled_ratio <= 1.0:
        raise ValueError(f"shuffled_ratio {shuffled_ratio} is outside [0, 1]")
    order = np.arange(count)
    dealt = round(shuffled_ratio * count)
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    order[:dealt] = rng.permutation(order[:dealt])
    return order
