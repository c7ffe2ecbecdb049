"""The packaged policy of the Focus Mode family against its source document."""

import pytest

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.models import LIMIT_GATES

POLICY = load_policies(None).policy("focus-mode")
# Section 1 of the Focus Mode deployment document.
REQUIRED = {
    "focus_model.pt",
    "fusion_weights.json",
    "context_router.pt",
    "storynode_v3.pt",
    "xai/",
    "provenance/",
    "telemetry/",
    "stac/focusmodel-item.json",
    "model-card.json",
}
ORDER = (
    ("care", "authority"),
    ("prov", "lineage", "integrity", "completeness", "signature", "stac", "sbom", "attestations"),
    ("telemetry",),
    ("validation", "drift", "xai", "attribution_quality"),
    ("fusion", "geo_awareness", "context_models", "routing", "narrative"),
)


def test_every_artifact_that_the_source_document_names_is_required():
    assert set(POLICY.gates.completeness.required) >= REQUIRED


@pytest.mark.parametrize("level", [Level.STAGING, Level.CANARY, Level.PRODUCTION])
def test_vetoes_come_before_bytes_before_telemetry_before_drift_before_performance(level):
    names = POLICY.gate_names(level)
    wanted = [name for group in ORDER for name in group]
    assert list(names[: len(wanted)]) == wanted


@pytest.mark.parametrize("level", [Level.STAGING, Level.CANARY, Level.PRODUCTION])
def test_all_six_gates_of_the_family_refuse(level):
    own = set(LIMIT_GATES) - {"metrics"}
    assert own <= set(POLICY.gate_names(level))
    assert {POLICY.gate(name).mode for name in (*own, "drift", "xai", "care")} == {"enforce"}


def test_what_rolls_a_release_back_is_enforced():
    alarms = POLICY.rollout.analysis.alarms
    assert {name: limit.mode for name, limit in alarms.items()} == {
        "narrative-safety": "enforce",
        "fusion-collapse": "enforce",
    }


def test_a_registered_name_of_the_family_is_found():
    policies = load_policies(None)
    assert policies.family_of("focus-mode") == "focus-mode"
    assert policies.family_of("focus-mode-kansas") == "focus-mode"
    assert policies.family_of("focus-transformer-v2") != "focus-mode"
