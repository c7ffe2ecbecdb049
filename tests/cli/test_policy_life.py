"""Commands about the life of a policy: lint of exemptions, broken glass, recheck."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from registry.world import NAME
from rich.console import Console

from kfm_mlflow.cli.show import print_recheck, print_report

API = f"/kfm/api/v1/models/{NAME}/versions"


@pytest.fixture(scope="module")
def candidate(server, world):
    """Return a version that stays a candidate: other tests of this server promote theirs."""
    return server.register(world.releases[0])


def test_lint_warns_of_exemptions_that_ended_or_end_soon_and_strict_fails(kfm, world, tmp_path):
    now = datetime.now(UTC)
    ends = {"ended": now - timedelta(days=1), "soon": now + timedelta(days=3)}
    lines = [
        f"- {{gate: xai, models: '*', owner: {owner}, reason: r, expires_at: {at.isoformat()}}}"
        for owner, at in ends.items()
    ]
    path = tmp_path / "climate.yaml"
    text = (world.policies / "climate.yaml").read_text()
    path.write_text(text + "exemptions:\n" + "\n".join(lines) + "\n")
    done = kfm("policy", "lint", path)
    assert done.code == 0
    assert "exemptions.0 (gate xai, ended) expired at" in done.out
    assert "exemptions.1 (gate xai, soon) expires soon" in done.out
    assert kfm("policy", "lint", path, "--strict").code == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--break-glass",),
        ("--break-glass", "--reason", "r", "--ticket", "t"),
        ("--break-glass", "--reason", "r", "--for-hours", "1"),
        ("--break-glass", "--ticket", "t", "--for-hours", "1"),
        ("--ticket", "t"),
        ("--for-hours", "1"),
    ],
)
@pytest.mark.parametrize("command", ["check", "move"])
def test_half_a_request_to_break_the_glass_is_bad_usage(kfm, command, options):
    done = kfm(
        command, "models:/m/1", "--to", "staging", "--server", "http://127.0.0.1:1", *options
    )
    assert done.code == 2


@pytest.mark.server
def test_the_glass_is_not_broken_by_nobody_in_particular_and_check_says_the_same(
    kfm, server, candidate
):
    glass = ("--break-glass", "--reason", "flood", "--ticket", "OPS-1", "--for-hours", "2")
    where = (f"models:/{NAME}/{candidate}", "--to", "staging", "--server", server.url)
    checked = kfm("check", *where, *glass, "--json")
    found = json.loads(checked.out)
    assert (checked.code, found["outcome"]) == (1, "refused")
    moved = kfm("move", *where, *glass)
    moved.fails_in_one_line(1, "break-glass needs a login")
    assert found["sentence"] in moved.err


@pytest.mark.server
@pytest.mark.parametrize(
    "value", ["yes", {}, {"reason": "r", "ticket": "t"}, {"reason": "", "ticket": "t", "hours": 1}]
)
def test_a_malformed_request_to_break_the_glass_is_bad_input_and_writes_nothing(
    server, candidate, value
):
    before = server.state()
    body = {"to": "staging", "break_glass": value}
    assert server.ask("POST", f"{API}/{candidate}/moves", json=body).status_code == 400
    for query in ("hours=1", "hours=x&ticket=t&reason=r", "hours=nan&ticket=t&reason=r"):
        assert server.ask("GET", f"{API}/{candidate}/check?to=staging&{query}").status_code == 400
    assert server.state() == before


@pytest.mark.server
def test_recheck_judges_what_is_promoted_and_writes_nothing(kfm, server, candidate):
    before = server.state()
    done = kfm("recheck", f"models:/{NAME}", "--json", "--server", server.url)
    found = json.loads(done.out)
    levels = server.ask("GET", f"/kfm/api/v1/models/{NAME}").json()["levels"]
    assert str(candidate) not in levels
    assert {str(entry["version"]): entry["level"] for entry in found["versions"]} == levels
    assert done.code == (1 if found["recall_count"] else 0)
    shown = kfm("recheck", "--family", "climate", "--server", server.url)
    assert f"{len(levels)} promoted" in shown.out
    nothing = kfm("recheck", "--family", "baseline", "--server", server.url)
    assert (nothing.code, "0 promoted, 0 to recall" in nothing.out) == (0, True)
    assert server.state() == before


def test_recheck_of_what_is_no_model_is_bad_usage(kfm):
    assert kfm("recheck", f"models:/{NAME}/1", "--server", "http://127.0.0.1:1").code == 2


@pytest.mark.server
def test_the_server_recorded_at_its_start_which_policies_it_runs_under(server):
    rows = server.ask("GET", "/kfm/api/v1/ledger?model=policy:climate").json()["rows"]
    digest = server.ask("GET", "/kfm/api/v1/policies/climate").json()["digest"]
    assert [row["kind"] for row in rows] == ["policy"]
    assert rows[0]["version"] == 0
    listed = server.ask("GET", "/kfm/api/v1/policies/climate/exemptions").json()
    assert listed == {"policy_digest": digest, "exemptions": []}


def _shown(show, value):
    console = Console(file=io.StringIO(), width=200)
    show(value, console=console)
    return console.file.getvalue()


def test_a_report_shows_who_passes_over_what_until_when():
    finding = {"code": "C", "verdict": "FAIL", "detail": "too much", "remedy": ""}
    waiver = {"by": "exemption", "owner": "ada", "reason": "known", "until": "tomorrow"}
    gate = {
        "gate": "telemetry",
        "mode": "enforce",
        "verdict": "PASS",
        "findings": [{**finding, "waiver": waiver}],
    }
    text = _shown(print_report, {"gates": [gate]})
    assert "too much (waived by exemption of ada until tomorrow: known)" in text


def test_recheck_shows_status_reason_remedy_and_what_ended():
    entry = {
        "model_name": "m",
        "version": 2,
        "level": "production",
        "status": "recall",
        "remarks": [{"gate": "sbom", "detail": "missing", "why": "", "remedy": "make one"}],
        "ended": [
            {"by": "exemption", "owner": "ada", "reason": "known", "expired_at": "yesterday"}
        ],
    }
    text = _shown(print_recheck, {"versions": [entry], "recall_count": 1})
    for part in ("m v2", "recall", "sbom: missing", "exemption of ada ended yesterday", "make one"):
        assert part in text
    assert "1 promoted, 1 to recall" in text
