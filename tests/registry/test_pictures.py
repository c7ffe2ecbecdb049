"""The drawings: well formed, escaped, no finer than allowed, and never a name or a place."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box
from shapely.ops import unary_union

from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.badge import Standing, draw_badge, standing_of
from kfm_mlflow.registry.page_graph import build_lineage
from kfm_mlflow.registry.page_map import build_map, parse_box
from kfm_mlflow.registry.page_mask import MAX_CELLS, generalised

KANSAS = [-102.05, 36.99, -94.58, 40.0]
CARE = {"masking": "h3-climate-generalized", "h3_max_resolution": 7}
SECRET = "Standing Cottonwood"
NOW = datetime(2026, 6, 15, tzinfo=UTC)


def regions_of(*features):
    collection = {"type": "FeatureCollection", "features": list(features)}
    return parse_regions(json.dumps(collection).encode(), where="regions")


def feature(west, south, east, north, **properties):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "properties": {
            "id": "a-region",
            "authority": "Example Council",
            "consent": {"status": "granted"},
            **properties,
        },
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


places = st.tuples(
    st.floats(-101.5, -95.5), st.floats(37.1, 39.5), st.floats(0.02, 0.6), st.floats(0.02, 0.4)
)


# -- the map ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(places, st.integers(0, 12), st.sampled_from([60, MAX_CELLS]))
def test_a_region_is_drawn_in_whole_cells_no_finer_than_its_ceiling_that_cover_it(
    place, ceiling, most
):
    west, south, width, height = place
    bounds = (west, south, west + width, south + height)
    regions = regions_of(feature(*bounds, h3_max_resolution=ceiling))
    shown = generalised(regions.regions[0], 1, regions, NOW, max_cells=most)
    assert shown.drawn_resolution <= ceiling
    assert {h3.get_resolution(cell) for cell in shown.cells} == {shown.drawn_resolution}
    assert len(shown.cells) <= max(most, 12)
    drawn = unary_union(
        [Polygon([(x, y) for y, x in h3.cell_to_boundary(cell)]) for cell in shown.cells]
    )
    # Cell edges are arcs; a hair of slack for drawing them straight.
    assert drawn.buffer(1e-3).covers(box(*bounds))


def test_no_name_authority_or_corner_of_a_region_is_in_the_drawing():
    corners = (-96.123457, 38.234567, -95.912347, 38.412349)
    regions = regions_of(
        feature(
            *corners,
            id="standing-cottonwood",
            name=f"The {SECRET} spring",
            authority="Keepers of the spring",
            restricted_names=[SECRET],
        )
    )
    made = build_map({**CARE, "output_grid": {"bbox": KANSAS}}, regions, NOW)
    whole = f"{made.overview}{made.detail}{made.regions}".lower()
    for word in ("cottonwood", "keepers", "spring", *(str(abs(c)) for c in corners)):
        assert word not in whole
    assert re.fullmatch(r"#[0-9a-f]{16}", made.regions[0].id)
    # Every point that is drawn is a corner of an H3 cell at the ceiling, not of the polygon.
    assert made.regions[0].drawn_resolution == 7


def test_a_region_in_which_nothing_may_be_published_is_named_and_not_drawn():
    closed = {"embargo": {"until": "2026-12-31"}}
    regions = regions_of(
        feature(-96.0, 38.0, -95.8, 38.2, **closed), feature(-95.8, 38.0, -95.6, 38.2, id="b")
    )
    hidden, shown = build_map({**CARE, "output_grid": {"bbox": KANSAS}}, regions, NOW).regions
    assert (hidden.ceiling, hidden.cells, hidden.why) == (-1, (), "under embargo")
    assert shown.cells
    # Nor does the neighbour's drawing reach into it.
    assert not any(regions.regions[0].touches(cell) for cell in shown.cells)
    later = build_map({**CARE, "output_grid": {"bbox": KANSAS}}, regions, NOW.replace(year=2027))
    assert later.regions[0].cells


def test_the_cells_that_the_release_publishes_are_told_by_region():
    regions = regions_of(feature(-96.0, 38.0, -95.8, 38.2))
    grids = [{"h3_resolution": 5}, {"cell_size_deg": 0.5}]
    made = [
        build_map({**CARE, "output_grid": {"bbox": KANSAS, **grid}}, regions, NOW).regions[0]
        for grid in grids
    ]
    assert re.fullmatch(r"about \d+ H3 cells of r5, 15\.\d km", made[0].published)
    # 0.5 degrees of longitude at 40 degrees north: 42.6 km.
    assert made[1].published.startswith("grid cells of 42.")


def test_the_map_is_well_formed_and_fits_its_frame():
    regions = parse_regions_packaged()
    made = build_map({**CARE, "output_grid": {"bbox": KANSAS}}, regions, NOW)
    assert [region.number for region in made.regions] == list(range(1, len(made.regions) + 1))
    for picture in (made.overview, made.detail):
        root = ET.fromstring(picture)
        _, _, width, height = map(float, root.get("viewBox").split())
        for path in root.iter("path"):
            if path.get("class") == "masked":
                starts = re.findall(r"M(-?[\d.]+) (-?[\d.]+)l", path.get("d"))
                assert starts
                assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in starts)
        assert len(picture) < 60_000


def parse_regions_packaged():
    from kfm_mlflow.care.regions import load_regions

    return load_regions(None)


def test_a_release_that_does_not_say_where_it_is_touches_every_region():
    regions = regions_of(feature(-96, 38, -95.9, 38.1), feature(10, 50, 10.1, 50.1, id="b"))
    assert len(build_map(CARE, regions, NOW).regions) == 2
    here = build_map({**CARE, "output_grid": {"bbox": KANSAS}}, regions, NOW)
    assert [region.id for region in here.regions] == ["a-region"]
    elsewhere = build_map(
        {**CARE, "output_grid": {"bbox": [150.0, -40.0, 151.0, -39.0]}}, regions, NOW
    )
    assert (elsewhere.regions, elsewhere.detail) == ((), None)
    assert "Kansas</text>" not in elsewhere.overview


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [1, 2, 3],
        ["a"] * 4,
        [0, 0, float("nan"), 1],
        [10, 0, -10, 1],
        [0, 5, 1, 4],
        [-200, 0, 0, 1],
    ],
)
def test_what_is_no_extent_is_not_drawn(value):
    assert parse_box(value) is None
    regions = regions_of(feature(-96, 38, -95.9, 38.1))
    assert build_map({**CARE, "output_grid": {"bbox": value}}, regions, NOW).extent is None


# -- the lineage -------------------------------------------------------------------------------------------

PROV = {
    "entity": {
        "data:in": {
            "prov:type": {"$": "kfm:Dataset"},
            "prov:label": "rain",
            "kfm:sha256": "sha256:1",
        },
        "file:w": {"prov:type": {"$": "kfm:Weights"}, "kfm:path": "model.pt"},
        "file:a": {"prov:type": {"$": "kfm:File"}, "kfm:path": "a.json"},
        "file:b": {"prov:type": {"$": "kfm:File"}, "kfm:path": "b.json"},
        "release:r": {"prov:type": {"$": "kfm:Release"}},
        "code:c": {"kfm:git_commit": "0123456789abcdef", "kfm:entry_point": "train"},
    },
    "activity": {"run:t": {"prov:type": {"$": "kfm:Training"}, "kfm:run_id": "r1"}},
    "agent": {"agent:x": {"prov:label": "Ann"}, "agent:o": {"prov:label": "Team"}},
    "used": {"_:1": {"prov:activity": "run:t", "prov:entity": "data:in"}},
    "wasGeneratedBy": {
        f"_:{n}": {"prov:activity": "run:t", "prov:entity": name}
        for n, name in enumerate(("file:w", "file:a", "file:b", "release:r"))
    },
    "actedOnBehalfOf": {"_:8": {"prov:delegate": "agent:x", "prov:responsible": "agent:o"}},
    "wasAssociatedWith": {
        "_:9": {"prov:activity": "run:t", "prov:agent": "agent:x", "prov:plan": "code:c"}
    },
}


def test_a_lineage_says_the_same_as_picture_sentences_and_table():
    made = build_lineage(PROV, {"id": "r-item", "assets": {"weights": {}, "card": {}}})
    assert set(made.sentences) == {
        "Dataset “rain” was used by Training “r1”.",
        "entity “train at 0123456789ab” was the plan of Training “r1”.",
        "agent “Ann” carried out Training “r1”.",
        "agent “Team” answers for agent “Ann”.",
        "Training “r1” made Weights “model.pt”.",
        "Training “r1” made Files “2 other files”.",
        "Training “r1” made Release “r”.",
        "Release “r” is described by STAC item, 2 assets “r-item”.",
    }
    by_label = {node.label: node for node in made.nodes}
    assert by_label["2 other files"].members == ("a.json", "b.json")
    assert by_label["rain"].digest == "sha256:1"
    root = ET.fromstring(made.picture)
    drawn = ["".join(text.itertext()) for text in root.iter("text")]
    for node in made.nodes:
        assert node.label in drawn
    assert len(list(root.iter("polygon"))) == len(made.sentences)
    # What flows into something stands above it.
    order = [node.label for node in made.nodes]
    assert order.index("rain") < order.index("r1") < order.index("r") < order.index("r-item")


names = st.sampled_from(["a:1", "b:2", "<b>:3", "c"])
things = st.dictionaries(names, st.one_of(st.none(), st.dictionaries(st.text(), st.text())))
ends = st.dictionaries(
    st.sampled_from(["prov:entity", "prov:activity", "prov:agent", "prov:plan"]), names
)
relations = st.dictionaries(st.text(max_size=2), st.one_of(ends, st.integers()))
documents = st.fixed_dictionaries(
    {},
    optional={
        "entity": st.one_of(things, st.integers()),
        "activity": things,
        "agent": things,
        "used": relations,
        "wasGeneratedBy": relations,
        "wasAssociatedWith": st.one_of(relations, st.lists(st.integers())),
    },
)


@settings(max_examples=80, deadline=None)
@given(documents)
def test_any_document_cycles_and_markup_included_gives_a_well_formed_picture(prov):
    made = build_lineage(prov, {})
    ET.fromstring(made.picture)
    assert "<b>" not in made.picture


def test_a_lineage_of_thousands_says_that_it_is_cut():
    many = {f"data:{n:04}": {"prov:label": f"part {n}"} for n in range(3000)}
    made = build_lineage({"entity": many}, {})
    assert made.truncated
    assert len(made.nodes) == 40


# -- the badge ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (standing_of(Level.CANDIDATE, None, overridden=False), "candidate, not judged yet"),
        (Standing(Level.CANARY, "PASS", "canary"), "canary, PASS"),
        (Standing(Level.CANARY, "FAIL", "production"), "canary, production FAIL"),
        (Standing(Level.STAGING, "PASS", "staging", overridden=True), "staging, break-glass, PASS"),
    ],
)
def test_the_badge_is_a_whole_document_that_says_level_and_verdict(standing, said):
    root = ET.fromstring(draw_badge(standing))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["kfm", said]
    assert float(root.get("width")) > 0
    assert root.find("{http://www.w3.org/2000/svg}title").text == f"kfm: {said}"


def test_white_can_be_read_on_every_colour_of_the_badge():
    from registry.test_pages import contrast

    from kfm_mlflow.registry.badge import _COLOURS, _LEFT

    for colour in (*_COLOURS.values(), _LEFT):
        assert contrast(colour, "#ffffff") >= 4.5
