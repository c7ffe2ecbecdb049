"""Reading a release's bands."""

import json

import pytest

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.rollout.bands import load_bands
from kfm_mlflow.rollout.plane import Band


def write(folder, document):
    (folder / "drift").mkdir()
    (folder / "drift" / "baseline.json").write_text(json.dumps(document))


def test_bands_are_read_by_name(tmp_path):
    write(tmp_path, {"statistics": {"mean_shift_ratio": {"low": -0.1, "high": 0.2, "unit": "1"}}})
    assert load_bands(tmp_path) == {"mean_shift_ratio": Band(-0.1, 0.2)}


def test_release_without_a_baseline_has_no_bands(tmp_path):
    assert load_bands(tmp_path) == {}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"statistics": []},
        {"statistics": {"a": 1}},
        {"statistics": {"a": {"low": 1}}},
        {"statistics": {"a": {"low": 2, "high": 1}}},
        {"statistics": {"a": {"low": "1", "high": 2}}},
        {"statistics": {"a": {"low": True, "high": 2}}},
        {"statistics": {"a": {"low": 0, "high": 1e999}}},
    ],
)
def test_baseline_that_is_none_is_refused(tmp_path, document):
    write(tmp_path, document)
    with pytest.raises(EvidenceError, match=r"drift/baseline\.json"):
        load_bands(tmp_path)
