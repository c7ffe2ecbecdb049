"""Integrated gradients: checked against what linear models must give, and against themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.attribution import integrated_gradients_summary, output_detail


class Field(nn.Module):
    """A field-to-field model that looks at some cells only."""

    def __init__(self, mask) -> None:
        super().__init__()
        self.register_buffer("mask", torch.as_tensor(mask, dtype=torch.float32))
        self.grow = nn.Upsample(scale_factor=4)

    def forward(self, rows):
        """Answer [n, 32, 32] for [n, 8, 8]."""
        mean = rows.mean(dim=(1, 2), keepdim=True)
        return mean + self.grow(((rows - mean) * self.mask).unsqueeze(1)).squeeze(1)


@pytest.fixture(scope="module")
def fields():
    generator = np.random.default_rng(7)
    return (280 + generator.normal(size=(12, 8, 8)).cumsum(axis=1)).astype(np.float32)


@pytest.fixture(scope="module")
def summary(fields):
    return integrated_gradients_summary(Field(np.ones((8, 8))), fields, seed=3)


def test_summary_satisfies_its_schema(summary):
    assert schema_problems("xai-summary", summary) == []
    assert summary["method"] == "integrated-gradients"
    assert summary["library"].startswith("captum 0.")
    assert (summary["sample_count"], summary["step_count"], summary["seed"]) == (12, 32, 3)


def test_shares_cover_all_cells_and_sum_to_one(summary):
    shares = [feature["importance_ratio"] for feature in summary["features"]]
    assert len(shares) == 16
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    assert min(shares) >= 0
    assert summary["features"][0]["name"] == "row 1-2, column 1-2"
    assert summary["features"][-1]["name"] == "row 7-8, column 7-8"


def test_attributions_are_complete(summary):
    assert summary["convergence_delta"] < 1e-3


def test_cells_that_the_model_does_not_read_have_no_share(fields):
    mask = np.zeros((8, 8))
    mask[:2, :2] = 1

    class Corner(nn.Module):
        def forward(self, rows):
            return rows * torch.as_tensor(mask, dtype=torch.float32)

    found = integrated_gradients_summary(Corner(), fields, seed=0)
    shares = {f["name"]: f["importance_ratio"] for f in found["features"]}
    assert shares["row 1-2, column 1-2"] == pytest.approx(1.0, abs=1e-6)


def test_linear_model_gets_weight_times_difference_from_its_mean():
    # For f(x) = w.x, integrated gradients are w * (x - baseline) exactly (axiom of linearity).
    weights = torch.tensor([1.0, -2.0, 3.0, 0.0])
    linear = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(weights)
    rows = np.array([[1.0, 2.0, 3.0, 10.0], [0.0, 4.0, 1.0, 3.0]], dtype=np.float32)
    found = integrated_gradients_summary(linear, rows, seed=0)
    mass = np.abs(weights.numpy() * (rows - rows.mean(axis=1, keepdims=True))).sum(axis=0)
    shares = [feature["importance_ratio"] for feature in found["features"]]
    assert shares == pytest.approx(mass / mass.sum(), abs=1e-6)
    assert [f["name"] for f in found["features"]] == [f"feature {i}" for i in range(1, 5)]


def test_equal_seed_gives_equal_bytes_and_another_seed_other_noise(fields, summary):
    again = integrated_gradients_summary(Field(np.ones((8, 8))), fields, seed=3)
    assert json.dumps(again) == json.dumps(summary)
    other = integrated_gradients_summary(Field(np.ones((8, 8))), fields, seed=99)
    assert other["features"] == summary["features"]
    assert other["stability"] != summary["stability"]


def test_smooth_model_is_stable_and_a_chaotic_one_is_not(fields, summary):
    class Chaotic(nn.Module):
        def forward(self, rows):
            return torch.sin(rows * 300.0)

    assert summary["stability"]["min_correlation"] > 0.9
    found = integrated_gradients_summary(Chaotic(), fields, seed=0)
    assert found["stability"]["min_correlation"] < 0.8


def test_too_few_steps_show_as_convergence_error(fields):
    class Step(nn.Module):
        def forward(self, rows):
            return torch.sigmoid((rows - 281.0) * 50.0)

    found = integrated_gradients_summary(Step(), fields, seed=0, step_count=1)
    assert found["convergence_delta"] > 0.05


def test_model_and_global_state_are_left_as_they_were(fields):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    integrated_gradients_summary(model, fields / 280, seed=0)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_channels_are_features_of_their_own():
    rows = np.random.default_rng(0).normal(size=(4, 2, 5, 3)).astype(np.float32)
    found = integrated_gradients_summary(nn.Conv2d(2, 1, 1), rows, seed=0)
    names = [feature["name"] for feature in found["features"]]
    assert len(names) == 2 * 4 * 3
    assert names[0] == "channel 1, row 1, column 1"


def test_own_target_is_used_and_named(fields):
    def brightest(outputs):
        return outputs.flatten(1).amax(dim=1)

    found = integrated_gradients_summary(Field(np.ones((8, 8))), fields, seed=0, target=brightest)
    assert found["notes"][0] == "Target: brightest."


def test_detail_is_the_standard_deviation_of_each_field(fields):
    expected = fields.reshape(12, -1).std(axis=1)
    assert output_detail(torch.as_tensor(fields)).numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((0, 8, 8)),
        np.zeros(8),
        np.full((2, 8, 8), np.nan),
        np.full((2, 8, 8), np.inf),
    ],
)
def test_inputs_that_explain_nothing_are_refused(rows):
    with pytest.raises(InputError, match="inputs"):
        integrated_gradients_summary(Field(np.ones((8, 8))), rows, seed=0)


def test_model_that_answers_to_nothing_is_no_evidence():
    with pytest.raises(EvidenceError, match="all zero"):
        integrated_gradients_summary(Field(np.ones((8, 8))), np.ones((2, 8, 8)), seed=0)


@pytest.mark.parametrize("options", [{"step_count": 0}, {"seed_count": 1}])
def test_counts_too_small_are_refused(fields, options):
    with pytest.raises(InputError, match="at least"):
        integrated_gradients_summary(Field(np.ones((8, 8))), fields, seed=0, **options)


def test_columns_are_explained_from_the_mean_sample_in_units_of_their_own():
    torch.manual_seed(0)
    rows = torch.randn(64, 3) * torch.tensor([10.0, 0.1, 1.0]) + torch.tensor([280.0, 0.5, -3.0])
    model = torch.nn.Linear(3, 2, bias=True)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.2, 0.0, 0.0], [0.0, 30.0, 0.0]]))
    found = integrated_gradients_summary(model, rows.numpy(), seed=1, baseline="sample-mean")
    assert found["baseline"] == "sample-mean"
    assert found["convergence_delta"] < 1e-4
    shares = [feature["importance_ratio"] for feature in found["features"]]
    # Each answer depends on one column alone and counts in its own deviation: equal shares.
    expected = (rows - rows.mean(dim=0)).abs().mean(dim=0) / rows.std(dim=0, unbiased=False)
    expected[2] = 0.0
    assert shares == pytest.approx((expected / expected.sum()).tolist(), abs=1e-3)
    assert found["stability"]["min_correlation"] > 0.95
