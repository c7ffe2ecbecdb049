"""A Focus Mode release behind a replica: what it answers, refuses, withholds and counts."""

from __future__ import annotations

import json
import math
import re

import h3
import numpy as np
import pytest
from care.made_regions import box, feature

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, digest_file
from kfm_mlflow.focus.columns import COLUMN_NAMES, DOMAINS, SITUATIONS
from kfm_mlflow.monitor.signals import SIGNALS
from kfm_mlflow.rollout.plane import MaskingOrder
from kfm_serving.focus import FocusScorer
from kfm_serving.replica import Replica
from kfm_serving.scoring import ClientError
from serving import focus_releases as made

JSON = "application/json"
REGION = feature(box(-98, 38, -97.5, 38.5), h3_max_resolution=4, k_min=1)
INSIDE = h3.latlng_to_cell(38.25, -97.75, 5)
CELLS = made.make_cells(30)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, models):
    """Return a maker of replicas, in this process and without Ray."""
    from kfm_serving.cluster import _import_ray

    ray, _ = _import_ray()
    regions = tmp_path_factory.mktemp("regions") / "regions.geojson"
    regions.write_bytes(canonical_bytes({"type": "FeatureCollection", "features": [REGION]}))
    order = MaskingOrder(regions, digest_bytes(regions.read_bytes()))

    def load(*, is_masked=True, **options):
        directory = tmp_path_factory.mktemp("release") / "release"
        made.write_release(directory, models, **options)
        digest = digest_file(directory / "model.onnx")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray, "get_gpu_ids", list)
            return Replica(str(directory), digest, order if is_masked else None)

    return load


@pytest.fixture(scope="module")
def replica(loaded):
    return loaded(cells=[*CELLS, INSIDE])


def ask(replica, document):
    return replica.score(json.dumps(document).encode(), JSON)


def told(answer):
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["predictions"]


def test_cells_are_answered_with_context_story_and_attribution(replica):
    first, second = told(ask(replica, {"cells": CELLS[:2], "time": made.TIME}))
    assert (first["cell"], first["time"], second["cell"]) == (CELLS[0], made.TIME, CELLS[1])
    assert tuple(first["context_weights"]) == tuple(first["attribution"]) == DOMAINS
    assert tuple(first["situation"]) == SITUATIONS
    assert sum(first["context_weights"].values()) == pytest.approx(1)
    assert first["context_weights"]["hydrology"] == pytest.approx(0.4)
    assert first["story"]["geospatial_context"] == f"H3-{CELLS[0]}"
    assert first["story"]["sovereignty_masked"] is False
    assert [claim["subject"] for claim in first["story"]["claims"]] == [
        "temperature_c",
        "precipitation_mm",
    ]
    assert "fusion" not in first


def test_rows_of_a_table_are_answered_as_the_cells_that_they_are_of(replica):
    rows = made.make_rows(31, cells=[*CELLS, INSIDE])[:3]
    records = made.as_records(CELLS[:3], rows)
    columns = list(records[0])
    split = {"columns": columns, "data": [[one[c] for c in columns] for one in records]}
    by_cells = told(ask(replica, {"cells": CELLS[:3]}))
    assert told(ask(replica, {"dataframe_records": records})) == by_cells
    assert told(ask(replica, {"dataframe_split": split})) == by_cells


def test_the_fused_vector_comes_when_asked_for_and_is_the_models_own(replica):
    (found,) = told(ask(replica, {"cells": CELLS[:1], "include_fusion": True}))
    matrix, start = made.linear()
    row = made.make_rows(31, cells=[*CELLS, INSIDE])[:1]
    assert np.float32(found["fusion"]) == pytest.approx((row @ matrix + start)[0, 73:], rel=1e-4)


def test_equal_requests_give_equal_bytes_whatever_was_asked_in_between(replica):
    request = {"cells": CELLS[:5], "include_fusion": True}
    first = ask(replica, request).body
    ask(replica, {"cells": CELLS[5:]})
    assert ask(replica, request).body == first


def test_a_lone_cell_in_a_region_is_withheld_as_unavailable_for_legal_reasons(replica):
    answer = ask(replica, {"cells": [INSIDE]})
    assert (answer.status, answer.masking) == (451, "withheld")
    assert INSIDE not in answer.body.decode()


