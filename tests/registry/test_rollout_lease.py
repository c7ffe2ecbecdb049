"""The lease on a model's rollouts, over HTTP and on both databases: one holder, by one clock."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from registry.asking import request_of, with_roles
from registry.loopback import listening
from registry.world import BOTH, NAME, told

from kfm_mlflow.errors import ConflictError, InputError
from kfm_mlflow.registry.journal import give_back_lease, hold_lease, write_journal
from kfm_mlflow.rollout.ports import Lease
from kfm_mlflow.rollout.remote import RemoteRegistry

pytestmark = pytest.mark.parametrize("database_kind", BOTH)
TTL_S = 15.0


@pytest.fixture
def remote(two, monkeypatch):
    """Return the client that controllers have, of a registry whose clock the test holds."""
    with listening(two, monkeypatch) as url:
        yield RemoteRegistry(url)


def pass_time(registry, seconds):
    registry.now += timedelta(seconds=seconds)


def take(remote, holder, ttl_s=TTL_S):
    return remote.hold_lease(NAME, holder, ttl_s)


def held(token, holder, left_s):
    return Lease(leader=True, token=token, holder=holder, expires_in_s=left_s)


def told_of(token, holder, left_s):
    return replace(held(token, holder, left_s), leader=False)


def keep(remote, token, expected, **state):
    remote.save_journal(NAME, state, expect_generation=expected, token=token)


def test_one_holds_it_and_the_other_is_told_who_and_for_how_long(two, remote):
    assert take(remote, "one") == held(1, "one", TTL_S)
    pass_time(two, 5)
    assert take(remote, "other") == told_of(1, "one", TTL_S - 5)
    assert remote.lease(NAME) == told_of(1, "one", TTL_S - 5)


def test_it_ends_by_itself_and_the_next_holder_has_a_greater_token(two, remote):
    take(remote, "one")
    pass_time(two, TTL_S - 0.001)
    assert not take(remote, "other").leader
    pass_time(two, 0.001)
    assert remote.lease(NAME) == told_of(1, "", 0.0)
    assert take(remote, "other") == held(2, "other", TTL_S)
    assert take(remote, "one") == told_of(2, "other", TTL_S)


def test_a_holder_that_keeps_asking_keeps_it_and_its_token(two, remote):
    for _ in range(10):
        assert take(remote, "one").token == 1
        pass_time(two, TTL_S / 2)
    assert not take(remote, "other").leader


def test_asking_often_writes_seldom(two, remote):
    take(remote, "one")
    before = two.state()
    pass_time(two, 1)
    assert take(remote, "one").expires_in_s == TTL_S - 1
    assert two.state() == before
    pass_time(two, 5)
    assert take(remote, "one").expires_in_s == TTL_S


def test_who_gives_it_back_lets_the_next_begin_at_once_and_nobody_else_can(two, remote):
    take(remote, "one")
    remote.release_lease(NAME, "other")
    assert not take(remote, "other").leader
    remote.release_lease(NAME, "one")
    assert take(remote, "other") == held(2, "other", TTL_S)
    # Given back is given up: coming again makes a new holder.
    remote.release_lease(NAME, "other")
    assert take(remote, "other").token == 3


def test_a_registrys_clock_that_is_set_back_lets_nobody_wait_longer_than_was_asked_for(two, remote):
    take(remote, "one")
    pass_time(two, -86400)
    assert take(remote, "other") == told_of(1, "one", TTL_S)
    pass_time(two, TTL_S)
    assert take(remote, "other").leader


def test_the_journal_takes_nothing_of_who_lost_the_lease(two, remote):
    """Also when it never noticed, and has read the newest generation."""
    first = take(remote, "one").token
    keep(remote, first, 0, phase="by one")
    pass_time(two, TTL_S)
    # Nobody else came: it may go on.
    keep(remote, first, 1, phase="late")
    second = take(remote, "other").token
    before = two.state()
    for token in (first, 0, second + 1):
        with pytest.raises(ConflictError, match=rf"was taken over \(lease 2, not {token}\)"):
            keep(remote, token, 2, phase="deposed")
    assert two.state() == before
    keep(remote, second, 2, phase="by other")
    assert remote.load_journal(NAME) == {"phase": "by other"}


def test_without_any_lease_ever_the_journal_is_written_as_before(remote):
    keep(remote, 0, 0, phase="steady")
    with pytest.raises(ConflictError):
        keep(remote, 1, 1, phase="made up")


def test_of_many_who_ask_at_once_one_leads(two):
    answers, barrier = [], threading.Barrier(6)

    def ask(holder):
        barrier.wait()
        answers.append(hold_lease(two.store, NAME, holder=holder, ttl_s=TTL_S))

    threads = [threading.Thread(target=ask, args=(f"c{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert [answer["leader"] for answer in answers].count(True) == 1
    assert {(answer["holder"], answer["token"]) for answer in answers} == {
        (answers[0]["holder"], 1)
    }


def test_what_no_lease_can_be_is_refused_and_nothing_written(two, remote):
    before = two.state()
    for holder, ttl_s in (("", 1.0), ("x" * 129, 1.0), ("a\nb", 1.0), ("one", 0.0), ("one", 1e4)):
        with pytest.raises(InputError):
            take(remote, holder, ttl_s)
    with pytest.raises(InputError, match="no registered model"):
        remote.hold_lease("no-such-model", "one", TTL_S)
    assert two.state() == before


def test_it_is_held_by_whoever_may_start_a_rollout(two):
    with_roles(two)
    before = two.state()
    with request_of("tom"), told(403, "roles that may carry a rollout: operator"):
        hold_lease(two.store, NAME, holder="one", ttl_s=TTL_S)
    with request_of(), told(403, "nobody is logged in"):
        give_back_lease(two.store, NAME, holder="one")
    assert two.state() == before
    with request_of("olga"):
        token = hold_lease(two.store, NAME, holder="one", ttl_s=TTL_S)["token"]
        assert write_journal(two.store, NAME, {}, expected=0, token=token) == 1
