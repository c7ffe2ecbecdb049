"""What a controller tells of itself: metrics, spans and energy, from the real controller on fakes."""

# ruff: noqa: D102 - the methods of the fakes are documented where their interfaces are

import json
import re
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rollout.simulated_plane import Quality
from rollout.simulated_registry import MODEL
from rollout.simulator import World

from kfm_mlflow.errors import InputError, PlaneError
from kfm_mlflow.metadata.schemas import load_schema
from kfm_mlflow.monitor.energy import EnergyReport
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO, SpanLog
from kfm_mlflow.rollout.events import ControllerSpans
from kfm_mlflow.rollout.exposition import Exposition, serve_metrics
from kfm_mlflow.rollout.plane import ArmCounts, Observation
from kfm_mlflow.rollout.serving_energy import ServingEnergy, build_serving_energy
from kfm_mlflow.rollout.state import Phase
from kfm_mlflow.rollout.watched import Call, watched

DASHBOARDS = Path(__file__).parents[2] / "serving" / "dashboards"
REPORT = EnergyReport(
    duration_s=60.0,
    energy_wh=2.0,
    carbon_gco2e=0.9,
    method="estimated",
    cpu_wh=1.5,
    gpu_wh=0.0,
    ram_wh=0.5,
    pue=1.0,
    intensity_g_per_kwh=450.0,
    intensity_source="made up",
    region="USA/kansas",
    tool_name="codecarbon",
    tool_version="3.3.2",
    cpu_model="one",
    gpu_model=None,
    ram_gb=8.0,
)


class Kept:
    """An exporter that keeps spans."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans += spans
        return True

    def shutdown(self):
        pass


def watch(world, *watchers):
    """Let others look over the shoulder of a world's controller."""
    controller = world.controller
    controller._registry = watched(controller._registry, watchers)
    controller._plane = watched(controller._plane, watchers)


def read(exposition):
    """Return metric -> labels -> value, as Prometheus' own parser reads them."""
    registry = CollectorRegistry()
    registry.register(exposition)
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def at(values, name, **labels):
    """Return the only value of a metric with these labels among its own."""
    wanted = labels.items()
    (value,) = [v for key, v in values[name].items() if wanted <= dict(key).items()]
    return value


# -- metrics ---------------------------------------------------------------------------------------


def test_metrics_are_the_counts_that_the_controller_decides_by():
    world = World(production=1, canary=2)
    exposition = Exposition(MODEL, lambda: 1000.0)
    watch(world, exposition)
    world.plane.quality[2] = Quality(error_ratio=0.02)
    for _ in range(20):
        world.tick(request_count=10)
        if world.state.phase is Phase.CANARY and world.plane.split.canary_ratio:
            break
    world.tick(request_count=100)
    values, counts = read(exposition), world.plane.observe().arms
    for version, arm in ((1, "stable"), (2, "canary")):
        of = {"model": MODEL, "version": str(version), "arm": arm}
        assert at(values, "kfm_requests_total", **of) == counts[version].request_count
        assert at(values, "kfm_errors_total", **of) == counts[version].error_count
        answers = counts[version].latency_ms_buckets[float("inf")]
        name = "kfm_request_duration_seconds_bucket"
        assert at(values, name, le="+Inf", **of) == answers
        assert at(values, name, le="1", **of) == answers
        label = at(values, "kfm_requests_total", release=f"sha256:{version:064x}")
        assert label == counts[version].request_count
    assert at(values, "kfm_split_ratio", arm="stable") == pytest.approx(0.9)
    assert at(values, "kfm_split_ratio", arm="canary") == pytest.approx(0.1)
    assert at(values, "kfm_split_generation") == world.plane.split.generation
    phases = {dict(k)["phase"]: v for k, v in values["kfm_rollout_phase"].items()}
    assert {name for name, value in phases.items() if value} == {str(world.state.phase)}
    assert set(phases) == {str(phase) for phase in Phase}
    assert at(values, "kfm_observed_timestamp_seconds") == 1000.0
    name = "amplification_ratio"
    assert (
        at(values, "kfm_measured_total", version="2", statistic=name)
        == (counts[2].measured_count[name])
    )


def test_calls_that_fail_are_counted_and_the_age_of_the_counts_stays():
    exposition = Exposition(MODEL, iter([5.0]).__next__)
    exposition.saw(Call("observe", result=Observation(3, {1: ArmCounts()})))
    exposition.saw(Call("observe", error="PlaneError"))
    values = read(exposition)
    assert at(values, "kfm_controller_calls_total", call="observe", outcome="ok") == 1
    assert at(values, "kfm_controller_calls_total", call="observe", outcome="error") == 1
    assert at(values, "kfm_observed_timestamp_seconds") == 5.0
    assert "kfm_requests_total" not in values  # nobody asked v1 anything


