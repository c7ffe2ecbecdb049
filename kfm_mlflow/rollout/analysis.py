"""What the traffic says about a canary: counts in, one verdict per metric out.

Rules kept here:

1. Four outcomes apart: ``PASS``, ``INCONCLUSIVE`` (too little evidence), ``ERROR`` (the
   measurement itself is broken) and ``FAIL``. Only a ``FAIL`` fails a canary by itself.
2. Absence of evidence is never ``PASS``: no metric, no sample, fewer than ``minSamples``.
3. Counters that shrink, vanish, are no counts or contradict themselves are ``ERROR``.
4. Harm may be seen before ``minSamples``: by the sequential test, which holds at any time, or
   when no continuation up to ``minSamples`` could meet an absolute limit any more.
5. Without a stable arm a comparison is not applicable and says so; only limits count then.

Pure: what was seen before is a value (:class:`Memory`) that is passed in and handed back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - the journal reads the types at run time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.rollout import counts as arithmetic
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.sequential import Block, Sequential, update

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import AnalysisPolicy

_P95_TAIL_RATIO = 1 - arithmetic.P95_RATIO


@dataclass(frozen=True)
class MetricAnalysis:
    """One metric's outcome.

    Attributes:
        kind: ``limit`` (absolute) or ``compare`` (against stable).
        verdict: None when the metric is not applicable.
        canary_ratio: Bad share of the canary's samples in the window.
        stable_ratio: The same for stable.
        value: What is held against ``limit``.
        e_value: Evidence of the sequential test over the whole rollout.
        threshold: e-value from which the test rejects.
        sample_count: The canary's samples in the window.
        reason: One clause for people.
    """

    name: str
    kind: Literal["limit", "compare"]
    verdict: Verdict | None
    sample_count: int = 0
    canary_ratio: float | None = None
    stable_ratio: float | None = None
    value: float | None = None
    limit: float | None = None
    e_value: float | None = None
    threshold: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Analysis:
    """All metrics of one look; the whole is its worst applicable part."""

    verdict: Verdict
    metrics: tuple[MetricAnalysis, ...]
    false_alarm_ratio: float

    @property
    def reason(self) -> str:
        """The worst metrics' reasons in one line."""
        found = [f"{m.name}: {m.reason}" for m in self.metrics if m.verdict is self.verdict]
        return "; ".join(found) or "nothing was measured"


@dataclass(frozen=True)
class Memory:
    """What earlier looks left behind.

    Attributes:
        canary_seen: The canary's raw counters at the last look; None before the first and after
            a redeployment, when the next look only sets the mark.
        stable_seen: The same for stable.
        canary: What the canary answered in the present window (since the step began).
        stable: The same for stable.
        sequential: Metric -> comparison since the canary began.
    """

    canary_seen: ArmCounts | None = None
    stable_seen: ArmCounts | None = None
    canary: ArmCounts = field(default_factory=ArmCounts)
    stable: ArmCounts = field(default_factory=ArmCounts)
    sequential: Mapping[str, Sequential] = field(default_factory=dict)

    def with_new_window(self) -> Memory:
        """Forget the window; keep the marks and the comparisons."""
        return replace(self, canary=ArmCounts(), stable=ArmCounts())

    def with_canary_unmarked(self) -> Memory:
        """Forget the canary's mark, because its counters may start anew."""
        return replace(self, canary_seen=None)

    def with_stable_unmarked(self) -> Memory:
        """Forget stable's mark, because its counters may start anew."""
        return replace(self, stable_seen=None)


def analyse(
    policy: AnalysisPolicy,
    memory: Memory,
    *,
    canary: ArmCounts | None,
    stable: ArmCounts | None,
    has_stable: bool,
    min_samples: int,
) -> tuple[Analysis, Memory]:
    """Judge a canary by what both arms answered so far.

    Args:
        policy: What is measured.
        memory: What the last call handed back.
        canary: The canary's raw counters; None when the plane does not know it.
        stable: Stable's raw counters; ignored without a stable arm.
        has_stable: There is a stable arm to compare with.
        min_samples: The canary's samples in this window before anything can pass.

    Returns:
        The analysis, and the memory for the next call (unchanged when the counters are broken, so
        that one lie can not become the new truth).
    """
    faults = {"canary": arithmetic.find_fault(memory.canary_seen, canary)}
    if has_stable:
        faults["stable"] = arithmetic.find_fault(memory.stable_seen, stable)
    fault = "; ".join(f"{arm}: {text}" for arm, text in faults.items() if text)
    if fault:
        return _broken(policy, fault), memory
    memory = _take_in(policy, memory, canary, stable if has_stable else None)
    metrics = (
        *_limit_metrics(policy, memory.canary, min_samples),
        *(
            _compare(policy, memory, name, min_samples, has_stable=has_stable)
            for name in policy.compare
        ),
    )
    verdict = worst(m.verdict for m in metrics if m.verdict is not None)
    return Analysis(verdict, metrics, policy.false_alarm_ratio), memory


