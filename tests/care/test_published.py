"""What is told of regions to everybody: never a name, never a place finer than a ceiling."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.published import published_regions
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.metadata.schemas import schema_problems

NAME = "Quiet Heron Spring"
AGREED = {"authority": "Example Council", "consent": {"status": "granted"}}
NOW = datetime(2026, 6, 15, tzinfo=UTC)


def box(west, south, side=0.05):
    east, north = west + side, south + side
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def written(*features):
    collection = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": properties, "geometry": geometry}
            for properties, geometry in features
        ],
    }
    return json.dumps(collection).encode()


def test_names_are_told_as_keyed_hashes_wherever_they_stand():
    data = written(
        (
            {
                "id": "quiet-heron-springs",
                "name": f"Land of {NAME}",
                "authority": f"Keepers of {NAME}",
                "labels": [f"TK of {NAME}", "TK Attribution"],
                "restricted_names": [NAME],
            },
            box(-150.1, 64.0),
        )
    )
    regions = parse_regions(data, where="r")
    found = published_regions(regions, NOW)
    assert schema_problems("regions_public", found) == []
    text = json.dumps(found).lower()
    assert "heron" not in text
    assert "land of" not in text
    (region,) = found["regions"]
    assert region["restricted_names"] == [regions.keyed_hash(NAME)]
    assert region["id"] == f"#{regions.keyed_hash('quiet-heron-springs')}"
    assert region["labels"][1] == "TK Attribution"
    assert found["regions_digest"] == digest_bytes(data)


@pytest.mark.parametrize(
    ("status", "told"),
    [("granted", True), ("unknown", True), ("denied", False), ("withdrawn", False)],
)
def test_of_a_region_without_consent_no_cell_is_told(status, told):
    data = written(({"id": "a", "consent": {"status": status}}, box(10.0, 50.0)))
    (region,) = published_regions(parse_regions(data, where="r"), NOW)["regions"]
    assert bool(region["cells"]) is told


CLOSED = [
    {"embargo": {"until": "2026-12-31"}},
    {"seasonality": {"starts": "06-01", "ends": "06-30"}},
    {"labels": [{"name": "TK SS", "label_type": "secret_sacred"}]},
    {"labels": [{"name": "TK ??", "label_type": "never heard of"}]},
    {"consent": {"status": "withdrawn"}},
]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda c: str(next(iter(c))))
def test_of_what_is_closed_now_no_cell_is_told_by_any_region(closed):
    data = written(
        ({"id": "a", **AGREED, **closed}, box(10.0, 50.0)),
        ({"id": "b", **AGREED}, box(10.05, 50.0)),
    )
    regions = parse_regions(data, where="r")
    found = published_regions(regions, NOW)
    assert schema_problems("regions_public", found) == []
    hidden, told = found["regions"]
    assert (hidden["h3_max_resolution"], hidden["cells"]) == (None, [])
    assert told["cells"]
    assert not any(regions.regions[0].touches(cell) for cell in told["cells"])


def test_an_embargo_that_is_over_hides_nothing():
    data = written(({"id": "a", **AGREED, "embargo": {"until": "2026-06-01"}}, box(10.0, 50.0)))
    assert published_regions(parse_regions(data, where="r"), NOW)["regions"][0]["cells"]


def test_ceilings_are_told_as_they_hold_now():
    fine = {"id": "a", **AGREED, "h3_max_resolution": 9}
    fine["consent"] = {"status": "granted", "expires": "2026-06-01"}
    data = written((fine, box(10.0, 50.0)))
    (region,) = published_regions(parse_regions(data, where="r"), NOW)["regions"]
    assert region["h3_max_resolution"] == 7
    assert max(map(h3.get_resolution, region["cells"])) == 7


@settings(max_examples=15, deadline=None)
@given(
    ceilings=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    shift=st.floats(0.0, 0.1),
)
def test_cells_hold_every_ceiling_that_they_touch_and_cover_the_region(ceilings, shift):
    data = written(
        *(
            (
                {"id": str(index), "h3_max_resolution": ceiling, **AGREED},
                box(10.0 + index * shift, 50.0),
            )
            for index, ceiling in enumerate(ceilings)
        )
    )
    regions = parse_regions(data, where="r")
    for told, region in zip(
        published_regions(regions, NOW)["regions"], regions.regions, strict=True
    ):
        cells = set(told["cells"])
        assert told["cells"] == sorted(cells)
        for cell in cells:
            resolution = h3.get_resolution(cell)
            assert resolution <= min(r.rule_at(NOW).ceiling for r in regions.touching(cell))
            assert not any(h3.cell_to_parent(cell, r) in cells for r in range(resolution))
        west, south, east, north = region.shape.bounds
        for lon in (west, (west + east) / 2, east):
            for lat in (south, (south + north) / 2, north):
                fine = h3.latlng_to_cell(lat, lon, 9)
                assert any(h3.cell_to_parent(fine, r) in cells for r in range(10))


def test_the_packaged_regions_can_be_told():
    found = published_regions(load_regions(None), NOW)
    assert schema_problems("regions_public", found) == []
    assert all(region["cells"] for region in found["regions"])
