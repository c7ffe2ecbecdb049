"""CARE evidence of the climate tasks: computed where places are known, absent where they are not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

import task as tasks
from care_evidence import care_evidence, restricted
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.care.screen import OutputGrid, build_subject, screen_measurements
from kfm_mlflow.care.screen_measured import count_training_rows
from kfm_mlflow.errors import DataError

NOW = datetime(2026, 11, 21, tzinfo=UTC)
EAST = (-95.3, 38.4, -95.1, 38.6)
WEST = (-100.0, 38.0, -99.8, 38.2)


@pytest.fixture
def regions_of(tmp_path):
    def build(*bboxes, **properties):
        features = [
            {
                "type": "Feature",
                "properties": {"id": f"region-{k}", "authority": "Somebody", **properties},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]],
                },
            }
            for k, (w, s, e, n) in enumerate(bboxes)
        ]
        path = tmp_path / "regions.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return load_regions(path)

    return build


@pytest.fixture(scope="module")
def prepared():
    made = {}

    def get(task):
        if task not in made:
            made[task] = tasks.prepare(task, "generated", size="small", seed=42)
        return made[task]

    return get


def evidence(prepared, regions, predict, model=None):
    return care_evidence(prepared, regions, NOW, seed=7)(predict, model)


class SpreadOut(torch.nn.Module):
    """What :func:`spread_out` does, as a module."""

    def forward(self, rows):
        """Answer every fine cell with the patch's mean."""
        return rows.mean(dim=(1, 2))[:, None, None].expand(-1, 32, 32)


def test_integrated_gradients_explain_what_leaks(prepared, regions_of):
    task, closed = prepared("downscaling"), regions_of(EAST, consent={"status": "denied"})
    found = evidence(task, closed, spread_out, SpreadOut())["invariance"]
    assert 0.0 < found["restricted_input_ratio"] < 1.0
    assert 0.0 < found["restricted_share_ratio"] <= 1.0
    tight = evidence(task, closed, constant, SpreadOut())["invariance"]
    assert "restricted_share_ratio" not in tight
    without = evidence(task, closed, spread_out)["invariance"]
    assert {k: v for k, v in found.items() if k in without} == without
    sentences = [
        finding.what
        for check in screen_measurements(
            build_subject(
                {"scope": "public-generalized"},
                OutputGrid((-102.05, 37.0, -94.6, 40.0), cell_size_deg=(0.03, 0.03)),
                {},
                closed,
            ),
            {"care": {"regions_digest": closed.digest, "invariance": found}},
            NOW,
        )[0]
        for finding in check.findings
    ]
    told = f"attribution on them {found['restricted_share_ratio']:.3f}"
    assert any(told in sentence for sentence in sentences)


def asked(regions, evidence):
    """Return check -> status of what the gate asks of this evidence, and what it cannot ask."""
    grid = OutputGrid((-102.05, 37.0, -94.6, 40.0), cell_size_deg=(0.03, 0.03))
    subject = build_subject({"scope": "public-generalized"}, grid, {}, regions)
    checks, unasked = screen_measurements(subject, {"care": evidence}, NOW)
    return {check.id: str(check.status) for check in checks}, unasked


def spread_out(rows):
    """Answer every fine value with the patch's mean: what is anywhere shows everywhere."""
    return np.broadcast_to(rows.mean(axis=(1, 2))[:, None, None], (len(rows), 32, 32))


def constant(rows):
    return np.zeros((len(rows), 32, 32), np.float32)


def test_packaged_regions_hold_no_training_row_and_restrict_no_coarse_input(prepared):
    found = evidence(prepared("downscaling"), load_regions(None), spread_out)
    assert found["regions_digest"] == load_regions(None).digest
    assert found["training_rows"] == {}
    assert found["invariance"]["restricted_input_count"] == 0
    assert found["invariance"]["max_change_ratio"] == 0


def test_patches_that_lie_in_a_region_are_counted_once_each(prepared, regions_of):
    lat, lon = prepared("downscaling").training_places
    west, south, east, north = WEST
    inside = (lat >= south) & (lat <= north) & (lon >= west) & (lon <= east)
    expected = int(inside.any(axis=(1, 2)).sum())
    found = evidence(prepared("downscaling"), regions_of(WEST, EAST), constant)
    assert expected > 0
    assert found["training_rows"] == {"region-0": expected}


