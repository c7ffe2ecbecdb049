"""Whether what a model says of impacts can be relied on: their sign, their size, how many there are.

With x the truth and y the prediction, both as departures from what is usual:

================= =============================================================================
sign_agreement    share of the x at least ``far`` deviations away from 0 whose sign y has
magnitude_ratio   std(y) / std(x): below 1 the answers are too tame, above 1 too wild
exceedance_ratio  count of y beyond q_95(x) over count of x there: events that are told of for
                  each that comes, whichever they are
================= =============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]


def sign_agreement(said: Doubles, truth: Doubles, *, far: float = 1.0) -> float:
    """Return the share of clear departures whose sign is told; NaN where an answer is not finite.

    Args:
        said: Predicted departures, any shape.
        truth: True departures, same shape.
        far: How many standard deviations of the truth make a departure clear.
    """
    if not np.isfinite(said).all():
        return float("nan")
    clear = np.abs(truth) >= far * truth.std()
    return float((np.sign(said[clear]) == np.sign(truth[clear])).mean())


def magnitude_ratio(said: Doubles, truth: Doubles) -> float:
    """Return the standard deviation of what is said over that of the truth."""
    return float(said.std() / truth.std())


def exceedance_ratio(said: Doubles, truth: Doubles) -> float:
    """Return how many answers lie beyond the truth's 95th percentile for each truth that does.

    NaN where an answer is not finite.
    """
    if not np.isfinite(said).all():
        return float("nan")
    least = np.percentile(truth, 95)
    return float((said >= least).sum() / (truth >= least).sum())
