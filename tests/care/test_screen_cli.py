"""``kfm care screen``: what it prints, writes and answers."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kfm_mlflow.cli.care_screen import screen

CARE = {
    "masking": "h3-climate-generalized",
    "scope": "public-generalized",
    "notes": ["Generalised where regions ask for it."],
    "labels": [],
    "h3_max_resolution": 7,
    "output_grid": {"bbox": [-102.05, 37.0, -94.6, 40.0], "cell_size_deg": 0.25},
}


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    stated = {"family": "climate", "model_name": "climate-x", "release_version": "v1.0.0"}
    (folder / "model_metadata.json").write_text(json.dumps(stated))
    (folder / "care.json").write_text(json.dumps({"care": CARE}))
    return folder


def _run(*arguments):
    result = CliRunner().invoke(screen, list(map(str, arguments)), standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result.stdout


def test_a_good_release_has_no_known_conflict_and_nothing_says_approved(release):
    code, text = _run(release)
    assert code == 0
    assert "Result: no-known-conflict" in text
    assert "FAIR+CARE score" in text
    assert "approved" not in text


def test_a_leak_is_told_with_rule_file_numbers_and_who_decides(release, tmp_path):
    # In the middle of the packaged extent around the Kickapoo reservation.
    (release / "notes.md").write_text("gauge at 39.6812, -95.6401\n")
    page = tmp_path / "report.html"
    code, text = _run(release, "--json", "--html", page)
    document = json.loads(text)
    (check,) = [c for c in document["checks"] if c["id"] == "coordinates"]
    (finding,) = check["findings"]
    assert (code, document["status"]) == (1, "conflict")
    assert finding["rule"] == "S-F01"
    assert finding["where"] == "notes.md: line 1"
    assert (finding["limit"], finding["unit"]) == ("2.27", "km")
    shown = page.read_text() + text
    assert "Kickapoo Tribe in Kansas" in page.read_text()
    assert "39.68" not in shown
    assert "<script" not in shown
