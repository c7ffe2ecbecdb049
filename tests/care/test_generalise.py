"""Generalised points, cells and areas: ceilings hold, nothing is nested, and twice is once."""

from __future__ import annotations

import random

import h3
import numpy as np
import pytest
from care.made_regions import NOW, box, cell_tables, feature, overlapping, region_set
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, shape
from shapely.ops import unary_union

from kfm_mlflow.care.cells import format_cells
from kfm_mlflow.care.generalise import generalise_cells, generalise_points, generalise_polygons
from kfm_mlflow.care.modes import MODES, find_mode
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import DataError, InputError

REGIONS = overlapping()
COVERAGE = REGIONS.coverage(NOW, mode="none_required")
CELLS = cell_tables()
POINTS = st.lists(st.tuples(st.floats(37.8, 38.8), st.floats(-98.2, -97)), max_size=60)


def lies_in(cell, others):
    return any(h3.cell_to_parent(cell, r) in others for r in range(h3.get_resolution(cell)))


@settings(deadline=None, max_examples=30)
@given(CELLS)
def test_cells_keep_every_rule_and_none_lies_in_another(table):
    out = generalise_cells(table, COVERAGE).value
    for cell, count in out.items():
        touched = REGIONS.touching(cell)
        assert all(h3.get_resolution(cell) <= region.ceiling for region in touched)
        assert all(count >= region.k_min for region in touched)
        assert not lies_in(cell, out)


@settings(deadline=None, max_examples=30)
@given(CELLS, st.randoms(use_true_random=False))
def test_twice_is_once_and_order_does_not_matter(table, shuffle):
    once = generalise_cells(table, COVERAGE)
    again = generalise_cells(once.value, COVERAGE)
    assert again.value == once.value
    assert (again.masked_count, again.withheld_count) == (0, 0)
    items = list(table.items())
    shuffle.shuffle(items)
    assert generalise_cells(dict(items), COVERAGE) == once


@settings(deadline=None, max_examples=30)
@given(CELLS)
def test_every_record_is_published_once_under_an_ancestor_or_counted_as_withheld(table):
    found = generalise_cells(table, COVERAGE)
    lines = {
        cell: [
            a
            for a in (h3.cell_to_parent(cell, r) for r in range(h3.get_resolution(cell) + 1))
            if a in found.value
        ]
        for cell in table
    }
    assert all(len(line) <= 1 for line in lines.values())
    assert found.record_count == sum(table.values())
    assert found.withheld_count == sum(table[c] for c, line in lines.items() if not line)
    assert sum(found.value.values()) + found.withheld_count == found.record_count


@settings(deadline=None, max_examples=30)
@given(POINTS)
def test_points_come_out_as_their_cells_do(points):
    lat, lon = zip(*points, strict=True) if points else ((), ())
    found = generalise_points(lat, lon, COVERAGE, resolution=8)
    expected = generalise_cells([h3.latlng_to_cell(*p, 8) for p in points], COVERAGE)
    tally: dict[str, int] = {}
    for cell, point in zip(format_cells(found.value), points, strict=True):
        if cell != "0":
            assert h3.cell_to_parent(h3.latlng_to_cell(*point, 8), h3.get_resolution(cell)) == cell
            tally[cell] = tally.get(cell, 0) + 1
    assert tally == expected.value
    assert found.withheld_count == expected.withheld_count


@settings(deadline=None, max_examples=15)
@given(st.floats(-90, 90), st.floats(-180, 180))
def test_no_point_is_shown_finer_than_its_mode_says(lat, lon):
    for name, mode in MODES.items():
        (cell,) = generalise_points(
            [lat], [lon], REGIONS.coverage(NOW, mode=name), resolution=9
        ).value
        assert cell == 0 or h3.get_resolution(f"{cell:x}") <= (mode.ceiling or 9)


def test_points_all_over_the_globe_are_the_same_cells_alone_and_in_crowds():
    random_ = np.random.default_rng(7)
    lat, lon = random_.uniform(-90, 90, 400), random_.uniform(-180, 180, 400)
    found = generalise_points(lat, lon, COVERAGE, resolution=5)
    crowd = generalise_points(np.repeat(lat, 50), np.repeat(lon, 50), COVERAGE, resolution=5)
    outside = ~REGIONS.coverage(NOW).touches(found.value)
    assert np.array_equal(np.repeat(found.value[outside], 50), crowd.value[np.repeat(outside, 50)])


