"""Evidently runs our test, and its report loads nothing."""

from datetime import UTC, datetime

import numpy as np
import pytest

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.monitor.drift import check_drift
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_report import (
    EvidentlyRun,
    check_with_evidently,
    remote_references,
)
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows
from kfm_mlflow.policy.drift import DriftPlan

# Evidently's own code, on the way in and while it draws.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(evidently|numpy|litestar).*")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLAN = DriftPlan(permutation_count=399)
LABELS = np.repeat(np.arange(80), 2)


def sample(seed, labels):
    rng = np.random.Generator(np.random.PCG64(seed))
    a, b = rng.normal(size=(2, 160)) + np.repeat(rng.normal(size=80), 2)
    a[rng.random(160) < 0.02] = np.nan
    return DriftSample({"a": FieldRows(a + (0.6 if seed else 0)), "b": FieldRows(b)}, labels)


def test_evidently_gives_our_p_values_and_a_page_that_loads_nothing():
    for labels in (None, LABELS):
        baseline, current = build_baseline(sample(0, labels)), sample(1, labels)
        summary, html = check_with_evidently(baseline, current, PLAN, NOW)
        own = check_drift(baseline, current, PLAN, NOW)
        assert [c.p_value for c in summary.checks] == [c.p_value for c in own.checks]
        assert [c.observed for c in summary.checks] == pytest.approx(
            [c.observed for c in own.checks]
        )
        assert (summary.verdict, summary.method[-9:]) == (own.verdict, "evidently")
    assert html is not None
    assert summary.to_dict()["inputs"]["report_digest"] == digest_bytes(html)
    assert b"block permutations, seed 0" in html
    assert remote_references(html) == []
    assert b"default-src 'none'" in html


@pytest.mark.parametrize(
    "page",
    [
        b'<script src="https://cdn.example.org/plot.js"></script>',
        b"<SCRIPT type=module src='//cdn.example.org/plot.js'>",
        b"<link rel=stylesheet href=http://example.org/a.css>",
        b"<style>@import url('https://example.org/a.css');</style>",
        b'<iframe title="x" src="https://example.org/">',
    ],
)
def test_what_a_page_would_load_is_found(page):
    assert len(remote_references(b"<html>" + page)) == 1


@pytest.mark.parametrize(
    "page", [b'<a href="https://example.org">', b'<script>var a="https://x.org"</script>', b""]
)
def test_what_a_page_only_names_is_not_loaded(page):
    assert remote_references(page) == []


def test_without_a_test_there_is_no_report():
    few = DriftSample({"a": FieldRows(np.arange(9.0)), "b": FieldRows(np.arange(9.0))})
    summary, html = check_with_evidently(build_baseline(few), few, PLAN, NOW)
    assert (summary.verdict, html) == ("INCONCLUSIVE", None)
    with pytest.raises(EvidenceError, match="nothing was tested"):
        EvidentlyRun().html()
