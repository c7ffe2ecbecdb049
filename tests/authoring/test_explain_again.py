"""What a validator says of the explanation of a released model."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch

from kfm_mlflow.authoring.validation import explain_again
from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.schemas import schema_problems

ROWS = np.random.default_rng(7).normal(10, 3, (40, 8)).astype(np.float32)


class Linear(torch.nn.Module):
    """Answers one number: integrated gradients of a linear model are exact."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Answer."""
        return rows @ torch.arange(1.0, 9.0).reshape(8, 1)


class Jagged(torch.nn.Module):
    """Answers by the digits behind the point, so that a little noise changes every gradient."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Answer."""
        return torch.sin(400 * rows).sum(dim=1, keepdim=True)


@pytest.fixture
def release(tmp_path):
    (tmp_path / "xai").mkdir()
    write_json(tmp_path / "xai" / "summary.json", {"seed": 42, "stability": {"seed_count": 5}})
    return tmp_path


def explained(release, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum warns about its own deprecations
        return explain_again(release, model, ROWS)


def test_a_linear_model_converges_and_its_attributions_are_stable(release):
    began_s = time.monotonic()
    found = explained(release, Linear())
    assert time.monotonic() - began_s < 60  # with the import of captum, on a busy machine
    assert found["measured"] is True
    assert found["convergence_delta"] == pytest.approx(0, abs=1e-5)
    assert found["min_correlation"] > 0.9
    assert (found["seed"], found["seed_count"], found["sample_count"]) == (47, 5, 16)
    assert schema_of(found) == []


def test_a_model_that_answers_to_noise_is_neither_stable_nor_converged(release):
    found = explained(release, Jagged())
    assert found["min_correlation"] < 0.5
    assert found["convergence_delta"] > 0.05


def test_without_a_way_to_load_the_model_it_says_that_nobody_measured(release):
    found = explain_again(release, None, ROWS)
    assert found["measured"] is False
    assert found["reason"]
    assert schema_of(found) == []


def test_a_release_without_an_explanation_is_no_evidence(tmp_path):
    (tmp_path / "xai").mkdir()
    write_json(tmp_path / "xai" / "summary.json", {"seed": 42})
    with pytest.raises(EvidenceError, match="seeds"):
        explained(tmp_path, Linear())


def schema_of(found):
    """Return what the schema of the whole document says of this part of it."""
    problems = schema_problems("deployment_validation", {"xai": found})
    return [problem for problem in problems if "xai" in problem]
