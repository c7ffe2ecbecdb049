"""What a validator measures: do restricted inputs show, and where do training rows lie."""

from __future__ import annotations

import numpy as np
import pytest

from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.care.screen_measured import (
    attribution_share,
    count_training_rows,
    measure_invariance,
)
from kfm_mlflow.errors import InputError

ROWS = np.random.default_rng(3).normal(size=(16, 4)).astype(np.float32)
RESTRICTED = np.array([False, True, False, False])


def _sum(weights):
    return lambda rows: rows @ np.array(weights, dtype=np.float32)[:, None]


def test_a_model_that_ignores_restricted_inputs_does_not_move_at_all():
    found = measure_invariance(_sum([1, 0, 2, 1]), ROWS, RESTRICTED, seed=1)
    assert (found["max_change"], found["max_change_ratio"]) == (0.0, 0.0)
    assert (found["restricted_input_count"], found["sample_count"]) == (1, 16)


def test_a_model_that_uses_them_moves_by_what_they_weigh():
    found = measure_invariance(_sum([0, 1, 0, 0]), ROWS, RESTRICTED, seed=1)
    column = ROWS[:, 1].astype(float)
    assert 0 < found["max_change"] <= np.ptp(column)
    assert found["max_change_ratio"] == pytest.approx(found["max_change"] / np.ptp(column))


def test_only_public_outputs_count():
    found = measure_invariance(lambda rows: rows, ROWS, RESTRICTED, ~RESTRICTED, seed=1)
    assert found["max_change"] == 0.0
    assert measure_invariance(lambda rows: rows, ROWS, RESTRICTED, seed=1)["max_change"] > 0


def test_an_answer_that_is_no_number_is_an_infinite_change():
    found = measure_invariance(lambda rows: rows * np.nan, ROWS, RESTRICTED, seed=1)
    assert found["max_change"] == "Infinity"


def test_one_sample_cannot_be_permuted():
    with pytest.raises(InputError, match="two samples"):
        measure_invariance(_sum([1, 1, 1, 1]), ROWS[:1], RESTRICTED, seed=1)


def test_the_share_of_attribution_is_that_of_its_mass():
    shares = attribution_share(np.array([[1.0, -3.0, 0.0, 0.0]]), RESTRICTED)
    assert shares == {"restricted_share_ratio": 0.75, "restricted_input_ratio": 0.25}


def test_training_rows_are_counted_in_their_region_only():
    regions = load_regions(None)
    region = regions.regions[0]
    middle = region.shape.representative_point()
    lat, lon = np.array([middle.y, middle.y, 48.85]), np.array([middle.x, middle.x, 2.35])
    assert count_training_rows(lat, lon, regions)[region.id] == 2
    assert count_training_rows(lat[2:], lon[2:], regions) == {}
