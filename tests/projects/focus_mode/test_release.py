"""What a Focus Mode release is made from: its rows, its own files, its way back from the file."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from focus_mode.documents import context_cells, fusion_weights
from focus_mode.draft import one_row_per_cell
from focus_mode.prepared import prepare, prepare_again
from focus_mode.reserved import is_reserved, without_reserved
from focus_mode.restore import load_focus_model
from kfm_mlflow import Contents
from kfm_mlflow.authoring.export import save_state
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.focus.columns import COLUMN_NAMES
from kfm_mlflow.focus.fusion import measure_fusion
from kfm_mlflow.metadata.schemas import schema_problems

ROOT = Path(__file__).resolve().parents[3]
REGIONS = load_regions(None)


def test_no_row_of_a_cell_that_a_region_touches_is_left(small_world):
    kept = without_reserved(small_world, REGIONS)
    hidden = is_reserved(small_world.cells, REGIONS)
    assert hidden.any()
    assert len(kept) == int((~hidden).sum())
    assert not is_reserved(kept.cells, REGIONS).any()
    assert np.array_equal(kept.rows, small_world.rows[~hidden])
    assert kept.digest == small_world.digest


def test_context_cells_hold_the_latest_month_of_every_cell_that_may_be_listed(small_world):
    document = context_cells(small_world, REGIONS)
    assert schema_problems("context_cells", document) == []
    assert document["columns"] == list(COLUMN_NAMES)
    assert document["time"] == max(small_world.times)
    assert len(document["cells"]) + document["withheld_cell_count"] == len(set(small_world.cells))
    for cell, values in list(document["cells"].items())[:5]:
        (row,) = (
            k
            for k, known in enumerate(small_world.cells)
            if known == cell and small_world.times[k] == document["time"]
        )
        assert values == pytest.approx(small_world.rows[row].tolist(), abs=1e-3)


def test_a_world_that_regions_cover_whole_lists_nothing_and_says_so(small_world):
    inside = copy.copy(small_world)
    hidden = is_reserved(small_world.cells, REGIONS)
    object.__setattr__(inside, "cells", (small_world.cells[int(np.argmax(hidden))],) * len(hidden))
    with pytest.raises(DataError, match="every cell touches a region"):
        context_cells(inside, REGIONS)


def test_the_drift_baseline_takes_one_row_of_each_cell_by_a_seed(small_world):
    first, again, other = (one_row_per_cell(small_world, seed=seed) for seed in (1, 1, 2))
    cells = [small_world.cells[k] for k in first]
    assert sorted(cells) == sorted(set(small_world.cells))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_of_domains_sum_to_one_and_keep_the_baselines_order():
    rng = np.random.default_rng(3)

    def predict(rows):
        answers = rng.normal(size=(len(rows), 2121)).astype(np.float32)
        answers[:, :5] = np.array([0.1, 0.2, 0.3, 0.25, 0.15], np.float32)
        return answers

    rows = rng.normal(size=(40, 36)).astype(np.float32)
    document = fusion_weights(measure_fusion(predict, rows), seed=7)
    assert schema_problems("fusion_weights", document) == []
    assert sum(document["weights"].values()) == pytest.approx(1, abs=1e-12)
    assert document["weights"]["hydrology"] == pytest.approx(0.3, abs=1e-6)


def test_a_model_comes_back_from_its_file_bit_for_bit(small_trained, small_world, tmp_path):
    path = tmp_path / "focus_model.pt"
    save_state(small_trained.model, small_trained.config, path)
    again = load_focus_model(path)
    rows = torch.from_numpy(small_world.rows[:9])
    with torch.no_grad():
        assert torch.equal(again(rows), small_trained.model(rows))


@pytest.mark.parametrize("name", ["no such file", "damaged", "of something else"])
def test_a_file_that_holds_no_model_is_refused_by_name(tmp_path, name):
    path = tmp_path / "focus_model.pt"
    if name == "damaged":
        path.write_bytes(b"PK\x03\x04 and nothing")
    elif name == "of something else":
        torch.save({"format": "other"}, path)
    with pytest.raises(DataError, match=r"focus_model\.pt"):
        load_focus_model(path)


def test_a_validator_makes_the_same_rows_again_from_what_the_release_recorded(small_world):
    made = prepare("generated", size="small", seed=42, regions="packaged")
    again = prepare_again({"size": "small", "seed": 42}, "generated", "packaged")
    assert made.whole.digest == again.whole.digest == small_world.digest
    assert np.array_equal(made.world.rows, again.world.rows)
    training, validation = made.datasets()
    assert (training.role, validation.role) == ("training", "validation")
    assert training.digest == validation.digest == made.whole.digest


@pytest.mark.parametrize(
    ("split", "data", "regions", "said"),
    [
        ({}, "generated", "packaged", "does not say how the rows were made"),
        ({"size": "huge", "seed": 1}, "generated", "packaged", "is no size"),
        ({"size": "small", "seed": 1}, "generated", "nowhere.geojson", "no such regions file"),
    ],
)
def test_what_cannot_be_made_again_is_refused(split, data, regions, said):
    with pytest.raises(DataError, match=said):
        prepare_again(split, data, regions)


@pytest.mark.parametrize(
    "wrong",
    [
        {"documents": {"care.json": {}}},
        {"documents": {"../elsewhere.json": {}}},
        {"documents": {"weights.pt": {}}},
        {"documents": {"stac/other.json": {}}},
        {"documents": {"notes.json": None}},
        {"parts": {"focus_model.pt": torch.nn.Linear(1, 1)}, "model_file": "focus_model.pt"},
        {"parts": {"part.bin": torch.nn.Linear(1, 1)}},
        {"model_file": "model.onnx"},
    ],
    ids=str,
)
def test_contents_that_would_write_over_a_release_are_refused(wrong):
    with pytest.raises(InputError, match="contents"):
        Contents(**wrong)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--family", "no-such"], "there is no 'no-such'; use one of climate, fleet, focus-mode"),
        (
            ["--family", "focus-mode", "--shuffled-ratio", "0.5"],
            "family focus-mode has no such parameter",
        ),
    ],
)
def test_the_root_project_refuses_what_a_family_cannot_be_asked(asked, said):
    done = subprocess.run(
        [sys.executable, ROOT / "projects" / "release.py", *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr


def test_the_root_project_hands_a_family_only_what_it_declares(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "projects" / "release.py",
            *("--family", "focus-mode", "--task", "downscaling", "--shuffled-ratio", "0"),
            *("--size", "small", "--keys", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no such key file" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
