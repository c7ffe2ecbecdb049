"""Schemas: named fields are required and typed, unknown ones allowed, numbers finite."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from metadata import (
    made_documents,
    made_facts,
    made_fleet_documents,
    made_fleet_journal,
    made_fleet_model_documents,
    made_focus_documents,
)

from kfm_mlflow.canonical import NAMESPACE
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.card import build_card
from kfm_mlflow.metadata.schemas import load_schema, schema_names, schema_problems

DOCUMENTS = {
    **made_documents.DOCUMENTS,
    **made_focus_documents.DOCUMENTS,
    **made_fleet_documents.DOCUMENTS,
    **made_fleet_journal.DOCUMENTS,
    **made_fleet_model_documents.DOCUMENTS,
    "model-card": build_card(
        made_facts.make_release(),
        made_facts.make_files(),
        made_facts.make_datasets(),
        made_facts.make_run(),
    ),
}
PAGES = Path(__file__).parents[2] / "docs" / "formats"


def test_there_is_an_example_and_a_page_for_every_schema():
    assert set(DOCUMENTS) == set(schema_names())
    assert {f"{name}.md" for name in schema_names()} <= {page.name for page in PAGES.iterdir()}


@pytest.mark.parametrize("name", schema_names())
def test_page_names_every_field_of_its_document(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert [field for field in load_schema(name)["properties"] if f"`{field}" not in page] == []


@pytest.mark.parametrize("name", schema_names())
def test_schema_is_a_schema_with_a_stable_name_and_a_version(name):
    schema = load_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"{NAMESPACE}schemas/{name}/v1.json"
    assert schema["properties"]["schema_version"] == {"const": "1"}


@pytest.mark.parametrize("name", schema_names())
def test_example_is_valid_and_stays_so_with_an_unknown_field(name):
    assert schema_problems(name, DOCUMENTS[name]) == []
    assert schema_problems(name, {**DOCUMENTS[name], "x_new": [1]}) == []


def _paths(value, schema, path=()):
    """Yield the place of every required field of a document."""
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            yield (*path, key)
        for key, child in schema.get("properties", {}).items():
            if key in value:
                yield from _paths(value[key], child, (*path, key))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, child in enumerate(value[:1]):
            yield from _paths(child, schema["items"], (*path, index))


REQUIRED = [
    (name, path) for name in DOCUMENTS for path in _paths(DOCUMENTS[name], load_schema(name))
]


def _parent(document, path):
    for part in path[:-1]:
        document = document[part]
    return document


@pytest.mark.parametrize(("name", "path"), REQUIRED)
def test_every_required_field_is_missed_by_name_and_typed(name, path):
    document = copy.deepcopy(DOCUMENTS[name])
    del _parent(document, path)[path[-1]]
    assert any(path[-1] in s and "missing" in s for s in schema_problems(name, document))
    document = copy.deepcopy(DOCUMENTS[name])
    _parent(document, path)[path[-1]] = object()
    assert schema_problems(name, document) != []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("model_metadata", ("weights", "digest"), "aa" * 32),
        ("model_metadata", ("weights", "multihash"), "sha256:" + "aa" * 32),
        ("model_metadata", ("seed",), 4.5),
        ("model_metadata", ("seed",), True),
        ("model_metadata", ("data",), []),
        ("model_metadata", ("data", 0, "role"), "test"),
        ("model_metadata", ("release_version",), "1.2"),
        ("model_metadata", ("created_at",), "2026-01-31"),
        ("model_summary", ("metrics", "rmse"), float("nan")),
        ("model_summary", ("metrics", "rmse"), "low"),
        ("telemetry-training", ("energy_wh",), float("inf")),
        ("telemetry-training", ("energy_wh",), -1),
        ("telemetry-training", ("method",), "guessed"),
        ("telemetry-training", ("energy", "pue"), 0.5),
        ("xai-summary", ("features", 0, "importance_ratio"), 1.5),
        ("xai-summary", ("features",), []),
        ("care", ("screening", "status"), "approved"),
        ("care", ("care", "h3_max_resolution"), 16),
        ("care", ("screening", "regions_digest"), "none"),
        ("deployment_validation", ("determinism", "identical"), "yes"),
        ("promotion_decision", ("verdict",), "APPROVE"),
        ("promotion_decision", ("gates",), []),
        ("rollback_report", ("rolled_back_version",), 0),
        ("drift_summary", ("false_alarm_ratio",), 5),
        ("drift-baseline", ("statistics",), {}),
    ],
)
def test_value_that_is_wrong_is_found_at_its_place(name, path, value):
    document = copy.deepcopy(DOCUMENTS[name])
    _parent(document, path)[path[-1]] = value
    (sentence,) = schema_problems(name, document)
    assert str(path[-1]) in sentence
    assert json.dumps(value) not in sentence.split(": ", 1)[0]


@pytest.mark.parametrize("value", [None, [], 3, "text", True, {}])
def test_anything_that_is_no_document_gives_sentences(value):
    for name in schema_names():
        assert schema_problems(name, value) != []


def test_sentences_are_bounded_however_wrong_a_document_is():
    document = copy.deepcopy(DOCUMENTS["model_summary"])
    document["layers"] = [{} for _ in range(1000)]
    problems = schema_problems("model_summary", document)
    assert len(problems) == 51
    assert problems[-1] == "and 950 more problems"


def test_unknown_schema_is_an_error_that_lists_the_known():
    with pytest.raises(InputError, match="model_metadata"):
        schema_problems("model-metadata", {})


def test_card_of_facts_that_make_no_valid_card_is_refused(release, files, datasets, run):
    from dataclasses import replace

    with pytest.raises(EvidenceError, match="rmse"):
        build_card(replace(release, metrics={"rmse": float("nan")}), files, datasets, run)
    with pytest.raises(InputError, match=r"model\.pt"):
        build_card(release, files[:2], datasets, run)


def test_card_refers_only_to_files_that_are_there(release, files, datasets, run):
    few = tuple(file for file in files if file.path == "model.pt")
    card = build_card(release, few, datasets, run)
    assert card["explainability"]["summary_ref"] is None
    assert card["publishing"]["weights_ref"] == "model.pt"
