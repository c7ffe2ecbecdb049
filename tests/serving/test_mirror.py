"""Copies for a canary on a real cluster: counted for it to the request, and free for the client."""

import signal
import time

import pytest
from serving.driving import eventually, processes

from kfm_mlflow.rollout.plane import Split
from kfm_serving.names import release_app
from kfm_serving.router import MAX_COPIES
from kfm_serving.split import wants_copy

pytestmark = pytest.mark.ray


def copies(before, after):
    """Return what came of the canary's copies: counted, errors, dropped."""
    names = ("request_count", "error_count", "dropped_count")
    a, b = before.arms[2], after.arms[2]
    return tuple(getattr(b, name) - getattr(a, name) for name in names)


def test_the_copied_share_is_exact_to_the_hash_and_its_answers_are_measured(fleet, client):
    split = fleet.split(1, 2, copied=0.5)
    before = fleet.plane.observe()
    for k in range(60):
        status, headers, _ = client.score(f"farm-{k}")
        assert (status, headers["X-KFM-Version"]) == (200, "1")
    due = sum(wants_copy(split, f"farm-{k}".encode()) for k in range(60))
    assert 0 < due < 60
    eventually(lambda: sum(copies(before, fleet.plane.observe())[::2]) == due)
    after = fleet.plane.observe()
    counted, errors, dropped = copies(before, after)
    assert (counted + dropped, errors) == (due, 0)
    assert after.arms[1].request_count - before.arms[1].request_count == 60
    name = "amplification_ratio"
    measured = after.arms[2].measured_count[name] - before.arms[2].measured_count.get(name, 0)
    assert measured == counted


def test_a_canary_that_hangs_makes_no_client_wait_for_its_copies_and_one_for_its_share(
    fleet, client
):
    fleet.split(1, 2, copied=1.0)
    (process,) = processes(release_app(fleet.release(2).model_name, 2))
    before = fleet.plane.observe()
    process.send_signal(signal.SIGSTOP)
    try:
        took_s = []
        for k in range(40):
            started_s = time.perf_counter()
            status, headers, _ = client.score(f"{k}")
            took_s.append(time.perf_counter() - started_s)
            assert (status, headers["X-KFM-Version"]) == (200, "1")
        # A client that waited for a copy waited for the canary's deadline, one second.
        assert sorted(took_s)[len(took_s) // 2] < 0.5
        eventually(lambda: sum(copies(before, fleet.plane.observe())[::2]) == 40)
        counted, errors, dropped = copies(before, fleet.plane.observe())
        assert counted == errors >= MAX_COPIES
        assert dropped > 0
        fleet.split(1, 2, 1.0)
        started_s = time.perf_counter()
        status, headers, _ = client.score("late")
        assert (status, headers["X-KFM-Version"]) == (200, "1")
        assert time.perf_counter() - started_s >= 1.0
    finally:
        process.send_signal(signal.SIGCONT)
    assert copies(before, fleet.plane.observe()) == (counted + 1, errors + 1, dropped)


def test_a_split_that_copies_is_read_back_whole_and_needs_its_canary(fleet):
    from kfm_mlflow.errors import PlaneError

    split = fleet.split(1, 2, copied=0.25)
    assert fleet.plane._state.read_split().to_split() == split
    fleet.plane.set_split(split)
    with pytest.raises(PlaneError, match="still has traffic"):
        fleet.plane.remove(2)
    with pytest.raises(PlaneError, match="version 99 is not deployed"):
        fleet.plane.set_split(Split(split.generation + 10**6, 1, 99, 0.0, {}, 1.0))
