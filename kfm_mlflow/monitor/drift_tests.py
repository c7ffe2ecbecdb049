"""The tests of a drift check: one distance, one null distribution, one correction.

The distance is Kolmogorov and Smirnov's, the largest difference between two empirical
distribution functions. Its null distribution comes from permuting whole blocks between the two
samples (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3): if baseline and
current blocks were drawn alike they are exchangeable, whatever the dependence inside a block, and
``p = (1 + #{D* >= D}) / (1 + permutations)`` is at most alpha with probability at most alpha
(Phipson and Smyth, 2010). Over fields and statistics Holm's step-down keeps the chance of *any*
false alarm (Holm, 1979). Benjamini-Hochberg would bound the share of false alarms among alarms
instead; here a single alarm rolls a release back, and fields depend on each other.

Pure and seeded: equal values give equal numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CHUNK_CELLS = 2**19
_EPSILON = 1e-9
_PERMUTATIONS_PER_LEVEL = 10
_POWER_QUANTILE = 0.8416212335729143  # of the standard normal at 0.8


@dataclass(frozen=True)
class Measured:
    """Distance between two samples, and its p-value."""

    distance: float
    p_value: float


def block_index(blocks: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    """Return block numbers 0, 1, … of rows; without labels every row is a block."""
    if blocks is None:
        return np.arange(count, dtype=np.int64)
    return np.unique(blocks, return_inverse=True)[1].astype(np.int64)


def _placed(
    values: NDArray[np.float64], blocks: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return values and their block numbers; rows that are blocks have no order, and get one."""
    index = block_index(blocks, len(values))
    if int(index.max()) + 1 == len(values):
        return np.sort(values), np.arange(len(values), dtype=np.int64)
    return values, index


def _distances(
    is_baseline: NDArray[np.bool_], weight: NDArray[np.float64], ends: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the distance per labelling; [permutation, row in order of value] -> [permutation].

    Every block has weight 1, however many rows it has.
    """
    below = np.cumsum(is_baseline * weight, axis=1)
    size, total = below[:, -1:], np.cumsum(weight)
    other = total[ends] - below[:, ends]
    gap = np.abs(below[:, ends] / size - other / (total[-1] - size))
    found: NDArray[np.float64] = gap.max(axis=1)
    return found


def block_permutation_ks(
    baseline: NDArray[np.float64],
    current: NDArray[np.float64],
    baseline_blocks: NDArray[np.int64] | None = None,
    current_blocks: NDArray[np.int64] | None = None,
    *,
    permutation_count: int,
    seed: int,
) -> Measured:
    """Compare two samples by the Kolmogorov-Smirnov distance under block permutation.

    Each block counts once, its rows in equal parts; of blocks of one size it is the usual distance.

    Args:
        baseline: Finite values [n].
        current: Finite values [m].
        baseline_blocks: Block number of each value; None when every value is a block.
        current_blocks: The same of the current values; numbers need not differ from the former.
        permutation_count: Permutations.
        seed: Of them.
    """
    baseline, first = _placed(baseline, baseline_blocks)
    current, second = _placed(current, current_blocks)
    first_count, second_count = int(first.max()) + 1, int(second.max()) + 1
    values = np.concatenate([baseline, current])
    order = np.argsort(values, kind="stable")
    block = np.concatenate([first, second + first_count])[order]
    # Distribution functions are compared where they are defined: after the last of equal values.
    ends = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))
    labels = np.arange(first_count + second_count) < first_count
    weight = 1.0 / np.bincount(block)[block]
    distance = float(_distances(labels[block][None, :], weight, ends)[0])
    rng = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, _CHUNK_CELLS // len(values))
    reached, left = 0, permutation_count
    while left > 0:
        size = min(chunk, left)
        shuffled = rng.permuted(np.tile(labels, (size, 1)), axis=1)
        reached += int((_distances(shuffled[:, block], weight, ends) >= distance - _EPSILON).sum())
        left -= size
    return Measured(distance, (1 + reached) / (1 + permutation_count))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values, in the given order (Holm, 1979)."""
    count = len(p_values)
    adjusted = [0.0] * count
    highest = 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = highest
    return tuple(adjusted)


def permutations_needed(alpha: float, test_count: int, at_least: int) -> int:
    """Return how many permutations resolve the strictest level of Holm's procedure.

    The smallest p-value is a tenth of that level.
    """
    return max(at_least, math.ceil(_PERMUTATIONS_PER_LEVEL * test_count / alpha))


def resolvable_distance(
    baseline_count: int, current_count: int, alpha: float, test_count: int
) -> float:
    """Return the distance that is found in four cases of five, in the worst case.

    The critical value is that of the asymptotic two-sample test at ``alpha / test_count``; the
    difference of the two distribution functions at one point has at most the standard deviation
    of two fair coins.

    Args:
        baseline_count: Blocks of the baseline.
        current_count: Blocks now.
        alpha: Chance of a false alarm over all tests.
        test_count: Tests.
    """
    if min(baseline_count, current_count) < 1:
        return math.inf
    scale = math.sqrt(1 / baseline_count + 1 / current_count)
    critical = math.sqrt(-math.log(alpha / test_count / 2) / 2)
    return (critical + _POWER_QUANTILE / 2) * scale


def blocks_needed(
    baseline_count: int, distance: float, alpha: float, test_count: int
) -> int | None:
    """Return how many current blocks resolve a distance; None when no number does."""
    worst = (distance / resolvable_distance(1, 10**12, alpha, test_count)) ** 2
    left = worst - 1 / max(1, baseline_count)
    return math.ceil(1 / left) if left > 0 else None
