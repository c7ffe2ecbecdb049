"""Arithmetic of arm counts: what was answered between two looks, and whether counts can be true.

Counters that shrink, vanish, or contradict themselves are faults of the measurement; they are
named here and never repaired. Pure.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from kfm_mlflow.rollout.plane import ArmCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

P95_RATIO = 0.95
_OF_REQUESTS = ("error_count", "masked_count", "withheld_count", "mask_failure_count")
_SINGLE = (
    *(*_OF_REQUESTS, "dropped_count"),
    *("explained_count", "unexplained_count", "instability_ppm"),
)
_WORST = "worst_instability_ppm"
_NAMED = (
    *("latency_ms_buckets", "outside_count", "measured_count"),
    *("alarm_count", "signal_count", "signal_ppm"),
)
FULL_PPM = 1_000_000
"""Millionths in a whole: correlations travel as whole numbers of them, so that sums are exact."""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def find_fault(before: ArmCounts | None, now: ArmCounts | None) -> str:
    """Return why counts can not be believed, or an empty string.

    Args:
        before: What the arm counted at the last look; None before the first.
        now: What it counts now; None when the plane no longer knows the arm.
    """
    if now is None:
        return "its counters vanished" if before is not None and before.request_count else ""
    single = {name: getattr(now, name) for name in ("request_count", *_SINGLE, _WORST)}
    named = {
        **single,
        **{f"{name}[{k}]": v for name in _NAMED for k, v in getattr(now, name).items()},
        **{f"bin_counts[{k}][{i}]": n for k, b in now.bin_counts.items() for i, n in enumerate(b)},
    }
    wrong = next((name for name, value in named.items() if not _whole(value)), None)
    if wrong is not None:
        return f"{wrong} is not a count"
    contradiction = _find_contradiction(now) or _find_overtold(now)
    contradiction = contradiction or _find_impossible_stability(now)
    return contradiction or _find_shrinking(before, now)


def _find_contradiction(now: ArmCounts) -> str:
    if now.error_count > now.request_count:
        return f"{now.error_count} errors of {now.request_count} requests"
    for name in _OF_REQUESTS:
        if getattr(now, name) > now.request_count:
            return f"{name} is above request_count"
    bounds = sorted(now.latency_ms_buckets)
    if any(math.isnan(bound) for bound in bounds):
        return "a latency bucket has no bound"
    counts = [now.latency_ms_buckets[bound] for bound in bounds]
    if counts != sorted(counts):
        return "latency buckets are not cumulative"
    for name, count in now.outside_count.items():
        if count > now.measured_count.get(name, 0):
            return f"{name}: more answers outside the band than were measured"
    overfull = any(sum(counts) > now.request_count for counts in now.bin_counts.values())
    return "a column has more answers in its bins than there were requests" if overfull else ""


def _find_overtold(now: ArmCounts) -> str:
    for name, count in (*now.alarm_count.items(), *now.signal_count.items()):
        if count > now.request_count:
            return f"{name}: told of more answers than there were requests"
    return ""


def _find_impossible_stability(now: ArmCounts) -> str:
    least_alike_ppm = 2 * FULL_PPM * now.explained_count
    is_sound = now.worst_instability_ppm <= now.instability_ppm <= least_alike_ppm
    return "" if is_sound else "explanations are less alike than any can be"


def _find_shrinking(before: ArmCounts | None, now: ArmCounts) -> str:
    if before is None:
        return ""
    delta = minus(now, before)
    parts = {
        "request_count": [delta.request_count],
        **{name: [getattr(delta, name)] for name in _SINGLE},
        _WORST: [now.worst_instability_ppm - before.worst_instability_ppm],
        **{name: list(getattr(delta, name).values()) for name in _NAMED},
        "bin_counts": [n for counts in delta.bin_counts.values() for n in counts],
    }
    shrunk = next((name for name, values in parts.items() if min(values, default=0) < 0), None)
    return f"{shrunk} shrank" if shrunk else ""


def _combine(left: ArmCounts, right: ArmCounts, sign: int) -> ArmCounts:
    named: dict[str, Any] = {
        name: _combine_named(getattr(left, name), getattr(right, name), sign) for name in _NAMED
    }
    return ArmCounts(
        request_count=left.request_count + sign * right.request_count,
        **{name: getattr(left, name) + sign * getattr(right, name) for name in _SINGLE},
        **named,
        bin_counts=add_bins(left.bin_counts, right.bin_counts, sign),
        # A largest can not be taken apart: of what came between two looks it is that of all before.
        worst_instability_ppm=left.worst_instability_ppm
        if sign < 0
        else max(left.worst_instability_ppm, right.worst_instability_ppm),
    )


def _combine_named(left: Mapping[Any, int], right: Mapping[Any, int], sign: int) -> dict[Any, int]:
    return {k: left.get(k, 0) + sign * right.get(k, 0) for k in sorted({*left, *right})}


def add_bins(
    left: Mapping[str, Sequence[int]], right: Mapping[str, Sequence[int]], sign: int = 1
) -> dict[str, tuple[int, ...]]:
    """Return counts per bin, added (or, with sign -1, taken off) column by column."""
    return {
        name: tuple(
            one + sign * other
            for one, other in itertools.zip_longest(
                left.get(name, ()), right.get(name, ()), fillvalue=0
            )
        )
        for name in sorted({*left, *right})
    }


def minus(now: ArmCounts, before: ArmCounts) -> ArmCounts:
    """Return what was counted between two looks; negative where a counter shrank."""
    return _combine(now, before, -1)


def plus(left: ArmCounts, right: ArmCounts) -> ArmCounts:
    """Return the sum of two counts."""
    return _combine(left, right, 1)


def tally(counts: ArmCounts, metric: str) -> tuple[int, int]:
    """Return (samples, bad samples) of a metric: errors of requests, or answers out of band."""
    if metric == "error_ratio":
        return counts.request_count, counts.error_count
    return counts.measured_count.get(metric, 0), counts.outside_count.get(metric, 0)


def answer_count(counts: ArmCounts) -> int:
    """Return how many requests were answered; the largest latency bound holds every answer."""
    return max(counts.latency_ms_buckets.values(), default=0)


def count_slower(counts: ArmCounts, limit_ms: float) -> int:
    """Return how many answers certainly took longer than a limit.

    Requests still under way are no answers yet, and answers in the bucket that holds the limit
    get the benefit of the doubt.
    """
    known = [n for bound, n in counts.latency_ms_buckets.items() if bound >= limit_ms]
    return answer_count(counts) - min(known, default=answer_count(counts))


def slower_tally(counts: ArmCounts, bound_ms: float) -> tuple[int, int]:
    """Return (answers, answers above a bucket's bound); a bound that is no bucket's counts none."""
    answers = answer_count(counts)
    return answers, answers - counts.latency_ms_buckets.get(bound_ms, answers)


def quantile_bound_ms(counts: ArmCounts, ratio: float) -> float:
    """Return the smallest bucket bound that holds a share of the answers; infinite without any."""
    answers = answer_count(counts)
    held = (b for b, n in counts.latency_ms_buckets.items() if answers and n >= ratio * answers)
    return min(held, default=math.inf)


def busy_ms(counts: ArmCounts) -> float:
    """Return the time spent on all answers, in ms, from buckets, each answer in its middle.

    Infinite when an answer lies beyond the last finite bound: nobody knows how long it took.
    """
    total_ms, lower_ms, below = 0.0, 0.0, 0
    for bound_ms in sorted(counts.latency_ms_buckets):
        count = counts.latency_ms_buckets[bound_ms] - below
        total_ms += count * (lower_ms + bound_ms) / 2 if count else 0.0
        lower_ms, below = bound_ms, below + count
    return total_ms


def latency_quantile_ms(counts: ArmCounts, ratio: float) -> float:
    """Return a quantile of the time to answer, from buckets.

    Inside a bucket the time is interpolated linearly, as Prometheus' ``histogram_quantile`` does.

    Args:
        counts: Of one arm.
        ratio: Which quantile, 0..1.

    Returns:
        Milliseconds; infinite when the quantile lies beyond the last finite bound; NaN without
        answers.
    """
    if not answer_count(counts):
        return math.nan
    rank = ratio * answer_count(counts)
    lower_ms, below = 0.0, 0
    for bound_ms in sorted(counts.latency_ms_buckets):
        count = counts.latency_ms_buckets[bound_ms]
        if count >= rank:
            if math.isinf(bound_ms):
                return math.inf
            return lower_ms + (bound_ms - lower_ms) * (rank - below) / max(1, count - below)
        lower_ms, below = bound_ms, count
    return math.inf


def p95_latency_ms(counts: ArmCounts) -> float:
    """Return the 95th percentile of the time to answer, as :func:`latency_quantile_ms` does."""
    return latency_quantile_ms(counts, P95_RATIO)
