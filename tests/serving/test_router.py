"""The router's own logic in one event loop, over releases in memory: no Ray, no clock but limits.

A release is a stand-in for Serve's handle: ``remote`` gives something to await and to cancel.
"""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from kfm_mlflow.rollout.plane import Band, Split
from kfm_serving.counts import merge_tallies
from kfm_serving.desired import DesiredSplit
from kfm_serving.replica import Answer
from kfm_serving.router import MAX_COPIES, Router
from kfm_serving.split import choose_version, wants_copy

BANDS = {"a": Band(0.0, 1.0)}
GOOD = Answer(200, b"good", statistics={"a": 0.5})
WRONG = Answer(500, b"wrong", "model")
MISTAKE = Answer(400, b"mistake", "client")
CANARY_DEADLINE_S = 0.02


class Call(asyncio.Future):
    """One call under way."""


class Release:
    """Answers with what it was made with; an exception is raised, None never comes."""

    def __init__(self, *answers):
        self.answers, self.calls, self.pings = list(answers), [], 0
        self.was_asked = asyncio.Event()

    @property
    def ping(self):
        """Be asked whether it is there."""
        self.pings += 1
        return Remote(lambda: done("pong"))

    @property
    def predict(self):
        """Be asked to score."""
        return Remote(self._next)

    def _next(self, _body, _content_type):
        call = Call()
        self.was_asked.set()
        answer = self.answers[min(len(self.calls), len(self.answers) - 1)]
        self.calls.append(call)
        if isinstance(answer, Exception):
            call.set_exception(answer)
        elif answer is not None:
            call.set_result(answer)
        return call


class Silent(Release):
    """Does not answer a ping."""

    @property
    def ping(self):
        """Fail."""
        raise RuntimeError("no pong")


class Remote:
    def __init__(self, call):
        self.remote = call


def done(value):
    call = Call()
    call.set_result(value)
    return call


class MemoryRouter(Router):
    """A router whose releases are in memory; only where handles come from is another."""

    def __init__(self, **releases):
        super().__init__("m", "/", deadline_s=5.0, canary_deadline_s=CANARY_DEADLINE_S)
        self.releases = {int(name[1:]): release for name, release in releases.items()}

    async def _warm_handle(self, version):
        handle = self.releases[version]
        await handle.ping.remote()
        return handle

    async def set(self, split):
        """Take a split as a broadcast brings it."""
        desired = DesiredSplit.from_split(split, {v: f"d{v}" for v in self.releases})
        return await self.apply(desired.to_bytes())

    async def score(self, key="k", body=b"{}"):
        """Answer one request; return status, version and body."""

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(b"x-kfm-key", key.encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
        scope |= {"query_string": b"", "root_path": "", "server": ("h", 80), "scheme": "http"}
        response = await self(Request(scope, receive))
        return response.status_code, response.headers.get("x-kfm-version"), response.body

    async def settle(self):
        """Wait for all copies."""
        while self._copies:
            await asyncio.gather(*self._copies)

    def counted(self, version):
        """Return what was counted for a version."""
        tally = self._tallies.get(f"d{version}")
        return merge_tallies([] if tally is None else [tally.to_dict()])


def shadow(ratio=1.0, stable=1, generation=1):
    return Split(generation, stable, 2, 0.0, BANDS, mirror_ratio=ratio)


def canary(ratio=1.0, stable=1, generation=1):
    return Split(generation, stable, 2, ratio, BANDS)


@given(ratio=st.floats(0, 1), count=st.integers(0, 40))
def test_copies_are_the_keys_that_the_canary_would_get_and_are_counted_for_it_alone(ratio, count):
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(GOOD))
        await router.set(shadow(ratio))
        for k in range(count):
            assert await router.score(f"farm-{k}") == (200, "1", b"good")
            await router.settle()
        return router

    router = asyncio.run(story())
    due = [k for k in range(count) if choose_version(canary(ratio), f"farm-{k}".encode()) == 2]
    assert due == [k for k in range(count) if wants_copy(shadow(ratio), f"farm-{k}".encode())]
    assert router.counted(1).request_count == count
    copies = router.counted(2)
    assert (copies.request_count, copies.error_count, copies.dropped_count) == (len(due), 0, 0)
    assert copies.measured_count == ({"a": len(due)} if due else {})


@pytest.mark.parametrize(
    ("copy", "errors", "answers"),
    [
        (GOOD, 0, 1),
        (WRONG, 1, 1),
        (RuntimeError("replica died"), 1, 0),
        (None, 1, 0),
        (MISTAKE, 1, 1),
        (Answer(451, b"", masking="withheld"), 0, 1),
    ],
    ids=["good", "wrong", "lost", "hangs", "calls a good request a mistake", "withheld"],
)
def test_whatever_becomes_of_a_copy_the_client_gets_stables_answer_and_the_canary_the_count(
    copy, errors, answers
):
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(copy))
        await router.set(shadow())
        found = await router.score()
        await router.settle()
        return found, router

    found, router = asyncio.run(story())
    assert found == (200, "1", b"good")
    counts = router.counted(2)
    assert (counts.request_count, counts.error_count) == (1, errors)
    assert max(counts.latency_ms_buckets.values()) == answers
    assert router.counted(1).error_count == 0


