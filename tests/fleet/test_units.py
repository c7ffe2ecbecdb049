"""Units: the stated formats give the stated answers, and every bad file is an error that names it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fleet import made_release
from fleet.made_release import (
    TERM,
    column,
    write_embedder,
    write_heads,
    write_release,
    write_writer,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.fleet.embedder import (
    DIMENSION,
    HashedEmbedder,
    mask_terms,
    term_digest,
    text_tokens,
)
from kfm_mlflow.fleet.loading import _load_pyfunc
from kfm_mlflow.fleet.pipeline import load_pipeline
from kfm_mlflow.fleet.units import load_unit, load_units, unit_format
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = st.text(alphabet="abcdeABC éñ-_.1 ", max_size=40)


def test_vector_is_the_signed_hash_that_the_format_states():
    expected = np.zeros(DIMENSION)
    for token, count in (("run", 2), ("tests", 1)):
        found = hashlib.blake2b(token.encode(), digest_size=8).digest()
        sign = -1 if found[4] % 2 else 1
        expected[int.from_bytes(found[:4], "little") % DIMENSION] += sign * count
    vector = HashedEmbedder().embed("Run, run_TESTS!")
    assert np.allclose(vector, expected / math.sqrt(5), atol=1e-15)


def test_weights_stretch_their_buckets_before_the_length_is_taken():
    weights = np.ones(DIMENSION)
    weights[np.flatnonzero(column("run"))] = 3
    vector = HashedEmbedder(DIMENSION, weights).embed("run tests")
    assert np.allclose(vector, (3 * column("run") + column("tests")) / math.sqrt(10))


def test_a_masked_term_is_one_token_whatever_it_was():
    terms = frozenset({term_digest("Old Barrow"), term_digest("old"), term_digest("Heron")})
    found = mask_terms(text_tokens("the OLD-barrow, old heron"), terms)
    assert found == ["the", "masked", "masked", "masked"]
    embedder = HashedEmbedder(DIMENSION, None, terms)
    assert np.array_equal(embedder.embed("at Old Barrow"), embedder.embed("at Heron"))


@given(TEXTS)
def test_a_vector_has_length_one_or_no_tokens(text):
    vector = HashedEmbedder().embed(text)
    length = float(np.linalg.norm(vector))
    # Two tokens of one bucket and other signs may take each other away.
    assert math.isclose(length, 1) or not vector.any()
    assert text_tokens(text) or not vector.any()


@given(TEXTS, TEXTS)
def test_word_order_case_and_marks_between_words_do_not_count(one, other):
    embedder = HashedEmbedder()
    swapped = embedder.embed(f"{other.upper()} / {one.upper()}")
    assert np.allclose(embedder.embed(f"{one} {other}"), swapped, atol=1e-15)


def test_answers_are_those_computed_by_hand(tmp_path):
    pipeline = load_pipeline(write_release(tmp_path))
    safe = pipeline.answer("run it now")
    # Logits 0.5 and 0: the share of act is 1 / (1 + e^-0.5).
    assert (safe.specialty, safe.decision, safe.text) == ("code_execute", "act", "done")
    assert safe.confidence == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert not safe.is_unsafe
    bad = pipeline.answer("plan to delete ledger")
    # Four tokens: "delete" has 1/2 of the vector, so the logits are 0.5 and 4.5.
    assert (bad.specialty, bad.decision, bad.text) == ("doc_plan", "hold", "i hold")
    assert bad.confidence == pytest.approx(1 / (1 + math.exp(-4)))
    assert bad.is_unsafe


def test_the_head_asked_decides_and_the_coordinator_still_says_whose_it_is(tmp_path):
    release = write_release(tmp_path)
    shy = np.stack([np.zeros(DIMENSION), np.zeros(DIMENSION)], axis=1)
    np.savez(release / "units/runtime/specialist_memory_storage.npz", w=shy, b=np.array([0.0, 1.0]))
    pipeline = load_pipeline(release)
    assert pipeline.answer("run it").decision == "act"
    asked = pipeline.answer("run it", "memory_storage")
    assert (asked.specialty, asked.decision) == ("code_execute", "hold")


@pytest.mark.parametrize("task", ["", " -- ", "x" * 20_001, None, 7])
def test_what_is_no_task_is_refused(tmp_path, task):
    with pytest.raises(InputError, match="task: must be a text with a word"):
        load_pipeline(write_release(tmp_path)).answer(task)


def test_an_unknown_specialty_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="'cooking' is no specialty; use one of code_execute"):
        load_pipeline(write_release(tmp_path)).answer("run it", "cooking")


ADAPTER = {"peft_type": "LORA", "r": 1, "lora_alpha": 4, "target_modules": ["words"]}


def write_adapter(directory: Path, **changed) -> Path:
    """Write an adapter that swaps "done" for "hold" where nothing is hidden: it adds to weights."""
    write_json(directory / "adapter_config.json", {**ADAPTER, **changed})
    b = np.zeros((8, 1), "f4")
    b[3] = 2
    prefix = "base_model.model.words"
    arrays = {f"{prefix}.lora_A.weight": np.ones((1, 1), "f4"), f"{prefix}.lora_B.weight": b}
    save_file(arrays, directory / "adapter_model.safetensors")
    return directory


def adapted(directory: Path, **changed) -> Path:
    write_writer(directory)
    digest = build_manifest(directory / "base").release_id
    return write_adapter(write_writer(directory, base_digest=digest), **changed)


def test_an_adapter_adds_b_a_times_alpha_over_r(tmp_path):
    base = load_unit(write_writer(tmp_path / "base-only"))
    unit = load_unit(adapted(tmp_path / "unit"))
    vector = HashedEmbedder().embed("delete it")
    hidden = math.tanh(100 / math.sqrt(2))
    difference = unit.logits(vector) - base.logits(vector)
    expected = np.zeros((2, 4))
    expected[0, 3] = 2 * 4 * hidden
    assert np.allclose(difference, expected)
    assert unit.write(vector) == "i hold"
    assert unit.write(HashedEmbedder().embed("run it")) == "done"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_dora": True}, "adapter_config.json: is DoRA"),
        ({"use_rslora": True}, "is rsLoRA"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "is of kind IA3"),
        ({"target_modules": ["q_proj"]}, "'q_proj' is no module of the base"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"r": 0}, "r: must be a whole number"),
        ({"r": 2}, r"lora_A.weight: has shape \[1, 1\], not \[2, 1\]"),
        ({"lora_alpha": "4"}, "lora_alpha: must be a number"),
        ({"target_modules": ["hidden"]}, "is missing"),
    ],
)
def test_an_adapter_that_is_not_plain_lora_of_this_base_is_refused(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        load_unit(adapted(tmp_path, **changed))


def test_an_adapter_on_another_base_is_refused(tmp_path):
    unit = adapted(tmp_path)
    arrays = load_file(unit / "base/model.safetensors")
    arrays["words.bias"][0] += 1
    save_file(arrays, unit / "base/model.safetensors")
    with pytest.raises(DataError, match=r"is not the base that unit.json states"):
        load_unit(unit)


def test_an_adapter_needs_the_digest_of_its_base(tmp_path):
    with pytest.raises(InputError, match=r"base_digest: is missing, and there is an adapter"):
        load_unit(write_adapter(write_writer(tmp_path)))


def test_another_format_is_named_and_so_are_those_that_can_be_run(tmp_path):
    write_json(tmp_path / "unit.json", {"schema_version": "1", "format": "vertex-endpoint"})
    assert unit_format(tmp_path) == "vertex-endpoint"
    with pytest.raises(InputError) as caught:
        load_unit(tmp_path)
    assert "format 'vertex-endpoint' cannot be run here" in str(caught.value)
    assert "hashed-embedder, linear-heads, text-writer" in str(caught.value)


def _replace(name, content):
    def change(root: Path) -> None:
        (root / name).write_bytes(content)

    return change


def _npz(name, **arrays):
    def change(root: Path) -> None:
        np.savez(root / name, **arrays)

    return change


def _json(name, **fields):
    def change(root: Path) -> None:
        write_json(root / name, {**json.loads((root / name).read_text()), **fields})

    return change


def _remove(name):
    def change(root: Path) -> None:
        (root / name).unlink()

    return change


HEAD = "units/runtime/specialist_doc_plan.npz"
BAD = [
    (_remove("units/embed/unit.json"), "embed/unit.json: cannot be read"),
    (_replace("units/embed/unit.json", b"{"), "embed/unit.json: not valid JSON"),
    (_replace("units/embed/unit.json", b"[]"), "embed/unit.json: is no JSON object"),
    (_json("units/embed/unit.json", schema_version="2"), "schema_version: must be"),
    (_json("units/embed/unit.json", format=3), "embed/unit.json: format: must be a text"),
    (_json("units/embed/unit.json", dimension=-1), "dimension: must be a whole number"),
    (_json("units/embed/unit.json", dimension=321), "dimension: takes vectors of 320"),
    (_json("units/embed/unit.json", masked_terms=["Old"]), "masked_terms: 'Old' is not"),
    (_json("units/embed/unit.json", format="linear-heads"), "is missing|cannot be read"),
    (_replace("units/embed/weights.safetensors", b"\x00" * 9), "weights.safetensors: cannot be"),
    (_remove(HEAD), "runtime/specialist_doc_plan.npz: cannot be read"),
    (_replace(HEAD, b"PK\x05\x06"), "specialist_doc_plan.npz: cannot be read"),
    (_npz(HEAD, w=np.zeros((DIMENSION, 2))), "specialist_doc_plan.npz: b: is missing"),
    (_npz(HEAD, w=np.zeros((2, 2)), b=np.zeros(2)), r"npz: w: has shape \[2, 2\]"),
    (_npz(HEAD, w=np.full((DIMENSION, 2), np.nan), b=np.zeros(2)), "w: holds a number that is not"),
    (_npz(HEAD, w=np.zeros((DIMENSION, 2), int), b=np.zeros(2)), "w: holds int64"),
    (
        _npz(HEAD, w=np.zeros((DIMENSION, 2)), b=np.array([{}, {}], dtype=object)),
        "specialist_doc_plan.npz: cannot be read .*allow_pickle",
    ),
    (
        _npz(HEAD, w=np.zeros((DIMENSION, 2)), b=np.zeros(2), x=np.zeros(1)),
        "x: is no array of this file",
    ),
    (_json("units/textgen/base/config.json", words=["a", ""]), "words: must begin with"),
    (_json("units/textgen/base/config.json", hidden=2), "hidden.bias: has shape"),
    (_json("units/textgen/base/config.json", positions=65_536, hidden=65_536), "more than"),
    (_json("units/textgen/unit.json", passes=0), "passes: must be a whole number"),
    (_remove("probes/probes.json"), "probes/probes.json: cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_file_is_an_error_that_names_it(tmp_path, change, message):
    change(write_release(tmp_path))
    with pytest.raises(InputError, match=message):
        load_pipeline(tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("kfm_mlflow.fleet.unit_files.MAX_ARRAYS_BYTES", 1000)
    with pytest.raises(DataError, match=r"fleet_model.npz: unpacks to more than 1000 bytes"):
        load_unit(write_heads(tmp_path))


def test_a_pipeline_needs_all_roles_each_in_its_folder(tmp_path):
    write_embedder(tmp_path / "units" / "embed")
    assert list(load_units(tmp_path)) == ["embed"]
    with pytest.raises(InputError, match="has no unit for runtime, textgen; fuse"):
        load_pipeline(tmp_path)
    write_embedder(tmp_path / "units" / "runtime")
    with pytest.raises(InputError, match=r"units/runtime/unit.json: format: is for role embed"):
        load_units(tmp_path)
    (tmp_path / "units" / "router").mkdir()
    with pytest.raises(InputError, match="has no units, or not only embed, runtime, textgen"):
        load_units(tmp_path)


def test_the_model_of_a_fused_release_answers_tables_and_lists(tmp_path):
    import pandas as pd

    model = _load_pyfunc(os.fspath(write_release(tmp_path)))
    records = [{"task": "run it"}, {"task": "delete ledger", "specialty": "doc_plan"}]
    answers = model.predict(records)
    assert [answer["decision"] for answer in answers] == ["act", "hold"]
    assert model.predict(pd.DataFrame(records)) == answers
    with pytest.raises(InputError, match=r"tasks\[1\]: .*must be a text"):
        model.predict([{"task": "run"}, {"tusk": "run"}])
    with pytest.raises(InputError, match="must be a DataFrame or a list of records"):
        model.predict("run it")


def test_the_model_of_an_artifact_does_what_its_unit_does(tmp_path):
    for role, write, field in (
        ("embed", write_embedder, "vector"),
        ("runtime", write_heads, "decision"),
        ("textgen", write_writer, "text"),
    ):
        root = tmp_path / role
        write(root / "units" / role)
        write_json(root / "probes" / "probes.json", made_release.PROBES)
        (answer,) = _load_pyfunc(os.fspath(root)).predict([{"task": f"publish {TERM}"}])
        expected = {
            "vector": HashedEmbedder(DIMENSION, None, frozenset({term_digest(TERM)}))
            .embed("publish masked")
            .tolist(),
            "decision": "hold",
            "text": "i hold",
        }
        assert answer[field] == expected[field]
