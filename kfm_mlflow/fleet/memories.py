"""What is known of instances and versions of a fleet: values, kept in its state. Pure.

What is measured with them: :mod:`kfm_mlflow.fleet.health`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the journal reads the types at run time
from operator import lt, sub
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")

InstanceKey = tuple[str, int]
"""Agent and version."""


@dataclass_transform(frozen_default=True)
def _value(cls: type[_T]) -> type[_T]:
    """Make a value class that type checkers keep frozen; at run time nothing does.

    A pass of a large fleet makes thousands of these, and each field of a class that is frozen at
    run time is set by a call of its own: making them would take longer than measuring.
    """
    return dataclass(slots=True)(cls)


@_value
class Mark:
    """Counts at an instant."""

    at: datetime
    counts: tuple[int, ...]


@_value
class Window:
    """Counters, and what they were at the beginning of this window and of the one before.

    What is measured reaches back to ``earlier``: at least one window, and as long as the counters
    took to gather enough samples.
    """

    seen: tuple[int, ...]
    mark: Mark
    earlier: Mark

    @classmethod
    def opened(cls, counts: tuple[int, ...], at: datetime) -> Window:
        """Begin with counters that count from zero."""
        mark = Mark(at, (0,) * len(counts))
        return cls(counts, mark, mark)

    @property
    def measured(self) -> tuple[int, ...]:
        """What came since the earlier mark."""
        return tuple(map(sub, self.seen, self.earlier.counts))

    def advanced(
        self, counts: tuple[int, ...], at: datetime, *, of: int, min_samples: int, window_s: float
    ) -> Window:
        """Take in newer counters; the first ``of`` of them are samples."""
        if counts == self.seen:
            return self
        if any(map(lt, counts, self.seen)):
            return Window.opened(counts, at)
        mark = self.mark
        if (at - mark.at).total_seconds() < window_s:
            return Window(counts, mark, self.earlier)
        if sum(counts[:of]) - sum(mark.counts[:of]) < min_samples:
            return Window(counts, mark, self.earlier)
        return Window(counts, Mark(at, counts), mark)


@_value
class InstanceMemory:
    """What is known of one instance.

    Attributes:
        asked_at: When its start was last asked for, or when it was first seen.
        coherence: Smoothed agreement with the reference, 0..1; None before it answered a probe.
        probe_count: Probes that it was asked and that count.
        answered_at: When it last answered.
        silent_since: Since when it answers nothing; None while it does.
        is_isolated: It gets no tasks until its coherence is back.
        tasks: Its counters; None before they were read.
        fault: Why its counters can not be believed; empty when they can.
    """

    asked_at: datetime | None = None
    coherence: float | None = None
    probe_count: int = 0
    answered_at: datetime | None = None
    silent_since: datetime | None = None
    is_isolated: bool = False
    tasks: Window | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class VersionMemory:
    """What the agents of one version answered together.

    Attributes:
        consensus: Probes asked, and those on which a safe quorum agreed.
        safety: Unsafe probes answered, and those of them that were held.
    """

    consensus: Window | None = None
    safety: Window | None = None
