"""The documents that a fleet's rollout leaves behind: the verdict, and three after a rollback.

They have the shapes of :mod:`kfm_mlflow.rollout.reports`, because gates, pages and exports read
both alike; what a fleet does not measure says so. Pure.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import RolloutError
from kfm_mlflow.fleet.stages import MONITOR, ROLLBACK
from kfm_mlflow.rollout.reports import (
    DRIFT_SUMMARY,
    ROLLBACK_REPORT,
    SCHEMA_VERSION,
    SOVEREIGNTY_CONFLICT,
)
from kfm_mlflow.rollout.state import Trigger

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.fleet.health_verdict import Assessment
    from kfm_mlflow.fleet.state import FleetEvent, FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy

_NO_DRIFT = "not applicable: a fleet is judged by coherence, consensus and safety, not by drift"


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _found(assessment: Assessment | None) -> dict[str, Any] | None:
    if assessment is None:
        return None
    return {**asdict(assessment), "verdict": str(assessment.verdict)}


def _event(event: FleetEvent) -> dict[str, Any]:
    return {
        "at": _instant(event.at),
        "phase": str(event.phase),
        "batch_index": event.batch_index,
        "reason": event.reason,
    }


def build_verdict(plan: FleetPolicy, state: FleetState, decided_at: datetime) -> dict[str, Any]:
    """Build what is signed about a first batch.

    Args:
        plan: The policy's fleet section.
        state: The fleet, whose first batch was assessed.
        decided_at: When.

    Raises:
        RolloutError: Nothing was assessed.
    """
    found = state.assessment
    if found is None:
        raise RolloutError("there is no assessment to publish", where=state.model_name)
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "stage": str(MONITOR),
        "version": state.candidate,
        "stable_version": state.stable,
        "verdict": str(found.verdict),
        "reason": found.reason,
        "canary_weight_ratio": plan.canary_ratio,
        "min_samples": plan.health.min_samples,
        "sample_count": found.task_count,
        "plan_digest": digest_json(plan.model_dump(mode="json")),
        "began_at": _instant(state.entered_at),
        "decided_at": _instant(decided_at),
        "metrics": [],
        "agents": list(state.batch),
        "fleet": _found(found),
        "traffic": [_event(event) for event in state.events],
    }


def build_reports(
    state: FleetState, rolled_back_version: int, restored_version: int | None
) -> dict[str, dict[str, Any]]:
    """Build the three reports of a rollback: file name -> JSON value."""
    common = {
        "schema_version": SCHEMA_VERSION,
        "model_name": state.model_name,
        "stage": str(ROLLBACK),
    }
    # Without a veto it was consent or a label that changed.
    kinds = {Trigger.VETO: "veto", Trigger.SOVEREIGNTY: "standing"}
    kind = kinds.get(state.trigger) if state.trigger else None
    no_conflict = "no veto and no withdrawn consent took part in this rollback"
    return {
        ROLLBACK_REPORT: {
            **common,
            "rolled_back_version": rolled_back_version,
            "restored_version": restored_version,
            "trigger": None if state.trigger is None else str(state.trigger),
            "reason": state.reason,
            "detected_at": _instant(state.detected_at),
            "traffic_restored_at": _instant(state.traffic_restored_at),
            "registry_restored_at": _instant(state.registry_restored_at),
            "observations": {
                "was_promoted": state.promoted,
                "step_index": state.batch_index,
                "touched_agents": list(state.touched),
                "fleet": _found(state.assessment),
                "events": [_event(event) for event in state.events],
            },
        },
        DRIFT_SUMMARY: {
            **common,
            "applicable": False,
            "reason": _NO_DRIFT,
            "verdict": None,
            "false_alarm_ratio": None,
            "metrics": [],
            "watch": {"applicable": False, "reason": _NO_DRIFT},
        },
        SOVEREIGNTY_CONFLICT: {
            **common,
            "applicable": kind is not None,
            "reason": state.reason if kind else no_conflict,
            "conflicts": [{"kind": kind, "reason": state.reason}] if kind else [],
            "masking": {
                "request_count": 0,
                "masked_count": 0,
                "withheld_count": 0,
                "failure_count": 0,
            },
        },
    }
