"""Where attribution may be shown: overlays keep every rule, and those that do not are measured."""

from __future__ import annotations

import copy
import json

import h3
import numpy as np
import pytest
from care.made_regions import NOW, box, feature, region_set

from kfm_mlflow.authoring.focus_explained import (
    MASKING_MODE,
    attribution_overlay,
    explain_focus,
    restricted_ratio,
)
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.focus.answers import ANSWER_WIDTH, PART_SLICES
from kfm_mlflow.focus.columns import COLUMNS
from kfm_mlflow.metadata.schemas import schema_problems

INSIDE, OUTSIDE = h3.latlng_to_cell(38.25, -97.75, 5), h3.latlng_to_cell(39.2, -100.0, 5)
REGIONS = region_set(feature(box(-98, 38, -97.5, 38.5), h3_max_resolution=4))
COVERAGE = REGIONS.coverage(NOW, mode=MASKING_MODE)
SHARES = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0], [0, 0, 0, 0.5, 0.5]])


def overlay(cells, mass=(1.0, 2.0, 2.0), coverage=COVERAGE):
    return attribution_overlay(SHARES, np.array(mass), cells, coverage)


def test_rows_are_shown_under_the_cell_that_their_place_allows():
    found = overlay([OUTSIDE, INSIDE, INSIDE], coverage=COVERAGE.without_k_min())
    shown = {f["properties"]["h3_cell"]: f["properties"] for f in found["features"]}
    assert set(shown) == {OUTSIDE, h3.cell_to_parent(INSIDE, 4)}
    masked = shown[h3.cell_to_parent(INSIDE, 4)]
    assert (masked["row_count"], masked["leading_domain"]) == (2, "hazards")
    assert (masked["hazards"], masked["narrative"]) == (0.75, 0.25)
    assert masked["attribution_ratio"] == 0.8
    assert INSIDE not in json.dumps(found)


def test_where_nothing_may_be_published_nothing_is_shown_and_its_part_of_the_whole_is_missing():
    closed = region_set(feature(h3_max_resolution=4, consent={"status": "denied"}))
    found = overlay([OUTSIDE, INSIDE, INSIDE], coverage=closed.coverage(NOW, mode=MASKING_MODE))
    assert [f["properties"]["h3_cell"] for f in found["features"]] == [OUTSIDE]
    assert found["features"][0]["properties"]["attribution_ratio"] == 0.2


def test_features_are_closed_rings_around_their_cell():
    (found,) = overlay([OUTSIDE] * 3)["features"]
    (ring,) = found["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert len(ring) == 7
    lat, lon = h3.cell_to_latlng(OUTSIDE)
    assert min(x for x, _ in ring) < lon < max(x for x, _ in ring)
    assert min(y for _, y in ring) < lat < max(y for _, y in ring)


def test_an_overlay_that_keeps_the_rules_shows_nothing_restricted_and_a_finer_one_its_share():
    kept = overlay([OUTSIDE, INSIDE, INSIDE])
    assert restricted_ratio(kept, COVERAGE) == 0.0
    leaking = copy.deepcopy(kept)
    leaking["features"].append(
        {"properties": {"h3_cell": INSIDE, "attribution_ratio": 0.8, "row_count": 9}}
    )
    assert restricted_ratio(leaking, COVERAGE) == 0.8


@pytest.mark.parametrize("value", [{}, {"features": [{}]}, {"features": [{"properties": 1}]}])
def test_what_is_no_overlay_is_no_evidence(value):
    with pytest.raises(EvidenceError, match="no overlay"):
        restricted_ratio(value, COVERAGE)


def stand_in():
    """Return a module of the family's width, in which storms come from the hazards alone."""
    import torch
    from torch import nn

    class Storms(nn.Module):
        def forward(self, rows):
            answers = torch.zeros(len(rows), ANSWER_WIDTH)
            odds = rows[:, 26] / 10 + 3 * rows[:, 0] * 0
            storm = torch.sigmoid(odds)
            situation = torch.stack([1 - storm, *[storm * 0] * 2, storm, *[storm * 0] * 2], dim=1)
            start = PART_SLICES["situation"].start
            told = torch.tensor([0.0, 0, 0, 1.0, 0]).expand(len(rows), 5)
            parts = [answers[:, :5], told, situation, answers[:, start + 6 :]]
            return torch.cat(parts, dim=1)

    return Storms()


def test_a_model_that_looks_at_hazards_is_explained_by_hazards():
    rows = np.random.default_rng(0).random((20, len(COLUMNS))).astype(np.float32) * 9
    cells = [OUTSIDE] * 10 + [INSIDE] * 10
    found = explain_focus(stand_in(), rows, cells, regions=REGIONS, now=NOW, seed=1)
    shares = {
        d["name"]: d["importance_ratio"] for d in found.documents["xai/domains.json"]["domains"]
    }
    assert shares == {"spatial": 0, "climate": 0, "hydrology": 0, "hazards": 1, "narrative": 0}
    assert found.metrics["attribution_agreement"] == 1.0
    assert found.metrics["sovereignty_attribution_ratio"] == 0.0
    for path, document in found.documents.items():
        assert schema_problems(path.partition(".")[0].replace("/", "-"), document) == []
    shown = [f["properties"]["h3_cell"] for f in found.documents["xai/overlay.geojson"]["features"]]
    assert shown == sorted([OUTSIDE, h3.cell_to_parent(INSIDE, 4)])


def test_cells_that_are_fewer_than_rows_are_refused():
    with pytest.raises(InputError, match="1 for 20 rows"):
        explain_focus(
            stand_in(), np.ones((20, 36), np.float32), [INSIDE],
            regions=load_regions(None), now=NOW, seed=1,
        )  # fmt: skip
