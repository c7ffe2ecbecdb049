"""What lets the drivers model tell of extremes, and how signs and sizes of impacts are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drivers.model import DriverNetwork
from drivers.winds import coriolis
from impact import exceedance_ratio, magnitude_ratio, sign_agreement


def test_a_day_stronger_than_all_that_were_learned_is_answered_by_more_than_the_strongest():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 1, 3, 4))
    targets = 2.0 + 3.0 * rows.mean(axis=(1, 2, 3))[:, None]
    model = DriverNetwork(shape=(1, 3, 4), eof_count=12, target_count=1, width=4)
    model.learn_eofs(rows.astype(np.float32), targets.astype(np.float32))
    with torch.no_grad():
        said = model(torch.from_numpy(np.stack([rows[0], 50.0 * rows[0]]).astype(np.float32)))
    wanted = 2.0 + 3.0 * np.array([1.0, 50.0]) * rows[0].mean()
    assert said.numpy()[:, 0] == pytest.approx(wanted, rel=1e-3)


def test_coriolis_parameter_is_that_of_the_textbook_and_never_smaller_than_at_10_degrees():
    found = coriolis(np.array([45.0, -45.0, 90.0, 10.0, 2.0, -2.0, 0.0]))
    assert found[:3] == pytest.approx([1.031e-4, -1.031e-4, 1.458e-4], rel=1e-3)
    assert found[3:] == pytest.approx([found[3], found[3], -found[3], found[3]])


def test_signs_sizes_and_events_are_counted_as_their_table_says():
    truth = np.array([-3.0, -1.0, 0.1, 1.0, 3.0])  # deviation 2.0
    assert sign_agreement(np.array([-1.0, 1.0, -1.0, -1.0, 1.0]), truth) == 1.0
    assert sign_agreement(np.array([-1.0, 1.0, -1.0, -1.0, -1.0]), truth) == 0.5
    assert sign_agreement(-truth, truth, far=0.25) == 0.0
    assert magnitude_ratio(1.5 * truth + 7.0, truth) == pytest.approx(1.5)
    many = np.arange(100.0)
    assert exceedance_ratio(many, many) == 1.0
    assert exceedance_ratio(many + 5.0, many) == 2.0
    assert exceedance_ratio(0.5 * many, many) == 0.0


@pytest.mark.parametrize("count", [sign_agreement, exceedance_ratio])
def test_an_answer_that_is_not_finite_is_not_counted_as_right(count):
    truth = np.arange(-5.0, 6.0)
    assert np.isnan(count(np.where(truth > 4, np.inf, truth), truth))
