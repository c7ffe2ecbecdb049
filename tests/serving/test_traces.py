"""Spans of a router: one for each counted call, and nothing of what was asked or answered."""

import json
from types import SimpleNamespace

import pytest

from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO, SpanOptions
from kfm_mlflow.rollout.plane import Deployable, Split
from kfm_serving.desired import ReleaseRecord
from kfm_serving.portable import PortablePlane
from kfm_serving.replica import Answer
from kfm_serving.router import Attempt
from kfm_serving.traces import RouterSpans, declared_seed, outcome_of

SECRET = 271.828125
"""A number that is asked and, doubled, answered; it must stand in no span."""


def read_spans(folder, stem="spans-"):
    """Return the attributes of all spans in a folder, in order."""
    found = []
    for path in sorted(folder.glob(f"{stem}*")):
        for line in path.read_text().splitlines():
            (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
            values = ((a["key"], next(iter(a["value"].values()))) for a in span["attributes"])
            found.append(dict(values))
    return found


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (Attempt("answered", 1.0, Answer(200, b"")), "answered"),
        (Attempt("answered", 1.0, Answer(200, b"", masking="masked")), "masked"),
        (Attempt("answered", 1.0, Answer(451, b"", masking="withheld")), "withheld"),
        (Attempt("answered", 1.0, Answer(451, b"", masking="failed")), "error"),
        (Attempt("answered", 1.0, Answer(500, b"", "model")), "error"),
        (Attempt("late", 1.0), "late"),
        (Attempt("lost", 1.0), "lost"),
    ],
)
def test_outcomes_are_those_of_the_counts(attempt, outcome):
    assert outcome_of(attempt) == outcome


def test_arms_and_releases_are_named_and_counts_tell_of_spans(tmp_path):
    records = {
        1: ReleaseRecord(deployment_id="a", release_id="sha256:" + "1" * 64, seed=5),
        2: ReleaseRecord(deployment_id="b", release_id="sha256:" + "2" * 64),
    }
    state = SimpleNamespace(read_releases=lambda: records)
    spans = RouterSpans("m", state, SpanOptions(tmp_path), "router/1")
    good = Attempt("answered", 2.0, Answer(200, b"", masking="masked", masked_count=3))
    spans.note(Split(4, 1, 2, 0.1), 1, "a", good)
    spans.note(Split(4, 1, 2, 0.1), 2, "b", Attempt("late", 9.0))
    spans.note(Split(5, 1, 2, 0.0, mirror_ratio=1.0), 2, "b", good)
    spans.note(Split(6, 1, None, 0.0), 1, "gone", good)
    spans.close()
    first, second, third, fourth = read_spans(tmp_path)
    assert (first["kfm.arm"], first["kfm.seed"], first["kfm.masked_count"]) == ("stable", "5", "3")
    assert (second["kfm.arm"], second["kfm.outcome"]) == ("canary", "late")
    assert "kfm.seed" not in second
    assert (third["kfm.arm"], third["kfm.generation"]) == ("mirror", "5")
    assert third["kfm.release.id"] == "sha256:" + "2" * 64
    assert fourth["kfm.release.id"] == ""  # of a deployment that is no longer the version's
    tally = {"measured_count": {"x": 1}, "outside_count": {}, "request_count": 2}
    counted = spans.add_counts({"b": tally})
    assert counted["b"]["measured_count"] == {"x": 1, LOST_SPAN_RATIO: 2}
    assert counted["b"]["outside_count"] == {LOST_SPAN_RATIO: 0}
    assert tally["measured_count"] == {"x": 1}


@pytest.mark.parametrize(
    ("text", "seed"),
    [('{"seed": 42}', 42), ('{"seed": true}', None), ("[]", None), ("{", None), (None, None)],
)
def test_a_seed_is_what_the_release_declares(tmp_path, text, seed):
    if text is not None:
        (tmp_path / "model_metadata.json").write_text(text)
    assert declared_seed(tmp_path) == seed


@pytest.mark.ray
def test_a_served_release_leaves_a_span_for_every_answer_and_nothing_of_its_content(
    serve_port, models, tmp_path
):
    import http.client

    release_dir = models.times(tmp_path / "release", 2)
    (release_dir / "model_metadata.json").write_text('{"seed": 42}')
    folder = tmp_path / "telemetry"
    plane = PortablePlane(
        "traced", port=serve_port, route_prefix="/traced", spans=SpanOptions(folder)
    )
    try:
        release_id = "sha256:" + "5" * 64
        plane.deploy(Deployable("traced", 5, release_id, release_dir), timeout_s=60)
        plane.set_split(Split(1, 5, None, 0.0))
        body = json.dumps({"inputs": [[[[SECRET, 2.0], [3.0, 4.0]]]]})
        connection = http.client.HTTPConnection("127.0.0.1", serve_port, timeout=30)
        for k in range(20):
            sent = "{" if k == 7 else body  # a client's mistake is no prediction
            headers = {"Content-Type": "application/json", "X-KFM-Key": f"farm-{k}"}
            connection.request("POST", "/traced/invocations", sent, headers)
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (400 if k == 7 else 200, True)
        connection.close()
        counts = plane.observe().arms[5]
        assert counts.request_count == counts.measured_count[LOST_SPAN_RATIO] == 19
        assert counts.outside_count[LOST_SPAN_RATIO] == 0
    finally:
        plane.close()  # a router that is stopped on purpose exports what waits
    found = read_spans(folder)
    assert len(found) == 19
    for span in found:
        assert (span["kfm.release.id"], span["kfm.arm"]) == (release_id, "stable")
        assert (span["kfm.model.version"], span["kfm.seed"]) == ("5", "42")
        assert span["kfm.latency_ms"] > 0
    text = "".join(path.read_text() for path in folder.iterdir())
    for held in (str(SECRET), str(2 * SECRET), "farm-", "predictions", "inputs"):
        assert held not in text
