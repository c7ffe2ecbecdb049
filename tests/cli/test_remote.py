"""Commands that talk to a server: the real one, and none at all."""

from __future__ import annotations

import json
import socket

import pytest
from registry.world import COUNCIL, NAME, claims_of, only_refused

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def version(server, world):
    """Return a new candidate that nothing was asked of yet."""
    return server.register(world.releases[0])


def test_check_prints_json_with_the_digest_of_the_move_and_exits_1_when_refused(
    kfm, server, version
):
    before = server.state()
    done = kfm(
        *("check", f"models:/{NAME}/{version}", "--to", "production", "--json"),
        *("--server", server.url),
    )
    assert (done.code, done.err) == (1, "")
    found = json.loads(done.out)
    assert (found["verdict"], found["report"]["from_level"]) == ("FAIL", "candidate")
    assert found["sentence"].startswith("KFM refused Production")
    assert server.state() == before
    moved = kfm("move", f"models:/{NAME}/{version}", "--to", "production", "--server", server.url)
    moved.fails_in_one_line(1, found["sentence"])
    body = only_refused(before, server.state())["body"]
    assert claims_of(body)["report_digest"] == found["digest"]


def test_check_for_people_lists_gates_and_remedies(kfm, server, version, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    done = kfm("check", f"models:/{NAME}/{version}", "--to", "production")
    assert done.code == 1
    assert "votes 0 of 3" in done.out
    assert "→ kfm vote models:/" in done.out


def test_a_registered_release_verifies_from_the_server(kfm, server, world, version):
    done = kfm(
        *("verify", f"models:/{NAME}/{version}", "--server", server.url),
        *("--policy-dir", world.policies),
    )
    assert done.code == 0, done.err
    assert "PASS" in done.out


def test_move_vote_ledger_and_restore_by_command(kfm, server, world, version):
    """From candidate to canary, a vote, down again, and the ledger about it."""
    uri, at = f"models:/{NAME}/{version}", ("--server", server.url)
    staged = kfm("move", uri, "--to", "staging", *at)
    if "is taken by" in staged.err:
        pytest.fail(staged.err)
    assert "is at staging; ledger row" in staged.out
    assert "it was there already" in kfm("move", uri, "--to", "staging", *at).out
    vote = ("vote", uri, "--to", "canary", "--reason", "looked at it", *at)
    done = kfm(*vote, "--key", world.key(COUNCIL[0]), "--approve")
    assert done.code == 0, done.err
    kfm(*vote, "--key", world.key("trainer"), "--approve").fails_in_one_line(2, "no member")
    assert kfm(*vote, "--key", world.key(COUNCIL[0])).code == 2
    never = kfm("move", uri, "--to", "candidate", "--restore", "1", *at)
    never.fails_in_one_line(2)
    assert "is at candidate" in kfm("move", uri, "--to", "candidate", *at).out
    listed = kfm("ledger", "list", NAME, *at)
    assert listed.code == 0
    assert f"{NAME} v{version}  candidate → staging  PASS  by unauthenticated" in listed.out
    verified = kfm("ledger", "verify", *at)
    assert verified.code == 0
    assert "rows, chain intact" in verified.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", f"models:/{NAME}/99", "--to", "staging"), "not found"),
        (("check", f"models:/{NAME}/1", "--to", "live"), "is no level"),
        (("check", "models:/none/1", "--to", "staging"), "not found"),
        (("check", "somewhere", "--to", "staging"), "is not models:/NAME/VERSION"),
        (("check", f"models:/{NAME}@champion", "--to", "staging"), "is not models:/NAME/VERSION"),
        (("verify", "models:/none/1"), "not found"),
        (("verify", f"models:/{NAME}"), "is not models:/NAME/VERSION"),
        (("move", f"models:/{NAME}/99", "--to", "staging"), "not found"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(kfm, server, version, arguments, words):
    kfm(*arguments, "--server", server.url).fails_in_one_line(2, words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "models:/m/1", "--to", "staging"),
        ("move", "models:/m/1", "--to", "staging"),
        ("verify", "models:/m/1"),
        ("ledger", "list"),
        ("ledger", "verify"),
        ("rollout", "status", "m"),
    ],
)
def test_no_server_or_one_that_is_not_there_is_one_line(kfm, arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        kfm(*arguments, "--server", url).fails_in_one_line(1, "cannot be reached", url)
    kfm(*arguments).fails_in_one_line(2, "is no URL of a server")
    kfm(*arguments, "--server", "sqlite:///x.db").fails_in_one_line(2, "is no URL of a server")