def test_restricted_inputs_that_show_in_public_outputs_are_measured(prepared, regions_of):
    closed = regions_of(EAST, consent={"status": "denied"})
    leaky = evidence(prepared("downscaling"), closed, spread_out)["invariance"]
    assert leaky["restricted_input_count"] > 0
    assert leaky["public_output_count"] > 0
    assert leaky["max_change_ratio"] > 1e-3
    tight = evidence(prepared("downscaling"), closed, constant)["invariance"]
    assert tight["restricted_input_count"] == leaky["restricted_input_count"]
    assert tight["max_change_ratio"] == 0


@pytest.mark.parametrize(
    ("properties", "finest"),
    [
        ({"h3_max_resolution": 7}, 0.02),
        ({"h3_max_resolution": 3}, 0.9),
        ({"consent": {"status": "withdrawn"}}, 4.0),
    ],
)
def test_a_cell_is_restricted_when_it_is_finer_than_the_region_that_it_touches(
    properties, finest, regions_of
):
    regions = regions_of(WEST, **{"consent": {"status": "granted"}, **properties}).regions
    west, south, east, north = WEST
    lat, lon = np.meshgrid(np.arange(37.0, 40.0, 0.07), np.arange(-101.0, -99.0, 0.07))
    half = finest / 2
    touches = (
        (lon + half >= west) & (lon - half <= east) & (lat + half >= south) & (lat - half <= north)
    )
    assert np.array_equal(restricted(lat, lon, finest, regions, NOW), touches)
    if "consent" not in properties:
        assert not restricted(lat, lon, 2 * finest, regions, NOW).any()


def test_cell_months_whose_centre_lies_in_a_region_are_counted(prepared, regions_of):
    rows = prepared("hazard").baseline_rows
    lat, lon = map(float, rows[60, :2])
    here = (lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    found = evidence(prepared("hazard"), regions_of(here), constant)
    assert found["training_rows"] == {"region-0": 12}
    assert "invariance" not in found


@pytest.mark.parametrize("task", ["drivers", "anomaly", "hydrology"])
def test_rows_without_places_are_not_measured(task, prepared):
    regions = load_regions(None)
    assert evidence(prepared(task), regions, constant) == {"regions_digest": regions.digest}


@pytest.mark.parametrize("task", ["drivers", "anomaly"])
def test_patches_of_a_file_know_where_their_values_lie(task, era_path):
    made = tasks.prepare(task, str(era_path), size="small", seed=42)
    lat, lon = made.training_places
    if task == "drivers":  # the second channel of a row is its latitude
        assert lat.shape == lon.shape
        assert set(np.unique(made.validation_rows[:, 1])) == set(np.unique(lat).astype(np.float32))
    else:
        assert lat.shape == lon.shape == made.baseline_rows[:, 0].shape
    assert (np.diff(lat, axis=1) != 0).all()
    assert (np.diff(lon, axis=2) > 0).all()


def test_longitudes_beyond_the_antimeridian_are_the_western_ones(regions_of):
    regions = regions_of((-179.0, 10.0, -178.0, 11.0))
    lat, lon = np.array([[10.5, 20.0], [20.0, 20.0]]), np.array([[181.5, 181.5], [181.5, 181.5]])
    assert count_training_rows(lat, lon, regions) == {"region-0": 1}


def test_regions_file_that_is_not_there_is_refused_before_anything_is_trained():
    with pytest.raises(DataError, match="no such regions file"):
        tasks.regions_path("/nowhere/regions.geojson")
    assert tasks.regions_path("packaged") is None


def test_gate_reads_the_evidence_of_every_kind_of_task(prepared, regions_of):
    packaged, made = load_regions(None), prepared("downscaling")
    fine = evidence(made, packaged, constant)
    both = {"training-consent": "no-known-conflict", "attribution-leakage": "no-known-conflict"}
    assert asked(packaged, fine) == (both, ())
    west = regions_of(WEST)  # nobody said that it consents
    assert asked(west, fine)[0] == dict.fromkeys(both, "stale")
    assert asked(west, evidence(made, west, constant))[0]["training-consent"] == "conflict"
    closed = regions_of(EAST, consent={"status": "denied"})
    found, _ = asked(closed, evidence(made, closed, spread_out))
    assert found == {"training-consent": "no-known-conflict", "attribution-leakage": "conflict"}
    nothing = evidence(prepared("hydrology"), packaged, constant)
    assert asked(packaged, nothing) == ({}, ("training-consent", "attribution-leakage"))
