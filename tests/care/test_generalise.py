"""Generalised cells: ceilings hold, nothing is nested, counts stay, and twice is once."""

from __future__ import annotations

import json

import h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.generalise import generalise_cells
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import InputError


def _box(west, south, east, north):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    """Two regions that overlap, one with k_min."""
    path = tmp_path_factory.mktemp("r") / "r.geojson"
    boxes = [
        ({"id": "a", "h3_max_resolution": 5, "k_min": 10}, _box(-98.0, 38.0, -97.5, 38.5)),
        ({"id": "b", "h3_max_resolution": 6}, _box(-97.7, 38.2, -97.2, 38.7)),
    ]
    features = [{"type": "Feature", "properties": p, "geometry": g} for p, g in boxes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return load_regions(path)


CELLS = st.dictionaries(
    st.builds(h3.latlng_to_cell, st.floats(37.5, 39), st.floats(-98.5, -96.7), st.integers(3, 10)),
    st.integers(1, 12),
    max_size=25,
)


@settings(deadline=None)
@given(CELLS)
def test_no_cell_is_finer_than_the_ceiling_of_any_region_it_touches(regions, cells):
    for cell in generalise_cells(cells, regions):
        ceiling = regions.ceiling_at(cell)
        assert ceiling is None or h3.get_resolution(cell) <= ceiling


@settings(deadline=None)
@given(CELLS)
def test_published_cells_stand_for_k_records_where_a_region_asks_for_them(regions, cells):
    for cell, count in generalise_cells(cells, regions).items():
        assert all(count >= region.k_min for region in regions.touching(cell))


@settings(deadline=None)
@given(CELLS)
def test_no_cell_lies_in_another(regions, cells):
    out = generalise_cells(cells, regions)
    for cell in out:
        assert not any(h3.cell_to_parent(cell, r) in out for r in range(h3.get_resolution(cell)))


@settings(deadline=None)
@given(CELLS)
def test_generalising_twice_is_generalising_once(regions, cells):
    once = generalise_cells(cells, regions)
    assert generalise_cells(once, regions) == once


@settings(deadline=None)
@given(CELLS, st.randoms(use_true_random=False))
def test_order_does_not_matter(regions, cells, random):
    shuffled = list(cells.items())
    random.shuffle(shuffled)
    assert generalise_cells(dict(shuffled), regions) == generalise_cells(cells, regions)


@settings(deadline=None)
@given(CELLS)
def test_every_record_stays_under_an_ancestor_or_is_withheld_with_too_few(regions, cells):
    out = generalise_cells(cells, regions)
    for cell in cells:
        line = [h3.cell_to_parent(cell, r) for r in range(h3.get_resolution(cell) + 1)]
        assert sum(ancestor in out for ancestor in line) <= 1
    withheld = sum(cells.values()) - sum(out.values())
    assert withheld >= 0
    gone = {
        c
        for c in cells
        if not any(h3.cell_to_parent(c, r) in out for r in range(h3.get_resolution(c) + 1))
    }
    assert withheld == sum(cells[c] for c in gone)


def test_cells_away_from_regions_are_left_alone(regions):
    cell = h3.latlng_to_cell(45.0, -80.0, 10)
    assert generalise_cells([cell, cell], regions) == {cell: 2}


def test_fine_cells_in_a_region_become_one_coarse_cell(regions):
    child = h3.latlng_to_cell(38.6, -97.3, 9)
    assert generalise_cells([child], regions) == {h3.cell_to_parent(child, 6): 1}


def test_too_few_records_are_withheld_when_no_merging_helps(regions):
    assert generalise_cells([h3.latlng_to_cell(38.1, -97.9, 9)], regions) == {}


def test_what_is_no_cell_is_refused(regions):
    with pytest.raises(InputError):
        generalise_cells(["nonsense"], regions)
