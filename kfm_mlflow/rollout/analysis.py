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
8. Drift is from the release's own baseline, not from stable: :mod:`kfm_mlflow.rollout.drift_watch`.
9. How stable explanations are is held against a floor, in windows of its own:
   :mod:`kfm_mlflow.rollout.explanation_watch`.
10. Alarms that answers raise themselves have limits: :mod:`kfm_mlflow.rollout.alarms`.

Pure: what was seen before is a value (:class:`Memory`) that is passed in and handed back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.rollout import counts as arithmetic
from kfm_mlflow.rollout.alarms import alarm_metrics
from kfm_mlflow.rollout.drift_watch import watch
from kfm_mlflow.rollout.explanation_watch import watch_explanations
from kfm_mlflow.rollout.limits import limit_metrics
from kfm_mlflow.rollout.measured import MASKING, Analysis, Memory, MetricAnalysis
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.sequential import Block, Sequential, update

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.monitor.drift_bins import Columns
    from kfm_mlflow.policy.rollout import AnalysisPolicy
    from kfm_mlflow.rollout.drift_watch import DriftFindings, DriftWindow
    from kfm_mlflow.rollout.explanation_watch import ExplanationFindings, ExplanationWindow

__all__ = ["Analysis", "Memory", "MetricAnalysis", "analyse", "find_unmasked"]

_SLOW_QUANTILES = {"slow_p50_ratio": 0.50, "slow_p95_ratio": 0.95, "slow_p99_ratio": 0.99}
_MIN_ANSWERS_OF_A_QUANTILE = 100
_MIN_SILENT_COUNT = 50
_SILENCE_CHANCE = 1e-9


def analyse(
    policy: AnalysisPolicy,
    memory: Memory,
    *,
    canary: ArmCounts | None,
    stable: ArmCounts | None,
    has_stable: bool,
    min_samples: int,
    canary_ratio: float = 0.0,
    baselines: Mapping[str, Columns] | None = None,
    is_promoted: bool = False,
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
        baselines: Arm (``canary``, ``stable``) -> the drift baseline that its bins are counted by.
        is_promoted: The canary is at production, and only watched.

    Returns:
        The analysis, and the memory for the next call (unchanged when the counters are broken, so
        that one lie can not become the new truth).
    """
    unmasked, marked = find_unmasked(policy, memory, canary)
    if unmasked is not None:
        return unmasked, marked
    faults = {"canary": arithmetic.find_fault(memory.canary_seen, canary)}
    if has_stable:
        faults["stable"] = arithmetic.find_fault(memory.stable_seen, stable)
    fault = "; ".join(f"{arm}: {text}" for arm, text in faults.items() if text)
    if fault:
        return _broken(policy, fault), memory
    drift, windows = _watch(policy, memory, canary, stable if has_stable else None, baselines or {})
    explained, explanations = _watch_explanations(policy, memory, canary, is_promoted=is_promoted)
    memory = replace(
        _take_in(policy, memory, canary, stable if has_stable else None),
        drift=windows,
        explanations=explanations,
    )
    silence = _find_silence(memory, canary_ratio) if has_stable else ""
    if silence:
        broken = replace(_broken(policy, silence), drift=drift, explanations=explained)
        return replace(broken, is_silent=True), memory
    metrics = (
        *limit_metrics(policy, memory.canary, min_samples),
        *alarm_metrics(policy, memory.canary, min_samples),
        *(
            _compare(policy, memory, name, min_samples, has_stable=has_stable)
            for name in policy.compare
        ),
        *([_drift_metric(drift)] if drift is not None else ()),
        *([_explanation_metric(explained)] if explained is not None else ()),
    )
    verdict = worst(m.verdict for m in metrics if m.verdict is not None)
    ratio = policy.false_alarm_ratio
    return Analysis(verdict, metrics, ratio, drift=drift, explanations=explained), memory


def find_unmasked(
    policy: AnalysisPolicy, memory: Memory, served: ArmCounts | None
) -> tuple[Analysis | None, Memory]:
    """Judge what a version answered by failed masking alone, as at rest, too.

    Args:
        policy: What is measured.
        memory: What the last call handed back.
        served: The version's raw counters; None when the plane does not know it.

    Returns:
        A ``FAIL`` and the memory that holds these counters; None and the same memory otherwise.
    """
    if served is None or not served.mask_failure_count:
        return None, memory
    count = served.mask_failure_count
    reason = f"masking failed in {count} of {served.request_count} requests"
    metric = MetricAnalysis(
        MASKING, "limit", Verdict.FAIL, served.request_count, value=count, limit=0, reason=reason
    )
    failed = Analysis(Verdict.FAIL, (metric,), policy.false_alarm_ratio)
    return failed, replace(memory, canary_seen=served)


def _watch(
    policy: AnalysisPolicy,
    memory: Memory,
    canary: ArmCounts | None,
    stable: ArmCounts | None,
    baselines: Mapping[str, Columns],
) -> tuple[DriftFindings | None, Mapping[str, DriftWindow]]:
    """Hold what both arms counted since the last look against their own baselines."""
    if policy.drift is None:
        return None, memory.drift
    arms = (("canary", memory.canary_seen, canary), ("stable", memory.stable_seen, stable))
    new = {arm: _delta(seen, now).bin_counts for arm, seen, now in arms if now is not None}
    return watch(policy.drift, memory.drift, new, baselines)


def _drift_metric(drift: DriftFindings) -> MetricAnalysis:
    outputs = [column for column in drift.columns if column.kind == "outputs"]
    loudest = max(outputs, key=lambda column: column.e_value / column.threshold, default=None)
    return MetricAnalysis(
        "drift",
        "drift",
        drift.verdict if drift.mode == "enforce" else None,
        min((column.sample_count for column in outputs), default=0),
        value=loudest.distance if loudest else None,
        limit=loudest.tolerance if loudest else None,
        e_value=loudest.e_value if loudest else None,
        threshold=loudest.threshold if loudest else None,
        reason=drift.reason,
    )


def _watch_explanations(
    policy: AnalysisPolicy, memory: Memory, canary: ArmCounts | None, *, is_promoted: bool
) -> tuple[ExplanationFindings | None, ExplanationWindow]:
    """Hold what was explained of the canary since the last look against the floor."""
    if policy.explanations is None:
        return None, memory.explanations
    new = ArmCounts() if canary is None else _delta(memory.canary_seen, canary)
    return watch_explanations(
        policy.explanations, memory.explanations, new, is_promoted=is_promoted
    )


def _explanation_metric(explained: ExplanationFindings) -> MetricAnalysis:
    return MetricAnalysis(
        "explanation_stability",
        "explanation",
        explained.verdict if explained.mode == "enforce" else None,
        explained.row_count,
        value=explained.mean_stability,
        limit=explained.min_stability,
        reason=explained.reason,
    )


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
