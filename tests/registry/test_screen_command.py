"""``kfm care screen models:/NAME/V`` over real HTTP: findings, signatures, and what is missing."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from click.testing import CliRunner
from mlflow.server import handlers
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from registry.authority_world import ASKED, NORTH, SECRET, say, with_regions
from registry.loopback import listening
from registry.test_differencing import CHILDREN, INSIDE, publishing
from registry.world import NAME, SERVES

from kfm_mlflow.cli.care_screen import screen


@pytest.fixture
def behind_http(registry, monkeypatch, tmp_path):
    """Return a registry and how to screen a version of it, by its own policy, as a person does."""
    registry.now = datetime.now(UTC)
    monkeypatch.setenv(SERVES, "true")
    monkeypatch.setattr(handlers, "_artifact_repo", LocalArtifactRepository(str(registry.area)))
    folder = tmp_path / "policies"
    shutil.copytree(registry.world.policies, folder)
    path = folder / "climate.yaml"
    written = yaml.safe_load(path.read_text())
    regions = str(registry.area.parent / "regions.geojson")
    path.write_text(yaml.safe_dump({**written, "regions_file": regions}))
    with listening(registry, monkeypatch, with_mlflow=True) as url:

        def screened(version, *options):
            given = [f"models:/{NAME}/{version}", "--server", url, "--policy-dir", str(folder)]
            done = CliRunner().invoke(screen, [*given, *options], standalone_mode=False)
            assert done.exception is None, done.exception
            assert SECRET not in done.stdout
            assert "by post" not in done.stdout
            return done.return_value, done.stdout

        yield registry, screened


def test_it_says_whose_signature_is_there_its_scope_and_end_and_what_is_missing(
    behind_http, world, tmp_path
):
    registry, screened = behind_http
    with_regions(registry, north=ASKED, south=ASKED)
    registry.register(world.releases[0])
    code, text = screened(1)
    assert (code, "Result: needs-authority" in text) == (1, True)
    assert "Region north (Council of the north): MISSING" in text
    assert f"To sign it: kfm care approve models:/{NAME}/1 --region north --key KEY" in text
    assert "Not compared with the release that is public now: no other release" in text
    until = registry.now + timedelta(days=30)
    say(registry, 1, "approve", reason="after the meeting", expires_at=until)
    code, text = screened(1)
    (north, south) = text.split("  Region ")[1:3]
    for words in (
        "north (Council of the north): signed",
        f"It covers: this release. It holds until {until.day} {until:%B %Y, %H:%M} UTC.",
        "Reason given: after the meeting",
        f"Signed with key {world.signer(NORTH).public_key.key_id}.",
        "Still needed: nothing.",
    ):
        assert words in north
    assert (code, south.startswith("south (Council of the south): MISSING")) == (1, True)
    say(registry, 1, "approve", region="south")
    page = tmp_path / "report.html"
    code, text = screened(1, "--html", str(page))
    assert (code, "Result: no-known-conflict" in text, "MISSING" in text) == (0, True, False)
    assert "an authority had to decide, and signed an approval: see below" in text
    assert "<h3>Region north (Council of the north): signed</h3>" in page.read_text()
    say(registry, 1, "veto", region="south", at=registry.now + timedelta(seconds=1))
    code, text = screened(1)
    assert (code, "Region south (Council of the south): VETOED" in text) == (1, True)
    assert "\nBut it may not go on: see region south below.\n" in text


def test_what_it_tells_beside_the_release_at_production_is_in_the_report(
    behind_http, world, tmp_path
):
    registry, screened = behind_http
    with_regions(registry, north={"k_min": 10})
    registry.register(publishing(world, tmp_path, 0, {INSIDE: 366}))
    registry.to_production(1)
    registry.register(publishing(world, tmp_path, 1, dict.fromkeys(CHILDREN[:6], 60)))
    code, text = screened(2, "--json")
    found = json.loads(text)
    assert (code, found["status"]) == (1, "conflict")
    (check,) = [check for check in found["checks"] if check["id"] == "differencing"]
    assert (check["status"], check["findings"][0]["rule"]) == ("conflict", "S-F05")
    assert found["notes"] == ["Compared with version 1, the release that is public now."]
    assert {item["region"]: item["missing"] for item in found["authorities"]["regions"]} == {
        "north": [],
        "south": [],
    }
    assert not [cell for cell in (INSIDE, *CHILDREN) if cell in text]
