"""What a served release counts of the bins of its own drift baseline."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.authoring.evidence_files import drift_baseline
from kfm_mlflow.canonical import digest_file, write_json
from kfm_mlflow.monitor.drift_bins import load_bins
from kfm_mlflow.policy.rollout import AnalysisPolicy
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_serving.counts import ArmTally, merge_tallies
from kfm_serving.watched import Watched

POLICY = AnalysisPolicy.model_validate(
    {"limits": {"error_ratio": 0.05}, "drift": {"minSamples": 30}}
)


def rows(count, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    values = rng.normal(size=(count, 1, 1, 1)) + rng.normal(size=(count, 1, 2, 2))
    return values.astype(np.float32)


@given(st.lists(st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(0, 14)))))
def test_bins_of_routers_add_up_to_those_of_one(parts):
    def tally(listed):
        arm = ArmTally()
        for bins in listed:
            arm.add_bins(bins)
        return arm.to_dict()

    merged = merge_tallies(map(tally, parts)).bin_counts
    assert merged == merge_tallies([tally([b for part in parts for b in part])]).bin_counts
    placed = sum(len(bins) for part in parts for bins in part)
    assert sum(sum(counts) for counts in merged.values()) == placed


def test_a_request_counts_once_until_so_many_others_came_that_it_is_forgotten(tmp_path):
    given_rows = rows(40, 1)
    write_json(tmp_path / "drift" / "baseline.json", drift_baseline(given_rows, 2 * given_rows))
    watched = Watched(load_bins(tmp_path), remembered_count=2)
    asked = ({"x": given_rows[:1]}, {"y": given_rows[:1]})
    found = [bool(watched.place(body, *asked)) for body in (b"a", b"a", b"b", b"c", b"c", b"a")]
    assert found == [True, False, True, True, False, True]


@pytest.mark.ray
def test_answers_that_left_their_baseline_show_in_what_the_plane_observes(fleet, client):
    def make(directory):
        """Make a release that triples, and says that it was seen to double."""
        fleet.models.times(directory, 3)
        seen = rows(200, 1)
        write_json(directory / "drift" / "baseline.json", drift_baseline(seen, 2 * seen))

    fleet.catch_up()
    fleet.deploy(41, make)
    fleet.split(41)
    bodies = [json.dumps({"inputs": [row.tolist()]}) for row in rows(60, 2)]
    for body in bodies + bodies[:20]:
        assert client.score(body=body)[0] == 200
    seen = fleet.plane.observe()
    fleet.split(1)
    fleet.plane.remove(41)
    assert seen.arms[41].request_count == 80
    assert {sum(counts) for counts in seen.arms[41].bin_counts.values()} == {60}
    document = fleet.release(41).release_dir / "drift" / "baseline.json"
    assert seen.baselines[41].digest == digest_file(document)
    assert 1 not in seen.baselines
    analysis, _ = analyse(
        POLICY, Memory(canary_seen=ArmCounts()), canary=seen.arms[41], stable=None,
        has_stable=False, min_samples=30, baselines={"canary": seen.baselines[41]},
    )  # fmt: skip
    verdicts = {column.name: str(column.verdict) for column in analysis.drift.columns}
    assert analysis.is_drifting
    assert verdicts == {
        "inputs.input.mean": "PASS",
        "inputs.input.std": "PASS",
        "inputs.input.axis_contrast": "PASS",
        "outputs.amplification_ratio": "FAIL",
        "outputs.mean_shift_ratio": verdicts["outputs.mean_shift_ratio"],
    }
    assert math.isfinite(analysis.drift.columns[0].e_value)