def test_what_masking_moved_says_so_and_has_no_vector(loaded):
    children = sorted(h3.cell_to_children(h3.cell_to_parent(INSIDE, 4), 5))
    replica = loaded(cells=[*CELLS, *children])
    answer = ask(replica, {"cells": [CELLS[0], *children], "include_fusion": True})
    by_cell = {}
    for item in told(answer):
        by_cell.setdefault(item["cell"], []).append(item)
    assert answer.masking == "masked"
    assert not set(children) & set(by_cell)
    assert set(by_cell) - {CELLS[0]} <= {
        h3.cell_to_parent(cell, r) for cell in children for r in (3, 4)
    }
    for cell, items in by_cell.items():
        for item in items:
            is_moved = cell != CELLS[0]
            assert item["story"]["sovereignty_masked"] is is_moved
            assert item["story"]["geospatial_context"] == f"H3-{cell}"
            assert (item["fusion"] is None) is is_moved
    assert not any(child in answer.body.decode() for child in children)


UNSAFE = "The drought will destroy every farm next month."


def test_an_unsafe_story_is_never_given_out_and_is_counted(loaded):
    answer = ask(loaded(outlook=UNSAFE), {"cells": CELLS[:2]})
    for item in told(answer):
        assert item["story"]["withheld"] is True
        assert item["story"]["reason"].startswith("narrative-safety: deterministic-forecast")
        assert sum(item["context_weights"].values()) == pytest.approx(1)
    assert b"drought will" not in answer.body
    assert answer.alarms == ("narrative-safety",)
    assert answer.signals["narrative_finding_count"] >= 2


def test_a_cell_finer_than_the_release_promises_is_told_coarser_and_is_no_alarm(loaded):
    replica = loaded(max_resolution=4)
    answer = ask(replica, {"cells": CELLS[:1]})
    (found,) = told(answer)
    assert found["story"]["geospatial_context"] == f"H3-{h3.cell_to_parent(CELLS[0], 4)}"
    assert answer.alarms == ()


@pytest.mark.parametrize(("is_collapsed", "alarms"), [(False, ()), (True, ("fusion-collapse",))])
def test_a_fusion_that_moves_one_way_only_alarms_once_enough_rows_differ(
    loaded, is_collapsed, alarms
):
    replica = loaded(is_collapsed=is_collapsed)
    assert ask(replica, {"cells": CELLS[:8]}).alarms == ()
    assert ask(replica, {"cells": CELLS[8:]}).alarms == alarms
    again = [ask(replica, {"cells": CELLS[:1]}).alarms for _ in range(3)]
    assert again == [alarms] * 3


def test_one_question_asked_over_and_over_is_no_collapse(loaded):
    collapsed = loaded(is_collapsed=True)
    assert {ask(collapsed, {"cells": CELLS[:1]}).alarms for _ in range(40)} == {()}


def test_signals_are_the_means_of_the_answer_and_none_is_below_zero(replica):
    signals = ask(replica, {"cells": CELLS}).signals
    assert signals["attention_entropy"] == pytest.approx(0.75)
    assert signals["context_weight_hydrology"] == pytest.approx(0.4)
    assert signals["attribution_spatial"] == pytest.approx(0.5)
    assert {"fusion_centroid_shift", "fusion_norm_shift", "fusion_rank_ratio"} <= set(signals)
    assert set(signals) <= set(SIGNALS)
    assert all(math.isfinite(value) and value >= 0 for value in signals.values())


GOOD = made.as_records(CELLS[:2], made.make_rows(2, cells=CELLS[:2]))


def changed(**values):
    return {"dataframe_records": [GOOD[0], {**GOOD[1], **values}]}


def without(name):
    return {"dataframe_records": [{k: v for k, v in row.items() if k != name} for row in GOOD]}


