"""What the traffic says about a canary: counts in, one verdict per metric out.

Rules kept here:

1. Four outcomes apart: ``PASS``, ``INCONCLUSIVE`` (too little evidence), ``ERROR`` (the
   measurement itself is broken) and ``FAIL``. Only a ``FAIL`` fails a canary by itself.
2. Absence of evidence is never ``PASS``: no metric, no sample, fewer than ``minSamples``.
3. Counters that shrink, vanish, are no counts or contradict themselves are ``ERROR``.
4. Harm may be seen before ``minSamples``: by the sequential test, which holds at any time, or
   when no continuation up to ``minSamples`` could meet an absolute limit any more.
5. Without a stable arm a comparison is not applicable and says so; only limits count then.
6. An arm that answers nothing, while chance alone could not keep so many requests from it, is an
   ``ERROR``, too: its counter may be stuck.

7. Masking that failed once in an answer of the canary is a ``FAIL``, whatever else is counted.

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
_SLOW_QUANTILES = {"slow_p50_ratio": 0.50, "slow_p95_ratio": 0.95, "slow_p99_ratio": 0.99}
_MIN_ANSWERS_OF_A_QUANTILE = 100
_MIN_SILENT_COUNT = 50
_SILENCE_CHANCE = 1e-9
_MASKING = "masking"
_MS_PER_HOUR = 3_600_000.0


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
    """All metrics of one look; the whole is its worst applicable part.

    Attributes:
        is_silent: The ``ERROR`` is an arm that answers nothing. It may be stuck, or nobody may
            have asked it; so nothing passes, and this alone gives no candidate up.
    """

    verdict: Verdict
    metrics: tuple[MetricAnalysis, ...]
    false_alarm_ratio: float
    is_silent: bool = False

    @property
    def is_unmasked(self) -> bool:
        """Masking of an answer failed: what is served can not be kept to its ceilings."""
        return any(metric.name == _MASKING for metric in self.metrics)

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
        slow_bounds_ms: Metric -> bound above which an answer is slow: stable's own quantile, set
            once, from answers that came before any that it is applied to.
        silent_count: Arm -> answers of the other arm since this one last answered.
    """

    canary_seen: ArmCounts | None = None
    stable_seen: ArmCounts | None = None
    canary: ArmCounts = field(default_factory=ArmCounts)
    stable: ArmCounts = field(default_factory=ArmCounts)
    sequential: Mapping[str, Sequential] = field(default_factory=dict)
    slow_bounds_ms: Mapping[str, float] = field(default_factory=dict)
    silent_count: Mapping[str, int] = field(default_factory=dict)

    def with_new_window(self) -> Memory:
        """Forget the window; keep the marks and the comparisons."""
        return replace(self, canary=ArmCounts(), stable=ArmCounts(), silent_count={})

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
    canary_ratio: float = 0.0,
) -> tuple[Analysis, Memory]:
    """Judge a canary by what both arms answered so far.

    Args:
        policy: What is measured.
        memory: What the last call handed back.
        canary: The canary's raw counters; None when the plane does not know it.
        stable: Stable's raw counters; ignored without a stable arm.
        has_stable: There is a stable arm to compare with.
        min_samples: The canary's samples in this window before anything can pass.
        canary_ratio: Share of requests that reaches the canary, copies included, 0..1; 0 when it
            is not known.

    Returns:
        The analysis, and the memory for the next call (unchanged when the counters are broken, so
        that one lie can not become the new truth).
    """
    if canary is not None and canary.mask_failure_count:
        return _unmasked(policy, canary), replace(memory, canary_seen=canary)
    faults = {"canary": arithmetic.find_fault(memory.canary_seen, canary)}
    if has_stable:
        faults["stable"] = arithmetic.find_fault(memory.stable_seen, stable)
    fault = "; ".join(f"{arm}: {text}" for arm, text in faults.items() if text)
    if fault:
        return _broken(policy, fault), memory
    memory = _take_in(policy, memory, canary, stable if has_stable else None)
    silence = _find_silence(memory, canary_ratio) if has_stable else ""
    if silence:
        return replace(_broken(policy, silence), is_silent=True), memory
    metrics = (
        *_limit_metrics(policy, memory.canary, min_samples),
        *(
            _compare(policy, memory, name, min_samples, has_stable=has_stable)
            for name in policy.compare
        ),
    )
    verdict = worst(m.verdict for m in metrics if m.verdict is not None)
    return Analysis(verdict, metrics, policy.false_alarm_ratio), memory


def _unmasked(policy: AnalysisPolicy, canary: ArmCounts) -> Analysis:
    count = canary.mask_failure_count
    reason = f"masking failed in {count} of {canary.request_count} requests"
    metric = MetricAnalysis(
        _MASKING, "limit", Verdict.FAIL, canary.request_count, value=count, limit=0, reason=reason
    )
    return Analysis(Verdict.FAIL, (metric,), policy.false_alarm_ratio)


