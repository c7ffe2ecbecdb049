"""Screening: each check by its rule, and what no finding may ever show."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.care.screen import OutputGrid, Status, screen_release
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.schemas import schema_problems

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KANSAS = (-102.05, 37.0, -94.6, 40.0)
GRID = OutputGrid(KANSAS, cell_size_deg=(0.05, 0.05))
ELSEWHERE = OutputGrid((0.0, 0.0, 1.0, 1.0), cell_size_deg=(0.001, 0.001))
BLOCK = {
    "masking": "h3-climate-generalized",
    "scope": "public-generalized",
    "notes": ["Generalised where regions ask for it."],
    "authority": None,
    "labels": ["TK A"],
    "h3_max_resolution": 7,
}
NAME = "Blue Heron Spring"
RING = [[-98.0, 38.0], [-97.0, 38.0], [-97.0, 39.0], [-98.0, 39.0], [-98.0, 38.0]]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Write and load a regions file with one region."""
    folder = tmp_path_factory.mktemp("regions")

    def load(**properties):
        properties = {
            "id": "a",
            "authority": "A council",
            "labels": ["TK A"],
            "restricted_names": [NAME],
            **properties,
        }
        feature = {
            "type": "Feature",
            "properties": properties,
            "geometry": {"type": "Polygon", "coordinates": [RING]},
        }
        path = folder / "r.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        return load_regions(path)

    return load


@pytest.fixture(scope="module")
def regions(make):
    return make()


def screen(regions, care=BLOCK, grid=GRID, texts=None):
    return screen_release(care, outputs=grid, texts=texts or {}, regions=regions, now=NOW)


def status_of(screening, check_id):
    (check,) = [check for check in screening.checks if check.id == check_id]
    return str(check.status)


def test_release_that_keeps_to_everything_has_no_known_conflict(regions):
    result = screen(regions)
    assert result.status == "no-known-conflict"
    assert all(not check.findings and not check.remedy for check in result.checks)


def test_label_that_is_no_text_at_all_carries_nothing_on(regions):
    odd = [{"label_type": [1]}, {"name": {"a": 1}}, 3, None]
    result = screen(regions, {**BLOCK, "labels": odd})
    assert status_of(result, "labels") == "conflict"
    assert status_of(screen(regions, {**BLOCK, "labels": [*odd, "TK A"]}), "labels") == (
        "no-known-conflict"
    )


def test_packaged_regions_pass_a_generalised_kansas_grid():
    assert screen(load_regions(None)).status == "no-known-conflict"


def test_every_check_is_always_reported_in_one_order(regions):
    ids = [
        "care-block",
        "masking",
        "declared-resolution",
        "output-grid",
        "consent",
        "standing",
        "labels",
        "licence-scope",
        "lineage",
        "restricted-names",
        "coordinates",
        "hazard-statements",
        "disclosure",
        "gradients",
    ]
    assert [check.id for check in screen(regions).checks] == ids
    assert [check.id for check in screen(regions, care={}, grid=None).checks] == ids


def test_statuses_are_ordered_from_best_to_worst():
    assert list(Status) == ["no-known-conflict", "stale", "needs-authority", "conflict"]


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"masking": None}, "care-block", "conflict"),
        ({"scope": " "}, "care-block", "conflict"),
        ({"notes": []}, "care-block", "conflict"),
        ({"notes": "text"}, "care-block", "conflict"),
        ({"scope": "members-only"}, "care-block", "needs-authority"),
        ({"masking": "blur"}, "masking", "needs-authority"),
        ({"masking": 7}, "masking", "needs-authority"),
        ({"masking": "none_required"}, "masking", "conflict"),
        ({"masking": "h3_r8"}, "masking", "conflict"),
        ({"masking": "h3_r6", "h3_max_resolution": 6}, "masking", "no-known-conflict"),
        ({"h3_max_resolution": 8}, "declared-resolution", "conflict"),
        ({"h3_max_resolution": "7"}, "declared-resolution", "conflict"),
        ({"h3_max_resolution": True}, "declared-resolution", "conflict"),
        ({"h3_max_resolution": 7, "masking": "h3_r5"}, "declared-resolution", "conflict"),
        ({"h3_max_resolution": None}, "declared-resolution", "no-known-conflict"),
        ({"labels": []}, "labels", "conflict"),
        ({"labels": None}, "labels", "conflict"),
        ({"scope": "public-stream"}, "consent", "needs-authority"),
        ({"notes": [f"Rain at {NAME}"]}, "restricted-names", "conflict"),
        ({"notes": ["at 38.5123, -97.4432"]}, "coordinates", "conflict"),
    ],
)
def test_one_fault_in_the_block_is_found_by_its_check(regions, changes, check, status):
    result = screen(regions, care={**BLOCK, **changes})
    assert status_of(result, check) == status
    assert (result.status == "no-known-conflict") == (status == "no-known-conflict")