def test_the_answer_is_there_before_the_copy_is_sent():
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(None))
        await router.set(shadow())
        await router.score()
        sent = len(router.releases[2].calls)
        await asyncio.sleep(0)
        return sent, len(router.releases[2].calls)

    assert asyncio.run(story()) == (0, 1)


def test_a_canary_that_hangs_holds_so_many_copies_and_the_rest_is_dropped_not_counted():
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(None))
        await router.set(shadow())
        for k in range(MAX_COPIES + 5):
            assert (await router.score(f"{k}"))[0] == 200
        under_way = len(router._copies)
        await router.settle()
        assert all(call.cancelled() for call in router.releases[2].calls)
        await router.score("later")
        await router.settle()
        return under_way, router.counted(2)

    under_way, counts = asyncio.run(story())
    assert under_way == MAX_COPIES
    assert counts.dropped_count == 5
    assert (counts.request_count, counts.error_count) == (MAX_COPIES + 1, MAX_COPIES + 1)


def test_without_a_stable_release_copies_are_sent_and_the_client_is_told_to_come_back():
    async def story():
        router = MemoryRouter(v2=Release(GOOD))
        await router.set(shadow(stable=None))
        status = (await router.score())[0]
        await router.settle()
        return status, router.counted(2)

    status, counts = asyncio.run(story())
    assert (status, counts.request_count, counts.error_count) == (503, 1, 0)


def test_a_mistake_that_stable_sees_too_is_nobodys_error():
    async def story(split):
        router = MemoryRouter(v1=Release(MISTAKE), v2=Release(MISTAKE))
        await router.set(split)
        assert await router.score() == (400, "1", b"mistake")
        await router.settle()
        return router.counted(1).request_count, router.counted(2).request_count

    assert asyncio.run(story(shadow())) == (0, 0)
    assert asyncio.run(story(canary())) == (0, 0)


def test_no_copy_is_sent_by_a_split_that_was_replaced_meanwhile():
    async def story():
        slow = Release(None)
        router = MemoryRouter(v1=slow, v2=Release(GOOD))
        await router.set(shadow())
        answer = asyncio.create_task(router.score())
        await slow.was_asked.wait()
        await router.set(canary(0.0, generation=2))
        slow.calls[0].set_result(GOOD)
        assert (await answer)[0] == 200
        await router.settle()
        return router.counted(2).request_count

    assert asyncio.run(story()) == 0


@pytest.mark.parametrize(
    ("first", "has_latency"),
    [(WRONG, True), (RuntimeError("replica died"), False), (None, False), (MISTAKE, True)],
    ids=["wrong", "lost", "late", "calls a good request a mistake"],
)
def test_a_canary_that_fails_is_counted_once_and_stable_answers_uncounted(first, has_latency):
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(first))
        await router.set(canary())
        return await router.score(), router

    found, router = asyncio.run(story())
    assert found == (200, "1", b"good")
    counts = router.counted(2)
    assert (counts.request_count, counts.error_count) == (1, 1)
    assert max(counts.latency_ms_buckets.values()) == has_latency
    assert router.counted(1).request_count == 0
    assert [len(router.releases[v].calls) for v in (1, 2)] == [1, 1]


@pytest.mark.parametrize(
    ("answers", "status", "calls"),
    [
        ((RuntimeError("died"), GOOD), 200, 2),
        ((RuntimeError("died"), RuntimeError("died"), GOOD), 503, 2),
        ((WRONG, GOOD), 500, 1),
    ],
    ids=["lost once", "lost twice", "wrong"],
)
def test_what_was_lost_with_a_replica_is_sent_once_more_and_a_wrong_answer_is_not(
    answers, status, calls
):
    async def story():
        router = MemoryRouter(v1=Release(*answers))
        await router.set(Split(1, 1, None, 0.0))
        return (await router.score())[0], len(router.releases[1].calls)

    assert asyncio.run(story()) == (status, calls)


def test_a_release_is_pinged_before_it_is_visible_and_one_that_does_not_answer_changes_nothing():
    async def story():
        router = MemoryRouter(v1=Release(GOOD))
        await router.set(Split(1, 1, None, 0.0))
        assert router.releases[1].pings == 1
        router.releases[2] = Silent(GOOD)
        with pytest.raises(RuntimeError, match="no pong"):
            await router.set(canary(generation=2))
        assert (await router.score())[1] == "1"
        assert router._snapshot.split.generation == 1
        return router.releases[1].pings

    assert asyncio.run(story()) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_generation_in_force_is_the_highest_that_came_in_any_order(generations):
    async def story():
        router = MemoryRouter(v1=Release(GOOD), v2=Release(GOOD))
        for number in generations:
            split = canary(number / 10, generation=number)
            assert await router.set(split) == router._snapshot.split.generation
        return router._snapshot.split

    split = asyncio.run(story())
    assert split == canary(max(generations) / 10, generation=max(generations))


def test_a_mirror_survives_the_wire():
    split = shadow(0.25)
    desired = DesiredSplit.from_split(split, {1: "a", 2: "b"})
    assert DesiredSplit.model_validate(json.loads(desired.to_bytes())).to_split() == split