def complete():
    """Return an exposition that has something to say under every name."""
    exposition = Exposition(MODEL)
    counts = ArmCounts(
        request_count=3,
        latency_ms_buckets={10.0: 1, 100.0: 3},
        measured_count={"mean_shift_ratio": 3, LOST_SPAN_RATIO: 3},
        outside_count={"mean_shift_ratio": 1, LOST_SPAN_RATIO: 1},
        explained_count=2,
        unexplained_count=1,
        instability_ppm=500_000,
        worst_instability_ppm=400_000,
        alarm_count={"narrative-safety": 2},
        signal_count={"attention_entropy": 2},
        signal_ppm={"attention_entropy": 1_500_000},
    )
    exposition.saw(Call("observe", result=Observation(1, {1: counts})))
    split = {"stable": 1, "canary": None, "ratio": 0.0}
    exposition.saw(Call("save_journal", (MODEL, {"phase": "Idle", "split": split})))
    return exposition


def test_stability_of_explanations_is_a_sum_a_count_and_the_lowest_so_far():
    values = read(complete())
    assert at(values, "kfm_explained_total", version="1") == 2
    assert at(values, "kfm_unexplained_total", version="1") == 1
    assert at(values, "kfm_explanation_instability_total", version="1") == 0.5
    assert at(values, "kfm_lowest_explanation_stability", version="1") == pytest.approx(0.6)


def test_alarms_are_counted_by_name_and_signals_are_a_sum_and_a_count():
    values = read(complete())
    assert at(values, "kfm_alarms_total", version="1", alarm="narrative-safety") == 2
    assert at(values, "kfm_signal_sum", version="1", signal="attention_entropy") == 1.5
    assert at(values, "kfm_signal_count", version="1", signal="attention_entropy") == 2


def test_every_name_in_dashboard_and_alert_rules_is_exported():
    exported = set(read(complete()))
    dashboard = json.loads((DASHBOARDS / "kfm-rollout.json").read_text())
    rules = yaml.safe_load((DASHBOARDS / "kfm-rollout.rules.yaml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    listed = [rule for group in rules["groups"] for rule in group["rules"]]
    asked += [rule["expr"] for rule in listed]
    named = {name for text in asked for name in re.findall(r"\bkfm_\w+", text)}
    assert named - exported == set()
    assert exported - named - {"kfm_split_generation"} == set(), "exported and shown nowhere"
    assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in listed)


def test_the_dashboard_has_what_grafana_asks_of_one():
    dashboard = json.loads((DASHBOARDS / "kfm-rollout.json").read_text())
    needed = {"uid", "title", "schemaVersion", "version", "time", "templating", "panels"}
    assert needed <= set(dashboard)
    assert len(dashboard["uid"]) <= 40
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    taken = set()
    for panel in panels:
        assert {"type", "title", "datasource", "gridPos", "targets", "fieldConfig"} <= set(panel)
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", json.dumps(target))) <= variables


def test_metrics_are_served_where_prometheus_asks():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(InputError, match="cannot be listened on"),
            serve_metrics(complete(), taken.getsockname()[1], "127.0.0.1"),
        ):
            pass
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        serve_metrics(complete(), port, "127.0.0.1"),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        assert b"kfm_requests_total" in answer.read()


# -- watchers --------------------------------------------------------------------------------------


def test_a_watcher_that_raises_stops_no_rollback(caplog):
    class Broken:
        def saw(self, call):
            raise RuntimeError(f"telemetry of {call.name} is broken")

    world = World(production=1, canary=2)
    watch(world, Broken())
    world.plane.quality[2] = Quality(outside_ratio=0.9)
    state = world.run_to_rest()
    assert (state.phase, world.registry.held.production) == (Phase.ROLLED_BACK, 1)
    assert world.violations == []
    assert "telemetry of observe is lost" in caplog.text


def test_what_a_port_raises_reaches_both_the_watcher_and_the_caller():
    seen = []

    class Note:
        def saw(self, call):
            seen.append(call)

    class Port:
        url = "http://here"

        def observe(self):
            raise PlaneError("away")

    port = watched(Port(), [Note()])
    with pytest.raises(PlaneError):
        port.observe()
    assert port.url == "http://here"
    assert [(call.name, call.error) for call in seen] == [("observe", "PlaneError")]


# -- spans -----------------------------------------------------------------------------------------


