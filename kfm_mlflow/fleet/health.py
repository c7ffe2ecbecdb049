"""How healthy agents and a fleet are: from probe answers and counters. Pure.

Formulas, units and windows are in docs/fleet-health.md. Rules kept here:

1. What an agent says of itself is not looked at: answers to probes and counted tasks are.
2. No evidence, too little, stale or contradictory evidence is never healthy.
3. Counters that fall are those of an instance that began anew: what they said before is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.memories import InstanceMemory, Mark, VersionMemory, Window
from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS
from kfm_mlflow.rollout.counts import P95_RATIO, latency_quantile_ms
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.trust.quorum import byzantine_quorum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.memories import InstanceKey
    from kfm_mlflow.fleet.plane import FleetObservation, Instance, ProbeAnswer
    from kfm_mlflow.fleet.probes import Probe
    from kfm_mlflow.policy.fleet import FleetPolicy, HealthLimits

_BIN_COUNT = len(LATENCY_BOUNDS_MS) + 1
_COUNT_WIDTH = 4 + _BIN_COUNT


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
        (found.agent, found.version)
        for found in observation.instances
        if runs_verified(found, release_ids)
    )


def runs_verified(found: Instance, release_ids: Mapping[int, str]) -> bool:
    """Whether an instance runs what the registry verified, by the release id that it loaded."""
    return found.status == "running" and release_ids.get(found.version) == found.release_id != ""


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


def find_fault(row: tuple[int, ...]) -> str:
    """Return why counters can not be believed; empty when they can."""
    if len(row) != _COUNT_WIDTH:
        return f"{len(row) - 4} latency bins are not {_BIN_COUNT}"
    for value in row:
        if type(value) is not int or value < 0:
            return f"{value!r} is not a count"
    if row[3] > row[2]:
        return f"{row[3]} refused of {row[2]} unsafe tasks"
    counted = sum(row[4:])
    if counted > row[0]:
        return f"{counted} latencies of {row[0]} completed tasks"
    return ""


def with_evidence(
    memory: InstanceMemory,
    found: Instance,
    rounds: Iterable[ProbeRound],
    limits: HealthLimits,
    now: datetime,
) -> InstanceMemory:
    """Take in what is new of an instance: its counters, and what it answered to rounds of probes.

    One value is made of all of it, and no look is taken at counters that stand still: of a large
    fleet this is most of what a step takes.

    Args:
        memory: What was known of it.
        found: It runs; what its counters said before they were first seen is no evidence.
        rounds: The oldest first. One that did not ask the instance says nothing of it; an agreement
            that is no share of 1 is silence.
        limits: The policy's.
        now: Aware UTC.
    """
    key, row = (found.agent, found.version), found.counts.row
    tasks, fault = memory.tasks, memory.fault
    if tasks is None or fault or row != tasks.seen:
        tasks, fault = _with_counts(tasks, row, limits, now)
    coherence, probe_count = memory.coherence, memory.probe_count
    answered_at, silent_since = memory.answered_at, memory.silent_since
    isolated = memory.is_isolated
    for asked in rounds:
        if key not in asked.agreements:
            continue
        agreement = asked.agreements[key]
        if agreement is None or not 0.0 <= agreement <= 1.0:
            silent_since = silent_since or asked.asked_at
            continue
        if coherence is not None:
            weight = limits.smoothing
            agreement = weight * agreement + (1 - weight) * coherence
        coherence, probe_count = agreement, probe_count + asked.probe_count
        answered_at, silent_since = asked.asked_at, None
        if coherence < limits.isolate_below:
            isolated = True
        elif coherence >= limits.return_at:
            isolated = False
    return InstanceMemory(
        memory.asked_at,
        coherence,
        probe_count,
        answered_at,
        silent_since,
        isolated,
        tasks,
        fault,
    )


def _with_counts(
    window: Window | None, row: tuple[int, ...], limits: HealthLimits, now: datetime
) -> tuple[Window | None, str]:
    fault = find_fault(row)
    if fault:
        return window, fault
    if window is None:
        mark = Mark(now, row)
        return Window(row, mark, mark), ""
    return window.advanced(
        row, now, of=2, min_samples=limits.min_samples, window_s=limits.window_s
    ), ""


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
