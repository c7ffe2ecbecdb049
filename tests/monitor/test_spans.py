"""Spans: what they hold, what is lost and counted, and that nobody waits for them."""

# ruff: noqa: D102 - the methods of the fakes are documented where their interfaces are

import http.server
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.span_export import FileSpanExporter, OtlpSpanExporter, otlp_endpoint
from kfm_mlflow.monitor.spans import FAULTS, Prediction, SpanLog, SpanOptions

ALLOWED = {
    "kfm.model.name",
    "kfm.model.version",
    "kfm.release.id",
    "kfm.arm",
    "kfm.stage",
    "kfm.outcome",
    "kfm.latency_ms",
    "kfm.masked_count",
    "kfm.generation",
    "kfm.sample_ratio",
    "kfm.seed",
}
CALL = {
    "model_name": "downscaler",
    "version": 7,
    "release_id": "sha256:" + "a" * 64,
    "latency_ms": 12.5,
    "generation": 3,
}


def test_alarms_and_signals_are_told_under_fixed_names_only():
    told = {"attention_entropy": 0.123456, "cell": 1.0, "8526ad03fffffff": 2.0}
    call = {**CALL, "arm": "canary", "outcome": "answered"}
    alarms = ("narrative-safety", "fusion-collapse")
    found = Prediction(**call, alarms=alarms, signals=told).attributes(1.0)
    assert found["kfm.alarms"] == "narrative-safety,fusion-collapse"
    assert found["kfm.signal.attention_entropy"] == 0.1235
    assert set(found) == ALLOWED - {"kfm.seed"} | {"kfm.alarms", "kfm.signal.attention_entropy"}


class Kept:
    """An exporter that keeps spans, or waits, or refuses them."""

    def __init__(self, *, takes=True, gate=None):
        self.spans, self.takes, self.gate, self.is_shut = [], takes, gate, False
        self.began = threading.Event()

    def export(self, spans):
        self.began.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        self.spans += spans if self.takes else []
        return self.takes

    def shutdown(self):
        self.is_shut = True


def note(log, outcome="answered", arm="stable", counted_as="d", **changes):
    def build():
        return Prediction(**{**CALL, "arm": arm, "outcome": outcome, **changes})

    log.note(build, outcome=outcome, latency_ms=12.5, counted_as=counted_as)


def test_a_span_holds_what_is_named_and_nothing_else():
    kept = Kept()
    log = SpanLog([kept], service_name="router")
    note(log, arm="canary", outcome="masked", masked_count=4, seed=42)
    note(log)
    note(log, arm="mirror", outcome="late")
    log.close()
    canary, stable, _ = kept.spans
    assert set(canary.attributes) == ALLOWED
    assert set(stable.attributes) == ALLOWED - {"kfm.seed"}
    assert canary.attributes["kfm.masked_count"] == 4
    assert canary.attributes["kfm.seed"] == 42
    assert [s.attributes["kfm.stage"] for s in kept.spans] == ["canary", "production", "canary"]
    assert [s.status.is_ok for s in kept.spans] == [True, True, False]
    assert canary.end_time - canary.start_time == 12_500_000
    assert len({s.context.trace_id for s in kept.spans}) == 3
    assert kept.is_shut
    assert log.counted("d") == (3, 0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["answered", "masked", "error", "late", "lost"])), st.randoms())
def test_errors_are_always_kept_and_of_the_rest_what_chance_takes(outcomes, rng):
    draws = [rng.random() for _ in outcomes]
    pending = iter(draws)
    expected = [o for o in outcomes if o in FAULTS or next(pending) < 0.3]
    kept, pending = Kept(), iter(draws)
    log = SpanLog([kept], service_name="router", ratio=0.3, chance=lambda: next(pending))
    for outcome in outcomes:
        note(log, outcome)
    log.close()
    assert [s.attributes["kfm.outcome"] for s in kept.spans] == expected
    ratios = [s.attributes["kfm.sample_ratio"] for s in kept.spans]
    assert ratios == [1.0 if o in FAULTS else 0.3 for o in expected]
    assert log.counted("d") == (len(expected), 0)


def test_what_does_not_fit_is_counted_and_nobody_waits():
    gate = threading.Event()
    kept = Kept(gate=gate)
    log = SpanLog([kept], service_name="router", capacity=5)
    note(log)
    assert kept.began.wait(10)  # the exporter now hangs with one span
    for _ in range(8):
        note(log, counted_as="other")
    assert log.counted("other") == (8, 3)
    assert log.counted("d") == (1, 0)
    gate.set()
    log.close()
    assert len(kept.spans) == 6


def test_spans_are_lost_when_nobody_takes_them_and_kept_when_one_does():
    for exporters, lost in (([], 2), ([Kept(takes=False)], 2), ([Kept(takes=False), Kept()], 0)):
        log = SpanLog(exporters, service_name="router")
        note(log)
        note(log)
        log.close()
        assert log.counted("d") == (2, lost)
        note(log)
        assert log.counted("d") == (3, lost + 1)


