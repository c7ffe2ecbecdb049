"""Fusion: one winner per provider, everything else rejected with numbers."""

from __future__ import annotations

import json
import math

import pytest
from fleet.made_manifests import METRICS, SAMPLES, entry, manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.fleet.fusion import Limits, fuse, load_measured, score
from kfm_mlflow.fleet.manifest import Metrics, combine_manifests, parse_manifest
from kfm_mlflow.metadata.schemas import schema_problems


def read(*documents):
    return combine_manifests(parse_manifest(d, where="m.json") for d in documents)


def with_metrics(name, *values, provider="hf"):
    return entry(provider, id=name, metrics=dict(zip(METRICS, values, strict=True)))


THREE = [manifest(provider) for provider in SAMPLES]


def test_three_sample_manifests_pass_with_aws_exactly_on_the_boundary():
    fused = fuse(read(*THREE), Limits())
    assert fused.is_complete
    assert fused.rejections == fused.findings == ()
    document = fused.release_document()
    assert document["providers"] == ["aws", "gcp", "hf"]
    assert document["units"]["aws"]["metrics"]["quality"] == document["gates"]["min_quality"] == 0.8
    assert schema_problems("fused_release", document) == []
    assert document["fused_model_id"] == f"fleet-federated-{document['version']}"


def test_sample_fails_at_quality_four_tenths_with_observed_limit_and_margin():
    low = with_metrics("low", 0.4, 0.97, 140, 0.9)
    fused = fuse(read(manifest("hf", low), *THREE[1:]), Limits())
    assert not fused.is_complete
    (finding,) = fused.findings
    assert "no artifacts passing promotion gates" in str(finding)
    (rejected,) = fused.rejections_document()["rejected"]
    failed = [gate for gate in rejected["gates"] if not gate["passed"]]
    assert failed == [
        {
            "gate": "min_quality",
            "observed": 0.4,
            "limit": 0.8,
            "margin": pytest.approx(-0.4),
            "passed": False,
        }
    ]
    with pytest.raises(InputError, match="no artifacts passing"):
        fused.release_document()


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ((0.80, 0.95, 200, 1.00), True),
        ((math.nextafter(0.80, 0), 0.95, 200, 1.00), False),
        ((0.80, math.nextafter(0.95, 0), 200, 1.00), False),
        ((0.80, 0.95, math.nextafter(200, 201), 1.00), False),
        ((0.80, 0.95, 200, math.nextafter(1.00, 2)), False),
    ],
)
def test_every_gate_is_inclusive_to_the_last_bit(values, passes):
    fused = fuse(read(manifest("hf", with_metrics("edge", *values)), *THREE[1:]), Limits())
    assert ("hf" in fused.units) is passes


def test_score_is_the_source_documents():
    # .45 x .82 + .45 x .97 - .0005 x 140 - .1 x .9, by hand.
    assert score(Metrics(0.82, 0.97, 140, 0.9)) == pytest.approx(0.6455, abs=1e-12)


def test_loser_is_told_to_whom_and_by_how_much():
    other = with_metrics("slower", 0.82, 0.97, 160, 0.9)
    fused = fuse(read(manifest("hf", entry("hf"), other), *THREE[1:]), Limits())
    document = fused.rejections_document()
    assert schema_problems("fused_rejections", document) == []
    (rejected,) = document["rejected"]
    assert rejected["reason"] == "outscored"
    assert all(gate["passed"] for gate in rejected["gates"])
    assert rejected["lost_to"]["id"] == "spiralverse/textgen-lora-v1"
    assert rejected["lost_to"]["by"] == pytest.approx(0.01)  # 20 ms x .0005


def test_equal_scores_go_to_the_lower_id():
    twins = [with_metrics(name, 0.9, 0.97, 140, 0.9) for name in ("b", "a")]
    fused = fuse(read(manifest("hf", *twins), *THREE[1:]), Limits())
    assert fused.units["hf"].artifact.id == "a"
    assert fused.rejections_document()["rejected"][0]["lost_to"]["by"] == 0


