"""Generalised tables: cells for coordinates, and the same laws as for cells."""

from __future__ import annotations

import h3
import numpy as np
import pandas as pd
import pytest
from care.made_regions import NOW, overlapping
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.generalise import generalise_points
from kfm_mlflow.care.tables import generalise_table
from kfm_mlflow.errors import DataError, InputError

COVERAGE = overlapping().coverage(NOW)
ROWS = st.lists(st.tuples(st.floats(37.8, 38.8), st.floats(-98.2, -97), st.integers()), max_size=40)


def frame_of(rows):
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    named = dict(zip(("lat", "lon", "value"), columns, strict=True))
    return pd.DataFrame({k: list(v) for k, v in named.items()})


@settings(deadline=None, max_examples=30)
@given(ROWS, st.randoms(use_true_random=False))
def test_rows_keep_the_rules_and_come_back_as_they_are(rows, shuffle):
    frame = frame_of(rows)
    found = generalise_table(frame, COVERAGE)
    assert list(found.value.columns) == ["value", "h3_cell"]
    assert len(found.value) + found.withheld_count == found.record_count == len(rows)
    again = generalise_table(found.value, COVERAGE)
    pd.testing.assert_frame_equal(again.value, found.value)
    assert (again.masked_count, again.withheld_count) == (0, 0)
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    turned = generalise_table(frame.iloc[order], COVERAGE).value
    pd.testing.assert_frame_equal(turned.sort_index(), found.value)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_rows_come_out_as_their_points_do(rows):
    frame = frame_of(rows)
    value = generalise_table(frame, COVERAGE).value
    points = generalise_points(frame["lat"], frame["lon"], COVERAGE).value
    expected = {row: f"{cell:x}" for row, cell in enumerate(points.tolist()) if cell}
    assert value["h3_cell"].to_dict() == expected


def test_a_table_of_cells_needs_no_coordinates_and_loses_those_it_has():
    coarse = h3.latlng_to_cell(38.25, -97.75, 4)
    frame = pd.DataFrame({"h3_cell": [coarse] * 10, "lat": "secret", "lon": "secret"})
    found = generalise_table(frame, COVERAGE)
    assert list(found.value.columns) == ["h3_cell"]
    assert found.value["h3_cell"].tolist() == [coarse] * 10
    assert found.masked_count == 0


def test_text_that_is_a_number_is_read():
    frame = pd.DataFrame({"y": ["45.0"], "x": ["-80"]})
    value = generalise_table(frame, COVERAGE, lat="y", lon="x", cell="cell").value
    assert value["cell"].tolist() == [h3.latlng_to_cell(45.0, -80.0, 7)]


@pytest.mark.parametrize(
    ("frame", "error", "reason"),
    [
        ({"lat": [38.0]}, DataError, "lon: there is no such column; name the columns"),
        ({"lat": [38.0, None], "lon": [-97.0, 1.0]}, DataError, "lat: row 1: is no number; drop"),
        ({"lat": [38.0, "?"], "lon": [-97.0, 1.0]}, DataError, "lat: row 1: is no number"),
        ({"lat": [38.0, -97.0], "lon": [-97.0, 38.0]}, DataError, "row 1: .* look swapped"),
        ({"lat": [np.inf], "lon": [38.0]}, DataError, "row 0: has no latitude"),
        ({"h3_cell": ["", "x"]}, InputError, "h3_cell: row 0: is not an H3 cell"),
    ],
)
def test_a_row_without_a_place_is_refused_with_its_number(frame, error, reason):
    with pytest.raises(error, match=reason):
        generalise_table(pd.DataFrame(frame), COVERAGE)
