import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kfm_mlflow.monitor.statistics import response_statistics

fields = arrays(np.float32, (3, 1, 2, 4), elements=st.floats(-100, 100, width=32)).filter(
    lambda a: all(float(np.ptp(row)) > 1e-2 for row in a)
)


def of(field, answer):
    return response_statistics({"x": field}, {"y": answer})


@given(fields, st.floats(-8, 8), st.floats(-50, 50))
def test_an_affine_answer_has_its_slope_and_its_known_shift(field, slope, offset):
    answer = slope * field.astype(np.float64) + offset
    found = of(field, answer)
    rows = [[float(v) for v in row.ravel()] for row in field]
    shifts = [
        abs((slope - 1) * statistics.fmean(row) + offset) / statistics.pstdev(row) for row in rows
    ]
    assert found["amplification_ratio"] == pytest.approx(abs(slope), rel=1e-4, abs=1e-6)
    assert found["mean_shift_ratio"] == pytest.approx(statistics.fmean(shifts), rel=1e-4, abs=1e-4)


@given(fields)
def test_a_finer_grid_with_the_same_values_changes_nothing(field):
    finer = field.repeat(4, axis=2).repeat(4, axis=3)
    assert of(field, finer)["amplification_ratio"] == pytest.approx(1.0, rel=1e-5)
    assert of(field, finer)["mean_shift_ratio"] == pytest.approx(0.0, abs=1e-5)


def test_a_flat_answer_amplifies_nothing():
    assert of(np.float32([[1, 3]]), np.float32([[7, 7]])) == {
        "amplification_ratio": 0.0,
        "mean_shift_ratio": 5.0,
    }


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, -3.3])
def test_a_constant_input_is_not_measured(value):
    assert of(np.full((1, 1000), value, np.float32), np.ones((1, 1000), np.float32)) == {}


def test_constant_rows_are_left_out_of_the_mean():
    field, answer = np.float32([[5, 5], [1, 3]]), np.float32([[9, -9], [2, 6]])
    assert of(field, answer) == of(field[1:], answer[1:])


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({}, {"y": np.ones((1, 2))}),
        ({"x": np.float32([[1, 2]])}, {}),
        ({"x": np.float32([[1, 2]])}, {"y": np.ones((2, 2))}),
        ({"x": np.float32([[1, 2]])}, {"y": np.array(["a"])}),
        ({"x": np.float32([[1, np.nan]])}, {"y": np.ones((1, 2))}),
        ({"x": np.float32(3)}, {"y": np.float32(3)}),
    ],
)
def test_what_is_no_field_to_field_answer_is_not_measured(inputs, outputs):
    assert response_statistics(inputs, outputs) == {}
