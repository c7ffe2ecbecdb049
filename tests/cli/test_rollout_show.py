"""Reading along from a shell, against a real server: what is printed, and how the command ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

import pytest
from conftest import free_port
from rollout.stories import chapters, journal_at

from kfm_mlflow.cli.rollout_show import follow
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.rollout.state import Phase

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]
MODEL = "climate-read-along"


@pytest.fixture(scope="module")
def registry(server):
    """Return the session's registry with a model of our own in it."""
    if not server.client().search_registered_models(f"name = '{MODEL}'"):
        server.client().create_registered_model(MODEL)
    return RemoteRegistry(server.url)


@pytest.fixture
def write(server):
    """Return what writes a model's journal as a controller would."""

    def written(journal):
        path = f"/kfm/api/v1/models/{MODEL}/rollout"
        known = server.ask("GET", path).json()["generation"]
        answer = server.ask("PUT", path, json={"expected": known, "state": journal})
        assert answer.status_code == 200, answer.text

    return written


class Stage:
    """A clock whose seconds are the acts of a play."""

    def __init__(self, acts):
        self._acts = list(acts)
        self._now = datetime(2026, 11, 20, tzinfo=UTC)

    def now(self):
        """Return the present instant."""
        return self._now

    def sleep(self, duration_s):
        """Let the next act be played."""
        self._now += timedelta(seconds=duration_s)
        if self._acts:
            self._acts.pop(0)()


def followed(registry, acts, *, until=None, timeout_s=60.0):
    """Watch while something happens; return the exit code and what was said, without the times."""
    said = []
    code = follow(
        registry,
        MODEL,
        Stage(acts),
        until=until,
        timeout_s=timeout_s,
        interval_s=1,
        say=said.append,
    )
    return code, [line.partition("  ")[2] for line in said]


@pytest.mark.parametrize("phase", Phase)
def test_status_says_what_why_and_what_next_in_every_phase(registry, write, kfm, phase):
    journal = journal_at(phase)
    told = journal["narrative"]
    write(journal)
    said = kfm("rollout", "status", MODEL, "--server", registry.server)
    assert said.code == 0
    for name in ("phase", "happening", "traffic", "reason", "next", "to_do", "on_deadline"):
        assert told[name] in said.out
    for name in ("next_at", "deadline_at"):
        assert told[name] is None or told[name][:19] in said.out


def test_status_as_json_is_the_journal_itself(registry, write, kfm):
    journal = journal_at("Canary", "a good canary")
    write(journal)
    said = kfm("rollout", "status", MODEL, "--server", registry.server, "--json")
    assert json.loads(said.out)["rollout"] == journal


def test_a_watch_says_each_change_once_with_reason_and_next_step(registry, write):
    story = [c.journal for c in chapters() if c.story == "a good canary"]
    write(story[0])
    acts = [lambda journal=journal: write(journal) for journal in story[1:]]
    code, said = followed(registry, acts, until=Phase.SUCCEEDED)
    assert code == 0
    of_lines = [line.split()[0] for line in said]
    of_story = [journal["phase"] for journal in story]
    assert [p for p, _ in groupby(of_lines)] == [p for p, _ in groupby(of_story)]
    assert {*of_lines} >= {"Pending", "Paused", "AwaitingAdmission", "Promoting", "Soaking"}
    assert all(" | why: " in line and " | next: " in line for line in said)
    assert not [one for one, following in pairwise(said) if one == following]
    assert len(said) < len(story)
    waiting = next(line for line in said if "votes 1 of 3" in line)
    assert "until 2026-11-20T12:00:" in waiting
    assert "v2 is given up, and v1 gets every request again" in waiting


def test_numbers_that_only_grow_are_no_change_worth_a_line(registry, write):
    journal = journal_at("Canary", "a good canary")
    told = journal["narrative"]
    later = {**told, "measured": "more", "next_at": told["deadline_at"], "arms": []}
    write(journal)
    code, said = followed(
        registry, [lambda: write({**journal, "narrative": later})], until=None, timeout_s=3
    )
    assert (code, len(said)) == (2, 2)
    assert said[-1] == "stopped after 3 s"


@pytest.mark.parametrize(
    "case",
    [
        ("Succeeded", "Succeeded", 0),
        ("Succeeded", "Soaking", 0),
        ("Soaking", "soaking", 0),
        ("RolledBack", "Succeeded", 1),
        ("RolledBack", "RolledBack", 0),
        ("RollbackFailed", "Succeeded", 2),
        ("RollbackFailed", "RollbackFailed", 0),
        ("Canary", "Succeeded", 2),
    ],
)
def test_the_exit_code_says_how_a_rollout_that_was_waited_for_ended(registry, write, kfm, case):
    phase, until, code = case
    write(journal_at(phase))
    asked = ("--until", until, "--timeout-s", 0)
    said = kfm("rollout", "watch", MODEL, "--server", registry.server, *asked)
    assert said.code == code, (said.out, said.err)
    loud = "!!! " if phase == "RollbackFailed" else ""
    assert said.out.splitlines()[0].partition("Z  ")[2].startswith(f"{loud}{phase} ")


def test_a_watch_is_stopped_without_a_traceback(registry, write, kfm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    write(journal_at("Canary"))
    monkeypatch.setattr(SystemClock, "sleep", interrupted)
    said = kfm("rollout", "watch", MODEL, "--server", registry.server)
    assert (said.code, said.err.strip()) == (130, "kfm: stopped")
    assert said.out.count("\n") == 1


def test_an_earlier_rollout_is_not_taken_for_the_one_that_is_to_begin(registry, write, monkeypatch):
    from kfm_mlflow.rollout.inputs import Levels

    write(journal_at("RolledBack"))
    monkeypatch.setattr(registry, "levels", lambda _: Levels(production=1, canary=3))
    code, said = followed(registry, [], until=Phase.SUCCEEDED, timeout_s=3)
    assert code == 2
    assert said[0] == "v3 is at canary; no controller has begun its rollout yet"


def test_a_registry_that_is_away_is_said_once_and_waited_for(registry, write, monkeypatch):
    write(journal_at("Succeeded"))
    away = RemoteRegistry(f"http://127.0.0.1:{free_port()}")
    code, said = followed(away, [], timeout_s=2)
    assert (code, len(said)) == (2, 2)
    assert said[0].startswith("the registry does not answer: ")
    code, said = followed(registry, [], until=Phase.SUCCEEDED)
    assert code == 0