@pytest.mark.parametrize("care", [{}, None, [], "text"])
def test_missing_block_is_a_conflict(regions, care):
    result = screen(regions, care=care)
    assert result.status == "conflict"
    assert result.checks[0].findings[0].rule == "C-F01"


def test_unknown_grid_needs_the_authority(regions):
    result = screen(regions, grid=None)
    assert result.status == "needs-authority"
    assert status_of(result, "output-grid") == "needs-authority"


def test_outputs_that_touch_no_region_are_bound_by_none(regions):
    care = {**BLOCK, "labels": [], "masking": "none_required", "h3_max_resolution": 12}
    assert screen(regions, care=care, grid=ELSEWHERE).status == "no-known-conflict"


@pytest.mark.parametrize("resolution", range(3, 12))
def test_h3_grid_is_held_to_the_ceiling_exactly(make, resolution):
    grid = OutputGrid(KANSAS, h3_resolution=resolution)
    result = screen(make(h3_max_resolution=7), grid=grid)
    assert (status_of(result, "output-grid") == "conflict") == (resolution > 7)


def test_side_of_an_r7_cell_is_that_of_the_published_table():
    # h3geo.org, table of cell statistics: average hexagon area at r7 is 5.161293360 km².
    assert cell_side_km(7) == pytest.approx(5.161293360**0.5)


@pytest.mark.parametrize(("size_deg", "conflict"), [(0.05, False), (0.03, False), (0.02, True)])
def test_degree_grid_is_held_to_the_size_of_the_ceilings_cells(make, size_deg, conflict):
    grid = OutputGrid(KANSAS, cell_size_deg=(size_deg, size_deg))
    assert (status_of(screen(make(), grid=grid), "output-grid") == "conflict") is conflict


def test_long_thin_cells_count_by_their_short_side(regions):
    grid = OutputGrid(KANSAS, cell_size_deg=(1.0, 0.001))
    assert status_of(screen(regions, grid=grid), "output-grid") == "conflict"


@pytest.mark.parametrize(
    ("consent", "scope", "status"),
    [
        ({"status": "unknown"}, "public-generalized", "no-known-conflict"),
        ({"status": "pending"}, "public-stream", "needs-authority"),
        ({"status": "granted"}, "public-stream", "no-known-conflict"),
        ({"status": "granted", "scope": "public-stream"}, "public-stream", "no-known-conflict"),
        ({"status": "granted", "scope": "public-stream"}, "public-generalized", "needs-authority"),
        ({"status": "granted", "expires": "2026-06-01"}, "public-stream", "no-known-conflict"),
        ({"status": "granted", "expires": "2026-05-31"}, "public-stream", "stale"),
        ({"status": "granted", "expires": "2026-06-01T12:00:00Z"}, "public-stream", "stale"),
        ({"status": "denied"}, "public-generalized", "conflict"),
        ({"status": "withdrawn"}, "public-generalized", "conflict"),
    ],
)
def test_consent_counts_where_it_is_needed_and_refusal_everywhere(make, consent, scope, status):
    result = screen(make(consent=consent), care={**BLOCK, "scope": scope})
    assert status_of(result, "consent") == status


def test_refusal_of_a_region_that_is_not_touched_is_no_finding(make):
    result = screen(make(consent={"status": "denied"}), grid=ELSEWHERE)
    assert result.status == "no-known-conflict"


def test_coarse_coordinates_in_a_region_are_allowed_and_fine_ones_elsewhere_too(regions):
    coarse = {"a.md": "around 38.5, -97.4"}
    outside = {"a.md": "at 45.12345, -97.44321"}
    assert status_of(screen(regions, texts=coarse), "coordinates") == "no-known-conflict"
    assert status_of(screen(regions, texts=outside), "coordinates") == "no-known-conflict"


def test_fine_coordinates_in_a_region_are_a_conflict_even_when_outputs_lie_elsewhere(regions):
    result = screen(
        regions, grid=ELSEWHERE, texts={"a.md": "at 38.5123, -97.4432 and 38.6, -97.51234"}
    )
    (finding,) = result.check("coordinates").findings
    assert (finding.rule, finding.where, finding.region) == ("S-F01", "a.md: line 1", "a")
    assert (finding.observed, finding.limit, finding.unit) == ("0.011", "2.27", "km")


SECRETS = ("heron", "blueheron", "38.51", "97.44")


