"""A replica shows nothing that is finer than the policy's regions allow, and says so."""

import http.client
import json
from dataclasses import replace

import numpy as np
import pytest

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, digest_file
from kfm_mlflow.care.mask_fields import FieldMask
from kfm_mlflow.errors import DataError
from kfm_mlflow.rollout.plane import MaskingOrder, Split
from kfm_serving.counts import ArmTally, merge_tallies
from kfm_serving.replica import Answer, Replica
from kfm_serving.router import Arm, Attempt, Router, Snapshot

JSON = "application/json"
SIDE = 0.01
GRID = {"bbox": [-98.1, 37.95, -97.9, 38.15], "cell_size_deg": SIDE, "rows": "south-to-north"}
NAME = "Blue Heron Spring"
CELLS = 20
BODY = json.dumps({"inputs": [[np.linspace(0, 1, CELLS * CELLS).reshape(CELLS, CELLS).tolist()]]})


@pytest.fixture
def no_gpu(monkeypatch):
    from kfm_serving.cluster import _import_ray

    ray, _ = _import_ray()
    monkeypatch.setattr(ray, "get_gpu_ids", list)


def regions_at(path, **properties):
    ring = [[-98.0, 38.0], [-97.5, 38.0], [-97.5, 38.5], [-98.0, 38.5], [-98.0, 38.0]]
    feature = {
        "type": "Feature",
        "properties": {
            "id": "a",
            "authority": "A council",
            "restricted_names": [NAME],
            **properties,
        },
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    data = canonical_bytes({"type": "FeatureCollection", "features": [feature]})
    path.write_bytes(data)
    return MaskingOrder(path, digest_bytes(data))


def release(models, folder, grid=GRID, masking="h3-generalized"):
    directory = models.times(folder, 1, ("n", 1, CELLS, CELLS))
    block = {"masking": masking, "scope": "public-generalized", "output_grid": grid}
    (directory / "care.json").write_bytes(canonical_bytes({"care": block}))
    return directory


def replica_of(directory, order):
    return Replica(str(directory), digest_file(directory / "model.onnx"), order)


def test_a_placed_field_is_coarse_in_the_region_and_never_finer_than_the_mode(
    no_gpu, models, tmp_path
):
    import h3

    order = regions_at(tmp_path / "r.geojson", h3_max_resolution=6)
    answer = replica_of(release(models, tmp_path / "v1"), order).score(BODY.encode(), JSON)
    assert (answer.status, answer.masking) == (200, "masked")
    rows = json.loads(answer.body)["predictions"]["y"][0][0]
    values: dict[str, set[float]] = {}
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            lat, lon = 37.95 + (i + 0.5) * SIDE, -98.1 + (j + 0.5) * SIDE
            inside = lat > 38.02 and lon > -97.98
            cell = h3.latlng_to_cell(lat, lon, 6 if inside else 7)
            if inside and value is not None:
                values.setdefault(cell, set()).add(value)
    assert values
    assert all(len(found) == 1 for found in values.values())


def test_a_closed_region_is_null_and_the_rest_is_answered(no_gpu, models, tmp_path):
    order = regions_at(tmp_path / "r.geojson", consent={"status": "withdrawn"})
    answer = replica_of(release(models, tmp_path / "v1"), order).score(BODY.encode(), JSON)
    rows = json.loads(answer.body)["predictions"]["y"][0][0]
    assert rows[-1][-1] is None
    assert rows[0][0] is not None


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (None, "on which grid"),
        ({**GRID, "rows": None}, "finer than a region allows"),
        ({**GRID, "bbox": [-98.2, 37.95, -97.9, 38.15]}, "finer than a region allows"),
    ],
    ids=["no grid", "rows in no known order", "another extent than the answer's"],
)
def test_values_without_a_place_are_refused_with_a_reason_and_are_no_error_of_the_model(
    no_gpu, models, tmp_path, grid, says
):
    order = regions_at(tmp_path / "r.geojson")
    answer = replica_of(release(models, tmp_path / "v1", grid), order).score(BODY.encode(), JSON)
    document = json.loads(answer.body)
    assert (answer.status, answer.fault, answer.masking) == (451, "none", "withheld")
    assert document["error_code"] == "CARE_POLICY_VIOLATION"
    assert says in document["message"]
    assert answer.statistics == {}


