"""Extents: every box has a valid geometry, in either longitude convention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.extent import bbox_geometry, check_bbox, extent_sentences, wgs84_bbox

_longitudes = st.integers(-1800, 1800).map(lambda tenth: tenth / 10)
_latitudes = st.integers(-900, 900).map(lambda tenth: tenth / 10)


@given(west=_longitudes, east=_longitudes, south=_latitudes, north=_latitudes)
def test_every_extent_that_is_accepted_agrees_with_its_own_geometry(west, east, south, north):
    bbox = (west, south, east, north)
    try:
        check_bbox(bbox, "box")
    except InputError:
        assert south >= north or west in (east, 180.0) or east == -180.0
        return
    assert extent_sentences(bbox_geometry(bbox), list(bbox)) == []


@pytest.mark.parametrize(
    ("given_box", "expected"),
    [
        ((258.0, 37.0, 265.5, 40.0), (-102.0, 37.0, -94.5, 40.0)),
        ((0.0, -90.0, 360.0, 90.0), (-180.0, -90.0, 180.0, 90.0)),
        ((170.0, -20.0, 190.0, -10.0), (170.0, -20.0, -170.0, -10.0)),
        ((-10.0, 0.0, 10.0, 5.0), (-10.0, 0.0, 10.0, 5.0)),
        ((170.0, 0.0, 180.0, 5.0), (170.0, 0.0, 180.0, 5.0)),
        ((180.0, 0.0, 190.0, 5.0), (-180.0, 0.0, -170.0, 5.0)),
    ],
)
def test_longitudes_from_0_to_360_become_the_same_places_from_minus_180(given_box, expected):
    assert wgs84_bbox(*given_box) == pytest.approx(expected)


@pytest.mark.parametrize(
    "bbox",
    [
        (258.0, 37.0, 265.5, 40.0),
        (0.0, 40.0, 1.0, 37.0),
        (0.0, -91.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
        (float("nan"), 0.0, 1.0, 1.0),
    ],
)
def test_what_is_no_extent_is_refused(bbox):
    with pytest.raises(InputError, match="box"):
        check_bbox(bbox, "box")


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        [],
        {},
        {"type": "Polygon"},
        {"type": "Blob", "coordinates": []},
        {"type": "Polygon", "coordinates": "x"},
        {"type": "Polygon", "coordinates": [[["a", "b"]]]},
        {"type": "Polygon", "coordinates": [[1, 2]]},
        {"type": "GeometryCollection", "geometries": []},
    ],
)
def test_what_is_no_geometry_gives_a_sentence_and_never_raises(geometry):
    assert extent_sentences(geometry, [0, 0, 1, 1]) != []