@pytest.mark.parametrize(
    ("lat", "lon", "reason"),
    [
        ([38.0, np.nan], [-97.0, -97.0], "row 1: has no latitude or longitude; drop the row"),
        ([38.0, 38.0], [-97.0, np.inf], "row 1: has no latitude or longitude"),
        ([38.0, -97.5], [-97.0, 38.0], "row 1: latitude and longitude look swapped; give latitud"),
        ([38.0, 200.0], [-97.0, 190.0], "row 1: is off the globe; use degrees"),
        (
            [38.0, 38.0],
            [-97.0, 263.0],
            "row 1: is off the globe; use degrees, longitudes from -180",
        ),
        ([38.0], [-97.0, 263.0], "1 latitudes for 2 longitudes"),
        (["here"], [-97.0], "latitude: holds what is no number"),
    ],
)
def test_what_is_no_place_is_refused_with_row_and_remedy(lat, lon, reason):
    with pytest.raises(DataError, match=reason):
        generalise_points(lat, lon, COVERAGE)


def test_a_mode_that_nobody_knows_masks_nothing_that_can_be_trusted():
    assert find_mode("h3_r5").ceiling == 5
    for name in ("h3-sport-generalized", "h3_r16", ""):
        with pytest.raises(InputError, match="unknown masking mode"):
            REGIONS.coverage(NOW, mode=name)


def test_sites_in_a_region_are_shown_by_threes():
    regions = region_set(feature())
    centre = h3.latlng_to_cell(38.25, -97.75, 7)
    for mode, shown in (("h3-focus-generalized", 0), ("h3-climate-generalized", 2)):
        found = generalise_cells([centre] * 2, regions.coverage(NOW, mode=mode))
        assert (found.value.get(centre, 0), found.withheld_count) == (shown, 2 - shown)


def test_a_k_for_everything_holds_outside_regions_too():
    cells = [h3.latlng_to_cell(45.0, -80.0, 7)] * 4
    assert generalise_cells(cells, REGIONS.coverage(NOW, k_min=5)).value == {}
    assert generalise_cells(cells, REGIONS.coverage(NOW, k_min=4)).value == {cells[0]: 4}


AREAS = st.lists(
    st.builds(
        lambda west, south, wide, high: box(west, south, west + wide, south + high),
        st.floats(-98.3, -97),
        st.floats(37.8, 38.8),
        st.floats(0.01, 0.2),
        st.floats(0.01, 0.2),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=15)
@given(AREAS, st.randoms(use_true_random=False))
def test_areas_are_covered_by_cells_that_keep_the_rules_and_come_back_the_same(areas, shuffle):
    regions = overlapping()
    coverage = regions.coverage(NOW)
    found = generalise_polygons(areas, coverage)
    every = {cell for cells in found.value for cell in cells}
    for cell in every:
        shared = sum(cell in cells for cells in found.value)
        assert all(h3.get_resolution(cell) <= r.ceiling for r in regions.touching(cell))
        assert all(shared >= r.k_min for r in regions.touching(cell))
        assert not lies_in(cell, every)
    assert generalise_polygons(found.value, coverage).value == found.value
    order = list(range(len(areas)))
    shuffle.shuffle(order)
    turned = generalise_polygons([areas[i] for i in order], coverage)
    assert turned.value == [found.value[i] for i in order]


def test_an_area_away_from_regions_is_covered_whole():
    area = box(-80.0, 45.0, -79.9, 45.1)
    (cells,) = generalise_polygons([area], COVERAGE).value
    drawn = unary_union([Polygon([(x, y) for y, x in h3.cell_to_boundary(c)]) for c in cells])
    assert drawn.buffer(1e-9).covers(shape(area))
    assert {h3.get_resolution(c) for c in cells} == {7}


def test_an_area_that_crosses_itself_is_refused_with_its_row():
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    with pytest.raises(DataError, match="row 1: is not a valid area"):
        generalise_polygons([box(0, 0, 1, 1), bow], COVERAGE)


def test_points_in_the_packaged_regions_are_shown_by_threes_and_at_r7_at_finest():
    regions = load_regions(None)
    random_ = random.Random(3)
    lat = [random_.uniform(39.0, 40.0) for _ in range(500)]
    lon = [random_.uniform(-96.0, -95.2) for _ in range(500)]
    found = generalise_points(lat, lon, regions.coverage(NOW, mode="h3-focus-generalized"))
    shown, count = np.unique(found.value[found.value != 0], return_counts=True)
    for cell, records in zip(format_cells(shown), count.tolist(), strict=True):
        assert h3.get_resolution(cell) <= 7
        assert records >= 3 or not regions.touching(cell)
    assert found.notes == ("no detail finer than H3 r7",)
