"""Regions files: what they mean, which cells they cover, and every way to be wrong in one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import h3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon, shape

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.care.cells import parse_cells
from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.regions import RegionSet, load_regions
from kfm_mlflow.errors import DataError, InputError

SQUARE = [[[-98.0, 38.0], [-97.5, 38.0], [-97.5, 38.5], [-98.0, 38.5], [-98.0, 38.0]]]


def feature(geometry=None, **properties):
    return {
        "type": "Feature",
        "properties": {"id": "a", **properties},
        "geometry": geometry or {"type": "Polygon", "coordinates": SQUARE},
    }


def write(folder, *features, **members):
    path = folder / "regions.geojson"
    value = {"type": "FeatureCollection", "features": list(features), **members}
    path.write_text(json.dumps(value))
    return path


def polygon(*positions):
    return {"type": "Polygon", "coordinates": [[list(position) for position in positions]]}


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    (region,) = load_regions(write(tmp_path_factory.mktemp("r"), feature())).regions
    return region


def test_packaged_regions_are_four_boxes_with_unknown_consent():
    regions = load_regions(None)
    assert len(regions.regions) == 4
    assert {region.ceiling for region in regions.regions} == {7}
    assert {region.consent.status for region in regions.regions} == {"unknown"}


def test_packaged_boxes_cover_the_census_extents_they_were_rounded_from():
    # U.S. Census Bureau, public domain: west, south, east, north of the Kansas parts.
    extents = [
        (-95.72803, 39.6, -95.45, 39.825089),
        (-95.942545, 39.260006, -95.738336, 39.422111),
        (-95.565376, 39.95, -95.43, 40.0),
        (-95.43, 39.9, -95.3, 40.0),
    ]
    for region, (west, south, east, north) in zip(load_regions(None).regions, extents, strict=True):
        low_x, low_y, high_x, high_y = region.shape.bounds
        assert low_x <= west
        assert low_y <= south
        assert high_x >= east
        assert high_y >= north


def test_file_with_a_name_alone_gets_the_strict_defaults(tmp_path):
    path = write(tmp_path, {**feature(), "properties": {"name": "North Bluff", "kind": "x"}})
    (region,) = load_regions(path).regions
    assert (region.id, region.ceiling, region.k_min) == ("north-bluff", 7, 1)
    assert region.consent.status == "unknown"
    assert region.labels == ()


def test_every_property_is_read(tmp_path):
    path = write(
        tmp_path,
        feature(
            name="A",
            authority="Example Council",
            consent={"status": "granted", "scope": "public-stream", "expires": "2026-12-31"},
            h3_max_resolution=5,
            k_min=10,
            labels=["TK A"],
            restricted_names=["Blue Heron Spring"],
        ),
    )
    (region,) = load_regions(path).regions
    assert (region.authority, region.ceiling, region.k_min) == ("Example Council", 5, 10)
    assert region.labels == ("TK A",)
    assert region.consent.scope == "public-stream"
    assert region.consent.expires_at == datetime(2027, 1, 1, tzinfo=UTC)


def test_repr_holds_no_restricted_name(tmp_path):
    regions = load_regions(write(tmp_path, feature(restricted_names=["Blue Heron Spring"])))
    assert "Heron" not in repr(regions)


def test_digest_and_name_hashes_follow_the_file(tmp_path):
    one = load_regions(write(tmp_path, feature()))
    two = load_regions(write(tmp_path, feature(), salt="7f"))
    assert one.digest != two.digest
    assert one.keyed_hash("x") == one.keyed_hash("x")
    assert one.keyed_hash("x") != two.keyed_hash("x")


BOW = polygon((0, 0), (1, 1), (1, 0), (0, 1), (0, 0))


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (feature(BOW), "geometry", "self-intersection"),
        (feature(polygon((0, 0), (1, 0), (1, 1), (0, 1))), "geometry", "open ring"),
        (feature(polygon((0, 0), (1, 0), (0, 0))), "geometry", "fewer than four"),
        (feature(polygon((0, 0), (1, 0), (2, 0), (0, 0))), "geometry", "area"),
        (feature({"type": "Polygon", "coordinates": []}), "geometry", "empty"),
        (feature({"type": "MultiPolygon", "coordinates": []}), "geometry", "empty"),
        (feature({"type": "Point", "coordinates": [0, 0]}), "geometry", "not a Polygon"),
        ({**feature(), "geometry": None}, "geometry", "not a Polygon"),
        (
            feature(polygon((38, -98), (38, -97), (39, -97), (38, -98))),
            "geometry",
            "longitude before latitude",
        ),
        (
            feature(polygon((-150, 10), (100, 10), (100, 12), (-150, 12), (-150, 10))),
            "geometry",
            "longer than half the globe",
        ),
        (feature(polygon((200, 0), (201, 0), (201, 1), (200, 0))), "geometry", "beyond 180"),
        (feature(polygon((0, 0), ("x", 0), (1, 1), (0, 0))), "geometry", "two numbers"),
        ({**feature(), "properties": {}}, "feature 1", "neither id nor name"),
        ({**feature(), "properties": None}, "feature 1", "lacks properties"),
        ({"type": "Point"}, "feature 1", "not a GeoJSON Feature"),
        (feature(id="z"), "id", "same id"),
        (feature(h3_max_resolution=16), "h3_max_resolution", "from 0 to 15"),
        (feature(h3_max_resolution="7"), "h3_max_resolution", "whole number"),
        (feature(h3_max_resolution=True), "h3_max_resolution", "whole number"),
        (feature(k_min=0), "k_min", "from 1"),
        (feature(labels="TK A"), "labels", "list of texts"),
        (feature(restricted_names=[1]), "restricted_names", "list of texts"),
        (feature(name=1), "name", "not text"),
        (feature(consent="granted"), "consent", "not an object"),
        (feature(consent={"status": "yes"}), "consent.status", "no known status"),
        (feature(consent={"expires": "soon"}), "consent.expires", "not a date"),
        (feature(consent={"expires": "2026-01-01T00:00:00"}), "consent.expires", "time zone"),
        (feature(consent={"statu": "granted"}), "consent", "did you mean 'status'"),
        (feature(restricted_name=["x"]), "feature 1", "did you mean 'restricted_names'"),
        (feature(h3_max_resoluton=4), "feature 1", "did you mean 'h3_max_resolution'"),
    ],
)
def test_wrong_feature_is_refused_with_file_feature_field_and_remedy(tmp_path, bad, field, reason):
    path = write(tmp_path, feature(id="z"), bad)
    with pytest.raises(DataError) as caught:
        load_regions(path)
    text = str(caught.value)
    assert text.startswith("regions.geojson: feature ")
    assert field in text
    assert reason in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not valid JSON"),
        ("{}", "FeatureCollection"),
        ("[]", "FeatureCollection"),
        ('{"type": "FeatureCollection"}', "no features"),
        ('{"type": "FeatureCollection", "features": []}', "no features"),
        ('{"type": "FeatureCollection", "features": [], "crs": "EPSG:26914"}', "WGS 84"),
    ],
)
def test_what_is_no_regions_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "r.geojson"
    path.write_text(content)
    with pytest.raises(DataError, match=reason):
        load_regions(path)


def test_missing_file_says_what_to_correct(tmp_path):
    with pytest.raises(DataError, match="regions_file"):
        load_regions(tmp_path / "none")


def test_errors_show_neither_names_nor_places(tmp_path):
    bad = feature(
        polygon((-97.123, 38.456), (-96, 39), (-96, 38.456), (-97.123, 39), (-97.123, 38.456))
    )
    bad["properties"]["restricted_names"] = ["Blue Heron Spring"]
    with pytest.raises(DataError) as caught:
        load_regions(write(tmp_path, bad))
    assert "Heron" not in str(caught.value)
    assert "97" not in str(caught.value)
    assert "38" not in str(caught.value)


@given(st.floats(-99, -96.5), st.floats(37.5, 39), st.integers(3, 11))
def test_every_cell_that_overlaps_the_region_touches_it(square, lon, lat, resolution):
    cell = h3.latlng_to_cell(lat, lon, resolution)
    boundary = Polygon([(x, y) for y, x in h3.cell_to_boundary(cell)])
    if boundary.intersects(shape(square.geometry)):
        assert square.touches(cell)


@given(st.floats(-99, -96.5), st.floats(37.5, 39))
def test_cells_well_outside_do_not_touch(square, lon, lat):
    cell = h3.latlng_to_cell(lat, lon, 8)
    boundary = Polygon([(x, y) for y, x in h3.cell_to_boundary(cell)])
    if boundary.distance(square.shape) > 0.04:
        assert not square.touches(cell)


def test_ceiling_is_the_lowest_of_the_regions_touched(tmp_path):
    regions = load_regions(
        write(tmp_path, feature(h3_max_resolution=6), feature(id="b", h3_max_resolution=4))
    )
    assert regions.ceiling_at(h3.latlng_to_cell(38.25, -97.75, 9)) == 4
    assert regions.ceiling_at(h3.latlng_to_cell(10.0, 10.0, 9)) is None
    assert regions.ceiling_at(h3.latlng_to_cell(38.25, -97.75, 2)) == 4


def test_what_is_no_cell_is_refused(square):
    with pytest.raises(InputError, match="not an H3 cell"):
        square.touches("nonsense")


def test_cover_of_a_large_region_stays_small_and_whole(tmp_path):
    big = polygon((-110, 30), (-80, 30), (-80, 48), (-110, 48), (-110, 30))
    (region,) = load_regions(write(tmp_path, feature(big))).regions
    assert len(region.cells) < 20_000
    for lat, lon in ((30.01, -109.99), (47.99, -80.01), (39.0, -95.0)):
        assert region.touches(h3.latlng_to_cell(lat, lon, 10))


@pytest.mark.parametrize(
    ("bbox", "touches"),
    [
        ((-102.05, 37.0, -94.6, 40.0), True),
        ((-97.9, 38.1, -97.8, 38.2), True),
        ((-97.49, 38.0, -97.0, 38.5), True),
        ((-97.0, 38.0, -96.0, 38.5), False),
        ((170.0, 37.0, -95.0, 40.0), True),
        ((170.0, 37.0, -170.0, 40.0), False),
        (None, True),
    ],
)
def test_extent_touches_what_it_overlaps_and_the_unknown_touches_all(tmp_path, bbox, touches):
    regions = load_regions(write(tmp_path, feature()))
    assert bool(regions.overlapping(bbox)) is touches


def test_a_file_that_changed_since_its_digest_was_taken_is_refused(tmp_path):
    path = write(tmp_path, feature())
    digest = digest_file(path)
    assert load_regions(path, digest=digest) == load_regions(path)
    write(tmp_path, feature(h3_max_resolution=9))
    with pytest.raises(DataError, match="has changed since the policy was loaded"):
        load_regions(path, digest=digest)


NOW = datetime(2026, 6, 15, tzinfo=UTC)
GRANTED = {"status": "granted", "scope": "public-generalized", "expires": "2026-12-31"}


def ruled(tmp_path, now=NOW, scope="public-generalized", **properties):
    stated = {"authority": "Example Council", **properties}
    kept = {key: value for key, value in stated.items() if value is not None}
    (region,) = load_regions(write(tmp_path, feature(**kept))).regions
    rule = region.rule_at(now, scope)
    return "withheld" if rule.is_withheld else rule.ceiling


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, 7),
        ({"h3_max_resolution": 5}, 5),
        # No authority: nobody can have been asked, whatever the file says of consent.
        ({"authority": None}, 3),
        ({"authority": None, "consent": GRANTED, "h3_max_resolution": 9}, 3),
        # Finer than r7 needs approval that holds now, for this scope.
        ({"h3_max_resolution": 9}, 7),
        ({"h3_max_resolution": 9, "consent": GRANTED}, 9),
        ({"h3_max_resolution": 9, "consent": {**GRANTED, "expires": "2026-06-14"}}, 7),
        ({"h3_max_resolution": 9, "consent": {**GRANTED, "scope": "public-stream"}}, 7),
        ({"h3_max_resolution": 9, "consent": {"status": "pending"}}, 7),
        ({"consent": {"status": "denied"}}, "withheld"),
        ({"consent": {"status": "withdrawn"}}, "withheld"),
        # Dynamic generalisation by score; 0 to 25 allow more than r7 only where the file does.
        ({"sensitivity_score": 0}, 7),
        ({"sensitivity_score": 0, "h3_max_resolution": 12, "consent": GRANTED}, 9),
        ({"sensitivity_score": 25, "h3_max_resolution": 12, "consent": GRANTED}, 8),
        ({"sensitivity_score": 40}, 7),
        ({"sensitivity_score": 40.5}, 6),
        ({"sensitivity_score": 55}, 6),
        ({"sensitivity_score": 70}, 5),
        ({"sensitivity_score": 85}, 4),
        ({"sensitivity_score": 86}, 3),
        ({"sensitivity_score": 100}, 3),
        ({"sensitivity": "low"}, 7),
        ({"sensitivity": "medium"}, 6),
        ({"sensitivity": "high"}, 5),
        ({"sensitivity": "very_high"}, 3),
        ({"sensitivity": "very_high", "consent": GRANTED}, 5),
        ({"sensitivity": "sacred"}, 3),
        ({"sensitivity": "sacred", "consent": GRANTED}, 4),
        ({"sensitivity": "sacred", "consent": {"status": "withdrawn"}}, "withheld"),
        ({"sensitivity": "low", "sensitivity_score": 90}, 3),
        # Labels: those that keep from the public withhold, and so does one that nobody knows.
        ({"labels": ["TK A", "BC CB"]}, 7),
        ({"labels": ["TK CS"]}, 5),
        ({"labels": ["TK SS"]}, "withheld"),
        ({"labels": ["men_restricted"]}, "withheld"),
        ({"labels": [{"name": "Ours", "label_type": "community_use_only"}]}, "withheld"),
        ({"labels": ["TK Made Up"]}, "withheld"),
        ({"labels": [{"name": "TK A", "label_type": "made_up"}]}, "withheld"),
        ({"labels": ["TK S"]}, "withheld"),
        ({"labels": ["TK S"], "seasonality": {"starts": "01-01", "ends": "02-01"}}, 7),
        ({"seasonality": {"starts": "06-01", "ends": "06-30"}}, "withheld"),
        ({"seasonality": {"starts": "06-16", "ends": "06-30"}}, "withheld"),
        ({"seasonality": {"starts": "06-17", "ends": "06-30"}}, 7),
        ({"seasonality": {"starts": "11-01", "ends": "06-14"}}, "withheld"),
        ({"seasonality": {"starts": "11-01", "ends": "06-13"}}, 7),
        ({"seasonality": {"starts": "06-01", "ends": "06-30", "h3_max_resolution": 4}}, 4),
        ({"embargo": {"until": "2026-06-15"}}, "withheld"),
        ({"embargo": {"until": "2026-06-14"}}, 7),
        # 365 days where only the beginning is known.
        ({"embargo": {"since": "2025-06-15"}}, "withheld"),
        ({"embargo": {"since": "2025-06-14"}}, 7),
    ],
)
def test_rules_are_ceilings_and_fail_closed(tmp_path, properties, expected):
    assert ruled(tmp_path, **properties) == expected


def test_a_score_asks_for_seven_records_and_a_class_for_three(tmp_path):
    for properties, k_min in (
        ({"sensitivity_score": 1}, 7),
        ({"sensitivity": "low"}, 3),
        ({"sensitivity": "none"}, 1),
        ({"sensitivity": "low", "k_min": 10}, 10),
    ):
        (region,) = load_regions(write(tmp_path, feature(**properties))).regions
        assert region.k_min == k_min


@pytest.mark.parametrize(
    ("properties", "field", "reason"),
    [
        ({"sensitivity": "quite"}, "sensitivity", "no known class"),
        ({"sensitivity": ["low"]}, "sensitivity", "no known class"),
        ({"sensitivity_score": 101}, "sensitivity_score", "from 0 to 100"),
        ({"sensitivity_score": True}, "sensitivity_score", "not a number"),
        ({"seasonality": "summer"}, "seasonality", "not an object"),
        ({"seasonality": {"starts": "06-01"}}, "seasonality.ends", "not a day"),
        ({"seasonality": {"starts": "02-30", "ends": "03-01"}}, "seasonality.starts", "not a day"),
        ({"seasonality": {"start": "06-01"}}, "seasonality", "did you mean 'starts'"),
        ({"embargo": True}, "embargo", "neither its end nor its beginning"),
        ({"embargo": {"until": "2026-01-01", "since": "2025-01-01"}}, "embargo", "or both"),
        ({"embargo": {"until": "soon"}}, "embargo.until", "not a date"),
        ({"labels": [{"label_type": 1}]}, "labels.0: label_type", "not text"),
        ({"labels": [""]}, "labels.0", "neither text nor an object"),
        ({"sensitivty": "low"}, "feature 0", "did you mean 'sensitivity'"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_field(tmp_path, properties, field, reason):
    with pytest.raises(DataError) as caught:
        load_regions(write(tmp_path, feature(**properties)))
    assert field in str(caught.value)
    assert reason in str(caught.value)


def test_where_regions_overlap_the_strictest_of_each_rule_holds(tmp_path):
    regions = load_regions(
        write(
            tmp_path,
            feature(authority="A", h3_max_resolution=6, k_min=9),
            feature(id="b", authority="B", h3_max_resolution=4),
        )
    )
    coverage = regions.coverage(NOW)
    cells = parse_cells([h3.latlng_to_cell(38.25, -97.75, r) for r in range(16)])
    ceilings, k_mins = coverage.lookup(cells)
    assert ceilings.tolist() == [4] * 16
    assert k_mins.tolist() == [9] * 16


@given(
    st.lists(
        st.builds(h3.latlng_to_cell, st.floats(-90, 90), st.floats(-180, 180), st.integers(0, 15)),
        max_size=10,
    ),
    st.floats(37.9, 38.6),
    st.floats(-98.1, -97.4),
)
def test_a_column_of_cells_is_told_what_each_cell_is(square, cells, lat, lon):
    near = [h3.latlng_to_cell(lat, lon, resolution) for resolution in range(16)]
    regions = RegionSet((square,), "", "")
    coverage = regions.coverage(NOW, mode="none_required")
    column = parse_cells([*cells, *near])
    inside = [square.touches(cell) for cell in [*cells, *near]]
    assert coverage.touches(column).tolist() == inside
    # The square names no authority, so r3.
    assert coverage.ceilings(column).tolist() == [3 if hit else 15 for hit in inside]


def touches(geometry, *places):
    (region,) = parse_regions(
        json.dumps({"type": "FeatureCollection", "features": [feature(geometry)]}).encode(),
        where="r",
    ).regions
    return [region.touches(h3.latlng_to_cell(lat, lon, 9)) for lat, lon in places]


def test_a_ring_across_the_antimeridian_is_cut_there():
    across = polygon((179, 50), (-179, 50), (-179, 51), (179, 51), (179, 50))
    places = ((50.5, 179.5), (50.5, -179.5), (50.5, 178.5), (50.5, -178.5), (50.5, 0))
    assert touches(across, *places) == [True, True, False, False, False]


def test_a_hole_across_the_antimeridian_stays_a_hole():
    shell = [[170, 50], [-170, 50], [-170, 60], [170, 60], [170, 50]]
    hole = [[-178, 54], [178, 54], [178, 56], [-178, 56], [-178, 54]]
    ring = {"type": "Polygon", "coordinates": [shell, hole]}
    assert touches(ring, (55, 180), (52, 180), (55, 175)) == [False, True, True]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ring_around_a_pole_holds_it(sign):
    cap = polygon(*[(lon, sign * 80) for lon in (0, 90, 180, -90, 0)])
    places = [(sign * 90, 0), (sign * 85, 45), (sign * 85, -135), (sign * 75, 45), (0, 0)]
    assert touches(cap, *places) == [True, True, True, False, False]


def test_a_belt_up_to_the_pole_holds_it():
    belt = polygon((-180, 80), (180, 80), (180, 90), (-180, 90), (-180, 80))
    assert touches(belt, (90, 0), (85, 10), (85, 179), (75, 10)) == [True, True, True, False]


def test_a_wide_region_covers_what_lies_in_it_and_no_more():
    wide = polygon((-150, 10), (0, 10), (100, 10), (100, 12), (0, 12), (-150, 12), (-150, 10))
    assert touches(wide, (11, 0), (11, -149), (11, 99), (11, 150), (20, 0)) == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_ring_around_the_globe_across_the_equator_is_refused(tmp_path):
    belt = polygon((0, -10), (90, 10), (180, -10), (-90, 10), (0, -10))
    with pytest.raises(DataError, match="which pole it holds is unclear"):
        load_regions(write(tmp_path, feature(belt)))


def test_coverage_needs_an_instant_with_a_zone_and_a_k():
    regions = load_regions(None)
    with pytest.raises(InputError, match="time zone"):
        regions.coverage(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused
    with pytest.raises(InputError, match="k_min: is below 1"):
        regions.coverage(NOW, k_min=0)


def test_what_is_shown_hides_a_restricted_name(tmp_path):
    regions = load_regions(write(tmp_path, feature(restricted_names=["Blue Heron Spring"])))
    assert regions.shown("north-bluff") == "north-bluff"
    assert "eron" not in regions.shown("blue-heron-spring")
