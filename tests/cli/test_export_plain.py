"""The README of an export, followed to the letter where our package cannot be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.export_world import blocks
from registry.world import COUNCIL

from kfm_mlflow.canonical import load_json

pytestmark = pytest.mark.server
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kfm_mlflow", "kfm_serving"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
RELEASE = "climate/models/v1.0.0"
STEPS = ("keys", "list", "bytes", "signature", "policy", "sbom", "deployed")
SCRIPTS = ("ledger", "documents", "lineage")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Run a line of the README as a reader does, in whose Python there is nothing of ours."""
    home = tmp_path_factory.mktemp("plain")
    (home / "sitecustomize.py").write_text(BLOCK)
    environ = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHONPATH": str(home),
        "PYTHONWARNINGS": "ignore",
        "HOME": str(home),
        "TMPDIR": str(home),
    }

    def run(root, line):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=root,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    absent = run(home, "python -c 'import kfm_mlflow'")
    assert "No module named 'kfm_mlflow'" in absent.stderr
    return run


def commands(root, folder):
    """Return every step of the README by a name of ours, its scripts saved elsewhere."""
    shells, scripts = blocks(root, "sh"), blocks(root, "python")
    found = dict(zip(STEPS, shells, strict=True))
    for name, script in zip(SCRIPTS, scripts, strict=True):
        assert "kfm_mlflow" not in script
        path = folder / f"{name}.py"
        path.write_text(script)
        found[name] = f"python {path}"
    return found


@pytest.mark.parametrize("kind", ["key", "certificate", "sigstore"])
def test_every_command_of_the_readme_passes_as_printed(exports, plain, tmp_path, kind):
    root = exports.made[kind]
    steps = commands(root, tmp_path)
    # What is the same for every kind of signer is run once.
    wanted = steps if kind == "key" else ("list", "signature", "policy")
    said = {}
    for name in wanted:
        done = plain(root, steps[name])
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        said[name] = done.stdout
    assert "Verified OK" in said["list"]
    if kind == "certificate":
        assert "subject=O = KFM, CN = release-bot" in said["signature"]
        assert "notAfter=" in said["signature"]
    if kind == "key":
        index = load_json(root / "export.json")
        assert f"release id {index['release_id']}" in said["ledger"]
        assert f"ledger good up to {index['ledger_head']['hash']}" in said["ledger"]
        assert said["ledger"].count("vote signed by keys/council/") == len(COUNCIL)
        assert "STAC item" in said["documents"]
        assert "Verified OK" in said["deployed"]
        assert said["lineage"].count("ledger:row-") == len(index["ledger_rows"])
        assert "canary to production" in said["lineage"]


CASES = {
    f"{RELEASE}/model.pt": {"bytes", "signature", "ledger"},
    f"{RELEASE}/stac/model-item.json": {"bytes", "signature", "ledger"},
    f"{RELEASE}.evidence/release.sig": {"bytes", "signature"},
    "ledger/ledger_snapshot.json": {"bytes", "ledger"},
    "policy/policy.json": {"bytes", "policy"},
    "attestations": {"bytes", "ledger"},
    "export.json": {"list", "bytes"},
    "SHA256SUMS": {"list", "bytes"},
    "export.intoto.json": {"list"},
    "provenance/deployed.json": {"bytes", "deployed"},
    "provenance/deployed.intoto.json": {"bytes", "deployed"},
    "keys/registry": {"list", "bytes", "keys", "deployed"},
    "schemas/export.schema.json": {"bytes"},
}


@pytest.mark.parametrize("path", CASES)
def test_the_right_command_of_the_readme_fails_on_a_changed_byte(exports, plain, tmp_path, path):
    root = tmp_path / "copy"
    shutil.copytree(exports.made["key"], root)
    target = root / path
    if target.is_dir():
        target = min(target.iterdir())
    data = bytearray(target.read_bytes())
    at = len(data) // 2
    marks = ((b'"payload":"', 40), (b'\\"payload\\":\\"', 40), (b'"model_name":"', 15))
    for mark, behind in (*marks, *([(b"-----BEGIN", 60)] if "keys" in path else [])):
        if mark in data:
            at = data.find(mark) + behind
    data[at] ^= 1
    target.write_bytes(data)
    steps = commands(exports.made["key"], tmp_path)
    slow = {"signature", "documents", "sbom", "ledger", "lineage"} - CASES[path]
    if path == "keys/registry":
        # A key that is none fails wherever keys are read.
        slow |= {"ledger"}
    failed = {name for name in steps.keys() - slow if plain(root, steps[name]).returncode}
    assert failed == CASES[path]


def test_added_and_removed_files_fail_the_steps_that_count_and_list(exports, plain, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(exports.made["key"], root)
    steps = commands(root, tmp_path)
    (root / "attestations" / "more.intoto.json").write_text("{}")
    assert {n for n in ("list", "bytes") if plain(root, steps[n]).returncode} == {"bytes"}
    (root / "attestations" / "more.intoto.json").unlink()
    (root / "keys" / "link").symlink_to("/etc/hostname")
    assert plain(root, steps["bytes"]).returncode
    (root / "keys" / "link").unlink()
    min((root / "attestations").iterdir()).unlink()
    assert plain(root, steps["bytes"]).returncode
