"""The documents that a rollout leaves behind: the canary's verdict, and three after a rollback.

All three reports are always written; one that does not apply says so, and why. Pure: JSON values
out, instants as RFC 3339 text in UTC.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from kfm_mlflow.gates.cause import Cause
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import RolloutState, Trigger

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.analysis import Analysis, MetricAnalysis
    from kfm_mlflow.rollout.drift_watch import DriftFindings
    from kfm_mlflow.rollout.traffic_events import TrafficEvent

SCHEMA_VERSION = "1"
ROLLBACK_REPORT = "rollback_report.json"
DRIFT_SUMMARY = "drift_summary.json"
SOVEREIGNTY_CONFLICT = "sovereignty_conflict.json"


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _measured(metric: MetricAnalysis) -> dict[str, Any]:
    return {
        "name": metric.name,
        "kind": metric.kind,
        "verdict": "NOT_APPLICABLE" if metric.verdict is None else str(metric.verdict),
        "canary_ratio": metric.canary_ratio,
        "stable_ratio": metric.stable_ratio,
        "value": metric.value,
        "limit": metric.limit,
        "e_value": metric.e_value,
        "threshold": metric.threshold,
        "sample_count": metric.sample_count,
        "reason": metric.reason,
    }


def build_verdict(
    plan: RolloutPolicy, state: RolloutState, analysis: Analysis, decided_at: datetime
) -> dict[str, Any]:
    """Build what is signed about a canary.

    Args:
        plan: The plan that asked for it.
        state: The rollout.
        analysis: What was found.
        decided_at: When.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "version": state.candidate,
        "stable_version": state.stable,
        "verdict": str(analysis.verdict),
        "reason": analysis.reason,
        "canary_weight_ratio": plan.weight_pct_at(state.step_index) / 100,
        "min_samples": plan.min_samples_at(state.step_index),
        "false_alarm_ratio": analysis.false_alarm_ratio,
        "plan_digest": state.plan_digest,
        "began_at": _instant(state.step_entered_at),
        "decided_at": _instant(decided_at),
        "metrics": [_measured(metric) for metric in analysis.metrics],
        "telemetry": _telemetry(state),
        "traffic": [_event(event) for event in state.traffic],
    }


def _event(event: TrafficEvent) -> dict[str, Any]:
    """Return what was done to traffic, without what does not apply to it."""
    if event.kind == "deploy":
        return {"at": _instant(event.at), "kind": event.kind, "version": event.version}
    return {
        "at": _instant(event.at),
        "kind": event.kind,
        "stable": event.stable,
        "canary": event.canary,
        "canary_ratio": event.canary_ratio,
        "mirror_ratio": event.mirror_ratio,
        "generation": event.generation,
    }


def _telemetry(state: RolloutState) -> dict[str, Any]:
    """Return how many of the canary's answers in this step there is a span of."""
    seen = state.memory.canary
    chosen = seen.measured_count.get(LOST_SPAN_RATIO, 0)
    return {
        "request_count": seen.request_count,
        "span_count": chosen - seen.outside_count.get(LOST_SPAN_RATIO, 0),
    }


def cause_of(state: RolloutState) -> Cause | None:
    """Return why a candidate was given up, in fixed words; None while it was not."""
    if state.trigger is None:
        return None
    drift = None if state.analysis is None else state.analysis.drift
    return Cause.model_validate(
        {
            "trigger": str(state.trigger),
            "drift": None if drift is None or not drift.columns else _drift_context(drift),
        }
    )


def _drift_context(drift: DriftFindings) -> dict[str, Any]:
    return {
        "verdict": str(drift.verdict),
        "mode": drift.mode,
        "false_alarm_ratio": drift.false_alarm_ratio,
        "column_count": len(drift.columns),
        "drifting_count": sum(column.verdict is Verdict.FAIL for column in drift.columns),
        "baseline_digest": drift.baseline_digest,
    }


def build_reports(
    state: RolloutState, rolled_back_version: int, restored_version: int | None
) -> dict[str, dict[str, Any]]:
    """Build the three reports of a rollback: file name -> JSON value."""
    return {
        ROLLBACK_REPORT: _rollback_report(state, rolled_back_version, restored_version),
        DRIFT_SUMMARY: _drift_summary(state),
        SOVEREIGNTY_CONFLICT: _sovereignty_conflict(state),
    }


