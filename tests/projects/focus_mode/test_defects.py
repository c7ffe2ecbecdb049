"""Ten releases, each broken in one way: the gate that asks about it refuses, and no other."""

from __future__ import annotations

import warnings

import pytest
from projects.focus_mode.released import AT, Workshop, refusing, remember

from focus_mode.defects import DEFECTS
from focus_mode.release import instant_of_rules
from kfm_mlflow.authoring.attestations import PROVENANCE_NAME
from kfm_mlflow.authoring.replay import VARIABLE, write_record
from kfm_mlflow.canonical import load_json
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.release.export import listing
from kfm_mlflow.release.manifest import build_manifest

pytestmark = pytest.mark.timeout(1500)  # a training and an export; a minute on a quiet core
SOURCE_QUESTIONS = {
    "fusion-vector-stability",
    "story-node-reasoning",
    "hazard-hydro-climate-routing",
    "geo-awareness-fidelity",
    "sovereignty-masking-integrity",
    "xai-correctness",
    "telemetry-presence",
    "drift-baseline-alignment",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, small_trained, small_world):
    patch = pytest.MonkeyPatch()
    remember(patch)
    with warnings.catch_warnings():
        # MLflow, torch's exporter and captum warn about themselves.
        warnings.simplefilter("ignore")
        yield Workshop.open(tmp_path_factory.mktemp("focus"), small_trained, small_world)
    patch.undo()


@pytest.fixture(scope="module")
def honest(workshop):
    bundle = workshop.compose("honest", workshop.draft)
    return bundle, workshop.measure(bundle, workshop.draft)


def test_an_honest_release_passes_every_gate(workshop, honest):
    report = workshop.judge(*honest)
    assert str(report.verdict) == "PASS", report.blocking


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_refused_by_its_own_gates_and_no_others(workshop, honest, name):
    assert refusing(workshop.broken(name, honest[0])) == DEFECTS[name].gates


def test_a_validation_answers_the_eight_questions_of_the_source_document(honest):
    _, document = honest
    assert schema_problems("deployment_validation", document) == []
    assert set(document["points"]) == SOURCE_QUESTIONS
    assert all(parts for parts in document["points"].values())
    assert document["points"]["drift-baseline-alignment"]["drift.verdict"] == "PASS"
    assert document["points"]["telemetry-presence"] == {"metrics.telemetry_problem_count": 0.0}


def test_a_rebuild_asks_regions_for_the_rules_of_the_day_of_the_release(
    honest, tmp_path, monkeypatch
):
    bundle = honest[0]
    envelope = dict(bundle.read_envelopes())[PROVENANCE_NAME]
    assert instant_of_rules() > AT
    write_record(bundle, envelope, tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert instant_of_rules() == AT


def test_the_stac_item_says_what_the_source_document_asks(honest):
    item = load_json(honest[0].release_dir / "stac" / "focusmodel-item.json")
    said = item["properties"]
    assert said["focus:version"] == said["version"] == "v1.0.0"
    assert said["fusion:dimension"] == 2048
    assert said["xai:assets"] == ["xai/"]
    assert said["care:masking"] == "h3-focus-generalized"
    assert said["model:domains"] == ["spatial", "climate", "hydrology", "hazards", "narrative"]
    assert said["care:sovereignty"]
    named = {"weights", "fusion_weights", "context_router", "storynode_v3", "xai", "telemetry"}
    assert named | {"provenance", "model-card"} <= set(item["assets"])
    assert item["assets"]["weights"]["href"] == "../focus_model.pt"


def test_an_export_names_the_documents_as_the_source_document_does(honest):
    root = honest[0].release_dir
    release = "focus/models/v1.0.0"
    files = build_manifest(root).files
    moved = type(build_manifest(root))(
        tuple(type(f)(f"{release}/{f.path}", f.size_bytes, f.digest) for f in files)
    )
    assert listing(moved, release)["documents"] == {
        "focus_model.pt": f"{release}/focus_model.pt",
        "focusmodel-item.stac.json": f"{release}/stac/focusmodel-item.json",
        "provenance": f"{release}/provenance",
        "xai": f"{release}/xai",
        "telemetry": f"{release}/telemetry",
    }


def test_the_weights_of_the_domains_sum_to_one_and_no_reserved_cell_is_listed(honest):
    root = honest[0].release_dir
    weights = load_json(root / "fusion_weights.json")["weights"]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    cells = load_json(root / "context_cells.json")
    # The packaged regions' boxes, and one world cell of the small world touches them.
    assert cells["withheld_cell_count"] == 1