def test_an_exporter_or_a_description_that_raises_loses_its_batch_and_no_more(caplog):
    kept = Kept()
    log = SpanLog([kept], service_name="router")
    log.note(lambda: 1 / 0, outcome="answered", latency_ms=1.0, counted_as="d")
    for _ in range(600):
        if log.counted("d") == (1, 1):
            break
        log._wake.set()
        threading.Event().wait(0.01)
    note(log)
    log.close()
    assert log.counted("d") == (2, 1)
    assert len(kept.spans) == 1
    assert "spans are lost" in caplog.text


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_hold_a_span_a_line_and_rotate_by_size(tmp_path):
    path = tmp_path / "new" / "spans.jsonl"
    log = SpanLog([FileSpanExporter(path, max_bytes=4000, kept_count=2)], service_name="router")
    for version in range(20):
        note(log, version=version)
    log.close()
    files = [path.with_name("spans.jsonl.2"), path.with_name("spans.jsonl.1"), path]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(p.name for p in files)
    versions = []
    for file in files:
        assert file.stat().st_size <= 4000
        for line in lines_of(file):
            (resource,) = line["resourceSpans"]
            (span,) = resource["scopeSpans"][0]["spans"]
            held = {a["key"]: a["value"] for a in span["attributes"]}
            assert set(held) <= ALLOWED
            versions.append(int(held["kfm.model.version"]["intValue"]))
    assert versions == list(range(20))[-len(versions) :]
    assert len(versions) >= 6


def test_a_folder_keeps_the_newest_files_of_all_processes_up_to_its_bound(tmp_path):
    for age in range(6):
        path = tmp_path / f"spans-router-{age}.jsonl"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (10**9 - age, 10**9 - age))
    (tmp_path / "serving-energy-1.json").write_bytes(b"x" * 9000)
    exporter = FileSpanExporter(tmp_path / "spans-new.jsonl", max_folder_bytes=3500)
    log = SpanLog([exporter], service_name="router")
    note(log)
    log.close()
    left = {path.name for path in tmp_path.iterdir()}
    newest = {f"spans-router-{age}.jsonl" for age in range(3)}
    assert left == newest | {"spans-new.jsonl", "serving-energy-1.json"}


def test_a_folder_that_cannot_be_written_loses_spans_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    log = SpanLog([FileSpanExporter(tmp_path / "file" / "spans.jsonl")], service_name="router")
    note(log)
    log.close()
    assert log.counted("d") == (1, 1)
    assert "spans are lost" in caplog.text


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    server.seen, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_collector_gets_what_opentelemetrys_own_protocol_reads(collector):
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    log = SpanLog([OtlpSpanExporter(endpoint, {"X-Token": "t"})], service_name="router")
    note(log, seed=7)
    note(log, outcome="error")
    log.close()
    ((path, headers, body),) = collector.seen
    assert (path, headers["X-Token"]) == ("/v1/traces", "t")
    request = ParseDict(body, ExportTraceServiceRequest())
    (resource,) = request.resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == (
        "router"
    )
    good, bad = resource.scope_spans[0].spans
    held = {a.key: a.value for a in good.attributes}
    assert held["kfm.latency_ms"].double_value == 12.5
    assert held["kfm.seed"].int_value == 7
    assert good.end_time_unix_nano - good.start_time_unix_nano == 12_500_000
    assert (good.kind, good.status.code, bad.status.code) == (good.SPAN_KIND_SERVER, 0, 2)
    raw = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    # JSON of the protocol has ids in hex, which protobuf's own JSON has not.
    assert (len(bytes.fromhex(raw["traceId"])), len(bytes.fromhex(raw["spanId"]))) == (16, 8)


def test_a_collector_that_refuses_or_is_away_costs_the_spans_only(collector):
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    collector.status = 503
    log = SpanLog([OtlpSpanExporter(endpoint, {})], service_name="router")
    note(log)
    log.close()
    assert log.counted("d") == (1, 1)
    log = SpanLog([OtlpSpanExporter("http://127.0.0.1:9/v1/traces", {})], service_name="router")
    note(log)
    log.close()
    assert log.counted("d") == (1, 1)


def test_the_endpoint_follows_opentelemetrys_variables():
    general, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert otlp_endpoint({}) is None
    assert otlp_endpoint({general: "http://c:4318/"}) == "http://c:4318/v1/traces"
    assert otlp_endpoint({general: "http://c", traces: "https://d/t"}) == "https://d/t"
    assert otlp_endpoint({general: "http://c", "OTEL_SDK_DISABLED": "true"}) is None
    with pytest.raises(InputError, match="no HTTP URL"):
        otlp_endpoint({general: "collector:4318"})


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="outside 0"):
        SpanOptions(ratio=1.5)
