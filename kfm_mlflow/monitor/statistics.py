"""Statistics of one answer of a field-to-field model: how it relates to what was asked.

The release's baseline and the running router compute the same numbers with this one function,
so that an interval recorded at validation can be held against live answers. They need no truth:
a model that answers flat, or shifts the mean, shows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

AMPLIFICATION_RATIO = "amplification_ratio"
MEAN_SHIFT_RATIO = "mean_shift_ratio"


def response_statistics(
    inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Compute the response statistics of one request, as means over its batch rows.

    Args:
        inputs: Input name -> array, batch first; the first input is the field.
        outputs: Output name -> array, batch first; the first output is the field's prediction.

    Returns:
        ``amplification_ratio``, std(prediction) / std(input), and ``mean_shift_ratio``,
        |mean(prediction) - mean(input)| / std(input), both dimensionless. Rows whose input is
        constant or not finite are left out; with no row left, or when inputs and outputs have
        different batch sizes, nothing is measured and the result is empty.
    """
    field, answer = _rows(inputs), _rows(outputs)
    if field is None or answer is None or len(field) != len(answer):
        return {}
    varies = np.isfinite(field).all(axis=1) & np.isfinite(answer).all(axis=1)
    # The standard deviation of a constant row may be a rounding error above zero.
    spread = np.where(field.max(axis=1) > field.min(axis=1), field.std(axis=1), 0.0)
    varies &= spread > 0.0
    if not varies.any():
        return {}
    field, answer, spread = field[varies], answer[varies], spread[varies]
    shift = np.abs(answer.mean(axis=1) - field.mean(axis=1))
    return {
        AMPLIFICATION_RATIO: float(np.mean(answer.std(axis=1) / spread)),
        MEAN_SHIFT_RATIO: float(np.mean(shift / spread)),
    }


def _rows(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    """Return the first array as one float64 row per batch element; None without elements."""
    first = next(iter(arrays.values()), None)
    if first is None or first.ndim == 0 or first.size == 0 or first.dtype.kind not in "iuf":
        return None
    return np.asarray(first, dtype=np.float64).reshape(len(first), -1)
