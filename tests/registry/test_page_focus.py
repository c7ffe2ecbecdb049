"""The map of attribution: it shows what the overlay says, and nothing that a region forbids."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import h3
import pytest
from care.made_regions import NOW, box, feature, region_set

from kfm_mlflow.registry.page_focus import build_attribution_map

INSIDE, OUTSIDE = h3.latlng_to_cell(38.25, -97.75, 5), h3.latlng_to_cell(39.2, -100.0, 5)
REGIONS = region_set(feature(box(-98, 38, -97.5, 38.5), h3_max_resolution=4))
EXPLAINED = {"domains": [{"name": "climate", "importance_ratio": 0.75}, {"name": "hazards"}, 1]}


def cell(index, leading="climate", row_count=9):
    return {
        "properties": {"h3_cell": index, "leading_domain": leading, "row_count": row_count},
        # A polygon that lies about its cell is not what is drawn.
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
    }


def mapped(*features, explained=EXPLAINED, masking="h3-focus-generalized"):
    return build_attribution_map(
        {"features": list(features)}, explained, masking=masking, regions=REGIONS, now=NOW
    )


def test_cells_are_drawn_by_the_domain_that_leads_and_told_in_words():
    north, west = h3.grid_ring(OUTSIDE, 1)[:2]
    found = mapped(cell(OUTSIDE), cell(north), cell(west, "hazards"))
    drawn = {
        path.get("class"): path.get("d").count("M")
        for path in ET.fromstring(found.picture).iter("path")
    }
    assert drawn == {"state": 1, "led climate": 2, "led hazards": 1}
    assert "climate in 2, hazards in 1" in found.picture
    lines = {line.name: (line.importance_ratio, line.cell_count) for line in found.lines}
    assert lines["climate"] == (0.75, 2)
    assert lines["hazards"] == (None, 1)
    assert found.left_out_count == 0


@pytest.mark.parametrize("row_count", [2, 9])
def test_a_cell_finer_than_its_ceiling_is_left_out_and_counted(row_count):
    found = mapped(cell(OUTSIDE), cell(INSIDE, "hazards", row_count))
    assert found.left_out_count == 1
    assert "hazards in" not in found.picture
    parent = mapped(cell(OUTSIDE), cell(h3.cell_to_parent(INSIDE, 4), "hazards", row_count))
    assert parent.left_out_count == (row_count < 3)


def test_what_is_drawn_is_escaped_and_has_no_style_of_its_own():
    found = mapped(cell(OUTSIDE), cell(OUTSIDE, "<script>"))
    assert "<script" not in found.picture
    assert not re.search(r"style=|url\(", found.picture)


@pytest.mark.parametrize(
    "overlay",
    [
        {},
        {"features": []},
        {"features": 1},
        {"features": [{}]},
        {"features": [{"properties": {"h3_cell": "no cell"}}]},
    ],
)
def test_what_is_no_overlay_gives_no_map(overlay):
    assert (
        build_attribution_map(overlay, {}, masking="h3-focus-generalized", regions=REGIONS, now=NOW)
        is None
    )


def test_an_unknown_masking_mode_shows_nothing():
    assert mapped(cell(OUTSIDE), masking="whatever") is None
