"""The transformer learns what a weighted sum cannot, and a killed training ends as any other."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.trainings import training
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from focus_mode.world import generate_world
from focus_transformer.prepared import logistic_regression
from focus_transformer.sequences import (
    DRY,
    MONTHS,
    area_under_curve,
    bias_index,
    cut_sequences,
)
from focus_transformer.training import PLANS, train
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.saving import CheckpointWriter
from kfm_mlflow.errors import DataError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world():
    return generate_world(size="small")


@pytest.fixture(scope="module")
def sides(world):
    return cut_sequences(world)


@pytest.fixture(scope="module")
def trained(sides, tmp_path_factory):
    """A whole small training: its directory, its model, its state."""
    root = tmp_path_factory.mktemp("checkpoints")
    said = training(planned_epochs=PLANS["small"].epoch_count)
    with CheckpointWriter(root, said) as writer:
        model = train(*sides, PLANS["small"], writer, lambda: (0.5, 0.2))
        return root, model, writer.state


def test_a_sequence_is_six_months_of_one_place_and_sides_share_no_place(world, sides):
    learned, held = sides
    assert not set(learned.cells) & set(held.cells)
    cell = held.cells[0]
    mine = [k for k, name in enumerate(world.cells) if name == cell]
    ordered = sorted(mine, key=lambda k: world.months[k])[:MONTHS]
    np.testing.assert_array_equal(held.rows[0], world.rows[ordered])
    dry = [int(world.situation[k]) in DRY for k in ordered[-3:]]
    assert held.labels[0] == float(sum(dry) >= 2)


def test_too_few_months_are_refused(world):
    few = world.months < 3
    cut = dataclasses.replace(
        world,
        **{
            f.name: getattr(world, f.name)[few]
            for f in dataclasses.fields(world)
            if isinstance(getattr(world, f.name), np.ndarray)
        },
        cells=tuple(c for c, keep in zip(world.cells, few, strict=True) if keep),
        times=tuple(t for t, keep in zip(world.times, few, strict=True) if keep),
    )
    with pytest.raises(DataError, match="6 months in a row"):
        cut_sequences(cut)


def test_area_under_curve_and_logistic_regression_agree_with_scikit_learn(sides):
    learned, held = sides
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 5, len(held)).astype(float)  # with ties
    assert area_under_curve(scores, held.labels) == pytest.approx(
        roc_auc_score(held.labels, scores), abs=1e-12
    )
    known, asked = (side.rows.reshape(len(side), -1).astype(float) for side in sides)
    center, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(
        (known - center) / spread, learned.labels
    )
    expected = theirs.predict_proba((asked - center) / spread)[:, 1]
    ours = logistic_regression(known, learned.labels, asked)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_bias_beyond_chance_is_found_and_chance_is_not():
    rng = np.random.default_rng(5)
    region = np.repeat([0, 1], 4000)
    said = np.full(8000, 0.4)
    fair = (rng.random(8000) < 0.4).astype(float)
    assert bias_index(said, fair, region) == 0.0
    unfair = (rng.random(8000) < np.where(region == 1, 0.6, 0.4)).astype(float)
    assert bias_index(said, unfair, region) == pytest.approx(
        0.2 - 2 * (0.24 / 4000) ** 0.5, abs=0.02
    )


def test_the_transformer_beats_a_logistic_regression_on_held_out_places(sides, trained):
    learned, held = sides
    _, model, _ = trained
    with torch.no_grad():
        said = model(torch.from_numpy(held.rows)).numpy()[:, 0]
    known, asked = (side.rows.reshape(len(side), -1) for side in sides)
    line = logistic_regression(known, learned.labels, asked)
    assert area_under_curve(said, held.labels) > area_under_curve(line, held.labels) + 0.01


def test_three_phases_leave_their_names_and_an_epoch_each(trained):
    root, model, state = trained
    plan = PLANS["small"]
    entries = state.manifest.checkpoints
    assert [entry.epoch for entry in entries] == list(range(1, plan.epoch_count + 1))
    named = [entry.id for entry in entries if entry.id.startswith("checkpoint_")]
    assert named == ["checkpoint_001_pretrain", "checkpoint_002_finetune", "checkpoint_003_final"]
    assert verify_directory(root).ok
    last = torch.load(root / "checkpoint_003_final.pt", weights_only=True)
    assert set(last) == {
        *("format", "config", "model", "optimiser", "scheduler", "random", "position"),
    }
    assert all(torch.equal(last["model"][k], v) for k, v in model.state_dict().items())


def test_energy_is_cumulative_and_what_is_explained_is_measured(trained):
    root, _, state = trained
    energies = [row.energy_wh for row in state.metrics]
    assert energies == sorted(energies)
    said = json.loads((root / "explainability_summary.json").read_bytes())
    assert 0.5 < said["explainability_stability"] <= 1.0
    assert 0.5 < said["attention_stability"] <= 1.0
    assert len(said["top_features"]) == 5


def test_killed_at_twenty_random_moments_and_resumed_the_last_bytes_are_the_same(tmp_path):
    paths = ("tests", "projects/focus_mode", "projects/focus_transformer")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path), "20", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in paths),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 20
    assert all(o["resumed"] and o["same"] and not o["findings"] for o in outcomes), outcomes
    # The moments were where something was going on.
    assert sum(o["was_killed"] for o in outcomes) >= 10
    assert len({o["listed_at_kill"] for o in outcomes}) >= 3