@pytest.mark.parametrize("provider", sorted(SAMPLES))
def test_without_any_one_provider_there_is_no_release(provider):
    fused = fuse(read(*(manifest(p) for p in SAMPLES if p != provider)), Limits())
    assert not fused.is_complete
    assert {finding.code for finding in fused.findings} == {"MISSING_PROVIDER", "NO_WINNER"}
    assert fused.rejections_document()["fused_model_id"] is None


def test_measured_value_decides_and_the_gap_is_told():
    digest = entry("hf")["digest"]
    measured = {digest: Metrics(0.79, 0.97, 140, 0.9)}
    fused = fuse(read(*THREE), Limits(), measured)
    assert "hf" not in fused.units
    gaps = {gap["metric"]: gap for gap in fused.rejections_document()["gaps"]}
    assert gaps["quality"]["claimed"] == 0.82
    assert gaps["quality"]["gap"] == pytest.approx(0.03)
    assert gaps["safety"]["gap"] == 0
    kept = fuse(read(*THREE), Limits(), {digest: Metrics(0.81, 0.97, 140, 0.9)})
    unit = kept.release_document()["units"]["hf"]
    assert (unit["metrics"]["quality"], unit["claimed"]["quality"]) == (0.81, 0.82)


def test_measurements_are_read_once_each(tmp_path):
    one = {"digest": "sha256:" + "ab" * 32, "metrics": entry("hf")["metrics"]}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"schema_version": "1", "measured": [one]}))
    assert load_measured(path)[one["digest"]].quality == 0.82
    path.write_text(json.dumps({"schema_version": "1", "measured": [one, one]}))
    with pytest.raises(EvidenceError, match="twice"):
        load_measured(path)
    path.write_text(json.dumps({"schema_version": "1", "measured": [{"digest": "x"}]}))
    with pytest.raises(EvidenceError, match="digest"):
        load_measured(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_limit_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="min_quality"):
        Limits(min_quality=value)


METRIC_VALUES = st.tuples(
    st.floats(0.7, 1), st.floats(0.9, 1), st.floats(0, 300), st.floats(0, 1.5)
)
MANY = st.lists(METRIC_VALUES, min_size=1, max_size=6)


def artifacts(values):
    return [with_metrics(f"a{k}", *one) for k, one in enumerate(values)]


@settings(max_examples=60, deadline=None)
@given(MANY, st.randoms(use_true_random=False))
def test_any_order_of_manifests_and_entries_gives_the_same_bytes(values, random):
    documents = [manifest("hf", *artifacts(values)), *THREE[1:]]
    one = fuse(read(*documents), Limits())
    shuffled = [
        dict(d, artifacts=random.sample(d["artifacts"], len(d["artifacts"]))) for d in documents
    ]
    random.shuffle(shuffled)
    two = fuse(read(*shuffled), Limits())
    assert canonical_bytes(one.rejections_document()) == canonical_bytes(two.rejections_document())
    assert one.is_complete == two.is_complete
    if one.is_complete:
        assert canonical_bytes(one.release_document()) == canonical_bytes(two.release_document())


@settings(max_examples=60, deadline=None)
@given(MANY, METRIC_VALUES)
def test_adding_an_artifact_never_makes_a_rejected_one_win(values, added):
    before = fuse(read(manifest("hf", *artifacts(values)), *THREE[1:]), Limits())
    more = [*artifacts(values), with_metrics("new", *added)]
    after = fuse(read(manifest("hf", *more), *THREE[1:]), Limits())
    rejected = {one.judged.artifact.id for one in before.rejections}
    if "hf" in after.units:
        assert after.units["hf"].artifact.id not in rejected


@settings(max_examples=60, deadline=None)
@given(MANY)
def test_every_artifact_is_the_winner_or_rejected_and_the_winner_passes(values):
    fused = fuse(read(manifest("hf", *artifacts(values)), *THREE[1:]), Limits())
    rejected = [one.judged.artifact.id for one in fused.rejections]
    winner = [fused.units["hf"].artifact.id] if "hf" in fused.units else []
    assert sorted(rejected + winner) == sorted(f"a{k}" for k in range(len(values)))
    assert all(unit.passed for unit in fused.units.values())
