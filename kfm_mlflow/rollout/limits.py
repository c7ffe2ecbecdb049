"""Absolute limits on what a canary answers: errors, time to answer, cost. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout import counts as arithmetic
from kfm_mlflow.rollout.measured import MetricAnalysis

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import AnalysisPolicy
    from kfm_mlflow.rollout.plane import ArmCounts

_P95_TAIL_RATIO = 1 - arithmetic.P95_RATIO
_MS_PER_HOUR = 3_600_000.0


def limit_metrics(
    policy: AnalysisPolicy, canary: ArmCounts, min_samples: int
) -> list[MetricAnalysis]:
    """Hold a canary's answers of the present window against every limit of the policy."""
    found: list[MetricAnalysis] = []
    limits = policy.limits
    if limits.error_ratio is not None:
        found.append(_judge_errors(canary, limits.error_ratio, min_samples))
    if limits.p95_latency_ms is not None:
        found.append(_judge_latency(canary, limits.p95_latency_ms, min_samples))
    if limits.cost_usd_per_1k_requests is not None:
        found.append(_judge_cost(policy, canary, limits.cost_usd_per_1k_requests, min_samples))
    return found


def _judge_errors(canary: ArmCounts, limit_ratio: float, min_samples: int) -> MetricAnalysis:
    count, bad_count = arithmetic.tally(canary, "error_ratio")
    ratio = bad_count / count if count else None
    hopeless = bad_count > limit_ratio * min_samples
    exceeded = ratio is not None and ratio > limit_ratio
    verdict, reason = _judge(count, min_samples, hopeless=hopeless, exceeded=exceeded)
    text = f"{bad_count} of {count} requests failed, limit {limit_ratio:g}{reason}"
    return MetricAnalysis(
        "error_ratio", "limit", verdict, count, ratio, value=ratio, limit=limit_ratio, reason=text
    )


def _judge_cost(
    policy: AnalysisPolicy, canary: ArmCounts, limit_usd: float, min_samples: int
) -> MetricAnalysis:
    count = arithmetic.answer_count(canary)
    spent_usd = arithmetic.busy_ms(canary) / _MS_PER_HOUR * (policy.replica_usd_per_hour or 0.0)
    per_1k_usd = 1000 * spent_usd / count if count else 0.0
    verdict, reason = _judge(
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
    verdict, reason = _judge(count, min_samples, hopeless=hopeless, exceeded=p95_ms > limit_ms)
    shown = f"{p95_ms:.1f} ms" if math.isfinite(p95_ms) else "beyond the last bucket"
    text = f"p95 {shown} of {count} answers, limit {limit_ms:g} ms{reason}"
    value = p95_ms if math.isfinite(p95_ms) else None
    return MetricAnalysis(
        "p95_latency_ms", "limit", verdict, count, value=value, limit=limit_ms,
        reason=text if count else f"no answers yet{reason}",
    )  # fmt: skip


def _judge(count: int, min_samples: int, *, hopeless: bool, exceeded: bool) -> tuple[Verdict, str]:
    if count < min_samples:
        if hopeless:
            return Verdict.FAIL, f" (can not be met any more within {min_samples} samples)"
        return Verdict.INCONCLUSIVE, f" ({count} of {min_samples} samples)"
    return (Verdict.FAIL if exceeded else Verdict.PASS), ""
