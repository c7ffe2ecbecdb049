"""What an authority says or a regions file comes to say takes a release down, over real HTTP.

Registry, API, remote client and controller are the real ones; the traffic plane is in memory.
"""

from __future__ import annotations

import json

import pytest
from registry.authority_world import SECRET, SOUTH, with_regions, write_regions
from registry.governed_world import levels, promote, under_control
from registry.world import NAME

from kfm_mlflow.care.authority import Scope
from kfm_mlflow.cli.main import main
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.rollout.state import Phase

WITHDRAWN = {"consent": {"status": "withdrawn"}}
LABELLED = {"labels": [{"name": "TK SS", "label_type": "secret_sacred"}]}


@pytest.fixture
def governed(two, monkeypatch, tmp_path):
    """Return v1 at Production and v2 at canary, screened by regions, and a controller of both."""
    with_regions(two)
    with under_control(two, tmp_path, monkeypatch) as made:
        yield made


def veto(governed, version):
    governed.remote.say_as_authority(
        NAME,
        version,
        "veto",
        region="south",
        scope=Scope(),
        reason="the herd is back",
        signer=governed.registry.world.signer(SOUTH),
        now=governed.registry.now,
        expires_at=None,
    )


def conflicts(governed, version):
    """Return the kinds of conflict in the reports that the registry keeps, good by their schemas."""
    (folder,) = governed.reports.rglob(f"rollback/v{version}")
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(found) == {"rollback_report.json", "drift_summary.json", "sovereignty_conflict.json"}
    for name, document in found.items():
        assert schema_problems(name.removesuffix(".json"), document) == []
    assert SECRET not in json.dumps(found)
    conflict = found["sovereignty_conflict.json"]
    return [item["kind"] for item in conflict["conflicts"]], conflict["reason"]


def recheck(governed, capsys):
    """Return what ``kfm recheck`` says of every version, and its exit code."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["recheck", "--server", governed.url, "--json"])
    found = json.loads(capsys.readouterr().out)
    entries = {
        entry["version"]: (entry["status"], entry["standing"]) for entry in found["versions"]
    }
    return int(ended.value.code or 0), entries


@pytest.mark.parametrize("change", [WITHDRAWN, LABELLED], ids=["consent", "label"])
def test_production_that_a_regions_file_no_longer_allows_is_down_after_one_pass(governed, change):
    promote(governed)
    write_regions(governed.registry, north=change)
    state = governed.controller.reconcile_once()
    assert state.phase is Phase.ROLLED_BACK
    assert (governed.plane.split.stable, governed.plane.split.canary) == (None, None)
    assert levels(governed) == (None, None)
    kinds, reason = conflicts(governed, 2)
    assert kinds == ["standing"]
    assert "region north" in reason


def test_production_that_an_authority_vetoes_gives_way_to_its_predecessor_after_one_pass(
    governed, capsys
):
    promote(governed)
    assert recheck(governed, capsys)[0] == 0
    veto(governed, 2)
    assert recheck(governed, capsys) == (1, {2: ("recall", "vetoed")})
    state = governed.controller.reconcile_once()
    assert state.phase is Phase.ROLLED_BACK
    assert (governed.plane.split.stable, levels(governed)) == (1, (1, None))
    kinds, reason = conflicts(governed, 2)
    assert kinds == ["veto"]
    assert "region south" in reason
    assert recheck(governed, capsys) == (0, {1: ("holds", "ok")})


def test_a_canary_that_an_authority_vetoes_loses_its_traffic_and_its_level_after_one_pass(governed):
    governed.controller.reconcile_once()
    assert governed.plane.split.canary == 2
    veto(governed, 2)
    governed.controller.reconcile_once()
    assert (governed.plane.split.stable, governed.plane.split.canary) == (1, None)
    assert levels(governed) == (1, None)
    assert conflicts(governed, 2)[0] == ["veto"]


def test_recheck_tells_what_a_changed_file_recalls(governed, capsys):
    write_regions(governed.registry, north=WITHDRAWN)
    code, entries = recheck(governed, capsys)
    assert code == 1
    assert entries == {1: ("recall", "stale"), 2: ("recall", "stale")}