def test_spans_tell_every_action_and_every_phase_with_its_reason():
    world, kept = World(production=1, canary=2), Kept()
    log = SpanLog([kept], service_name="controller")
    watch(world, ControllerSpans(log, MODEL))
    world.plane.quality[2] = Quality(outside_ratio=0.9)
    state = world.run_to_rest()
    log.close()
    splits = [s.attributes for s in kept.spans if s.name == "kfm.rollout.set_split"]
    told = [(s["kfm.stable"], s.get("kfm.canary"), s["kfm.canary_ratio"]) for s in splits]
    assert told == world.plane.moves
    phases = [s.attributes for s in kept.spans if s.name == "kfm.rollout.phase"]
    assert [p["kfm.phase.before"] for p in phases[1:]] == [p["kfm.phase"] for p in phases[:-1]]
    assert phases[-1]["kfm.phase"] == "RolledBack"
    aborting = next(p for p in phases if p["kfm.phase"] == "Aborting")
    assert (aborting["kfm.trigger"], aborting["kfm.candidate"]) == ("analysis", 2)
    assert state.reason.startswith(aborting["kfm.reason"])
    names = {span.name for span in kept.spans}
    assert names == {
        f"kfm.rollout.{name}"
        for name in (
            *("deploy", "set_split", "phase", "move", "remove"),
            *("publish_verdict", "publish_reports"),
        )
    }
    move = next(s.attributes for s in kept.spans if s.name == "kfm.rollout.move")
    assert (move["kfm.model.version"], move["kfm.to_level"]) == (2, "candidate")


# -- energy ----------------------------------------------------------------------------------------

BEGAN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def counts_of(requests, latency_ms=50.0):
    bounds = (1.0, 100.0, 1000.0)
    buckets = {b: requests if b >= latency_ms else 0 for b in bounds}
    return ArmCounts(request_count=requests, latency_ms_buckets=buckets)


def document(before, after, report=REPORT):
    return build_serving_energy(
        report,
        before,
        after,
        {1: "sha256:" + "1" * 64},
        model_name=MODEL,
        began_at=BEGAN,
        ended_at=BEGAN + timedelta(seconds=60),
        ended_by="stop",
    )


arms = st.dictionaries(
    st.integers(1, 4), st.builds(counts_of, st.integers(0, 500), st.sampled_from([0.5, 50, 500]))
)


@settings(max_examples=60, deadline=None)
@given(arms, arms)
def test_the_parts_add_up_to_the_whole_and_nobody_who_did_not_answer_has_one(before, after):
    found = document(before, after)
    parts = found["releases"]
    if parts:
        assert sum(p["energy_wh"] for p in parts) == pytest.approx(REPORT.energy_wh)
        assert sum(p["share_ratio"] for p in parts) == pytest.approx(1.0)
    for part in parts:
        assert part["request_count"] > 0
        per_1k = 1000 * part["energy_wh"] / part["request_count"]
        assert part["energy_wh_per_1k_requests"] == pytest.approx(per_1k)
        assert part["carbon_gco2e"] == pytest.approx(part["energy_wh"] / 1000 * 450)


def test_shares_follow_the_time_to_answer():
    # 100 answers in the middle of 1..100 ms, 100 in the middle of 100..1000 ms: 50.5 to 550.
    found = document(
        {1: counts_of(10)}, {1: counts_of(110), 2: counts_of(100, 500.0), 3: counts_of(0)}
    )
    one, two = found["releases"]
    assert (one["version"], one["request_count"], one["busy_s"]) == (1, 100, pytest.approx(5.05))
    assert one["share_ratio"] == pytest.approx(50.5 / 600.5)
    assert two["energy_wh_per_1k_requests"] == pytest.approx(10 * 2.0 * 550 / 600.5)
    assert (one["release_id"], two["release_id"]) == ("sha256:" + "1" * 64, None)


def test_a_document_is_written_when_a_rollout_ends_and_it_keeps_its_schema(tmp_path):
    from jsonschema import Draft202012Validator

    begun = []

    @contextmanager
    def measure():
        begun.append(True)

        class Measurement:
            report = REPORT

        yield Measurement()

    world = World(production=1, canary=2)
    instants = (BEGAN + timedelta(seconds=n) for n in range(100))
    energy = ServingEnergy(MODEL, tmp_path, instants.__next__, measure)
    watch(world, energy)
    world.run_to_rest()
    energy.end("stop")
    files = sorted(tmp_path.iterdir())
    documents = [json.loads(path.read_text()) for path in files]
    assert [d["ended_by"] for d in documents] == ["Succeeded", "stop"]
    assert len(begun) == 2
    schema = Draft202012Validator(load_schema("serving-energy"))
    for found in (*documents, document({}, {})):
        assert list(schema.iter_errors(found)) == []
    told = {p["version"]: p["request_count"] for d in documents for p in d["releases"]}
    assert set(told) == {1, 2}
    assert documents[0]["ended_at"] <= documents[1]["began_at"]
