"""Walking a lineage back by digest: every way in which it can break has its name."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata.test_prov import (
    COMPOSING,
    DATA,
    FILES,
    GOOD,
    PT,
    RELEASE,
    TRAINING_DATA,
    TRAINING_RUN,
)

from kfm_mlflow.metadata.prov_trace import evaluate_deployed, trace_release

MODEL_FILES = {f.path: f.sha256 for f in FILES if f.path.endswith((".pt", ".onnx"))}
DATASETS = {fact.sha256: frozenset({fact.role}) for fact in DATA}
ONNX = next(name for name in GOOD["entity"] if name.startswith("file:model-onnx"))


def trace(document, *, model_files=MODEL_FILES, datasets=DATASETS):
    return trace_release(document, model_files=model_files, datasets=datasets)


def test_every_file_of_a_good_release_leads_to_its_data():
    assert set(MODEL_FILES) == {"model.pt", "model.onnx"}
    assert trace(GOOD) == ()


def _drop(kind, **ends):
    def change(document):
        wanted = {f"prov:{name}": value for name, value in ends.items()}.items()
        kept = {k: v for k, v in document[kind].items() if not wanted <= v.items()}
        assert kept != document[kind]
        document[kind] = kept

    return change


def _both(*changes):
    def change(document):
        for each in changes:
            each(document)

    return change


def _add(kind, **ends):
    def change(document):
        document[kind]["_:more"] = {f"prov:{name}": value for name, value in ends.items()}

    return change


def _set(name, key, value):
    def change(document):
        document["entity"][name][key] = value

    return change


BREAKS = {
    "training used nothing": (
        _both(
            _drop("used", entity=TRAINING_DATA), _drop("wasDerivedFrom", usedEntity=TRAINING_DATA)
        ),
        ("broken", "model.pt"),
    ),
    "nothing made a file": (_drop("wasGeneratedBy", entity=ONNX), ("broken", "model.onnx")),
    "a file that is not there": (lambda d: d["entity"].pop(ONNX), ("broken", "model.onnx")),
    "a file of another digest": (
        _set(PT, "kfm:sha256", f"sha256:{'0' * 64}"),
        ("disagrees", PT),
    ),
    "a file without digest": (lambda d: d["entity"][PT].pop("kfm:sha256"), ("undigested", PT)),
    "data without digest": (
        lambda d: d["entity"][TRAINING_DATA].pop("kfm:sha256"),
        ("undigested", TRAINING_DATA),
    ),
    "data whose digest is none": (
        _set(TRAINING_DATA, "kfm:sha256", "sha256:abc"),
        ("undigested", TRAINING_DATA),
    ),
    "data of another digest": (
        _set(TRAINING_DATA, "kfm:sha256", f"sha256:{'0' * 64}"),
        ("disagrees", TRAINING_DATA),
    ),
    "data that is not declared": (
        lambda d: d["entity"].pop(TRAINING_DATA),
        ("broken", TRAINING_RUN),
    ),
    "a run that used what it made": (
        _add("used", activity=TRAINING_RUN, entity=PT),
        ("cycle", PT),
    ),
    "data that comes from the release": (
        _add("wasDerivedFrom", generatedEntity=TRAINING_DATA, usedEntity=RELEASE),
        ("cycle", None),
    ),
    "two releases": (
        lambda d: d["entity"].update({"release:b": d["entity"][RELEASE]}),
        ("broken", "release"),
    ),
    "no document": (lambda d: d.update(entity=3), ("unreadable", "provenance")),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_found_and_names_its_entity(name):
    change, (kind, subject) = BREAKS[name]
    document = copy.deepcopy(GOOD)
    change(document)
    found = trace(document)
    assert any(b.kind == kind and subject in (None, b.subject) for b in found), found
    assert all(b.sentence.startswith(b.subject) for b in found if b.kind != "unreadable")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([PT, ONNX, *(n for n in GOOD["entity"] if n.startswith("data:"))]), st.data()
)
def test_any_changed_digit_of_a_digest_on_the_way_is_found(name, data):
    document = copy.deepcopy(GOOD)
    digest = document["entity"][name]["kfm:sha256"]
    place = data.draw(st.integers(7, 70))
    digit = data.draw(st.sampled_from("0123456789abcdef".replace(digest[place], "")))
    document["entity"][name]["kfm:sha256"] = digest[:place] + digit + digest[place + 1 :]
    assert any(b.kind == "disagrees" and b.subject == name for b in trace(document))


def test_a_release_that_names_no_data_or_holds_no_weights_is_broken():
    assert {b.subject for b in trace(GOOD, datasets={}) if b.kind == "broken"} >= {"data"}
    assert [b.subject for b in trace(GOOD, model_files={})] == ["model"]


def test_a_file_need_not_lead_to_validation_data_but_the_release_must():
    document = copy.deepcopy(GOOD)
    validation = next(n for n in document["entity"] if n.startswith("data:validation"))
    _drop("used", activity=COMPOSING, entity=validation)(document)
    assert trace(document) == ()
    _drop("wasDerivedFrom", usedEntity=validation)(document)
    assert [(b.kind, b.subject) for b in trace(document)] == [("broken", RELEASE)]


def test_a_lineage_that_nothing_was_deployed_of_is_no_extended_one():
    assert evaluate_deployed(GOOD) == ["nothing is a kfm:Deployment"]
