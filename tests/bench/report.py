"""What a bench measured, as rows of one Markdown table, with the machine that it ran on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from math import comb
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_VERSIONS = ("kfm-mlflow", "mlflow", "ray", "onnxruntime-gpu", "onnxruntime", "model-signing")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements, and where the true median lies.

    Attributes:
        interval: At least 95 % confidence interval of the median, from order statistics and
            therefore without assuming a distribution; all there is below 6 values.
    """

    low: float
    median: float
    high: float
    interval: tuple[float, float]
    count: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return median and quartiles of at least two values."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high, _median_interval(values), len(values))


def _median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return order statistics that hold the median with 95 % (binomial, n trials at 1/2)."""
    ordered, n = sorted(values), len(values)
    rank, tail = 0, 0.0
    while (tail := tail + comb(n, rank) / 2**n) <= 0.025:
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[n - rank]


def paired_ratio(ours: Sequence[float], peers: Sequence[float]) -> Spread:
    """Return the spread of ours divided by the peer's of the same round.

    Ratios are taken inside a round because the machine's speed moves between rounds.
    """
    return spread_of([a / b for a, b in zip(ours, peers, strict=True)])


def percentile(values: Sequence[float], pct: int) -> float:
    """Return a percentile 1..99 of at least two values."""
    return quantiles(values, n=100, method="inclusive")[pct - 1]


class Outcome(StrEnum):
    """Whether a promise was kept; noise that hides it is neither."""

    KEPT = "✓"
    MISSED = "MISSED"
    UNDECIDED = "undecided, noise"


def judge(ratio: Spread, goal: float) -> Outcome:
    """Compare a ratio with the largest that was promised.

    It is kept when the median is within it, and missed when the whole 95 % interval of the median
    is beyond it.
    """
    if ratio.median <= goal:
        return Outcome.KEPT
    return Outcome.MISSED if ratio.interval[0] > goal else Outcome.UNDECIDED


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was done.
        ours: Our own number, with its unit.
        peer_name: Whom we are compared with, in the same run.
        peer: Its number.
        ratio: Ours divided by the peer's, over the rounds.
        goal: Largest ratio that was promised; None where the number is only stated.
        note: What a reader must know to judge the number.
    """

    what: str
    ours: str
    peer_name: str
    peer: str
    ratio: Spread
    goal: float | None = None
    note: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """Whether the promise was kept; None where there is none."""
        return None if self.goal is None else judge(self.ratio, self.goal)

    def to_markdown(self) -> str:
        """Return the row as Markdown."""
        found, digits = self.ratio, ".3g" if self.goal is None else ".3f"
        ratio = f"**{found.median:{digits}}** ({found.low:{digits}} to {found.high:{digits}})"
        goal = ""
        if self.goal is not None:
            low, high = found.interval
            goal = f"≤ {self.goal:.2f} {self.outcome} (95 %: {low:.3f} to {high:.3f})"
        cells = (self.what, self.ours, self.peer_name, self.peer, ratio, str(found.count), goal)
        return f"| {' | '.join((*cells, self.note))} |"


def describe_machine() -> str:
    """Return cores, processor, memory, Python and package versions in one line."""
    versions = []
    for name in SHOWN_VERSIONS:
        try:
            versions.append(f"{name} {version(name)}")
        except ImportError:
            continue  # onnxruntime comes under one of two names
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores, {_processor()}, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def write_table(rows: Sequence[Row], *, size: str, load_average: float, wall_s: float) -> str:
    """Return the whole report.

    Args:
        rows: In the order in which they were measured.
        size: ``small`` or ``full``.
        load_average: Of the machine over the minute before the run.
        wall_s: How long the run took.
    """
    head = (
        "| what | ours | against | theirs | ratio (quartiles) | rounds | goal | remarks |",
        "|---|---|---|---|---|---|---|---|",
    )
    about = (
        f"Machine: {describe_machine()}.",
        f"Size `{size}`; load average before the run {load_average:.1f}; took {wall_s:.0f} s.",
        "Ratio: ours divided by theirs, taken within each round and interleaved; median, and lower",
        "and upper quartile over the rounds. A goal is missed when the 95 % interval of the median",
        "lies beyond it. What is simulated says so.",
    )
    return "\n".join((*about, "", *head, *(row.to_markdown() for row in rows), ""))