def _broken(policy: AnalysisPolicy, fault: str) -> Analysis:
    names = [(name, "limit") for name in policy.limits.model_dump(exclude_none=True)]
    names += [(name, "compare") for name in policy.compare]
    metrics = tuple(
        MetricAnalysis(name, "limit" if kind == "limit" else "compare", Verdict.ERROR, reason=fault)
        for name, kind in names
    )
    return Analysis(Verdict.ERROR, metrics, policy.false_alarm_ratio)


def _delta(seen: ArmCounts | None, now: ArmCounts) -> ArmCounts:
    return ArmCounts() if seen is None else arithmetic.minus(now, seen)


def _take_in(
    policy: AnalysisPolicy, memory: Memory, canary: ArmCounts | None, stable: ArmCounts | None
) -> Memory:
    canary_now, stable_now = canary or ArmCounts(), stable or ArmCounts()
    canary_new = _delta(memory.canary_seen, canary_now)
    stable_new = _delta(memory.stable_seen, stable_now)
    sequential: dict[str, Sequential] = {
        name: update(
            memory.sequential.get(name, Sequential()),
            Block(*arithmetic.tally(stable_new, name), *arithmetic.tally(canary_new, name)),
        )
        for name in policy.compare
    }
    return Memory(
        canary_seen=canary_now,
        stable_seen=stable_now,
        canary=arithmetic.plus(memory.canary, canary_new),
        stable=arithmetic.plus(memory.stable, stable_new),
        sequential=sequential,
    )


def _ratio(bad_count: int, count: int) -> float | None:
    return bad_count / count if count else None


def _limit_metrics(
    policy: AnalysisPolicy, canary: ArmCounts, min_samples: int
) -> list[MetricAnalysis]:
    found: list[MetricAnalysis] = []
    limits = policy.limits
    if limits.error_ratio is not None:
        count, bad_count = arithmetic.tally(canary, "error_ratio")
        ratio = _ratio(bad_count, count)
        hopeless = bad_count > limits.error_ratio * min_samples
        exceeded = ratio is not None and ratio > limits.error_ratio
        verdict, reason = _judge_limit(count, min_samples, hopeless=hopeless, exceeded=exceeded)
        text = f"{bad_count} of {count} requests failed, limit {limits.error_ratio:g}{reason}"
        found.append(
            MetricAnalysis(
                "error_ratio", "limit", verdict, count, ratio, value=ratio,
                limit=limits.error_ratio, reason=text,
            )
        )  # fmt: skip
    if limits.p95_latency_ms is not None:
        found.append(_judge_latency(canary, limits.p95_latency_ms, min_samples))
    return found


def _judge_latency(canary: ArmCounts, limit_ms: float, min_samples: int) -> MetricAnalysis:
    count = arithmetic.answer_count(canary)
    p95_ms = arithmetic.p95_latency_ms(canary)
    hopeless = arithmetic.count_slower(canary, limit_ms) > _P95_TAIL_RATIO * min_samples
    verdict, reason = _judge_limit(
        count, min_samples, hopeless=hopeless, exceeded=p95_ms > limit_ms
    )
    shown = f"{p95_ms:.1f} ms" if math.isfinite(p95_ms) else "beyond the last bucket"
    text = f"p95 {shown} of {count} answers, limit {limit_ms:g} ms{reason}"
    value = p95_ms if math.isfinite(p95_ms) else None
    return MetricAnalysis(
        "p95_latency_ms", "limit", verdict, count, value=value, limit=limit_ms,
        reason=text if count else f"no answers yet{reason}",
    )  # fmt: skip


def _judge_limit(
    count: int, min_samples: int, *, hopeless: bool, exceeded: bool
) -> tuple[Verdict, str]:
    if count < min_samples:
        if hopeless:
            return Verdict.FAIL, f" (can not be met any more within {min_samples} samples)"
        return Verdict.INCONCLUSIVE, f" ({count} of {min_samples} samples)"
    return (Verdict.FAIL if exceeded else Verdict.PASS), ""


def _compare(
    policy: AnalysisPolicy, memory: Memory, name: str, min_samples: int, *, has_stable: bool
) -> MetricAnalysis:
    count, bad_count = arithmetic.tally(memory.canary, name)
    stable_count, stable_bad_count = arithmetic.tally(memory.stable, name)
    canary_ratio = _ratio(bad_count, count)
    if not has_stable:
        return MetricAnalysis(
            name, "compare", None, count, canary_ratio, reason="not applicable: no stable release"
        )
    stable_ratio = _ratio(stable_bad_count, stable_count)
    sequential = memory.sequential[name]
    e_value, threshold = sequential.e_value, policy.threshold
    if e_value >= threshold:
        verdict, reason = Verdict.FAIL, f"worse than stable, e-value {e_value:.4g} of {threshold:g}"
    elif count < min_samples:
        verdict, reason = Verdict.INCONCLUSIVE, f"{count} of {min_samples} samples"
    elif not sequential.past.stable_count:
        verdict, reason = Verdict.INCONCLUSIVE, "stable has answered nothing to compare with"
    else:
        verdict, reason = Verdict.PASS, f"no worse than stable, e-value {e_value:.4g}"
    return MetricAnalysis(
        name, "compare", verdict, count, canary_ratio, stable_ratio,
        e_value=e_value, threshold=threshold, reason=reason,
    )  # fmt: skip