def _broken(policy: AnalysisPolicy, fault: str) -> Analysis:
    names = [(name, "limit") for name in policy.limits.model_dump(exclude_none=True)]
    names += [(name, "compare") for name in policy.compare]
    metrics = tuple(
        MetricAnalysis(name, "limit" if kind == "limit" else "compare", Verdict.ERROR, reason=fault)
        for name, kind in names
    )
    return Analysis(Verdict.ERROR, metrics, policy.false_alarm_ratio)


def _find_silence(memory: Memory, canary_ratio: float) -> str:
    """Return which arm answers nothing although it should; empty when chance can explain it.

    Of n requests none reaches an arm with share w with chance (1 - w) ** n.
    """
    if not 0 < canary_ratio <= 1:
        return ""
    for arm, share in (("canary", canary_ratio), ("stable", 1 - canary_ratio)):
        count = memory.silent_count.get(arm, 0)
        if count >= _MIN_SILENT_COUNT and (1 - share) ** count < _SILENCE_CHANCE:
            return f"{arm}: no answer while the other arm gave {count}"
    return ""


def _delta(seen: ArmCounts | None, now: ArmCounts) -> ArmCounts:
    return ArmCounts() if seen is None else arithmetic.minus(now, seen)


def _take_in(
    policy: AnalysisPolicy, memory: Memory, canary: ArmCounts | None, stable: ArmCounts | None
) -> Memory:
    canary_now, stable_now = canary or ArmCounts(), stable or ArmCounts()
    canary_new = _delta(memory.canary_seen, canary_now)
    stable_new = _delta(memory.stable_seen, stable_now)
    bounds_ms = _slow_bounds_ms(policy, memory)
    sequential: dict[str, Sequential] = {
        name: update(
            memory.sequential.get(name, Sequential()),
            Block(*_tally(stable_new, name, bounds_ms), *_tally(canary_new, name, bounds_ms)),
        )
        for name in policy.compare
    }
    silent = memory.silent_count
    return Memory(
        canary_seen=canary_now,
        stable_seen=stable_now,
        canary=arithmetic.plus(memory.canary, canary_new),
        stable=arithmetic.plus(memory.stable, stable_new),
        sequential=sequential,
        slow_bounds_ms=bounds_ms,
        silent_count={
            "canary": _silence(silent.get("canary", 0), canary_new, stable_new),
            "stable": _silence(silent.get("stable", 0), stable_new, canary_new),
        },
    )


def _silence(before: int, own: ArmCounts, other: ArmCounts) -> int:
    return 0 if own.request_count else before + other.request_count


def _slow_bounds_ms(policy: AnalysisPolicy, memory: Memory) -> dict[str, float]:
    """Return the bounds so far, with those that stable's earlier answers can now give."""
    bounds_ms = dict(memory.slow_bounds_ms)
    seen = memory.stable_seen or ArmCounts()
    if arithmetic.answer_count(seen) >= _MIN_ANSWERS_OF_A_QUANTILE:
        for name in policy.compare:
            if name in _SLOW_QUANTILES and name not in bounds_ms:
                bounds_ms[name] = arithmetic.quantile_bound_ms(seen, _SLOW_QUANTILES[name])
    return bounds_ms


def _tally(counts: ArmCounts, name: str, bounds_ms: Mapping[str, float]) -> tuple[int, int]:
    if name not in _SLOW_QUANTILES:
        return arithmetic.tally(counts, name)
    return arithmetic.slower_tally(counts, bounds_ms[name]) if name in bounds_ms else (0, 0)


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
    if limits.cost_usd_per_1k_requests is not None:
        found.append(_judge_cost(policy, canary, limits.cost_usd_per_1k_requests, min_samples))
    return found


def _judge_cost(
    policy: AnalysisPolicy, canary: ArmCounts, limit_usd: float, min_samples: int
) -> MetricAnalysis:
    count = arithmetic.answer_count(canary)
    spent_usd = arithmetic.busy_ms(canary) / _MS_PER_HOUR * (policy.replica_usd_per_hour or 0.0)
    per_1k_usd = 1000 * spent_usd / count if count else 0.0
    verdict, reason = _judge_limit(
        count,
        min_samples,
        hopeless=1000 * spent_usd > limit_usd * min_samples,
        exceeded=per_1k_usd > limit_usd,
    )
    text = f"{per_1k_usd:.4g} USD per 1000 of {count} answers, limit {limit_usd:g} USD{reason}"
    value = per_1k_usd if count and math.isfinite(per_1k_usd) else None
    return MetricAnalysis(
        "cost_usd_per_1k_requests", "limit", verdict, count, value=value, limit=limit_usd,
        reason=text if count else f"no answers yet{reason}",
    )  # fmt: skip


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
    count, bad_count = _tally(memory.canary, name, memory.slow_bounds_ms)
    stable_count, stable_bad_count = _tally(memory.stable, name, memory.slow_bounds_ms)
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