def test_values_without_a_place_are_shown_where_the_grid_is_coarse_enough(no_gpu, models, tmp_path):
    order = regions_at(tmp_path / "r.geojson")
    grid = {"bbox": [-102.0, 37.0, -94.0, 40.0], "cell_size_deg": 0.25}
    answer = replica_of(release(models, tmp_path / "v1", grid), order).score(BODY.encode(), JSON)
    assert (answer.status, answer.masking) == (200, "none")


def test_masking_that_raises_shows_nothing_and_is_counted_as_a_failure(
    no_gpu, models, tmp_path, monkeypatch
):
    replica = replica_of(release(models, tmp_path / "v1"), regions_at(tmp_path / "r.geojson"))
    monkeypatch.setattr(FieldMask, "mask", lambda *_: 1 / 0)
    answer = replica.score(BODY.encode(), JSON)
    assert (answer.status, answer.masking) == (451, "failed")
    assert "predictions" not in json.loads(answer.body)


def test_an_answer_of_infinity_stays_the_models_error_and_is_not_taken_for_withheld(
    no_gpu, models, tmp_path
):
    directory = models.times(tmp_path / "v1", 3e38)
    body = json.dumps({"inputs": [[[[1.5, 2.0], [3.0, 4.0]]]]}).encode()
    answer = replica_of(directory, MaskingOrder()).score(body, JSON)
    assert (answer.status, answer.fault) == (500, "model")


def test_regions_that_changed_since_the_policy_was_loaded_keep_a_release_from_starting(
    no_gpu, models, tmp_path
):
    order = regions_at(tmp_path / "r.geojson")
    regions_at(tmp_path / "r.geojson", h3_max_resolution=9)
    with pytest.raises(DataError, match="has changed"):
        replica_of(release(models, tmp_path / "v1"), order)


def counted(*answers):
    router = Router("m", "/", 1.0, 1.0)
    snapshot = Snapshot(Split(1, 1, None, 0.0), {1: Arm(None, "d")})
    for answer in answers:
        router._count(snapshot, 1, Attempt("answered", 5.0, answer))
    return merge_tallies([router._tallies["d"].to_dict()])


def test_masked_withheld_and_failed_are_counted_apart_and_are_no_errors():
    found = counted(
        Answer(200, b""),
        Answer(200, b"", masking="masked"),
        Answer(451, b"", masking="withheld"),
        Answer(451, b"", masking="failed"),
        Answer(500, b"", "model"),
    )
    counts = (found.masked_count, found.withheld_count, found.mask_failure_count)
    assert counts == (1, 1, 1)
    assert (found.request_count, found.error_count) == (5, 1)
    assert found.latency_ms_buckets[max(found.latency_ms_buckets)] == 5


def test_a_failed_masking_is_answered_by_stable_and_a_withheld_answer_is_not():
    assert not Attempt("answered", 1.0, Answer(451, b"", masking="failed")).is_good
    assert Attempt("answered", 1.0, Answer(451, b"", masking="withheld")).is_good


def test_tallies_start_at_zero():
    assert merge_tallies([ArmTally().to_dict()]).mask_failure_count == 0


@pytest.mark.ray
def test_a_cluster_masks_and_counts_what_it_masked(fleet, models, serve_port, tmp_path):
    version = 40
    directory = release(models, fleet.root / f"v{version}", None)
    order = regions_at(tmp_path / "r.geojson")
    made = replace(fleet.release(version), release_dir=directory, masking=order)
    fleet.plane.deploy(made, timeout_s=60)
    try:
        fleet.split(version)
        connection = http.client.HTTPConnection("127.0.0.1", serve_port, timeout=30)
        connection.request("POST", "/invocations", BODY, {"Content-Type": JSON})
        response = connection.getresponse()
        assert response.status == 451
        assert "grid" in json.loads(response.read())["message"]
        connection.close()
        found = fleet.plane.observe().arms[version]
        assert (found.request_count, found.error_count, found.withheld_count) == (1, 0, 1)
    finally:
        fleet.split(1)
        fleet.plane.remove(version)
