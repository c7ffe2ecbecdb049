"""How far counts are from a baseline, and how much evidence of drift they are, at any time.

At each cut of a column the share ``F`` of requests below it lies, if nothing drifted, within the
tolerance of the baseline's share ``r``. Against each side of that (``F <= r + t``, ``F >= r - t``)
runs an e-process, a mixture of likelihood ratios over fixed alternatives (method of mixtures,
Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon, Ann. Statist. 49(2), 2021); each is a
supermartingale under its hypothesis, because a likelihood ratio of a larger ratio grows in the true
one. Their mean is an e-process too, whatever their dependence (Vovk and Wang, Ann. Statist. 49(3),
2021), and reaches ``1 / a`` with chance at most ``a`` at any time (Ville 1939).

It depends on the counts alone, not on when somebody looked. Pure.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfm_mlflow.monitor.drift_bins import Column

_ALTERNATIVE_COUNT = 8


def compare_counts(
    column: Column, counts: tuple[int, ...], tolerance: float
) -> tuple[float, float]:
    """Compare requests per bin with a column of a baseline.

    Args:
        column: The baseline's shares at its cuts.
        counts: Requests per bin, one more than twice the cuts.
        tolerance: Distance that is no drift, above 0.

    Returns:
        The largest difference between the shares at a cut (the Kolmogorov-Smirnov distance, as far
        as the cuts show it), and the logarithm of the e-value; 0 and 0 without any request.
    """
    count = sum(counts)
    if not count:
        return 0.0, 0.0
    below = tuple(itertools.accumulate(counts))
    distance, logs = 0.0, []
    for cut, (share_below, share_upto) in enumerate(zip(column.below, column.upto, strict=True)):
        under, upto = below[2 * cut], below[2 * cut + 1]
        distance = max(distance, under / count - share_below, share_upto - upto / count)
        for bad_count, limit_ratio in (
            (under, share_below + tolerance),
            (count - upto, 1 - share_upto + tolerance),
        ):
            if limit_ratio < 1:
                logs.append(_log_e(count, bad_count, limit_ratio))
    return distance, _log_mean(logs) if logs else 0.0


def _log_e(count: int, bad_count: int, limit_ratio: float) -> float:
    """Return the logarithm of the e-value against a ratio of at most ``limit_ratio``."""
    step = (1 - limit_ratio) / _ALTERNATIVE_COUNT
    guesses = (limit_ratio + (k + 0.5) * step for k in range(_ALTERNATIVE_COUNT))
    return _log_mean(
        [
            bad_count * math.log(guess / limit_ratio)
            + (count - bad_count) * math.log((1 - guess) / (1 - limit_ratio))
            for guess in guesses
        ]
    )


def _log_mean(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs) / len(logs))
