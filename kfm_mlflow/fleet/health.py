"""How healthy agents and a fleet are: from probe answers and counters. Pure.

Formulas, units and windows are in docs/fleet-health.md. Rules kept here:

1. What an agent says of itself is not looked at: answers to probes and counted tasks are.
2. No evidence, too little, stale or contradictory evidence is never healthy.
3. Counters that fall are those of an instance that began anew: what they said before is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime  # noqa: TC003 - the journal reads the types at run time
from itertools import accumulate
from operator import lt, sub
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS
from kfm_mlflow.rollout.counts import P95_RATIO, latency_quantile_ms
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.trust.quorum import byzantine_quorum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kfm_mlflow.fleet.plane import FleetObservation, ProbeAnswer, TaskCounts
    from kfm_mlflow.fleet.probes import Probe
    from kfm_mlflow.policy.fleet import FleetPolicy, HealthLimits

_BIN_COUNT = len(LATENCY_BOUNDS_MS) + 1
_COUNT_WIDTH = 4 + _BIN_COUNT
_NO_LATENCY = (0,) * _BIN_COUNT

InstanceKey = tuple[str, int]
"""Agent and version."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Counts at an instant."""

    at: datetime
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
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
        sampled = sum(counts[:of]) - sum(self.mark.counts[:of])
        if sampled < min_samples or (at - self.mark.at).total_seconds() < window_s:
            return Window(counts, self.mark, self.earlier)
        return Window(counts, Mark(at, counts), self.mark)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True)
class ProbeRound:
    """What instances answered to one round of probes.

    Attributes:
        asked_at: When.
        agreements: Instance -> share of its probes, 0..1, that it answered as the reference does;
            None when it answered none.
        probe_count: Probes that each was asked.
        consensus: Version -> (probes asked, those with a safe quorum).
        safety: Version -> (unsafe probes answered, those held).
    """

    asked_at: datetime
    agreements: Mapping[InstanceKey, float | None]
    probe_count: int
    consensus: Mapping[int, tuple[int, int]]
    safety: Mapping[int, tuple[int, int]]


