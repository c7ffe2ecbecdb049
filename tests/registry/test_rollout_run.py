"""``kfm rollout run`` as it is typed, against a real registry; the traffic plane is in memory."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client
from registry.governed_world import under_control
from registry.world import NAME
from rollout.simulated_plane import FakePlane
from rollout.simulated_registry import Fuse

from kfm_mlflow.cli.main import cli
from kfm_mlflow.rollout.deployments_announced import public_address

WHERE = "http://127.0.0.1:8123"
ELSEWHERE = "http://models.example:80"


class Stopped(FakePlane):
    """A plane that has its controller stopped once it has routed, and the address is written."""

    url = WHERE

    def __init__(self, registry, endpoint):
        super().__init__(Fuse(), registry)
        self._endpoint = endpoint
        self._looks = 0
        self.found = None

    def observe(self):
        """Look, and stop the controller at the third look with traffic."""
        self._looks += self.split.generation > 0
        if self._looks == 3:
            for thread in threading.enumerate():
                if thread.name == "kfm-address":
                    thread.join()
            self.found = self._endpoint()
            signal.raise_signal(signal.SIGINT)
        return super().observe()


@pytest.fixture
def run(two, monkeypatch, tmp_path):
    """Return what runs the command, and gives its output, what its plane got and what was told."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in ("KFM_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with under_control(two, tmp_path, monkeypatch) as made:
        client = get_deploy_client(f"kfm:/{made.url}")

        def endpoint():
            return next((each["url"] for each in client.list_endpoints()), None)

        def run_it(*options):
            asked = {}

            @contextmanager
            def open_plane(model_name, **given):
                asked.update(given)
                asked["plane"] = Stopped(made.plane._registry, endpoint)
                yield asked["plane"]

            monkeypatch.setattr("kfm_mlflow.cli.rollout.load_plane", lambda *_, **__: open_plane)
            arguments = [
                *("rollout", "run", NAME, "--server", made.url, "--interval-s", "0.01"),
                *(
                    "--key",
                    str(two.world.key("controller")),
                    "--cache-dir",
                    str(tmp_path / "cache"),
                ),
            ]
            done = CliRunner().invoke(cli, [*arguments, *options], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.output, asked, asked["plane"].found

        yield run_it, client, endpoint
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_options_spans_are_kept_and_the_address_is_told_while_it_serves(run, tmp_path):
    run_it, _, endpoint = run
    output, asked, found = run_it()
    folder = tmp_path / "cache" / "telemetry" / NAME
    assert f"spans are kept in {folder}" in output
    assert "none gets to Production" not in output
    assert asked["spans"].directory == folder
    assert asked["spans"].ratio == 1.0
    assert (folder / "spans-controller.jsonl").stat().st_size > 0
    assert "router_replicas" not in asked
    assert (found, endpoint()) == (WHERE, None)


def test_an_address_that_somebody_wrote_stays_and_one_that_was_named_replaces_it(run):
    run_it, client, endpoint = run
    client.update_endpoint(NAME, {"url": ELSEWHERE})
    assert run_it("--no-spans")[2] == ELSEWHERE
    named = "http://here.example"
    output, asked, found = run_it("--endpoint-url", named, "--router-replicas", "3", "--no-spans")
    assert asked["router_replicas"] == 3
    assert "spans" not in asked
    assert "the policy asks for 0.99 of a canary's, so none gets to Production" in output
    assert (found, endpoint()) == (named, named)


def test_a_cluster_of_its_own_goes_on_serving_so_its_address_stays(run):
    run_it, _, endpoint = run
    assert run_it("--address", "auto", "--no-spans")[2] == WHERE
    assert endpoint() == WHERE


@pytest.mark.parametrize("said", ["ftp://x", "http://x/?q=1", "nowhere"])
def test_an_address_that_is_none_is_refused_before_anything_is_opened(said):
    arguments = ["rollout", "run", NAME, "--key", "k", "--endpoint-url", said]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code != 0
    assert "--endpoint-url" in str(done.exception) + done.output


@pytest.mark.parametrize(
    ("url", "server", "told"),
    [
        ("http://127.0.0.1:8000/m", "http://localhost:5000", "http://127.0.0.1:8000/m"),
        ("http://127.0.0.1:8000", "http://mlflow.example:5000", None),
        ("http://[::1]:8000", "http://mlflow.example:5000", None),
        ("http://0.0.0.0:8000/m", "http://mlflow.example:5000", "http://box:8000/m"),
        ("http://gpu7:8000", "http://mlflow.example:5000", "http://gpu7:8000"),
    ],
)
def test_what_only_this_machine_reaches_is_not_told_to_a_registry_elsewhere(url, server, told):
    assert public_address(url, server, "box") == told
