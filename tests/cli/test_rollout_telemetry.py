"""What `kfm rollout run` opens for its telemetry options, with CodeCarbon itself."""

import json
import time
import urllib.request
from dataclasses import replace

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from kfm_mlflow.cli.rollout import run
from kfm_mlflow.cli.rollout_telemetry import Telemetry, open_watchers, span_dir_of
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.schemas import load_schema
from kfm_mlflow.rollout.plane import ArmCounts, Observation, Split
from kfm_mlflow.rollout.watched import watched
from kfm_serving.cluster import free_port

DEFAULT = {"telemetry_dir": None, "span_ratio": 1.0, "metrics_port": None, "grid": "USA/kansas"}


class Plane:
    """Answers what it is told to."""

    count = 10

    def observe(self):
        """Return counts that grow."""
        self.count += 90
        buckets = {100.0: self.count}
        return Observation(1, {3: ArmCounts(request_count=self.count, latency_ms_buckets=buckets)})

    def set_split(self, split):
        """Take any split."""


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)


def test_a_run_leaves_spans_and_energy_and_serves_metrics(tmp_path):
    port = free_port()
    asked = Telemetry(tmp_path / "new", 1.0, port, "USA/kansas")
    with open_watchers("downscaler", asked, "127.0.0.1") as watchers:
        plane = watched(Plane(), watchers)
        plane.observe()
        plane.set_split(Split(1, 3, None, 0.0))
        plane.observe()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b'kfm_requests_total{arm="none",model="downscaler"' in answer.read()
        # CodeCarbon estimates from the load since its last look.
        started_s = time.monotonic()
        while time.monotonic() - started_s < 0.3:
            sum(range(1000))
    (path,) = (tmp_path / "new").glob("serving-energy-*.json")
    document = json.loads(path.read_text())
    assert list(Draft202012Validator(load_schema("serving-energy")).iter_errors(document)) == []
    assert (document["scope"], document["ended_by"]) == ("machine", "stop")
    assert document["energy_wh"] > 0
    (release,) = document["releases"]
    assert (release["version"], release["request_count"]) == (3, 90)
    assert release["energy_wh"] == pytest.approx(document["energy_wh"])
    (line,) = (tmp_path / "new" / "spans-controller.jsonl").read_text().splitlines()
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["name"] == "kfm.rollout.set_split"


def test_nothing_is_opened_that_nobody_asked_for(monkeypatch):
    asked = Telemetry(None, 1.0, None, "USA/kansas")
    assert asked.spans is None
    with open_watchers("downscaler", asked, "127.0.0.1") as watchers:
        assert watchers == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert asked.spans is not None


def test_spans_are_kept_beside_the_releases_unless_told_otherwise(tmp_path, monkeypatch):
    kept = span_dir_of("team/climate downscaler", tmp_path)
    assert kept.parent == tmp_path / "telemetry"
    asked = Telemetry(None, 1.0, None, "USA/kansas", span_dir=kept)
    assert asked.spans.directory == kept
    with open_watchers("downscaler", asked, "127.0.0.1") as watchers:
        watched(Plane(), watchers).set_split(Split(1, 3, None, 0.0))
    assert [path.name for path in kept.iterdir()] == ["spans-controller.jsonl"], "no energy"
    named = replace(asked, telemetry_dir=tmp_path / "named")
    assert named.spans.directory == tmp_path / "named"
    assert replace(named, no_spans=True).spans is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert asked.spans.directory is None
    assert named.spans.directory == tmp_path / "named"


@pytest.mark.parametrize(
    ("changed", "min_span_ratio", "is_enough"),
    [
        ({}, 0.99, True),
        ({"span_ratio": 0.99}, 0.99, True),
        ({"span_ratio": 0.5}, 0.99, False),
        ({"no_spans": True}, 0.99, False),
        ({"no_spans": True}, None, True),
    ],
)
def test_who_keeps_fewer_spans_than_the_policy_asks_for_is_told_at_once(
    tmp_path, changed, min_span_ratio, is_enough
):
    asked = Telemetry(**{**DEFAULT, "span_dir": tmp_path, **changed})
    assert ("none gets to Production" in asked.tell_spans(min_span_ratio)) is not is_enough


def test_a_grid_that_nobody_knows_and_a_share_above_1_are_refused(tmp_path):
    asked = Telemetry(tmp_path, 1.0, None, "Atlantis")
    with (
        pytest.raises(InputError, match="no carbon intensity"),
        open_watchers("downscaler", asked, "127.0.0.1"),
    ):
        pass
    done = CliRunner().invoke(run, ["m", "--key", "k", "--span-ratio", "2"])
    assert done.exit_code == 2
    assert "0<=x<=1" in done.output
