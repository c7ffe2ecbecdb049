"""Why versions are taken down in the tests."""

from kfm_mlflow.gates.cause import Cause, DriftContext

DRIFTED = Cause(
    trigger="drift",
    drift=DriftContext(
        verdict="FAIL",
        mode="enforce",
        false_alarm_ratio=0.05,
        column_count=9,
        drifting_count=2,
        baseline_digest=f"sha256:{'b' * 64}",
    ),
)
"""Why a controller takes a release down whose answers drift."""
