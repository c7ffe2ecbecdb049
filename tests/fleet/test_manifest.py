"""Provider manifests: reading is total, and what is wrong is told with place and remedy."""

from __future__ import annotations

import json

import pytest
from fleet.made_manifests import SAMPLES, entry, manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.fleet.manifest import (
    combine_manifests,
    load_manifests,
    parse_artifact,
    parse_manifest,
)
from kfm_mlflow.metadata.schemas import load_schema, schema_problems


def codes(*documents):
    read = combine_manifests(parse_manifest(d, where=f"{k}.json") for k, d in enumerate(documents))
    return [finding.code for finding in read.findings]


THREE = [manifest(provider) for provider in SAMPLES]


def test_three_sample_manifests_are_read_without_findings():
    read = combine_manifests(parse_manifest(d, where="m.json") for d in THREE)
    assert read.findings == ()
    assert [a.id for a in read.artifacts] == [SAMPLES[p][0] for p in ("aws", "gcp", "hf")]
    assert read.providers == ("aws", "gcp", "hf")


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"metrics": {**entry("hf")["metrics"], "quality": True}}, "FIELD", "metrics.quality"),
        ({"metrics": {**entry("hf")["metrics"], "safety": "high"}}, "FIELD", "metrics.safety"),
        ({"metrics": {**entry("hf")["metrics"], "quality": 1.01}}, "FIELD", "at most 1"),
        ({"metrics": {**entry("hf")["metrics"], "latency_ms_p95": -1}}, "FIELD", "at least 0"),
        ({"metrics": {"quality": 1}}, "FIELD", "safety, latency_ms_p95, cost_per_1k_tokens"),
        ({"digest": "ab" * 32}, "FIELD", "digest"),
        ({"digest": "sha256:" + "ab" * 32 + "\n"}, "FIELD", "digest"),
        ({"id": "a\nb"}, "FIELD", "id"),
        ({"role": "embed"}, "ROLE", "provider hf makes textgen"),
        ({"type": "embedding-model"}, "TYPE", "does not do role textgen"),
        ({"base": None}, "FIELD", "base"),
        ({"uri": "https://example.org/model"}, "URI", "hf://, gs://, s3://, file://"),
        ({"uri": "s3://bucket/../other"}, "URI", "not plain"),
        ({"uri": "s3://key:secret@bucket/model"}, "URI", "credentials"),
        ({"signature": "s3://bucket/a.sig?versionId=3"}, "URI", "signature"),
    ],
)
def test_fault_of_an_entry_is_its_own_finding_and_its_neighbours_stay(changed, code, words):
    wrong = {**entry("hf", id="wrong"), **changed}
    read = parse_manifest(manifest("hf", wrong, entry("hf")), where="hf.json")
    assert [artifact.id for artifact in read.artifacts] == ["spiralverse/textgen-lora-v1"]
    (finding,) = read.findings
    assert (finding.manifest, finding.artifact, finding.code) == ("hf.json", wrong["id"], code)
    assert words in str(finding)
    assert "secret" not in str(finding)


def test_adapter_without_a_base_is_a_finding():
    adapter = entry("hf")
    del adapter["base"]
    assert [f.code for f in parse_manifest(manifest("hf", adapter), where="m").findings] == ["BASE"]


def test_id_that_appears_twice_counts_for_neither():
    read = parse_manifest(manifest("hf", entry("hf"), entry("hf", uri="hf://a/b")), where="m")
    assert read.artifacts == ()
    assert [finding.code for finding in read.findings] == ["DUPLICATE_ID"]


def test_thousand_faults_of_one_entry_do_not_hide_those_of_another():
    noisy = entry("hf", id="noisy", labels=[0] * 1000)
    read = parse_manifest(manifest("hf", noisy, entry("hf", id="other", role=3)), where="m")
    assert {finding.artifact for finding in read.findings} == {"noisy", "other"}


def test_unknown_missing_and_doubled_providers_are_findings():
    assert codes({**THREE[0], "provider": "azure"}, *THREE[1:]) == ["MISSING_PROVIDER", "MANIFEST"]
    assert codes(*THREE[1:]) == ["MISSING_PROVIDER"]
    assert codes(*THREE, THREE[0]) == ["DUPLICATE_PROVIDER"] * 2
    assert codes() == ["MISSING_PROVIDER"] * 3


def test_two_manifests_of_a_provider_count_for_neither():
    read = combine_manifests(parse_manifest(d, where="m") for d in (*THREE, THREE[0]))
    assert read.providers == ("aws", "gcp")


def test_file_that_is_cut_off_or_not_there_or_says_nan_is_a_finding(tmp_path):
    whole = json.dumps(manifest("hf"))
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    (tmp_path / "nan.json").write_text(whole.replace("0.82", "NaN"))
    (tmp_path / "gcp.json").write_text(json.dumps(manifest("gcp")))
    paths = [tmp_path / name for name in ("cut.json", "nan.json", "gone.json", "gcp.json")]
    read = load_manifests(paths)
    found = {f.manifest: f for f in read.findings if f.code == "UNREADABLE"}
    assert set(found) == {"cut.json", "nan.json", "gone.json"}
    assert all(finding.remedy for finding in read.findings)
    assert read.providers == ("gcp",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_stands_in_any_field_is_an_artifact_or_a_finding(data):
    changed = entry("hf")
    where = data.draw(st.sampled_from([*changed, "license", "labels", "signature"]))
    changed[where] = data.draw(JSON)
    read = parse_manifest(manifest("hf", changed, entry("hf", id="good")), where="m")
    assert len(read.artifacts) == 2 or read.findings
    assert any(artifact.id == "good" for artifact in read.artifacts) or where == "id"


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_whatever_is_no_manifest_gives_findings(document):
    assert parse_manifest(document, where="m").findings


def test_artifact_document_is_of_its_schema_and_reads_back():
    full = entry("hf", license="MIT", labels=["tk_nc"], signature="hf://a/b/c.sig")
    (artifact,) = parse_manifest({**manifest("hf", full), "region": "global"}, where="m").artifacts
    assert schema_problems("fleet-artifact", artifact.to_dict()) == []
    assert parse_artifact(artifact.to_dict(), where="artifact.json") == artifact
    with pytest.raises(EvidenceError, match=r"artifact\.json.*uri"):
        parse_artifact({**artifact.to_dict(), "uri": 3}, where="artifact.json")
    with pytest.raises(EvidenceError):
        parse_artifact([], where="artifact.json")


def test_artifact_document_has_the_fields_of_an_entry():
    stated = load_schema("fleet-artifact")["properties"]
    listed = load_schema("fleet-manifest")["properties"]["artifacts"]["items"]["properties"]
    assert {name: stated[name] for name in listed} == listed
    assert set(stated) - set(listed) == {"schema_version", "provider", "region"}


def test_signature_lies_beside_the_artifact_unless_the_manifest_names_a_place():
    (plain,) = parse_manifest(manifest("aws"), where="m").artifacts
    assert plain.signature_uri == "s3://spiralverse/runtime-distilled-v3.sig"
