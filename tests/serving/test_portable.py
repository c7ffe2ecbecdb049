"""The portable plane on a real Ray cluster: one cluster, one model, all tests.

Each test sets the split that it needs, with the next generation, and compares counts with what
they were before it.
"""

import json
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest
from serving.driving import Load, eventually, grown, kill_one, processes

from kfm_mlflow.errors import InputError, PlaneError
from kfm_mlflow.rollout.plane import Band, Deployable, Split
from kfm_serving import applications
from kfm_serving.cluster import attach, check_port, free_port, start_local
from kfm_serving.desired import DesiredSplit
from kfm_serving.names import release_app, router_app
from kfm_serving.portable import PortablePlane
from kfm_serving.split import choose_version

pytestmark = pytest.mark.ray

DOUBLED, TRIPLED = [[[[2.0, 4.0], [6.0, 8.0]]]], [[[[3.0, 6.0], [9.0, 12.0]]]]


def test_before_a_first_stable_release_the_rest_is_told_to_come_back(fleet, client):
    split = fleet.split(None, 2, 0.5)
    seen = Counter()
    for k in range(40):
        status, headers, body = client.score(f"k{k}")
        assert status == (503 if choose_version(split, f"k{k}".encode()) is None else 200)
        seen[status] += 1
        if status == 503:
            assert int(headers["Retry-After"]) >= 1
            assert json.loads(body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert "no stable release" in json.loads(body)["message"]
    assert set(seen) == {200, 503}


def test_the_split_is_exact_to_the_hash_and_the_counts_to_the_request(fleet, client):
    fleet.split(1)
    before = fleet.plane.observe()
    split = fleet.split(1, 2, 0.1)
    expected = Counter()
    for k in range(300):
        version = choose_version(split, f"farm-{k}".encode())
        status, headers, body = client.score(f"farm-{k}")
        assert status == 200
        assert headers["X-KFM-Version"] == str(version)
        assert headers["X-KFM-Generation"] == str(split.generation)
        assert json.loads(body) == {"predictions": {"y": DOUBLED if version == 1 else TRIPLED}}
        expected[version] += 1
    after = fleet.plane.observe()
    assert after.generation == split.generation
    assert expected[2] > 10
    for version in (1, 2):
        assert grown(before, after, version) == (expected[version], 0)
        a, b = before.arms[version], after.arms[version]
        name, last = "amplification_ratio", max(b.latency_ms_buckets)
        assert b.measured_count[name] - a.measured_count.get(name, 0) == expected[version]
        assert b.outside_count == {}
        assert b.latency_ms_buckets[last] - a.latency_ms_buckets[last] == expected[version]


def test_the_same_body_goes_to_the_same_version_when_there_is_no_key(fleet, client):
    fleet.split(1, 2, 0.5)
    bodies = [json.dumps({"inputs": [[[[k, 2.0], [3.0, 4.0]]]]}) for k in range(12)]
    answers = [[client.score(body=b)[1]["X-KFM-Version"] for b in bodies] for _ in range(2)]
    assert answers[0] == answers[1]
    assert set(answers[0]) == {"1", "2"}


def test_a_whole_life_under_load_fails_no_request_and_counts_every_one(fleet, serve_port):
    fleet.split(1)
    before = fleet.plane.observe()
    with Load(serve_port, 2) as load:
        fleet.deploy(6, lambda d: fleet.models.times(d, 3.4))
        for ratio in (0.1, 0.5, 1.0):
            fleet.split(1, 6, ratio)
            load.await_more(40)
        fleet.split(6)
        load.await_more(20)
        first_life = fleet.plane.observe()
        first_seen = load.seen[200, "1"]
        fleet.plane.remove(1)
        load.await_more(20)
        fleet.deploy(1, None)
        fleet.split(1)
        load.await_more(20)
        six = fleet.plane.observe().arms[6]
        fleet.plane.remove(6)
        load.await_more(20)
    after = fleet.plane.observe()
    assert set(load.seen) == {(200, "1"), (200, "6")}
    assert grown(before, first_life, 1) == (first_seen, 0)
    assert (six.request_count, six.error_count) == (load.seen[200, "6"], 0)
    second_life = after.arms[1]
    assert second_life.request_count == load.seen[200, "1"] - first_seen
    assert second_life.error_count == 0
    assert fleet.plane.deployed() == frozenset({1, 2})


def test_a_second_plane_for_the_model_carries_on_with_its_state(fleet, serve_port):
    split = fleet.split(1, 2, 0.25)
    other = PortablePlane(fleet.release(1).model_name, port=serve_port)
    assert other.deployed() == frozenset({1, 2})
    assert other.observe() == fleet.plane.observe()
    assert other.observe().generation == split.generation


def test_a_generation_that_is_not_newer_is_refused_and_the_same_split_again_is_not(fleet):
    split = fleet.split(1, 2, 0.25)
    fleet.plane.set_split(split)
    with pytest.raises(PlaneError, match="not newer"):
        fleet.plane.set_split(Split(split.generation, 1, 2, 0.5))
    with pytest.raises(PlaneError, match="version 99 is not deployed"):
        fleet.plane.set_split(Split(split.generation + 10**6, 99, None, 0.0))
    assert fleet.plane.observe().generation == split.generation


def test_deploying_again_changes_nothing_and_another_release_of_the_version_is_refused(fleet):
    (before,) = processes(release_app(fleet.release(1).model_name, 1))
    release = fleet.release(1)
    fleet.plane.deploy(release, timeout_s=10)
    assert before.is_running()
    other = Deployable(release.model_name, 1, "sha256:" + "f" * 64, release.release_dir)
    with pytest.raises(PlaneError, match="up with another release"):
        fleet.plane.deploy(other, timeout_s=10)
    foreign = Deployable("another model", 1, release.release_id, release.release_dir)
    with pytest.raises(InputError, match="given to the plane of"):
        fleet.plane.deploy(foreign, timeout_s=10)


def test_deploying_a_stable_release_whose_replica_just_died_waits_for_it(fleet, client):
    fleet.split(1)
    pid = kill_one(release_app(fleet.release(1).model_name, 1))
    fleet.plane.deploy(fleet.release(1), timeout_s=20)
    assert client.score("k")[0] == 200
    (process,) = processes(release_app(fleet.release(1).model_name, 1))
    assert process.pid != pid


def test_a_clients_mistake_is_answered_and_not_counted(fleet, client):
    fleet.split(1, 2, 0.5)
    before = fleet.plane.observe()
    for k in range(6):
        status, headers, body = client.score(f"k{k}", b"{")
        assert status == 400
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body)["error_code"] == "BAD_REQUEST"
        assert client.score(f"k{k}", Content_Type="text/csv")[0] == 415
        assert client.score(f"k{k}", '{"inputs": [[[[NaN, 1], [1, 1]]]]}')[0] == 400
    assert fleet.plane.observe() == before


