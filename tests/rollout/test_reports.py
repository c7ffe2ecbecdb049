"""The reports: all three, always, with the fields that readers rely on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from rollout.strategies import states

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.rollout.analysis import Memory
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.reports import build_reports
from kfm_mlflow.rollout.state import Phase, RolloutState, Trigger

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def aborted(trigger):
    return RolloutState(
        "m",
        Phase.ABORTING,
        NOW,
        NOW,
        candidate=2,
        stable=1,
        trigger=trigger,
        reason="worse",
        detected_at=NOW,
        traffic_restored_at=NOW + timedelta(milliseconds=20),
    )


@given(states)
def test_all_three_are_canonical_json_for_every_state(state):
    documents = build_reports(state, 2, None)
    assert set(documents) == {
        "rollback_report.json",
        "drift_summary.json",
        "sovereignty_conflict.json",
    }
    for document in documents.values():
        assert document["schema_version"] == "1"
        canonical_bytes(document)


def test_rollback_report_has_the_agreed_fields():
    report = build_reports(aborted(Trigger.ANALYSIS), 2, 1)["rollback_report.json"]
    observations = report.pop("observations")
    assert isinstance(observations, dict)
    assert report == {
        "schema_version": "1",
        "model_name": "m",
        "rolled_back_version": 2,
        "restored_version": 1,
        "trigger": "analysis",
        "reason": "worse",
        "detected_at": "2026-11-20T12:00:00Z",
        "traffic_restored_at": "2026-11-20T12:00:00.020000Z",
        "registry_restored_at": None,
    }


def test_drift_summary_without_analysis_says_that_it_does_not_apply():
    summary = build_reports(aborted(Trigger.INTEGRITY), 2, 1)["drift_summary.json"]
    assert (summary["applicable"], summary["verdict"], summary["metrics"]) == (False, None, [])
    assert summary["reason"]


@pytest.mark.parametrize("trigger", list(Trigger))
def test_sovereignty_conflict_applies_to_vetoes_and_failed_masking_only(trigger):
    conflict = build_reports(aborted(trigger), 2, 1)["sovereignty_conflict.json"]
    applies = trigger in {Trigger.VETO, Trigger.SOVEREIGNTY}
    assert conflict["applicable"] is applies
    assert bool(conflict["conflicts"]) is applies
    assert conflict["reason"]


def test_sovereignty_conflict_counts_what_masking_did_to_the_candidates_answers():
    seen = ArmCounts(9, masked_count=4, withheld_count=2, mask_failure_count=1)
    state = replace(aborted(Trigger.SOVEREIGNTY), memory=Memory(canary_seen=seen))
    conflict = build_reports(state, 2, 1)["sovereignty_conflict.json"]
    assert conflict["conflicts"] == [{"kind": "masking", "reason": "worse"}]
    assert conflict["masking"] == {
        "request_count": 9,
        "masked_count": 4,
        "withheld_count": 2,
        "failure_count": 1,
    }
    assert schema_problems("sovereignty_conflict", conflict) == []
