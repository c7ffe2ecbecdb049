"""The finest cut of a tree of cells: its laws, and the same cut found by trying all of them."""

from __future__ import annotations

import h3
import numpy as np
import pytest
from care.made_regions import NOW, cell_tables, feature, overlapping, region_set
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.cells import (
    dense_keys,
    format_cells,
    group_cells,
    parents,
    parse_cells,
    resolutions,
)
from kfm_mlflow.care.partition import FLOOR_RESOLUTION, finest_partition
from kfm_mlflow.errors import InputError

COVERAGE = overlapping().coverage(NOW, mode="none_required")
CELLS = st.builds(h3.latlng_to_cell, st.floats(-90, 90), st.floats(-180, 180), st.integers(0, 15))


def cut(table, coverage=COVERAGE):
    cells = parse_cells(sorted(table))
    counts = np.array([table[cell] for cell in sorted(table)], dtype=np.int64)
    out = finest_partition(cells, counts, coverage)
    return dict(zip(sorted(table), format_cells(out), strict=True))


def ancestors(cell):
    return [h3.cell_to_parent(cell, r) for r in range(h3.get_resolution(cell) + 1)]


def finest_by_search(table, coverage):
    """The same cut by definition: from the top down, split a cell whenever its parts can stand."""

    def may_stand(cell):
        ceiling, k_min = (int(v[0]) for v in coverage.lookup(parse_cells([cell])))
        under = [c for c in table if cell in ancestors(c)]
        return h3.get_resolution(cell) <= ceiling and sum(table[c] for c in under) >= k_min

    def best(cell):
        under = [c for c in table if cell in ancestors(c)]
        if cell not in under:
            depth = h3.get_resolution(cell) + 1
            parts = [best(part) for part in {h3.cell_to_parent(c, depth) for c in under}]
            if all(part is not None for part in parts):
                return {c: to for part in parts for c, to in part.items()}
        return dict.fromkeys(under, cell) if may_stand(cell) else None

    found = {}
    roots = {h3.cell_to_parent(c, min(FLOOR_RESOLUTION, h3.get_resolution(c))) for c in table}
    for root in {r for r in roots if not any(a in roots for a in ancestors(r)[:-1])}:
        under = [c for c in table if root in ancestors(c)]
        found |= best(root) or dict.fromkeys(under, "0")
    return found


@settings(deadline=None, max_examples=60)
@given(cell_tables())
def test_the_cut_is_the_finest_of_all_that_keep_the_rules(table):
    assert cut(table) == finest_by_search(table, COVERAGE)


@settings(deadline=None, max_examples=25)
@given(cell_tables(), st.integers(0, 6), st.integers(1, 20))
def test_a_stricter_rule_never_gives_a_finer_cell(table, ceiling, k_min):
    strict = overlapping(h3_max_resolution=ceiling, k_min=k_min)
    before, after = cut(table), cut(table, strict.coverage(NOW, mode="none_required"))
    for cell in table:
        assert after[cell] == "0" or (
            before[cell] != "0" and after[cell] in ancestors(before[cell])
        )


@settings(deadline=None, max_examples=25)
@given(cell_tables())
def test_nothing_is_published_in_a_cell_that_touches_a_closed_region(table):
    closed = overlapping(consent={"status": "withdrawn"})
    for cell in cut(table, closed.coverage(NOW)).values():
        assert cell == "0" or not closed.regions[1].touches(cell)


def test_a_record_in_many_cells_is_counted_once():
    regions = region_set(feature(k_min=3, h3_max_resolution=6))
    centre = h3.latlng_to_cell(38.25, -97.75, 6)
    leaves = parse_cells(sorted(h3.cell_to_children(centre, 7)))
    counts = np.ones(leaves.size, dtype=np.int64)
    coverage = regions.coverage(NOW)
    assert format_cells(np.unique(finest_partition(leaves, counts, coverage))) == [centre]
    one = (np.arange(leaves.size), np.zeros(leaves.size, dtype=np.int64))
    assert not finest_partition(leaves, counts, coverage, records=one).any()


@given(CELLS, st.integers(0, 15))
def test_a_parent_is_the_one_that_h3_gives(cell, resolution):
    column = parse_cells([cell])
    own = h3.get_resolution(cell)
    assert format_cells(parents(column, resolution)) == [
        h3.cell_to_parent(cell, min(own, resolution))
    ]
    assert resolutions(column)[0] == own


@given(st.lists(CELLS, min_size=1, max_size=40), st.integers(0, 15))
def test_cells_are_grouped_as_numpy_does(cells, resolution):
    found = parse_cells([cell for cell in cells if h3.get_resolution(cell) >= resolution])
    column = np.repeat(parents(found, resolution), 2000)
    unique, counts, position = group_cells(column, resolution)
    expected = np.unique(column, return_counts=True)
    assert np.array_equal(unique, expected[0])
    assert np.array_equal(counts, expected[1])
    assert np.array_equal(unique[position], column)
    assert (dense_keys(column, resolution) < 2 ** (7 + 3 * resolution)).all()


@pytest.mark.parametrize("wrong", ["nonsense", None, -1, 2**64, 1.5, "8f"])
def test_what_is_no_cell_is_refused_with_its_row(wrong):
    with pytest.raises(InputError, match="cells: row 1: is not an H3 cell"):
        parse_cells(["8426c8bffffffff", wrong])
