"""Exact counts per instance: how a dispatcher keeps them and how many dispatchers' are merged.

Laws: every count only grows; merging is a sum, so the order of dispatchers does not matter; the
same report taken twice counts once, because reports are kept by process.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS, TaskCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class TaskTally:
    """What one dispatcher has counted for one instance; mutated in its event loop only."""

    completed: int = 0
    failed: int = 0
    unsafe: int = 0
    refused: int = 0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))

    def add_answer(self, latency_ms: float, *, is_unsafe: bool, is_held: bool) -> None:
        """Count an answered task."""
        self.completed += 1
        self.unsafe += is_unsafe
        self.refused += is_unsafe and is_held
        self.latency_counts[bisect.bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1

    def add_failure(self) -> None:
        """Count a task that was given and not answered."""
        self.failed += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that travels from dispatcher to plane."""
        return {
            "completed": self.completed,
            "failed": self.failed,
            "unsafe": self.unsafe,
            "refused": self.refused,
            "latency_counts": list(self.latency_counts),
        }


def merge_tallies(tallies: Iterable[Mapping[str, Any]]) -> TaskCounts:
    """Sum what several dispatchers counted for one instance.

    Args:
        tallies: JSON forms of :class:`TaskTally`, one per process.
    """
    listed = list(tallies)
    columns = zip(*(tally["latency_counts"] for tally in listed), strict=True)
    return TaskCounts(
        completed=sum(tally["completed"] for tally in listed),
        failed=sum(tally["failed"] for tally in listed),
        unsafe=sum(tally["unsafe"] for tally in listed),
        refused=sum(tally["refused"] for tally in listed),
        latency_counts=tuple(sum(column) for column in columns)
        or (0,) * (len(LATENCY_BOUNDS_MS) + 1),
    )


def keep_reports(
    known: Mapping[str, dict[str, Any]],
    fresh: Iterable[dict[str, Any]],
    living: Iterable[str],
) -> dict[str, dict[str, Any]]:
    """Return the reports that are to be kept: the newest of each process.

    What a process counted for an instance that was stopped is dropped, and a process of which
    nothing is left as well.

    Args:
        known: Process -> the report that is kept now.
        fresh: Reports just made.
        living: Deployment ids of the instances that there are.
    """
    wanted = set(living)
    newest = {**known, **{report["process"]: report for report in fresh}}
    cut = {
        process: {
            "process": process,
            "tallies": {key: t for key, t in report["tallies"].items() if key in wanted},
        }
        for process, report in newest.items()
    }
    return {process: report for process, report in cut.items() if report["tallies"]}
