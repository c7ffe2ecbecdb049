"""The root project hands a release over to its family's project, with everything it can be asked."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = sorted(path.parent for path in (ROOT / "projects").glob("*/release.py"))
SCRIPT = "import json, pathlib, sys; pathlib.Path({!r}).write_text(json.dumps(sys.argv[1:]))"


def parameters(folder):
    return yaml.safe_load((folder / "MLproject").read_text())["entry_points"]["release"]


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_whatever_a_family_can_be_asked_can_be_asked_of_the_root_with_the_same_default(folder):
    root = parameters(ROOT)
    assert parameters(folder)["parameters"].items() <= root["parameters"].items()
    assert all(f"{{{name}}}" in root["command"] for name in root["parameters"])


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """Hand over to a family whose project declares size and output, and says what it was given."""
    folder = tmp_path / "projects" / "own_family"
    folder.mkdir(parents=True)
    told = tmp_path / "told.json"
    declared = {"size": {"default": "default"}, "output": {"default": "out"}}
    for place, names in ((tmp_path, {**declared, "name": {"default": "auto"}}), (folder, declared)):
        project = {"entry_points": {"release": {"parameters": names}}}
        (place / "MLproject").write_text(yaml.safe_dump(project))
    (folder / "release.py").write_text(SCRIPT.format(str(told)))
    script = folder.parent / "release.py"
    script.write_text((ROOT / "projects" / "release.py").read_text())
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")
        return json.loads(told.read_text())

    return run


def test_a_family_is_given_what_it_declares_and_nothing_else(hand_over):
    asked = ("--family", "own-family", "--size", "small", "--output", "out", "--name", "auto")
    assert hand_over(*asked) == ["--size", "small", "--output", "out"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--family", "own-family", "--name", "mine"), "family own-family has no such parameter"),
        (("--family", "other"), "there is no 'other'; use one of own-family"),
    ],
)
def test_what_a_family_does_not_declare_is_refused_where_somebody_set_it(hand_over, asked, message):
    with pytest.raises(SystemExit, match=message):
        hand_over(*asked)