BAD = {
    "too hot": (changed(temperature_c=300), "temperature_c is 300 in row 2.*degrees Celsius"),
    "text": (changed(runoff_mm="much"), "runoff_mm is 'much' in row 2, not a number"),
    "not a number": (changed(runoff_mm=math.nan), "runoff_mm is blank in row 2"),
    "blank": (changed(runoff_mm=None), "runoff_mm is blank in row 2"),
    "missing": (without("cape_j_kg"), "no column cape_j_kg"),
    "unknown": (changed(wealth_usd=1), "unknown columns 'wealth_usd'"),
    "no cell": (changed(cell="here"), "cell is no H3 index in row 2"),
    "mixed": (changed(cell=h3.cell_to_parent(CELLS[1], 4)), "H3 resolution 4 in row 2"),
    "outside": (changed(cell=h3.latlng_to_cell(48.0, 2.0, 5)), "outside of the model's domain in row 2"),
    "no month": (changed(time="July"), "time is 'July' in row 2, not a month"),
    "twice": ({"dataframe_records": [GOOD[0], GOOD[0]]}, "row 2 are those of row 1"),
    "empty": ({"dataframe_records": []}, "is empty"),
    "empty split": ({"dataframe_split": {"columns": list(COLUMN_NAMES), "data": []}}, "."),
    "not a list": ({"dataframe_records": {"a": "b"}}, "."),
    "rows that are none": ({"dataframe_records": [1]}, "row 1 is int"),
    "ragged": ({"dataframe_split": {"columns": ["cell"], "data": [[1, 2]]}}, "one cell per column"),
    "column twice": (
        {"dataframe_split": {"columns": ["cell", "cell"], "data": [[1, 2]]}},
        "a column stands twice",
    ),
    "unknown cell": ({"cells": [CELLS[0], h3.latlng_to_cell(48.0, 2.0, 5)]}, "item 2 is none of"),
    "another month": ({"cells": CELLS[:1], "time": "2031-01"}, "knows its cells in 2024-07"),
    "no cells": ({"cells": []}, "at least one"),
    "cells of no kind": ({"cells": "8526"}, "must be a list"),
    "cell twice": ({"cells": [CELLS[0]] * 2}, "stands twice"),
    "too many": ({"cells": CELLS[:1] * 10_001}, "10001 rows are too many at once"),
    "two forms": ({"cells": CELLS[:1], "dataframe_records": GOOD}, "exactly one of"),
    "tensor": ({"inputs": [[0.0] * 36]}, "exactly one of cells, dataframe_records"),
    "fusion": ({"cells": CELLS[:1], "include_fusion": "yes"}, "include_fusion must be"),
    "no object": ([1], "exactly one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_the_clients_mistake_in_mlflows_words(replica, case):
    document, sentence = BAD[case]
    answer = ask(replica, document)
    said = json.loads(answer.body)
    assert (answer.status, answer.fault, said["error_code"]) == (400, "client", "BAD_REQUEST")
    assert set(said) == {"error_code", "message"}
    assert re.search(sentence, said["message"]), said["message"]
    assert (answer.alarms, answer.signals) == ((), {})


def test_other_content_types_are_not_read(replica):
    assert replica.score(b"{}", "text/csv").status == 415
    assert replica.score(b"{", JSON).status == 400


def test_a_release_without_cells_asks_for_rows(models, tmp_path):
    directory = made.write_release(tmp_path / "release", models)
    (directory / "context_cells.json").unlink()
    scorer = FocusScorer.load(directory)
    with pytest.raises(ClientError, match="lists no cells; send rows"):
        scorer.parse(json.dumps({"cells": CELLS[:1]}).encode(), JSON, "x")
    request = scorer.parse(json.dumps({"dataframe_records": GOOD}).encode(), JSON, "x")
    assert request.feeds["x"].shape == (2, 36)


@pytest.mark.ray
def test_a_cluster_withholds_unsafe_stories_and_counts_alarms_and_signals(fleet, models, client):
    version = 44
    fleet.deploy(version, lambda d: made.write_release(d, models, outlook=UNSAFE))
    try:
        fleet.split(version)
        for _ in range(2):
            status, _, body = client.score(body=json.dumps({"cells": CELLS[:3]}))
            assert status == 200
            assert b"drought will" not in body
        assert client.score(body=json.dumps({"cells": []}))[0] == 400
        found = fleet.plane.observe().arms[version]
        assert (found.request_count, found.error_count) == (2, 0)
        assert found.alarm_count == {"narrative-safety": 2}
        assert found.signal_count["attention_entropy"] == 2
        assert found.signal_ppm["attention_entropy"] == 1_500_000
    finally:
        fleet.split(1)
        fleet.plane.remove(version)
