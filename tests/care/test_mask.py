"""Masking any answer: what comes out, judged by h3 and shapely and not by the code that masks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import h3
import numpy as np
import pytest
from care.made_regions import NOW, box, feature, region_set
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, shape

from kfm_mlflow import care
from kfm_mlflow.care import mask_json
from kfm_mlflow.care.mask_terms import MaskTerms, terms_of_release
from kfm_mlflow.policy.load import load_policies

NAME = "Blue Heron Spring"
CLOSED = box(-96.5, 38, -96, 38.5)
REGIONS = region_set(
    feature(h3_max_resolution=5, restricted_names=[NAME]),
    feature(CLOSED, id="closed", consent={"status": "denied"}),
)
TERMS = MaskTerms(REGIONS)
AREAS = [(shape(box(-98, 38, -97.5, 38.5)), 5), (shape(CLOSED), -1)]
LAT, LON = 38.2012, -97.7012
FINE = h3.latlng_to_cell(LAT, LON, 10)
HIDDEN = h3.latlng_to_cell(38.25, -96.25, 8)


def masked(value, terms=TERMS):
    return care.mask(value, terms, now=NOW)


def shown(value, terms=TERMS):
    found = masked(value, terms)
    assert not found.withheld, found.reason
    return found.value


def cells_in(value):
    return set(re.findall(r'"(8[0-9a-f]{14})"', json.dumps(value)))


def assert_within_ceilings(value):
    """Draw each cell with h3, and look with shapely which region it cuts."""
    for cell in cells_in(value):
        assert h3.get_resolution(cell) <= 7
        drawn = Polygon([(lon, lat) for lat, lon in h3.cell_to_boundary(cell)])
        for area, ceiling in AREAS:
            if drawn.intersects(area):
                assert h3.get_resolution(cell) <= ceiling


places = st.tuples(st.floats(37.5, 39), st.floats(-98.5, -95.5))
cells = st.builds(lambda at, r: h3.latlng_to_cell(*at, r), places, st.integers(3, 12))
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["ok", "rain", "K"])
points = st.builds(lambda at, v: {"lat": at[0], "lon": at[1], "v": v}, places, st.integers(-9, 9))
features = st.builds(
    lambda at, v: {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [at[1], at[0]]},
        "properties": {"v": v},
    },
    places,
    scalars,
)
tables = st.lists(st.tuples(cells, st.integers(-9, 9)), min_size=1, max_size=6).map(
    lambda rows: {"cell": [c for c, _ in rows], "v": [v for _, v in rows]}
)
keyed = st.dictionaries(cells, st.integers(0, 9) | st.floats(0, 9), max_size=4)
beside = st.builds(lambda table, point, more: {**table, **point, **more}, tables, points, keyed)
mixed = keyed.map(lambda value: {**value, "unit": "K"})
leaves = (
    scalars
    | cells
    | points
    | features
    | tables
    | keyed
    | mixed
    | beside
    | st.lists(cells, max_size=5)
)
answers = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "site"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(answers)
def test_nothing_is_finer_than_its_ceiling_and_masking_again_changes_nothing(answer):
    found = masked(answer)
    assert not found.failed
    if found.withheld:
        assert found.value is None
        assert found.reason
        return
    assert_within_ceilings(found.value)
    assert not re.search(r'"(lat|lon)"', json.dumps(found.value))
    again = masked(found.value)
    assert (again.value, again.withheld, again.masked_count) == (found.value, False, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(points, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_but_their_order(rows, shuffle):
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    turned = masked([rows[i] for i in order])
    assert sorted(map(str, turned.value)) == sorted(map(str, masked(rows).value))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=9) | st.sampled_from(
        ["type", "geometry", "coordinates", "features", "lat", "lon", "columns", "data", "x", "y",
         "h3_cells", "properties"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(anything)
def test_no_odd_value_raises_or_is_a_fault_of_masking(value):
    found = masked(value)
    assert not found.failed, found.reason
    assert found.value is None if found.withheld else True


CYCLE: list = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [
        f"north of {NAME}",
        "north of B1ue H3r0n Spring",
        [LAT, LON],
        [LON, LAT, 312.0],
        [1.0, LAT, LON, 2.0],
        {"x": LON, "y": LAT},
        [{"x": LON, "y": LAT}, {"x": 1.0, "y": 2.0}],
        {"a": f"{LAT}", "b": f"{LON}"},
        "POINT (-97.7012 38.2012)",
        f"https://maps.example/?q={LAT}%2C{LON}",
        int(FINE, 16),
        {"lat": LON, "lon": 200.0},
        {"lat": float("nan"), "lon": LON},
        {"lat": "north", "lon": LON},
        {"lat": [LAT], "lon": [LON, LON]},
        {"type": "LineString", "coordinates": [[LON, LAT], [-97, 38]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Point", "coordinates": ["a", 1]},
        HIDDEN,
        CYCLE,
        object(),
        {"a": {1, 2}},
    ],
)
def test_what_cannot_be_masked_is_withheld_with_a_reason_that_tells_nothing(value):
    found = masked(value)
    assert found.withheld
    assert not found.failed
    assert found.reason
    assert "eron" not in found.reason
    assert "38.2" not in found.reason
    assert "97.7" not in found.reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"lat": LAT, "lon": LON, "v": 1}, {"v": 1, "h3_cell": h3.latlng_to_cell(LAT, LON, 5)}),
        (
            {"site_lat": LAT, "site_lon": LON},
            {"site_h3_cell": h3.latlng_to_cell(LAT, LON, 5)},
        ),
        (FINE, h3.cell_to_parent(FINE, 5)),
        ([{"cell": FINE, "v": 2}, {"cell": HIDDEN, "v": 3}], [{"v": 2, "cell": h3.cell_to_parent(FINE, 5)}]),
        ({"cell": [FINE, HIDDEN], "v": [2, 3]}, {"cell": [h3.cell_to_parent(FINE, 5)], "v": [2]}),
        (
            {"columns": ["lat", "lon", "v"], "data": [[LAT, LON, 1], [38.25, -96.25, 2]]},
            {"columns": ["v", "h3_cell"], "data": [[1, h3.latlng_to_cell(LAT, LON, 5)]]},
        ),
        (
            {"cell": [FINE, HIDDEN], "v": [1, 2], "lat": [LAT] * 3, "lon": [LON] * 3},
            {
                "cell": [h3.cell_to_parent(FINE, 5)],
                "v": [1],
                "h3_cell": [h3.latlng_to_cell(LAT, LON, 5)] * 3,
            },
        ),
        (
            {"cell": [FINE], "lat": LAT, "lon": LON},
            {"cell": [h3.cell_to_parent(FINE, 5)], "h3_cell": h3.latlng_to_cell(LAT, LON, 5)},
        ),
        (
            {"type": "Feature", "geometry": None, "properties": {}, "lat": LAT, "lon": LON},
            {
                "type": "Feature",
                "geometry": None,
                "properties": {},
                "h3_cell": h3.latlng_to_cell(LAT, LON, 5),
            },
        ),
        ({NAME: [FINE], "v": [1]}, {"v": [1]}),
        ({f"{NAME} lat": LAT, f"{NAME} lon": LON, "v": 1}, {"v": 1}),
        ([{FINE: 2}], [{h3.cell_to_parent(FINE, 5): 2}]),
        ({FINE: 2.5, "unit": "K"}, {"unit": "K", h3.cell_to_parent(FINE, 5): 2.5}),
        ({FINE: {"v": 2}}, {h3.cell_to_parent(FINE, 5): {"v": 2}}),
        ({FINE: 2, h3.latlng_to_cell(LAT, LON, 9): 3}, {h3.cell_to_parent(FINE, 5): 5}),
        ({FINE: 2.0, h3.cell_to_parent(FINE, 9): 3.0}, {h3.cell_to_parent(FINE, 5): 2.5}),
        ({"story": f"By {NAME}.", "n": 1}, {"story": "[withheld]", "n": 1}),
        ({NAME: 1, "n": 2}, {"n": 2}),
        (
            {"site": {"cell": HIDDEN, "v": 1}, "n": 2},
            {"n": 2},
        ),
        ({"values": [271.5, 280.25], "unit": "K"}, {"values": [271.5, 280.25], "unit": "K"}),
        ({"x": 1.5, "y": 2.5}, {"x": 1.5, "y": 2.5}),
        ("Rain is likely in Kansas.", "Rain is likely in Kansas."),
    ],
)  # fmt: skip
def test_answers_become_what_may_be_published(value, expected):
    assert shown(value) == expected


def test_a_feature_loses_its_geometry_and_keeps_its_properties():
    area = {
        "type": "Feature",
        "id": 7,
        "bbox": [-97.9, 38.1, -97.8, 38.2],
        "geometry": box(-97.9, 38.1, -97.8, 38.2),
        "properties": {"name": "plot"},
    }
    hidden = {"type": "Feature", "geometry": CLOSED, "properties": {}}
    found = masked({"type": "FeatureCollection", "features": [area, hidden], "bbox": [0, 0, 1, 1]})
    (only,) = found.value["features"]
    assert "bbox" not in found.value
    assert only["geometry"] is None
    assert only["id"] == 7
    assert only["properties"]["name"] == "plot"
    assert {h3.get_resolution(cell) for cell in only["properties"]["h3_cells"]} == {5}
    drawn = [
        Polygon([(lon, lat) for lat, lon in h3.cell_to_boundary(cell)])
        for cell in only["properties"]["h3_cells"]
    ]
    corner = shape(area["geometry"]).representative_point()
    assert any(polygon.contains(corner) for polygon in drawn)
    assert found.counts["geometries"] == 1
    assert found.withheld_count == 1


def test_a_grid_shows_one_value_per_cell_and_null_where_it_is_closed():
    lats, lons = np.arange(37.9, 38.6, 0.05), np.arange(-98.1, -95.9, 0.05)
    field = (lats[:, None] + lons[None, :]).tolist()
    found = shown({"lat": lats.tolist(), "lon": lons.tolist(), "t": field})
    in_region: dict[str, set[float]] = {}
    for i, lat in enumerate(lats):
        for j, lon in enumerate(lons):
            value = found["t"][i][j]
            if -96.45 < lon < -96.05 and 38.05 < lat < 38.45:
                assert value is None
            elif -97.9 < lon < -97.6 and 38.1 < lat < 38.4:
                in_region.setdefault(h3.latlng_to_cell(lat, lon, 5), set()).add(value)
    assert in_region
    assert all(len(values) == 1 for values in in_region.values())


def test_k_counts_the_records_of_the_whole_answer():
    terms = MaskTerms(region_set(feature(h3_max_resolution=7, k_min=3)))
    far = {"lat": 38.45, "lon": -97.95, "v": 4}
    three = [{"lat": LAT, "lon": LON, "v": v} for v in range(3)]
    found = shown({"rows": three, "one": far}, terms)
    counts: dict[str, int] = {}
    for row in [*found["rows"], *([found["one"]] if "one" in found else [])]:
        counts[row["h3_cell"]] = counts.get(row["h3_cell"], 0) + 1
    assert min(counts.values()) >= 3


def test_a_table_and_a_field_are_masked_by_the_same_call():
    import pandas as pd
    import xarray as xr

    frame = pd.DataFrame({"lat": [LAT, 38.25], "lon": [LON, -96.25], "site": [NAME, "b"]})
    table = masked(frame)
    assert table.value.to_dict("list") == {
        "site": ["[withheld]"],
        "h3_cell": [h3.latlng_to_cell(LAT, LON, 5)],
    }
    assert (table.counts, table.withheld_count) == ({"points": 1, "texts": 1}, 1)
    axes = {"lat": np.linspace(37.9, 38.6, 15), "lon": np.linspace(-98.1, -97.4, 15)}
    values = np.random.default_rng(1).random((15, 15))
    field = xr.DataArray(values, coords=axes, dims=("lat", "lon"), attrs={"note": f"at {NAME}"})
    found = masked(field)
    assert found.value.attrs == {"note": "[withheld]"}
    assert found.counts["pixels"] > 0
    assert masked(xr.DataArray(values)).withheld


def test_a_policy_is_enough_and_its_own_regions_hold(tmp_path):
    found = care.mask({"lat": 39.3, "lon": -95.8}, load_policies(None).policy("climate"))
    assert found.value == {"h3_cell": h3.latlng_to_cell(39.3, -95.8, 7)}
    lost = load_policies(None).policy("climate").model_copy(
        update={"regions_file": str(tmp_path / "gone.geojson"), "regions_digest": "sha256:0"}
    )  # fmt: skip
    failed = care.mask({"lat": 39.3, "lon": -95.8}, lost)
    assert (failed.withheld, failed.failed, failed.value) == (True, True, None)


def test_what_comes_out_too_fine_is_a_failure_of_masking_and_shows_nothing(monkeypatch):
    monkeypatch.setattr(mask_json, "finest_of", lambda cells, *_: cells.copy())
    found = masked({"cell": FINE})
    assert (found.withheld, found.failed, found.value) == (True, True, None)
    monkeypatch.setattr(mask_json, "finest_of", lambda *_: 1 / 0)
    assert masked({"cell": FINE}).reason == "masking failed (ZeroDivisionError)"


def test_rules_follow_the_clock_without_a_new_start():
    granted = {"status": "granted", "expires": "2026-06-20"}
    terms = MaskTerms(
        region_set(feature(h3_max_resolution=9, consent=granted)), mode="none_required"
    )
    before = care.mask({"cell": FINE}, terms, now=datetime(2026, 6, 20, 23, 59, 59, tzinfo=UTC))
    after = care.mask({"cell": FINE}, terms, now=datetime(2026, 6, 21, tzinfo=UTC))
    assert h3.get_resolution(before.value["cell"]) == 9
    assert h3.get_resolution(after.value["cell"]) == 7


@pytest.mark.parametrize("block", [None, {}, {"masking": "h3-unheard-of"}, {"masking": 3}])
def test_a_release_that_does_not_say_how_is_masked_by_the_default(block):
    assert terms_of_release(block, REGIONS).mode == "h3-generalized"


def test_importing_the_package_loads_no_library():
    code = (
        "import sys, kfm_mlflow.care\n"
        "loaded = {'numpy', 'h3', 'h3ronpy', 'shapely', 'pandas', 'xarray'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert callable(kfm_mlflow.care.mask)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