def test_the_other_routes_are_mlflows(fleet, client):
    import mlflow

    for path in ("/ping", "/health"):
        status, _, body = client.send("GET", path)
        assert (status, body) == (200, b"\n")
    assert client.send("GET", "/version")[2].decode() == mlflow.__version__
    for method, path in (("GET", "/"), ("GET", "/invocations"), ("POST", "/ping")):
        status, _, body = client.send(method, path)
        assert (status, json.loads(body)["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


def test_a_canary_that_raises_is_counted_and_the_stable_release_answers(fleet, client):
    fleet.deploy(3, fleet.models.only_one_row)
    fleet.split(1, 3, 1.0)
    before = fleet.plane.observe()
    two_rows = json.dumps({"inputs": [[[[1.0, 2.0], [3.0, 4.0]]]] * 2})
    for k in range(5):
        status, headers, body = client.score(f"k{k}", two_rows)
        assert (status, headers["X-KFM-Version"]) == (200, "1")
        assert json.loads(body) == {"predictions": {"y": DOUBLED * 2}}
    after = fleet.plane.observe()
    assert grown(before, after, 3) == (5, 5)
    assert grown(before, after, 1) == (0, 0)
    with pytest.raises(PlaneError, match="still has traffic"):
        fleet.plane.remove(3)
    fleet.split(1)
    fleet.plane.remove(3)
    assert fleet.plane.deployed() == frozenset({1, 2})
    assert grown(before, fleet.plane.observe(), 3) == (5, 5)


def test_flat_answers_are_counted_outside_the_band_and_a_new_deployment_starts_at_zero(
    fleet, client
):
    fleet.deploy(4, fleet.models.flat)
    fleet.split(1, 4, 1.0)
    for k in range(7):
        assert client.score(f"k{k}")[0] == 200
    arm = fleet.plane.observe().arms[4]
    assert (arm.request_count, arm.error_count) == (7, 0)
    assert arm.outside_count == arm.measured_count == {"amplification_ratio": 7}
    fleet.split(1)
    fleet.plane.remove(4)
    fleet.deploy(4, fleet.models.flat)
    assert fleet.plane.observe().arms[4].request_count == 0
    fleet.plane.remove(4)


def test_killing_the_only_canary_replica_under_load_fails_no_request(fleet, serve_port):
    fleet.split(1, 2, 0.5)
    app = release_app(fleet.release(2).model_name, 2)
    before = fleet.plane.observe()
    with Load(serve_port) as load:
        load.await_more(30)
        pid = kill_one(app)
        eventually(lambda: [p.pid for p in processes(app)] not in ([], [pid]))
        load.await_more(60)
    assert set(load.seen) == {(200, "1"), (200, "2")}
    after = fleet.plane.observe()
    first, second = grown(before, after, 1), grown(before, after, 2)
    assert first[0] + second[0] == load.sent
    assert second[0] - second[1] == load.seen[200, "2"]
    eventually(lambda: fleet.plane.deployed() >= {1, 2})


def test_killing_the_only_stable_replica_under_load_fails_no_request(fleet, serve_port):
    fleet.split(1)
    app = release_app(fleet.release(1).model_name, 1)
    with Load(serve_port) as load:
        load.await_more(30)
        kill_one(app)
        load.await_more(60)
    assert set(load.seen) == {(200, "1")}
    eventually(lambda: fleet.plane.deployed() >= {1, 2})


def test_a_killed_router_comes_back_with_the_newest_split_and_its_counts(fleet, client, serve_port):
    fleet.split(1)
    before = fleet.plane.observe()
    for k in range(10):
        assert client.score(f"k{k}")[0] == 200
    counted = fleet.plane.observe()
    assert grown(before, counted, 1) == (10, 0)
    kill_one(router_app(fleet.release(1).model_name))
    split = fleet.split(1, 2, 1.0)  # while no router lives
    status, headers, _ = client.score("after")
    assert (status, headers["X-KFM-Version"]) == (200, "2")
    assert headers["X-KFM-Generation"] == str(split.generation)
    after = fleet.plane.observe()
    assert grown(before, after, 1) == (10, 0)
    assert grown(before, after, 2) == (1, 0)


def test_a_router_that_missed_a_broadcast_finds_the_declared_split_by_itself(fleet, client):
    fleet.split(1)
    state, releases = fleet.plane._state, fleet.plane._state.read_releases()
    split = Split(next(fleet.generations), 2, None, 0.0, {"amplification_ratio": Band(0, 9)})
    state.write_split(DesiredSplit.from_split(split, {2: releases[2].deployment_id}))
    eventually(lambda: client.score("k")[1]["X-KFM-Version"] == "2", timeout_s=3)
    assert fleet.plane.observe().generation == split.generation


@pytest.mark.parametrize("content", [b"no model", None], ids=["corrupt", "missing"])
def test_a_release_that_cannot_be_loaded_is_refused_in_time_and_leaves_nothing(
    fleet, tmp_path, content
):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    name = fleet.release(1).model_name
    started_s = time.monotonic()
    with pytest.raises(PlaneError, match=r"version 9 did not become ready \(.*model\.onnx"):
        fleet.plane.deploy(Deployable(name, 9, "sha256:" + "9" * 64, tmp_path), timeout_s=30)
    assert time.monotonic() - started_s < 30
    assert release_app(name, 9) not in applications.statuses()
    assert processes(release_app(name, 9)) == []
    assert 9 not in fleet.plane.observe().arms


def test_a_release_that_is_not_ready_in_time_is_refused_and_leaves_nothing(fleet):
    with pytest.raises(PlaneError, match="version 8 did not become ready"):
        fleet.deploy(8, lambda d: fleet.models.times(d, 2), timeout_s=0.2)
    assert release_app(fleet.release(1).model_name, 8) not in applications.statuses()
    assert 8 not in fleet.plane.deployed()


def test_a_port_in_use_gives_one_clear_error_with_a_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for use in (check_port, lambda host, port: start_local(port, host=host).__enter__()):
            with pytest.raises(PlaneError, match=f"127.0.0.1:{port}.*choose another port"):
                use("127.0.0.1", port)


def test_a_second_cluster_in_the_same_process_is_refused(fleet):
    with pytest.raises(PlaneError, match="connected to Ray already"), start_local(free_port()):
        pass
    assert fleet.plane.deployed() >= {1, 2}


def test_another_process_attaches_reads_the_same_state_and_joins_again_when_cut_off(
    fleet, serve_port
):
    import ray

    split = fleet.split(1, 2, 0.1)
    program = f"""if True:
        import ray
        from kfm_mlflow.errors import PlaneError
        from kfm_serving.cluster import attach, reattach
        from kfm_serving.portable import PortablePlane
        address, port = {ray.get_runtime_context().gcs_address!r}, {serve_port}
        name = {fleet.release(1).model_name!r}
        with attach(address, port=port):
            plane = PortablePlane(name, port=port)
            print(plane.observe().generation, sorted(plane.deployed()))
            ray.shutdown()
            try:
                plane.deployed()
            except PlaneError:
                print("cut off")
            again = lambda: reattach(address, port=port, host="127.0.0.1")
            plane = PortablePlane(name, port=port, reattach=again)
            print(sorted(plane.deployed()), plane.observe().generation)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    expected = [f"{split.generation} [1, 2]", "cut off", f"[1, 2] {split.generation}"]
    assert done.stdout.splitlines() == expected, done.stderr
    assert fleet.plane.deployed() >= {1, 2}


def test_attaching_to_no_cluster_is_refused_at_once():
    started_s = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(PlaneError, match="no cluster answers"), attach(address, port=8000):
        pass
    assert time.monotonic() - started_s < 5
