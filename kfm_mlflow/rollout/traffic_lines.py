"""What the journal tells of traffic: who answers, how, and how each metric stands. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.policy.steps import FULL_PCT, SetMirrorRoute, SetWeight
from kfm_mlflow.rollout.counts import answer_count, latency_quantile_ms
from kfm_mlflow.rollout.narrative import ArmLine, MetricLine
from kfm_mlflow.rollout.orders import wants_restore_check
from kfm_mlflow.rollout.state import UNDER_ANALYSIS, UNWINDING, Phase

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.analysis import MetricAnalysis
    from kfm_mlflow.rollout.plane import ArmCounts
    from kfm_mlflow.rollout.state import RolloutState

_UNITS = {"_ms": "ms", "_usd_per_1k_requests": "USD per 1000 answers", "masking": "requests"}
_UNITS_OF_KIND = {"drift": "distance", "explanation": "correlation", "alarm": "answers"}
_SHOWN_QUANTILES = (0.50, 0.95, 0.99)


def candidate_pct(state: RolloutState) -> float:
    """Return the candidate's share of requests, as it was last asked of the routers."""
    split = state.split
    if state.candidate is None:
        return 0.0
    if split.canary == state.candidate:
        return FULL_PCT * split.ratio
    return float(FULL_PCT) if split.stable == state.candidate else 0.0


def is_kept(state: RolloutState) -> bool:
    """Whether a given-up candidate stays at production for want of anything in its place."""
    failed = state.phase is Phase.ROLLBACK_FAILED
    return failed and state.promoted and state.stable is None


def traffic(plan: RolloutPolicy, state: RolloutState) -> tuple[str, bool]:
    """Return who answers, as it was last asked of the routers, and whether all are turned away."""
    split = state.split
    if not split.generation:
        return "No traffic was routed yet.", False
    hedge = "" if _is_settled(plan, state) else " (asked; not every router may apply it yet)"
    canary_pct = 0.0 if split.canary is None else FULL_PCT * split.ratio
    if canary_pct:
        other = f"v{split.stable} answers the other {FULL_PCT - canary_pct:g} %"
        if split.stable is None:
            other = "the rest is refused with 503, as there is no stable version"
        rest = f"; {other}" if canary_pct < FULL_PCT else ""
        return f"v{split.canary} answers {canary_pct:g} % of the requests{rest}{hedge}.", False
    if split.stable is None:
        told = f"Nobody is served: every request is refused with 503{hedge}."
        return told, split.canary is None
    copied = f"; v{split.canary} gets copies of {FULL_PCT * split.mirror_ratio:g} % of them"
    copied = copied if split.mirror_ratio else ""
    return f"v{split.stable} answers every request{copied}{hedge}.", False


def _is_settled(plan: RolloutPolicy, state: RolloutState) -> bool:
    """Whether the phase is one that is only reached, or left, with the split applied."""
    if state.phase in UNWINDING:
        waits = is_kept(state) or wants_restore_check(state)
        return waits or state.traffic_restored_at is not None
    if state.phase is Phase.CANARY and state.step_index < len(plan.steps):
        return not isinstance(plan.steps[state.step_index], SetWeight | SetMirrorRoute)
    return state.phase not in {Phase.PENDING, Phase.DEPLOYING, Phase.PROMOTING}


def metric_lines(plan: RolloutPolicy, state: RolloutState) -> tuple[MetricLine, ...]:
    """Return every metric of the last look."""
    if state.analysis is None:
        return ()
    asked = {"drift": plan.analysis.drift, "explanation": plan.analysis.explanations}
    needed = {kind: watch.min_samples for kind, watch in asked.items() if watch is not None}
    otherwise = plan.min_samples_at(state.step_index)
    return tuple(
        _metric(metric, needed.get(metric.kind, otherwise)) for metric in state.analysis.metrics
    )


def _metric(metric: MetricAnalysis, needed_count: int) -> MetricLine:
    return MetricLine(
        name=metric.name,
        kind=metric.kind,
        verdict="NOT_APPLICABLE" if metric.verdict is None else str(metric.verdict),
        unit=_unit(metric),
        canary_value=metric.canary_ratio if metric.kind == "compare" else metric.value,
        stable_value=metric.stable_ratio,
        limit=metric.limit,
        sample_count=metric.sample_count,
        needed_count=needed_count,
        e_value=metric.e_value,
        threshold=metric.threshold,
        reason=metric.reason,
    )


def _unit(metric: MetricAnalysis) -> str:
    if metric.kind != "limit":
        return _UNITS_OF_KIND.get(metric.kind, "ratio")
    return next((unit for end, unit in _UNITS.items() if metric.name.endswith(end)), "ratio")


def arm_lines(state: RolloutState) -> tuple[ArmLine, ...]:
    """Return what each arm answered since the step, or the watch, began; none at rest."""
    if state.phase not in UNDER_ANALYSIS | UNWINDING or state.candidate is None:
        return ()
    own_pct = candidate_pct(state)
    if state.promoted and own_pct:
        return (_arm("production", state.candidate, own_pct, state.memory.canary),)
    own = _arm("canary", state.candidate, own_pct, state.memory.canary)
    if state.stable is None:
        return (own,)
    stable_pct = FULL_PCT - own_pct if state.split.stable == state.stable else 0.0
    return (own, _arm("stable", state.stable, stable_pct, state.memory.stable))


def _arm(
    arm: Literal["canary", "stable", "production"],
    version: int,
    share_pct: float,
    counts: ArmCounts,
) -> ArmLine:
    answered = answer_count(counts)
    found = [latency_quantile_ms(counts, ratio) if answered else None for ratio in _SHOWN_QUANTILES]
    p50_ms, p95_ms, p99_ms = (ms if ms is not None and math.isfinite(ms) else None for ms in found)
    return ArmLine(
        arm=arm,
        version=version,
        share_pct=share_pct,
        request_count=counts.request_count,
        error_count=counts.error_count,
        error_ratio=counts.error_count / counts.request_count if counts.request_count else None,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        masked_count=counts.masked_count,
        withheld_count=counts.withheld_count,
    )