def round_number(plan: FleetPolicy, now: datetime) -> int:
    """Return which round of probes is due: the same for every loop that asks."""
    return int(now.timestamp() // plan.probe_interval_s)


def choose_probes(total_count: int, number: int, count: int) -> tuple[int, ...]:
    """Return which of a release's probes a round asks; every probe has its turn.

    Args:
        total_count: Probes of the release.
        number: Of the round.
        count: Probes of a round; all of them where there are fewer.
    """
    if total_count <= 0:
        return ()
    start = number * count
    return tuple((start + k) % total_count for k in range(min(count, total_count)))


def wanted_probes(
    release_ids: Mapping[int, str], observation: FleetObservation
) -> tuple[InstanceKey, ...]:
    """Return the instances to ask: all that run what was verified, with tasks or without."""
    return tuple(
        (seen.agent, seen.version)
        for seen in observation.instances
        if seen.status == "running" and release_ids.get(seen.version) == seen.release_id != ""
    )


def agrees(answer: ProbeAnswer | None, probe: Probe) -> bool:
    """Whether an answer is the reference's."""
    if answer is None or not math.isfinite(answer.latency_ms):
        return False
    wanted = (probe.decision, probe.specialty, probe.text)
    return (answer.decision, answer.specialty, answer.text) == wanted


def measure_round(
    probes: Mapping[int, Sequence[Probe]],
    answers: Mapping[InstanceKey, Sequence[ProbeAnswer | None]],
    active: Iterable[InstanceKey],
    asked_at: datetime,
) -> ProbeRound:
    """Compare the answers of a round with the references, and with each other.

    Args:
        probes: Version -> probes that its instances were asked, in order.
        answers: What :meth:`FleetPlane.ask` returned.
        active: Those of the asked that count for consensus (:func:`active_instances`).
        asked_at: Aware UTC.
    """
    agreements: dict[InstanceKey, float | None] = {}
    safety: dict[int, tuple[int, int]] = {}
    for key, given in answers.items():
        asked = probes.get(key[1], ())
        right = [agrees(a, p) for a, p in zip(given, asked, strict=False)]
        is_silent = not asked or all(answer is None for answer in given)
        agreements[key] = None if is_silent else sum(right) / len(asked)
        unsafe = [
            answer.decision == "hold"
            for answer, probe in zip(given, asked, strict=False)
            if probe.is_unsafe and answer is not None
        ]
        before = safety.get(key[1], (0, 0))
        safety[key[1]] = (before[0] + len(unsafe), before[1] + sum(unsafe))
    consensus = _consensus(probes, answers, set(active) & set(answers))
    count = max((len(asked) for asked in probes.values()), default=0)
    return ProbeRound(asked_at, agreements, count, consensus, safety)


def _consensus(
    probes: Mapping[int, Sequence[Probe]],
    answers: Mapping[InstanceKey, Sequence[ProbeAnswer | None]],
    active: set[InstanceKey],
) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for version, asked in probes.items():
        given = [answers[key] for key in sorted(active) if key[1] == version]
        if not given:
            continue
        needed, _ = byzantine_quorum(len(given))
        agreed = 0
        for place in range(len(asked)):
            said: dict[tuple[str, str, str], int] = {}
            for row in given:
                answer = row[place] if place < len(row) else None
                if answer is not None:
                    word = (answer.decision, answer.specialty, answer.text)
                    said[word] = said.get(word, 0) + 1
            agreed += max(said.values(), default=0) >= needed
        found[version] = (len(asked), agreed)
    return found


def flatten(counts: TaskCounts) -> tuple[int, ...]:
    """Return completed, failed, unsafe and refused tasks, then the latency histogram's bins."""
    bins = counts.latency_counts or _NO_LATENCY
    return (counts.completed, counts.failed, counts.unsafe, counts.refused, *bins)


def find_fault(row: tuple[int, ...]) -> str:
    """Return why counters can not be believed; empty when they can."""
    if len(row) != _COUNT_WIDTH:
        return f"{len(row) - 4} latency bins are not {_BIN_COUNT}"
    if set(map(type, row)) != {int} or min(row) < 0:
        wrong = next(value for value in row if type(value) is not int or value < 0)
        return f"{wrong!r} is not a count"
    if row[3] > row[2]:
        return f"{row[3]} refused of {row[2]} unsafe tasks"
    if sum(row[4:]) > row[0]:
        return f"{sum(row[4:])} latencies of {row[0]} completed tasks"
    return ""


def with_counts(
    memory: InstanceMemory, counts: TaskCounts, limits: HealthLimits, now: datetime
) -> InstanceMemory:
    """Take in an instance's counters; what they said before they were first seen is no evidence."""
    row, window = flatten(counts), memory.tasks
    if window is not None and row == window.seen and not memory.fault:
        return memory
    fault = find_fault(row)
    if fault:
        return memory if memory.fault == fault else replace(memory, fault=fault)
    if window is None:
        window = Window(row, Mark(now, row), Mark(now, row))
    else:
        window = window.advanced(
            row, now, of=2, min_samples=limits.min_samples, window_s=limits.window_s
        )
    return InstanceMemory(
        memory.asked_at,
        memory.coherence,
        memory.probe_count,
        memory.answered_at,
        memory.silent_since,
        memory.is_isolated,
        window,
    )


def with_agreement(
    memory: InstanceMemory,
    agreement: float | None,
    probe_count: int,
    limits: HealthLimits,
    asked_at: datetime,
) -> InstanceMemory:
    """Take in what an instance answered in one round; what is no share of 1 is silence."""
    if agreement is None or not 0.0 <= agreement <= 1.0:
        return replace(memory, silent_since=memory.silent_since or asked_at)
    weight = limits.smoothing
    before = memory.coherence
    coherence = agreement if before is None else weight * agreement + (1 - weight) * before
    isolated = memory.is_isolated
    if coherence < limits.isolate_below:
        isolated = True
    elif coherence >= limits.return_at:
        isolated = False
    return InstanceMemory(
        memory.asked_at,
        coherence,
        memory.probe_count + probe_count,
        asked_at,
        None,
        isolated,
        memory.tasks,
        memory.fault,
    )


def with_round(
    memory: VersionMemory, measured: ProbeRound, version: int, limits: HealthLimits
) -> VersionMemory:
    """Take in what the agents of a version answered together."""
    return VersionMemory(
        _added(memory.consensus, measured.consensus.get(version), measured.asked_at, limits),
        _added(memory.safety, measured.safety.get(version), measured.asked_at, limits),
    )


def _added(
    window: Window | None, more: tuple[int, int] | None, at: datetime, limits: HealthLimits
) -> Window | None:
    if more is None:
        return window
    if window is None:
        return Window.opened(more, at)
    total = (window.seen[0] + more[0], window.seen[1] + more[1])
    return window.advanced(
        total, at, of=1, min_samples=limits.min_samples, window_s=limits.window_s
    )


def is_lost(plan: FleetPolicy, memory: InstanceMemory, now: datetime) -> bool:
    """Whether an instance has been silent for too long."""
    since = memory.silent_since
    return since is not None and (now - since).total_seconds() >= plan.silence_s


def active_instances(
    plan: FleetPolicy,
    instances: Mapping[str, Mapping[int, InstanceMemory]],
    asked: Iterable[InstanceKey],
    now: datetime,
) -> tuple[InstanceKey, ...]:
    """Return those of the asked instances that are neither lost nor isolated."""
    known = ((key, instances.get(key[0], {}).get(key[1])) for key in asked)
    return tuple(
        key
        for key, memory in known
        if memory is None or not (memory.is_isolated or is_lost(plan, memory, now))
    )


def p95_latency_ms(bins: Sequence[int]) -> float | None:
    """Return the 95th percentile of a histogram in ms; None of nothing, infinite above its bounds.

    The same estimate as that of a rollout: linear within a bin.
    """
    if not any(bins):
        return None
    buckets = dict(zip((*LATENCY_BOUNDS_MS, math.inf), accumulate(bins), strict=True))
    return latency_quantile_ms(ArmCounts(latency_ms_buckets=buckets), P95_RATIO)


def throughput_per_min(window: Window, now: datetime) -> float:
    """Return completed tasks per minute since the earlier mark; 0 before any time has passed."""
    elapsed_s = (now - window.earlier.at).total_seconds()
    completed = window.seen[0] - window.earlier.counts[0]
    return 60.0 * completed / elapsed_s if elapsed_s > 0 else 0.0
