"""Domain attribution: of a linear classifier it is known by arithmetic; elsewhere its axioms hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.domain_attribution import (
    AnswerParts,
    attribute_domains,
    attribution_metrics,
)

COLUMNS = ("a", "b", "c", "d")
DOMAINS = {"one": slice(0, 1), "two": slice(1, 4)}
PARTS = AnswerParts(
    probabilities=lambda outputs: outputs[:, :2],
    told_shares=lambda outputs: outputs[:, 2:4],
    attention_entropy=lambda outputs: outputs[:, 4],
)


class Linear(nn.Module):
    """Two classes, whose log-odds are linear; it tells that all comes from the first domain."""

    def __init__(self, weights, told=(1.0, 0.0)) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        self.register_buffer("told", torch.tensor([*told, 0.25]))

    def forward(self, rows):
        """Answer probabilities [n, 2], told shares [n, 2] and entropy [n, 1]."""
        odds = rows @ self.weights
        told = self.told.expand(len(rows), 3)
        return torch.cat([torch.sigmoid(torch.stack([odds, -odds], dim=1)), told], dim=1)


class Deep(Linear):
    """Log-odds that are nowhere linear."""

    def forward(self, rows):
        """Bend the rows before they are weighed."""
        return super().forward(torch.tanh(rows) * rows.sum(dim=1, keepdim=True).cos())


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(3).normal(size=(24, 4)).astype(np.float32)


def explained(model, rows, **options):
    return attribute_domains(
        model, rows, PARTS, columns=COLUMNS, domains=DOMAINS, **{"seed": 1, **options}
    )


def test_of_linear_log_odds_it_is_weight_times_distance_from_the_mean(rows):
    weights = np.array([0.5, -0.25, 0.0, 1.0])
    found = explained(Linear(weights), rows)
    mass = np.abs((rows.astype(np.float64) - rows.mean(axis=0)) * weights)
    ratios = mass.sum(axis=0) / mass.sum()
    one, two = found.document["domains"]
    assert one["importance_ratio"] == pytest.approx(ratios[0], rel=1e-3)
    assert [c["importance_ratio"] for c in two["columns"]] == pytest.approx(ratios[1:], rel=1e-3)
    assert found.shares[:, 0] == pytest.approx(mass[:, 0] / mass.sum(axis=1), rel=1e-3)
    assert found.mass == pytest.approx(mass.sum(axis=1), rel=1e-3)
    assert found.document["completeness_error"] < 1e-4


def test_shares_that_the_model_tells_are_held_against_what_is_found(rows):
    right = explained(Linear([2.0, 0.0, 0.0, 0.0], told=(1.0, 0.0)), rows).document
    wrong = explained(Linear([2.0, 0.0, 0.0, 0.0], told=(0.0, 1.0)), rows).document
    assert right["told_agreement"] == pytest.approx(1.0)
    assert wrong["told_agreement"] == pytest.approx(0.0, abs=1e-9)


def test_every_sample_is_explained_for_its_own_class_along_the_whole_path(rows):
    # Completeness holds of a fixed class only; most paths of this model change the likeliest one.
    found = explained(Deep([3.0, -3.0, 2.0, -1.0]), rows, step_count=128).document
    assert found["completeness_error"] < 0.02
    assert (
        explained(Deep([3.0, -3.0, 2.0, -1.0]), rows, step_count=1).document["completeness_error"]
        > 10 * found["completeness_error"]
    )


def test_the_document_satisfies_its_schema_and_equal_calls_give_equal_bytes(rows):
    first, again = (explained(Deep([3.0, -3.0, 2.0, -1.0]), rows).document for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    assert schema_problems("xai-domains", first) == []
    assert first["attention_entropy"] == {"mean": 0.25, "min": 0.25, "max": 0.25}
    assert sum(domain["importance_ratio"] for domain in first["domains"]) == pytest.approx(1.0)


class Chaotic(Linear):
    """Log-odds whose gradient turns with the slightest change."""

    def forward(self, rows):
        """Turn the sign of each column's weight many times per unit."""
        return super().forward(torch.sin(300.0 * rows))


def test_an_explanation_that_noise_overturns_is_told_unstable(rows):
    steady = attribution_metrics(explained(Linear([0.5, -0.25, 0.1, 1.0]), rows).document)
    chaotic = attribution_metrics(explained(Chaotic([0.5, -0.25, 0.1, 1.0]), rows).document)
    assert steady["attribution_stability"] > 0.99
    assert chaotic["attribution_stability"] < 0.5
    assert steady["attribution_share_movement"] < 0.1 < chaotic["attribution_share_movement"]


def test_the_model_is_left_as_it_was(rows):
    model = Linear([1.0, 0.0, 0.0, 0.0]).train()
    explained(model, rows)
    assert model.training


def test_a_model_that_answers_nothing_is_no_evidence(rows):
    with pytest.raises(EvidenceError, match="all zero"):
        explained(Linear([0.0, 0.0, 0.0, 0.0]), rows)


@pytest.mark.parametrize("shape", [(24, 3), (0, 4), (24,)])
def test_rows_of_another_shape_are_refused(shape):
    with pytest.raises(InputError):
        explained(Linear([1.0, 0.0, 0.0, 0.0]), np.ones(shape, dtype=np.float32))