def _rollback_report(
    state: RolloutState, rolled_back_version: int, restored_version: int | None
) -> dict[str, Any]:
    canary, stable = state.memory.canary, state.memory.stable
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "rolled_back_version": rolled_back_version,
        "restored_version": restored_version,
        "trigger": None if state.trigger is None else str(state.trigger),
        "reason": state.reason,
        "detected_at": _instant(state.detected_at),
        "traffic_restored_at": _instant(state.traffic_restored_at),
        "registry_restored_at": _instant(state.registry_restored_at),
        "observations": {
            "was_promoted": state.promoted,
            "step_index": state.step_index,
            "canary_request_count": canary.request_count,
            "canary_error_count": canary.error_count,
            "stable_request_count": stable.request_count,
            "stable_error_count": stable.error_count,
            "explanations": _explanations(state.analysis),
        },
    }


def _explanations(analysis: Analysis | None) -> dict[str, Any]:
    """Say how stable explanations of the candidate's answers were, or that nobody looked."""
    found = None if analysis is None else analysis.explanations
    if found is None or not found.row_count:
        nobody = "explanations were not asked for, or nothing could be measured"
        return {
            "applicable": False,
            "reason": f"not applicable: {nobody if found is None else found.reason}",
        }
    return {
        "applicable": True,
        "verdict": None if found.verdict is None else str(found.verdict),
        "reason": found.reason,
        "mode": found.mode,
        "method": "occlusion",
        "statistic": "pearson-correlation",
        "mean_stability": found.mean_stability,
        "lowest_stability": found.lowest_stability,
        "min_stability": found.min_stability,
        "row_count": found.row_count,
        "min_samples": found.min_samples,
        "unexplained_count": found.unexplained_count,
    }


def _drift_summary(state: RolloutState) -> dict[str, Any]:
    analysis = state.analysis
    compared = [] if analysis is None else [m for m in analysis.metrics if m.kind == "compare"]
    watched = _watch(None if analysis is None else analysis.drift)
    applicable = watched["applicable"] or any(m.verdict is not None for m in compared)
    if analysis is None:
        reason = "the candidate had no traffic to analyse"
    elif not applicable:
        reason = "there was nothing to compare with: no stable release, or no compared metric"
    else:
        reason = analysis.reason
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "applicable": applicable,
        "reason": reason,
        "verdict": None if analysis is None else str(analysis.verdict),
        "false_alarm_ratio": None if analysis is None else analysis.false_alarm_ratio,
        "metrics": [_measured(metric) for metric in compared],
        "watch": watched,
    }


def _watch(drift: DriftFindings | None) -> dict[str, Any]:
    """Say what live traffic was against the candidate's own baseline, or that nobody looked."""
    if drift is None:
        return {
            "applicable": False,
            "reason": "not applicable: drift was not watched, or nothing could be measured",
        }
    return {
        "applicable": bool(drift.columns),
        "verdict": str(drift.verdict) if drift.columns else None,
        "reason": drift.reason if drift.columns else f"not applicable: {drift.reason}",
        "mode": drift.mode,
        "is_shared": drift.is_shared,
        "baseline_digest": drift.baseline_digest,
        "statistic": "kolmogorov-smirnov",
        "method": "e-process",
        "false_alarm_ratio": drift.false_alarm_ratio,
        "min_samples": drift.min_samples,
        "min_distance": drift.min_distance,
        "window_number": drift.window_number,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "verdict": str(column.verdict),
                "distance": column.distance,
                "tolerance": column.tolerance,
                "e_value": column.e_value,
                "threshold": column.threshold,
                "sample_count": column.sample_count,
                "baseline_count": column.baseline_count,
                "reason": column.reason,
            }
            for column in drift.columns
        ],
    }


def _sovereignty_conflict(state: RolloutState) -> dict[str, Any]:
    seen = state.memory.canary_seen or ArmCounts()
    # Without a masking failure it was consent or a label that changed.
    kinds = {
        Trigger.VETO: "veto",
        Trigger.SOVEREIGNTY: "masking" if seen.mask_failure_count else "standing",
    }
    kind = kinds.get(state.trigger) if state.trigger else None
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "applicable": kind is not None,
        "reason": state.reason
        if kind
        else "no veto, no masking and no withdrawn consent took part in this rollback",
        "conflicts": [{"kind": kind, "reason": state.reason}] if kind else [],
        "masking": {
            "request_count": seen.request_count,
            "masked_count": seen.masked_count,
            "withheld_count": seen.withheld_count,
            "failure_count": seen.mask_failure_count,
        },
    }