@pytest.mark.parametrize(
    ("properties", "care", "texts"),
    [
        ({}, BLOCK, {f"notes/{NAME}.md": f"The {NAME} at 38.5123, -97.4432"}),
        ({"id": NAME, "h3_max_resolution": 3, "consent": {"status": "denied"}}, BLOCK, {}),
        ({"labels": [f"TK of {NAME}"]}, {**BLOCK, "labels": []}, {}),
        ({}, {**BLOCK, "masking": NAME, "scope": f"{NAME} 38.5123"}, {}),
        ({}, {**BLOCK, "h3_max_resolution": NAME}, {}),
    ],
)
def test_no_finding_shows_a_name_or_a_place(make, properties, care, texts):
    result = screen(make(**properties), care=care, texts=texts)
    assert result.status != "no-known-conflict"
    shown = json.dumps([check.to_dict() for check in result.checks]).lower()
    assert not [secret for secret in SECRETS if secret in shown]


def test_hidden_name_is_the_same_hash_in_every_finding_and_tells_its_keeper(regions):
    result = screen(regions, texts={"a.md": NAME, "b.md": "blue heron sprng"})
    findings = result.check("restricted-names").findings
    mark = regions.keyed_hash(NAME)
    assert [(f.where, f.what) for f in findings] == [
        (f"{path}: line 1", f"holds restricted name #{mark}") for path in ("a.md", "b.md")
    ]


TEXTS = st.dictionaries(
    st.sampled_from(["a.md", "b.json"]),
    st.sampled_from(["clean", NAME, "38.5123, -97.4432", "38.5, -97.4"]),
)
CARES = st.fixed_dictionaries(
    {},
    optional={
        "masking": st.sampled_from(["h3_r5", "h3_r9", "none_required", "?", None]),
        "scope": st.sampled_from(["public-generalized", "public-stream", "", 3]),
        "notes": st.sampled_from([["x"], [], None]),
        "labels": st.sampled_from([["TK A"], [], 1]),
        "h3_max_resolution": st.sampled_from([5, 9, None, "x"]),
    },
)


@settings(deadline=None)
@given(CARES, TEXTS, st.sampled_from([None, GRID, ELSEWHERE]))
def test_status_is_the_worst_of_the_checks_and_nothing_raises(regions, care, texts, grid):
    result = screen(regions, care=care, grid=grid, texts=texts)
    order = list(Status)
    assert order.index(result.status) == max(order.index(check.status) for check in result.checks)
    assert all(bool(c.findings) == (c.status != "no-known-conflict") for c in result.checks)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_more_text_never_makes_a_screening_better(regions, texts, more):
    order = list(Status)
    joined = {**texts, **{f"more/{path}": text for path, text in more.items()}}
    before, after = screen(regions, texts=texts), screen(regions, texts=joined)
    assert order.index(after.status) >= order.index(before.status)


def test_care_json_satisfies_its_schema(regions):
    document = screen(regions, grid=None).to_dict()
    assert schema_problems("care", document) == []
    assert document["care"] == BLOCK
    assert document["screening"]["regions_digest"] == regions.digest


def test_instant_without_time_zone_is_refused(regions):
    with pytest.raises(InputError, match="time zone"):
        screen_release(BLOCK, GRID, {}, regions, NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"bbox": list(KANSAS), "cell_size_deg": 0.05}, GRID),
        ({"bbox": list(KANSAS), "cell_size_deg": [0.05, 0.05]}, GRID),
        ({"bbox": list(KANSAS), "h3_resolution": 6}, OutputGrid(KANSAS, h3_resolution=6)),
        (None, None),
        ([], None),
        ({}, None),
        ({"bbox": list(KANSAS)}, None),
        ({"bbox": [1, 2, 3], "cell_size_deg": 1}, None),
        ({"bbox": "abcd", "cell_size_deg": 1}, None),
        ({"bbox": [0, 10, 1, 5], "cell_size_deg": 1}, None),
        ({"bbox": [0, 0, 500, 5], "cell_size_deg": 1}, None),
        ({"bbox": list(KANSAS), "cell_size_deg": 0}, None),
        ({"bbox": list(KANSAS), "cell_size_deg": float("nan")}, None),
        ({"bbox": list(KANSAS), "cell_size_deg": True}, None),
        ({"bbox": list(KANSAS), "cell_size_deg": "x"}, None),
        ({"bbox": list(KANSAS), "h3_resolution": 16}, None),
        ({"bbox": list(KANSAS), "h3_resolution": 6, "cell_size_deg": 1}, None),
    ],
)
def test_grid_that_cannot_be_read_is_unknown(value, expected):
    assert OutputGrid.from_mapping(value) == expected


def test_stale_consent_alone_makes_the_whole_stale(make):
    expired = NOW - timedelta(days=1)
    regions = make(consent={"status": "granted", "expires": expired.isoformat()})
    assert screen(regions).status == "stale"
