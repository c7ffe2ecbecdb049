import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from focus_mode.evaluate import evaluate
from focus_mode.probes import class_probe, nearest_class, recall_at_10, ridge_probe
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.answers import ANSWER_WIDTH, PART_SLICES
from kfm_mlflow.focus.columns import domain_slice
from kfm_mlflow.focus.fusion import fusion_metrics, measure_fusion


def predict_with(model):
    def predict(rows):
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()

    return predict


@pytest.fixture(scope="module")
def few_rows(small_world):
    """The first two months and a bit."""
    parts = {
        field.name: value[:360]
        for field in fields(small_world)
        if field.name not in ("name", "digest", "bbox")
        and not isinstance(value := getattr(small_world, field.name), dict)
    }
    return replace(small_world, **parts)


@pytest.fixture(scope="module")
def frozen(small_world, small_trained):
    rows = small_world.rows[~small_world.is_held_out]
    return measure_fusion(predict_with(small_trained.model), rows)


@pytest.fixture(scope="module")
def metrics(small_world, small_trained, frozen):
    return evaluate(predict_with(small_trained.model), small_world, baseline=frozen)


def test_the_model_beats_every_baseline_on_held_out_cells_even_when_small(metrics):
    assert metrics["geo_gain"] > 0.08
    for skill in ("climate_skill", "hydrology_skill", "hazard_skill"):
        assert metrics[skill] > 0.08
    assert metrics["routing_accuracy"] > metrics["routing_baseline"] + 0.35
    assert metrics["attribution_accuracy"] > metrics["routing_baseline"] + 0.35
    assert metrics["situation_accuracy"] > metrics["situation_baseline"] + 0.25
    assert metrics["recall_at_10"] > metrics["recall_baseline"] + 0.1


def test_the_fusion_of_held_out_cells_is_that_of_training_cells(metrics):
    assert metrics["fusion_centroid_shift"] < 0.3
    assert metrics["fusion_norm_shift"] < 0.01
    assert metrics["fusion_variance_shift"] < 0.1
    assert metrics["share_shift_max"] < 0.08
    assert metrics["contamination_max"] < 0.05
    assert metrics["weight_sum_error"] < 1e-5
    assert metrics["separation"] > 0.6
    assert metrics["effective_rank"] > 40


def test_every_metric_is_a_finite_number(metrics):
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())


def test_a_fusion_that_is_collapsed_on_purpose_is_seen(small_world, small_trained, frozen, metrics):
    broken = copy.deepcopy(small_trained.model)
    with torch.no_grad():
        weight = broken.fusion.projection[2].weight
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
        sizes[1:] *= 0.02
        weight.copy_(left * sizes @ right)
    held = small_world.rows[small_world.is_held_out]
    found = fusion_metrics(predict_with(broken), held, frozen)
    assert found["separation"] < metrics["separation"] - 0.2
    assert found["effective_rank"] < 0.5 * metrics["effective_rank"]
    assert found["fusion_centroid_shift"] > 2 * metrics["fusion_centroid_shift"]


def _said(count):
    answers = np.zeros((count, ANSWER_WIDTH), np.float32)
    answers[:, PART_SLICES["context_weights"]] = 0.2
    return answers


def test_a_model_that_always_says_the_same_wins_nothing(few_rows):
    metrics = evaluate(lambda rows: _said(len(rows)), few_rows)
    assert metrics["geo_gain"] < 0
    assert max(metrics[f"{name}_skill"] for name in ("climate", "hydrology", "hazard")) < 0.01
    assert metrics["routing_accuracy"] <= metrics["routing_baseline"]
    assert metrics["separation"] == metrics["effective_rank"] == 0.0


def test_a_vector_that_holds_next_month_misses_nothing(few_rows):
    own = domain_slice("climate")
    known = {
        row[own].tobytes(): ahead
        for row, ahead in zip(few_rows.rows, few_rows.next_climate, strict=True)
    }

    def predict(rows):
        answers = _said(len(rows))
        for answer, row in zip(answers, rows, strict=True):
            fused = answer[PART_SLICES["fusion"]]
            fused[:2] = known.get(row[own].tobytes(), 0.0)
            fused[2:4] = row[own][-2:]  # the season
        return answers

    metrics = evaluate(predict, few_rows)
    assert metrics["climate_skill"] > 0.9
    assert metrics["hydrology_skill"] < 0.1


def test_a_world_without_held_out_rows_is_refused(small_world):
    everything = replace(small_world, is_held_out=np.zeros(len(small_world.rows), bool))
    with pytest.raises(DataError, match="0 held-out rows"):
        evaluate(lambda rows: np.zeros((len(rows), ANSWER_WIDTH), np.float32), everything)


@pytest.mark.parametrize(("count", "width"), [(60, 5), (20, 50)])
def test_a_ridge_probe_reads_what_is_linear(count, width):
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((3, width))
    hidden = rng.standard_normal((count + 10, 3))
    vectors, truth = hidden @ basis, hidden @ rng.standard_normal((3, 2)) + 7.0
    read = ridge_probe(vectors[:count], truth[:count], vectors[count:])
    np.testing.assert_allclose(read, truth[count:], atol=0.02)


def test_a_ridge_probe_of_noise_falls_back_to_the_mean():
    rng = np.random.default_rng(1)
    noise, truth = rng.standard_normal((200, 100)), rng.standard_normal((200, 1))
    read = ridge_probe(noise[:100], truth[:100], noise[100:])
    assert np.square(read - truth[100:]).mean() < 1.2 * np.square(truth[100:]).mean()


def test_class_probe_and_nearest_neighbour_tell_what_is_apart():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 90) * 2
    vectors = np.eye(5)[truth] * 4 + 0.3 * rng.standard_normal((90, 5))
    for probe in (class_probe, nearest_class):
        assert (probe(vectors[:60], truth[:60], vectors[60:]) == truth[60:]).all()


def test_recall_counts_as_a_plain_loop_does():
    rng = np.random.default_rng(4)
    vectors, labels = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    groups = np.array([f"cell-{k % 13}" for k in range(40)])
    by_label = {0: [], 1: [], 2: []}
    for i in range(40):
        others = [j for j in range(40) if groups[j] != groups[i]]
        others.sort(key=lambda j: np.linalg.norm(vectors[i] - vectors[j]))
        possible = min(10, sum(labels[j] == labels[i] for j in others))
        by_label[labels[i]].append(sum(labels[j] == labels[i] for j in others[:10]) / possible)
    expected = np.mean([np.mean(found) for found in by_label.values()])
    assert recall_at_10(vectors, labels, groups) == pytest.approx(expected)
