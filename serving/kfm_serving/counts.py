"""Exact counts per release: how a router keeps them and how many routers' are merged.

Laws: every count only grows; merging is a sum, so the order of routers does not matter; the same
report taken twice counts once, because reports are kept by (replica, epoch).
"""

from __future__ import annotations

import bisect
import functools
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.rollout.counts import FULL_PPM, add_bins
from kfm_mlflow.rollout.plane import ArmCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.rollout.plane import Band
    from kfm_serving.replica import Masking

LATENCY_BOUNDS_MS = tuple(round(10 ** (k / 10), 2) for k in range(49))
"""Ten bounds per decade from 1 ms to 63 s: a quantile read from them is at most 26 % too high."""


@dataclass
class ArmTally:
    """What one router has counted for one deployed release; mutated in its event loop only."""

    request_count: int = 0
    error_count: int = 0
    latency_counts: list[int] = field(default_factory=lambda: [0] * len(LATENCY_BOUNDS_MS))
    outside_count: dict[str, int] = field(default_factory=dict)
    measured_count: dict[str, int] = field(default_factory=dict)
    masked_count: int = 0
    withheld_count: int = 0
    mask_failure_count: int = 0
    dropped_count: int = 0
    bin_counts: dict[str, list[int]] = field(default_factory=dict)
    explained_count: int = 0
    unexplained_count: int = 0
    instability_ppm: int = 0
    worst_instability_ppm: int = 0
    alarm_count: dict[str, int] = field(default_factory=dict)
    signal_count: dict[str, int] = field(default_factory=dict)
    signal_ppm: dict[str, int] = field(default_factory=dict)

    def add_answer(
        self, latency_ms: float, statistics: Mapping[str, float], bands: Mapping[str, Band]
    ) -> None:
        """Count a good answer; statistics without a band are not held against anything."""
        self.request_count += 1
        self._add_latency(latency_ms)
        for name, band in bands.items():
            value = statistics.get(name)
            if value is None:
                continue
            self.measured_count[name] = self.measured_count.get(name, 0) + 1
            if not band.low <= value <= band.high:
                self.outside_count[name] = self.outside_count.get(name, 0) + 1

    def add_bins(self, bins: Mapping[str, int]) -> None:
        """Count where an answer, counted otherwise, lies in its release's drift baseline."""
        for name, place in bins.items():
            counts = self.bin_counts.setdefault(name, [])
            counts.extend([0] * (place + 1 - len(counts)))
            counts[place] += 1

    def add_explained(self, found: Iterable[int | None]) -> None:
        """Count rows that were explained: 1 - stability of each, in millionths, or None."""
        for instability_ppm in found:
            if instability_ppm is None:
                self.unexplained_count += 1
                continue
            self.explained_count += 1
            self.instability_ppm += instability_ppm
            self.worst_instability_ppm = max(self.worst_instability_ppm, instability_ppm)

    def add_told(self, alarms: Iterable[str], signals: Mapping[str, float]) -> None:
        """Count the alarms of an answer, and what was measured of it."""
        for name in alarms:
            self.alarm_count[name] = self.alarm_count.get(name, 0) + 1
        for name, value in signals.items():
            self.signal_count[name] = self.signal_count.get(name, 0) + 1
            self.signal_ppm[name] = self.signal_ppm.get(name, 0) + round(value * FULL_PPM)

    def add_masking(self, masking: Masking) -> None:
        """Count what masking did to an answer that is counted otherwise, too."""
        self.masked_count += masking == "masked"
        self.withheld_count += masking == "withheld"
        self.mask_failure_count += masking == "failed"

    def add_refusal(self, latency_ms: float) -> None:
        """Count a request that was answered with a refusal to publish; the model did not err."""
        self.request_count += 1
        self._add_latency(latency_ms)

    def add_error(self, latency_ms: float | None) -> None:
        """Count a failed first attempt; no latency when there was no answer at all."""
        self.request_count += 1
        self.error_count += 1
        if latency_ms is not None:
            self._add_latency(latency_ms)

    def add_dropped(self) -> None:
        """Count a copy that was not sent: neither a request nor evidence."""
        self.dropped_count += 1

    def _add_latency(self, latency_ms: float) -> None:
        slot = bisect.bisect_left(LATENCY_BOUNDS_MS, latency_ms)
        self.latency_counts[min(slot, len(LATENCY_BOUNDS_MS) - 1)] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that travels from router to plane."""
        return {
            "request_count": self.request_count,
            "error_count": self.error_count,
            "latency_counts": list(self.latency_counts),
            "outside_count": dict(self.outside_count),
            "measured_count": dict(self.measured_count),
            "masked_count": self.masked_count,
            "withheld_count": self.withheld_count,
            "mask_failure_count": self.mask_failure_count,
            "dropped_count": self.dropped_count,
            "bin_counts": {name: list(counts) for name, counts in self.bin_counts.items()},
            "explained_count": self.explained_count,
            "unexplained_count": self.unexplained_count,
            "instability_ppm": self.instability_ppm,
            "worst_instability_ppm": self.worst_instability_ppm,
            "alarm_count": dict(self.alarm_count),
            "signal_count": dict(self.signal_count),
            "signal_ppm": dict(self.signal_ppm),
        }


def merge_tallies(tallies: Iterable[Mapping[str, Any]]) -> ArmCounts:
    """Sum what several routers counted for one deployed release.

    Args:
        tallies: JSON forms of :class:`ArmTally`, one per (replica, epoch).
    """
    listed = list(tallies)
    slots = [sum(column) for column in zip(*(t["latency_counts"] for t in listed), strict=True)]
    cumulative = itertools.accumulate(slots or [0] * len(LATENCY_BOUNDS_MS))
    return ArmCounts(
        request_count=sum(t["request_count"] for t in listed),
        error_count=sum(t["error_count"] for t in listed),
        latency_ms_buckets=dict(zip(LATENCY_BOUNDS_MS, cumulative, strict=True)),
        outside_count=_summed(t["outside_count"] for t in listed),
        measured_count=_summed(t["measured_count"] for t in listed),
        masked_count=sum(t["masked_count"] for t in listed),
        withheld_count=sum(t["withheld_count"] for t in listed),
        mask_failure_count=sum(t["mask_failure_count"] for t in listed),
        dropped_count=sum(t["dropped_count"] for t in listed),
        bin_counts=functools.reduce(add_bins, (t["bin_counts"] for t in listed), {}),
        explained_count=sum(t["explained_count"] for t in listed),
        unexplained_count=sum(t["unexplained_count"] for t in listed),
        instability_ppm=sum(t["instability_ppm"] for t in listed),
        worst_instability_ppm=max((t["worst_instability_ppm"] for t in listed), default=0),
        alarm_count=_summed(t["alarm_count"] for t in listed),
        signal_count=_summed(t["signal_count"] for t in listed),
        signal_ppm=_summed(t["signal_ppm"] for t in listed),
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
