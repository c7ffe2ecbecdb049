"""Authorities of regions: what they sign stops a move, a canary and what is served, or lets it go."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from flask import Flask
from mlflow.exceptions import MlflowException
from registry.asking import request_of, with_roles
from registry.authority_world import (
    ASKED,
    NORTH,
    SECRET,
    SOUTH,
    say,
    statement,
    with_regions,
    write_regions,
)
from registry.world import NAME, run_cli, told

from kfm_mlflow.care.authority import Scope
from kfm_mlflow.gates.glass import BreakGlass
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.authorities import authorities_of
from kfm_mlflow.registry.page_version import load_version
from kfm_mlflow.registry.recheck import recheck_version
from kfm_mlflow.registry.standing import standing
from kfm_mlflow.rollout.remote_votes import RemoteVotes


def blocking(registry, version=1, level=Level.STAGING):
    report = registry.store.check(NAME, version, level).report
    return {finding.code for _, finding in report.blocking}


@pytest.fixture
def asked(registry, world):
    """Return a registry with a candidate that needs the authority of region north."""
    registry.register(world.releases[0])
    with_regions(registry, north=ASKED)
    return registry


# -- approvals ---------------------------------------------------------------------------------------


def test_what_needs_an_authority_is_refused_until_it_approves_and_again_when_that_expires(asked):
    assert blocking(asked) == {"CARE_CONSENT", "AUTHORITY_NEEDED"}
    with told(403, "region north", "/kfm/models/"):
        asked.store.move(NAME, 1, Level.STAGING)
    say(asked, 1, "approve", expires_at=asked.now + timedelta(hours=2))
    asked.store.move(NAME, 1, Level.STAGING)
    asked.now += timedelta(hours=2)
    assert {"CARE_CONSENT", "AUTHORITY_NEEDED", "AUTHORITY_EXPIRED"} <= blocking(
        asked, 1, Level.CANARY
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"scope": Scope(modes=("h3_r5",))}, "AUTHORITY_OUT_OF_SCOPE"),
        ({"scope": Scope(uses=("public-stream",))}, "AUTHORITY_OUT_OF_SCOPE"),
        ({"scope": Scope(uses=("public-generalized",))}, None),
        ({"scope": Scope("model")}, None),
    ],
    ids=["masking", "use", "this use", "model"],
)
def test_an_approval_covers_what_its_scope_says(asked, said, code):
    say(asked, 1, "approve", **said)
    found = blocking(asked)
    assert (code in found) if code else found == set()


def test_an_approval_of_a_whole_model_is_heard_for_its_other_versions(asked, world):
    say(asked, 1, "approve", scope=Scope("model"))
    asked.register(world.releases[1])
    assert blocking(asked, 2) == set()
    # One of a single release is not.
    asked.now += timedelta(minutes=1)
    say(asked, 1, "veto", scope=Scope("model"))
    asked.now += timedelta(minutes=1)
    say(asked, 1, "approve")
    assert (blocking(asked, 1), "AUTHORITY_VETOED" in blocking(asked, 2)) == (set(), True)


def test_when_the_rules_of_the_region_change_its_approval_is_outdated_and_named(asked):
    say(asked, 1, "approve")
    with_regions(asked, north={**ASKED, "k_min": 2})
    assert {"AUTHORITY_NEEDED", "AUTHORITY_REGION_CHANGED"} <= blocking(asked)
    with_regions(asked, north=ASKED, south={"k_min": 2})
    assert blocking(asked) == set()


def test_the_door_keeps_only_what_somebody_may_say(asked):
    foreign = {"key": SOUTH}
    for said, words in (
        (foreign, "no key that the region names"),
        ({"key": "foreign"}, "not frozen yet"),
        ({"region": "nowhere", "key": NORTH}, "which there is not"),
        ({"region_digest": "sha256:" + "0" * 64}, "other rules"),
        ({"reason": f"near {SECRET}"}, "restricted name"),
        ({"scope": Scope("house")}, "malformed scope"),
    ):
        with pytest.raises(MlflowException, match=words):
            say(asked, 1, "approve", **said)
    assert asked.query("SELECT count(*) FROM kfm_attestation") == [(0,)]
    assert "AUTHORITY_NEEDED" in blocking(asked)


def test_a_key_that_the_region_no_longer_names_approves_nothing(asked, world):
    say(asked, 1, "approve")
    keys = {"name": "Council", "keys": [world.signer("council-cyd").public_key.pem]}
    with_regions(asked, north={**ASKED, "authority": keys})
    assert "AUTHORITY_NEEDED" in blocking(asked)


def test_sending_needs_a_role_and_nobody_speaks_for_a_release_that_they_registered(registry, world):
    with request_of("aki"):
        registry.register(world.releases[0])
    with_roles(registry, may_attest={"care_authority": ["authority"]})
    with_regions(registry, north=ASKED)
    with request_of("tom"), told(403, "roles that may send a care-authority: authority"):
        say(registry, 1, "veto")
    with request_of("aki"), told(403, "in its favour"):
        say(registry, 1, "approve")
    with request_of("aki"):
        say(registry, 1, "veto")
    assert "AUTHORITY_VETOED" in blocking(registry)


# -- vetoes ------------------------------------------------------------------------------------------


def test_a_veto_stops_production_whatever_the_quorum_and_no_glass_passes_over_it(two):
    with_regions(two)
    two.endorse(2)
    assert blocking(two, 2, Level.PRODUCTION) == set()
    say(two, 2, "veto", region="south", expires_at=None)
    assert blocking(two, 2, Level.PRODUCTION) == {"AUTHORITY_VETOED"}
    with_roles(two, break_glass={"roles": ["operator"], "max_hours": 8})
    with_regions(two)
    glass = BreakGlass("the river is rising", "OPS-112", 4)
    with request_of("olga"), told(403, "vetoed for region south"):
        two.store.move(NAME, 2, Level.PRODUCTION, break_glass=glass)


def test_a_later_veto_takes_an_approval_back_and_a_later_approval_the_veto(asked):
    for choice, passes in (("approve", True), ("veto", False), ("approve", True)):
        asked.now += timedelta(minutes=1)
        say(asked, 1, choice)
        assert (blocking(asked) == set()) is passes


def test_a_vetoed_release_does_not_come_back_on_a_rollback(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    with_regions(two)
    say(two, 1, "veto")
    with told(403, "vetoed for region north"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)


# -- what is served ----------------------------------------------------------------------------------


@pytest.fixture
def served(two):
    """Return a registry in which v2 followed v1 to Production, under regions with authorities."""
    two.store.move(NAME, 2, Level.PRODUCTION)
    with_regions(two)
    return two


def test_standing_names_region_and_fallback_and_recheck_says_the_same(served):
    assert standing(served.store, NAME)["production"]["standing"] == "ok"
    say(served, 2, "veto", region="south")
    found = standing(served.store, NAME)
    assert (found["production"]["standing"], found["fallback"]) == ("vetoed", 1)
    entry = recheck_version(served.store, NAME, 2)
    assert (entry.status, entry.standing) == ("recall", "vetoed")
    for text in (json.dumps(found), json.dumps(entry.to_dict())):
        assert "region south" in text
        assert SECRET not in text
    say(served, 1, "veto", region="south")
    assert standing(served.store, NAME)["fallback"] is None


def test_what_changes_in_the_file_of_a_running_server_makes_what_is_served_stale(served):
    changes = (
        {"consent": {"status": "withdrawn"}},
        {"labels": [{"name": "TK SS", "label_type": "secret_sacred"}]},
        {"embargo": {"until": "2999-01-01"}},
        {"h3_max_resolution": 2},
    )
    for change in changes:
        write_regions(served, north=change)
        found = standing(served.store, NAME)["production"]
        assert found["standing"] == "stale", change
        assert any("region north" in finding["detail"] for finding in found["findings"])
        assert recheck_version(served.store, NAME, 2).standing == "stale"
    # Another region's rule, or words that bind nothing here, take nothing down.
    write_regions(served, south={"k_min": 2})
    assert standing(served.store, NAME)["production"]["standing"] == "ok"
    path = write_regions(served)
    path.write_text("{")
    (finding,) = standing(served.store, NAME)["production"]["findings"]
    assert finding["code"] == "REGIONS_UNREADABLE"


def test_bytes_that_can_not_be_read_now_recall_nothing(served, monkeypatch):
    def breaks(*_args):
        raise OSError("disk")

    monkeypatch.setattr("kfm_mlflow.registry.admission.local_bundle", breaks)
    assert standing(served.store, NAME)["production"]["standing"] == "ok"


def test_production_that_may_not_be_served_comes_down_without_a_successor_and_no_other(registry):
    registry.register(registry.world.releases[0])
    registry.to_production(1)
    with_regions(registry)
    with told(403, "by promotion or rollback only"):
        registry.store.move(NAME, 1, Level.CANDIDATE)
    say(registry, 1, "veto")
    registry.store.move(NAME, 1, Level.CANDIDATE)
    assert registry.level(1) == "candidate"


# -- for people --------------------------------------------------------------------------------------


def test_the_page_lists_who_must_decide_how_and_what_they_said(asked):
    page = load_version(asked.store, NAME, 1)
    (item,) = page.authorities["regions"]
    assert (item["region"], item["asked"], item["approval"]) == ("north", ["consent (C-F02)"], None)
    assert item["command"].startswith(f"kfm care approve models:/{NAME}/1 --region north --key")
    say(asked, 1, "approve", reason="after the meeting")
    (item,) = load_version(asked.store, NAME, 1).authorities["regions"]
    assert item["approval"]["reason"] == "after the meeting"
    text = json.dumps(authorities_of(asked.store, asked.store.snapshot(NAME, 1)))
    assert SECRET not in text
    assert "by post" not in text


class Local(RemoteVotes):
    """The registry of this process, asked over its own HTTP routes."""

    def __init__(self, client):
        self._client = client

    def _call(self, method, path, **kwargs):
        answer = self._client.open(
            f"/kfm/api/v1/{path}", method=method, data=kwargs.get("data"),
            query_string=kwargs.get("params"), headers=kwargs.get("headers"),
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return answer.json


@pytest.fixture
def local(asked, monkeypatch):
    """Return a client of the registry in this process, which the command line takes, too."""
    from kfm_mlflow.registry import api, authority_api

    for module in (api, authority_api):
        monkeypatch.setattr(module, "registry", lambda: asked.store)
    asked.store.admission.clock = __import__(
        "kfm_mlflow.registry.admission", fromlist=["x"]
    ).utc_now
    app = Flask("local")
    app.register_blueprint(api.api)
    found = Local(app.test_client())
    monkeypatch.setattr("kfm_mlflow.cli.care_authority.RemoteRegistry", lambda _: found)
    return found


def test_an_authority_approves_and_vetoes_from_the_command_line(asked, local, capsys):
    uri = f"models:/{NAME}/1"
    common = ("--region", "north", "--reason", "we met", "--key", asked.world.key(NORTH))
    run_cli("care", "approve", uri, *common, "--expires", "2999-12-31", "--use", "public-stream")
    assert "approve of" in capsys.readouterr().out
    found = local.authorities(NAME, 1)["regions"][0]
    assert (found["missing"], found["approval"]) == (["consent (C-F02)"], None)
    run_cli("care", "approve", uri, *common)
    found = local.authorities(NAME, 1)["regions"][0]
    assert (found["missing"], found["approval"]["reason"]) == ([], "we met")
    run_cli("care", "veto", uri, *common, "--scope", "model")
    assert local.authorities(NAME, 1)["regions"][0]["veto"]["expires_at"] is None
    with pytest.raises(Exception, match="none that region north names"):
        run_cli("care", "veto", uri, *common[:-1], asked.world.key(SOUTH))
    with pytest.raises(Exception, match="no such region"):
        run_cli("care", "veto", uri, "--region", "west", *common[2:])


def test_the_controller_reads_from_the_same_routes_what_may_not_be_served(asked, local):
    say(asked, 1, "approve")
    asked.to_canary(1)
    assert local.standing(NAME).recalls == {}
    say(asked, 1, "veto", at=asked.store.admission.clock())
    found = local.standing(NAME)
    assert "region north" in found.recalls[1]
    assert (found.vetoed, found.fallback) == ({1}, None)
    asked.store.move(NAME, 1, Level.CANDIDATE)
    assert local.standing(NAME).recalls == {}
    assert set(local.standing(NAME, [1]).recalls) == local.standing(NAME, [1]).vetoed == {1}


def test_a_statement_for_another_release_of_the_model_says_nothing(asked, world):
    asked.register(world.releases[1])
    envelope = statement(asked, 2, "approve")
    with pytest.raises(MlflowException, match="another version"):
        asked.store.add_attestation(NAME, 1, envelope)
    say(asked, 2, "approve")
    assert "AUTHORITY_NEEDED" in blocking(asked, 1)
