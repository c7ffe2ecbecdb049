"""What a fleet tells: metrics, spans, and the words of its journal."""

import json

import pytest
from fleet.made_fleet import AGENTS, MODEL, Fleet
from fleet.made_release import write_release
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kfm_mlflow.fleet.events import FleetSpans
from kfm_mlflow.fleet.exposition import FleetExposition
from kfm_mlflow.monitor.span_export import open_exporters
from kfm_mlflow.monitor.spans import SpanLog


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return a fleet that took one release and gave the next up, its metrics, and its spans."""
    folder = tmp_path_factory.mktemp("told")
    exposition = FleetExposition(MODEL)
    log = SpanLog(open_exporters(folder / "spans.jsonl"), service_name="kfm-fleet")
    release_dir = write_release(folder / "v")
    fleet = Fleet(release_dir, canary=1, watchers=[exposition, FleetSpans(log, MODEL)])
    fleet.until("Succeeded")
    fleet.registry.set_levels(production=1, canary=2)
    fleet.registry.admit = False
    watching = fleet.until("Watching")["narrative"]
    fleet.until("AwaitingAdmission")
    registry = CollectorRegistry()
    registry.register(exposition)
    text = generate_latest(registry).decode()
    fleet.plane.answers_wrongly = {(agent.name, 2) for agent in AGENTS}
    fleet.until("RolledBack")
    log.close()
    return fleet, watching, text, read_spans(folder / "spans.jsonl")


def read_spans(path):
    """Return name and attributes of every span of a file of OTLP JSON."""
    found = []
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                found += [(span["name"], attributes_of(span)) for span in scope["spans"]]
    return found


def attributes_of(span):
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def samples(text, name):
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def test_prometheus_gets_every_agents_health_and_the_fleets(told):
    _, _, text, _ = told
    coherence = {labels["agent"]: value for labels, value in samples(text, "kfm_agent_coherence")}
    assert coherence == {agent.name: 1.0 for agent in AGENTS}
    assert [value for _, value in samples(text, "kfm_fleet_safety_ratio")] == [1.0]
    assert [value for _, value in samples(text, "kfm_fleet_consensus_ratio")] == [1.0]
    ((_, per_minute),) = samples(text, "kfm_fleet_tasks_per_minute")
    assert per_minute > 0
    phases = {labels["phase"]: value for labels, value in samples(text, "kfm_fleet_phase")}
    assert [phase for phase, value in phases.items() if value] == ["AwaitingAdmission"]


def test_prometheus_counts_the_tasks_that_were_given(told):
    _, _, text, _ = told
    by_agent = samples(text, "kfm_agent_tasks_total")
    assert {labels["agent"] for labels, _ in by_agent} == {agent.name for agent in AGENTS}
    buckets = [
        (labels["le"], value)
        for labels, value in samples(text, "kfm_agent_task_duration_seconds_bucket")
        if (labels["agent"], labels["version"]) == ("code-0", "1")
    ]
    values = [value for _, value in buckets]
    assert values == sorted(values)
    assert buckets[-1][0] == "+Inf"
    (count,) = [
        value
        for labels, value in by_agent
        if (labels["agent"], labels["version"]) == ("code-0", "1")
    ]
    assert buckets[-1][1] == count


def test_every_span_of_the_loop_has_the_label_of_its_stage(told):
    _, _, _, spans = told
    stages = {
        name: attributes["kfm.fleet.stage"]
        for name, attributes in spans
        if name != "kfm.fleet.phase"
    }
    assert stages == {
        "kfm.fleet.fetch": "stage",
        "kfm.fleet.start": "stage",
        "kfm.fleet.route": "deploy",
        "kfm.fleet.promote": "deploy",
        "kfm.fleet.stop": "deploy",
        "kfm.fleet.demote": "rollback",
    }
    phases = [
        (attributes["kfm.phase"], attributes["kfm.fleet.stage"])
        for name, attributes in spans
        if name == "kfm.fleet.phase"
    ]
    assert phases[0] == ("Starting", "stage")
    assert phases[-1] == ("RolledBack", "rollback")


def test_no_span_holds_a_task_or_a_text(told):
    _, _, _, spans = told
    assert "ledger" not in json.dumps(spans)


def test_a_watched_batch_is_told_with_its_agents_and_what_comes_next(told):
    _, watching, _, _ = told
    assert watching["happening"].startswith("Batch 1 is watched: code-0, doc-0, memory-0")
    assert "v2 gets 10 % of the tasks of code-0, doc-0, memory-0" in watching["traffic"]
    assert watching["stage"].startswith("AV Avali (monitor)")
    assert "votes" in watching["next"]
    standing = {agent["name"]: (agent["version"], agent["canary"]) for agent in watching["agents"]}
    assert standing["code-0"] == (1, 2)
    assert standing["code-1"] == (1, None)


def test_a_release_that_was_given_up_is_told_with_its_reason(told):
    fleet, _, _, _ = told
    narrative = fleet.journal["narrative"]
    assert narrative["happening"].startswith("v2 was taken back from every agent.")
    assert narrative["reason"] == fleet.journal["reason"] != ""
    assert [step["status"] for step in narrative["steps"]] == ["stopped", "ahead"]


def test_at_rest_the_fleets_line_is_of_all_that_serve_and_not_of_what_was_given_up(told):
    fleet = told[0]
    given_up = fleet.journal["assessment"]
    assert (given_up["agent_count"], given_up["verdict"]) == (3, "FAIL")
    line = fleet.journal["narrative"]["fleet"]
    assert line["agent_count"] == len(AGENTS)
    assert line["min_coherence"] == line["consensus_rate"] == 1.0
