"""How a prediction treats what is rare: the upper tail of the truth.

With x the truth and y the prediction, both standardised, and q_p the p-th percentile:

================== ============================================================================
nbias_p95          mean(y - x) where x >= q_95(x); nbias_p99 likewise
nrmse_p95          sqrt(mean((y - x)**2)) there; nrmse_p99 likewise
amplification_p99  q_99(y) / q_99(x): above 1, extremes are made stronger than they are
================== ============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

NAMES = ("nbias_p95", "nrmse_p95", "nbias_p99", "nrmse_p99", "amplification_p99")


def tail_metrics(said: Doubles, truth: Doubles) -> dict[str, float]:
    """Return the metrics of the module's table; a prediction that is not finite makes them NaN.

    Args:
        said: Standardised prediction, any shape.
        truth: Standardised truth, same shape.
    """
    if not np.isfinite(said).all():
        return dict.fromkeys(NAMES, float("nan"))
    found: dict[str, float] = {}
    for share in (95, 99):
        chosen = truth >= np.percentile(truth, share)
        error = said[chosen] - truth[chosen]
        found[f"nbias_p{share}"] = float(error.mean())
        found[f"nrmse_p{share}"] = float(np.sqrt(np.square(error).mean()))
    found["amplification_p99"] = float(np.percentile(said, 99) / np.percentile(truth, 99))
    return found
