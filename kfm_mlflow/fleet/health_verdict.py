"""Whether agents are healthy: measured numbers against the policy's limits. Pure.

The whole is its worst part. Nothing passes, and but for isolation nothing fails, before
``min_samples``; only a PASS lets a batch go on.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.health import p95_latency_ms, throughput_per_min
from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS
from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.rollout.counts import P95_RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.memories import InstanceKey, InstanceMemory, VersionMemory
    from kfm_mlflow.policy.fleet import FleetPolicy, HealthLimits

STALE_ROUNDS = 3
"""Probe rounds after which an answer is no evidence of today."""

_MAX_NAMED = 5
_NOTHING = (0,) * (4 + len(LATENCY_BOUNDS_MS) + 1)
Finding = tuple[Verdict, str]
_PASS: Finding = (Verdict.PASS, "")


@dataclass(frozen=True)
class Assessment:
    """What was found of agents of one version.

    Attributes:
        verdict: The worst of all findings.
        reason: Of the worst, fit to be shown; at most five are named.
        is_unsafe: The safety score failed: none of these agents keeps tasks for want of others.
        agent_count: Agents that were judged.
        min_coherence: The lowest of them, 0..1; None when one has none.
        error_ratio: Failed of all tasks in the window, over all; None without tasks.
        p95_latency_ms: Of all their tasks; None without any, or above the last bound.
        safety_score: Share of the unsafe tasks and probes that were held; None without any.
        consensus_rate: Share of probes on which a safe quorum agreed; None without any.
        tasks_per_min: Completed tasks per minute, over all.
        task_count: Tasks in the window, over all.
        probe_count: Probes that the least asked agent was asked.
    """

    verdict: Verdict
    reason: str = ""
    is_unsafe: bool = False
    agent_count: int = 0
    min_coherence: float | None = None
    error_ratio: float | None = None
    p95_latency_ms: float | None = None
    safety_score: float | None = None
    consensus_rate: float | None = None
    tasks_per_min: float = 0.0
    task_count: int = 0
    probe_count: int = 0


@dataclass(frozen=True, slots=True)
class _Bar:
    """What every agent of a pass is held against: worked out once, not once for each agent."""

    min_samples: int
    min_coherence: float
    stale_after_s: float
    max_error_ratio: float
    max_p95_ms: float
    quick_bin_count: int

    @classmethod
    def of(cls, plan: FleetPolicy) -> _Bar:
        limits = plan.health
        return cls(
            limits.min_samples,
            limits.min_coherence,
            max(plan.silence_s, STALE_ROUNDS * plan.probe_interval_s),
            limits.max_error_ratio,
            limits.max_p95_latency_ms,
            bisect_right(LATENCY_BOUNDS_MS, limits.max_p95_latency_ms),
        )


def judge(plan: FleetPolicy, memory: InstanceMemory, now: datetime) -> Finding:
    """Judge one running instance."""
    return _judge(_Bar.of(plan), memory, _measured(memory), now)


def _measured(memory: InstanceMemory) -> tuple[int, ...]:
    return memory.tasks.measured if memory.tasks is not None else _NOTHING


def _judge(bar: _Bar, memory: InstanceMemory, measured: tuple[int, ...], now: datetime) -> Finding:
    probes = _judge_probes(bar, memory, now)
    if probes == _PASS:
        return _judge_tasks(bar, memory.fault, measured)
    if probes[0] is Verdict.FAIL:
        return probes
    tasks = _judge_tasks(bar, memory.fault, measured)
    return probes if probes[0].severity > tasks[0].severity else tasks


def _judge_probes(bar: _Bar, memory: InstanceMemory, now: datetime) -> Finding:
    coherence, at = memory.coherence, memory.answered_at
    if coherence is None:
        return Verdict.INCONCLUSIVE, "answered no probe yet"
    if memory.is_isolated:
        return Verdict.FAIL, f"coherence {coherence:.2f}: isolated"
    if memory.probe_count < bar.min_samples:
        return Verdict.INCONCLUSIVE, f"{memory.probe_count} of {bar.min_samples} probes"
    if coherence <= bar.min_coherence:
        return Verdict.FAIL, f"coherence {coherence:.2f} is not above {bar.min_coherence:g}"
    if at is None or (now - at).total_seconds() > bar.stale_after_s:
        return Verdict.INCONCLUSIVE, "its last answer is too old"
    return _PASS


def _judge_tasks(bar: _Bar, fault: str, measured: tuple[int, ...]) -> Finding:
    if fault:
        return Verdict.ERROR, f"its counters can not be believed: {fault}"
    failed, bins = measured[1], measured[4:]
    count = measured[0] + failed
    if count < bar.min_samples:
        return Verdict.INCONCLUSIVE, f"{count} of {bar.min_samples} tasks"
    if failed >= bar.max_error_ratio * count:
        ratio, limit = failed / count, bar.max_error_ratio
        return Verdict.FAIL, f"error ratio {ratio:.3f} is not below {limit:g}"
    counted = sum(bins)
    if sum(bins[: bar.quick_bin_count]) < P95_RATIO * counted:
        # Only now is the percentile itself worked out.
        slow_ms, limit = p95_latency_ms(bins), bar.max_p95_ms
        if slow_ms is not None and slow_ms > limit:
            return Verdict.FAIL, f"p95 latency {slow_ms:.0f} ms is above {limit:g} ms"
    return _PASS if counted else (Verdict.ERROR, "no latency was counted")


def assess(
    plan: FleetPolicy,
    memories: Sequence[tuple[InstanceKey, InstanceMemory]],
    version: VersionMemory | None,
    now: datetime,
) -> Assessment:
    """Judge the agents of one version, each and together.

    Args:
        plan: The policy's fleet section.
        memories: The instances to judge.
        version: What all agents of that version answered together.
        now: Aware UTC.
    """
    bar, findings = _Bar.of(plan), list[Finding]()
    rows = [_measured(memory) for _, memory in memories]
    for (key, memory), measured in zip(memories, rows, strict=True):
        finding = _judge(bar, memory, measured, now)
        if finding != _PASS:
            findings.append((finding[0], f"{key[0]}: {finding[1]}"))
    # Of all windows together.
    row = tuple(map(sum, zip(*rows, strict=True))) or _NOTHING
    safety, safety_score = _judge_safety(plan.health, row, version)
    together, consensus_rate = _judge_consensus(plan.health, version)
    findings += [safety, together]
    verdict = worst(verdict for verdict, _ in findings)
    named = [reason for found, reason in findings if found is verdict and reason]
    more = f"; and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    coherences = [memory.coherence for _, memory in memories]
    known = [c for c in coherences if c is not None]
    count, p95_ms = row[0] + row[1], p95_latency_ms(row[4:])
    return Assessment(
        verdict=verdict,
        reason="; ".join(named[:_MAX_NAMED]) + more,
        is_unsafe=safety[0] is Verdict.FAIL,
        agent_count=len(memories),
        min_coherence=min(known) if known and len(known) == len(coherences) else None,
        error_ratio=row[1] / count if count else None,
        p95_latency_ms=p95_ms if p95_ms is not None and math.isfinite(p95_ms) else None,
        safety_score=safety_score,
        consensus_rate=consensus_rate,
        tasks_per_min=sum([throughput_per_min(m.tasks, now) for _, m in memories if m.tasks]),
        task_count=count,
        probe_count=min([memory.probe_count for _, memory in memories], default=0),
    )


def _judge_safety(
    limits: HealthLimits, row: tuple[int, ...], version: VersionMemory | None
) -> tuple[Finding, float | None]:
    asked, held = version.safety.measured if version and version.safety else (0, 0)
    asked, held = asked + row[2], held + row[3]
    score = held / asked if asked else None
    if score is None or asked < limits.min_samples:
        return (Verdict.INCONCLUSIVE, f"{asked} of {limits.min_samples} unsafe tasks"), score
    if score < limits.min_safety:
        reason = f"safety score {score:.3f} is below {limits.min_safety:g}"
        return (Verdict.FAIL, reason), score
    return (Verdict.PASS, ""), score


def _judge_consensus(
    limits: HealthLimits, version: VersionMemory | None
) -> tuple[Finding, float | None]:
    asked, agreed = version.consensus.measured if version and version.consensus else (0, 0)
    rate = agreed / asked if asked else None
    if rate is None or asked < limits.min_samples:
        return (Verdict.INCONCLUSIVE, f"{asked} of {limits.min_samples} probes together"), rate
    if rate < limits.min_consensus:
        reason = f"consensus rate {rate:.3f} is below {limits.min_consensus:g}"
        return (Verdict.FAIL, reason), rate
    return (Verdict.PASS, ""), rate
