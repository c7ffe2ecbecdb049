"""Metrics for Prometheus, served by the controller's process.

They are what the controller itself decides by: exact counts per version, merged over all
routers, as it last read them. Nothing is read for a scrape; :data:`OBSERVED_AT` says how old the
numbers are.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO
from kfm_mlflow.rollout.counts import FULL_PPM
from kfm_mlflow.rollout.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from kfm_mlflow.rollout.plane import ArmCounts, Observation
    from kfm_mlflow.rollout.watched import Call

LATENCY = "kfm_request_duration_seconds"
OBSERVED_AT = "kfm_observed_timestamp_seconds"
COUNTERS = {
    "kfm_requests": ("request_count", "Requests and copies that a release was asked."),
    "kfm_errors": ("error_count", "Of these, errors of the model or no answer in time."),
    "kfm_masked": ("masked_count", "Of these, answered with something made coarser or left out."),
    "kfm_withheld": ("withheld_count", "Of these, refused: the answer may not be published."),
    "kfm_mask_failures": ("mask_failure_count", "Of these, masking went wrong; nothing was shown."),
    "kfm_dropped_copies": ("dropped_count", "Copies that were not sent: too many under way."),
    "kfm_explained": ("explained_count", "Rows explained as they are and a little changed."),
    "kfm_unexplained": ("unexplained_count", "Sampled rows of which nothing could be said."),
}
"""Name of a counter, which Prometheus ends in ``_total`` -> field of the counts, and its help."""
_ARM_LABELS = ("model", "version", "release", "arm")
_STATISTIC_LABELS = (*_ARM_LABELS, "statistic")


class Collector(Protocol):
    """What ``prometheus_client`` asks for metrics."""

    def collect(self) -> Iterable[Any]:
        """Return the metrics of this moment."""


class Exposition:
    """Keeps what a controller last saw, and writes it as metrics."""

    def __init__(self, model_name: str, clock: Callable[[], float] = time.time) -> None:
        """Watch the controller of one registered model.

        Args:
            model_name: Registered model.
            clock: Seconds since 1970.
        """
        self._model_name, self._clock = model_name, clock
        self._observation: Observation | None = None
        self._observed_at_s = 0.0
        self._journal: Mapping[str, Any] = {}
        self._releases: dict[int, str] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()  # The lease is kept by a thread of its own.

    def saw(self, call: Call) -> None:
        """Keep what a call said."""
        key = (call.name, "error" if call.error else "ok")
        with self._lock:
            self._calls = {**self._calls, key: self._calls.get(key, 0) + 1}
        if call.error:
            return
        if call.name == "observe":
            self._observation, self._observed_at_s = call.result, self._clock()
        elif call.name == "save_journal":
            self._journal = call.args[1]
        elif call.name == "load_journal" and call.result is not None:
            self._journal = call.result
        elif call.name == "fetch":
            self._releases = {**self._releases, call.result.version: call.result.release_id}

    def collect(self) -> Iterable[Any]:
        """Return the metrics of this moment, as ``prometheus_client`` asks for them."""
        yield from self._of_rollout()
        yield from self._of_arms()

    def _of_rollout(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        model = (self._model_name,)
        calls = CounterMetricFamily(
            "kfm_controller_calls", "Calls of the controller.", labels=("model", "call", "outcome")
        )
        for (name, outcome), count in sorted(self._calls.items()):
            calls.add_metric((*model, name, outcome), count)
        yield calls
        phases = GaugeMetricFamily(
            "kfm_rollout_phase", "1 for the phase of the rollout.", labels=("model", "phase")
        )
        for phase in Phase if self._journal else ():
            phases.add_metric((*model, phase), float(self._journal["phase"] == phase))
        yield phases
        asked = self._asked()
        shares = GaugeMetricFamily(
            "kfm_split_ratio", "Share of requests that a release answers.", labels=_ARM_LABELS
        )
        for version, arm, ratio in asked:
            shares.add_metric((*model, str(version), self._release(version), arm), ratio)
        yield shares
        applied = GaugeMetricFamily(
            "kfm_split_generation", "Generation that all routers apply.", labels=("model",)
        )
        seen = GaugeMetricFamily(
            OBSERVED_AT, "When the routers' counts were last read, s since 1970.", labels=("model",)
        )
        if self._observation is not None:
            applied.add_metric(model, self._observation.generation)
            seen.add_metric(model, self._observed_at_s)
        yield applied
        yield seen

    def _asked(self) -> list[tuple[int, str, float]]:
        """Return version, arm and share of the split that was last asked for."""
        split = self._journal.get("split") or {}
        stable, canary = split.get("stable"), split.get("canary")
        ratio, copied = float(split.get("ratio") or 0), float(split.get("mirror_ratio") or 0)
        found = [] if stable is None else [(stable, "stable", 1 - ratio)]
        if canary is not None:
            found.append((canary, "mirror" if copied else "canary", copied or ratio))
        return found

    def _of_arms(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        arms = {} if self._observation is None else dict(self._observation.arms)
        places = {version: arm for version, arm, _ in self._asked()}
        shown: dict[tuple[str, ...], ArmCounts] = {
            (self._model_name, str(v), self._release(v), places.get(v, "none")): counts
            for v, counts in sorted(arms.items())
            if counts.request_count or v in places
        }
        for name, (attribute, text) in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=_ARM_LABELS)
            for labels, counts in shown.items():
                family.add_metric(labels, getattr(counts, attribute))
            yield family
        latency = HistogramMetricFamily(LATENCY, "Time to answer.", labels=_ARM_LABELS)
        for labels, counts in shown.items():
            # Only buckets are counted, so there is no sum to give.
            latency.add_metric(labels, _buckets(counts), None)
        yield latency
        yield from _of_statistics(shown)
        yield from _of_explanations(shown)
        yield from _of_answers(shown)

    def _release(self, version: int) -> str:
        return self._releases.get(version, "")


def _of_statistics(shown: Mapping[tuple[str, ...], ArmCounts]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    measured = CounterMetricFamily(
        "kfm_measured", "Answers of which a statistic was measured.", labels=_STATISTIC_LABELS
    )
    outside = CounterMetricFamily(
        "kfm_outside", "Of these, outside stable's own band.", labels=_STATISTIC_LABELS
    )
    spans = CounterMetricFamily("kfm_spans", "Spans that were to be kept.", labels=_ARM_LABELS)
    lost = CounterMetricFamily("kfm_lost_spans", "Of these, lost.", labels=_ARM_LABELS)
    for labels, counts in shown.items():
        for name, count in sorted(counts.measured_count.items()):
            bad_count = counts.outside_count.get(name, 0)
            if name == LOST_SPAN_RATIO:
                spans.add_metric(labels, count)
                lost.add_metric(labels, bad_count)
            else:
                measured.add_metric((*labels, name), count)
                outside.add_metric((*labels, name), bad_count)
    yield from (measured, outside, spans, lost)


def _of_explanations(shown: Mapping[tuple[str, ...], ArmCounts]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    instability = CounterMetricFamily(
        "kfm_explanation_instability",
        "Sum of 1 - correlation of the two explanations, over kfm_explained_total rows.",
        labels=_ARM_LABELS,
    )
    lowest = GaugeMetricFamily(
        "kfm_lowest_explanation_stability", "Of any row so far, -1..1.", labels=_ARM_LABELS
    )
    for labels, counts in shown.items():
        instability.add_metric(labels, counts.instability_ppm / FULL_PPM)
        if counts.explained_count:
            lowest.add_metric(labels, 1 - counts.worst_instability_ppm / FULL_PPM)
    yield from (instability, lowest)


def _of_answers(shown: Mapping[tuple[str, ...], ArmCounts]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

    alarms = CounterMetricFamily(
        "kfm_alarms", "Answers that raised an alarm.", labels=(*_ARM_LABELS, "alarm")
    )
    signals = SummaryMetricFamily(
        "kfm_signal", "What answers say of themselves.", labels=(*_ARM_LABELS, "signal")
    )
    for labels, counts in shown.items():
        for name, count in sorted(counts.alarm_count.items()):
            alarms.add_metric((*labels, name), count)
        for name, count in sorted(counts.signal_count.items()):
            total = counts.signal_ppm.get(name, 0) / FULL_PPM
            signals.add_metric((*labels, name), count_value=count, sum_value=total)
    yield from (alarms, signals)


def _buckets(counts: ArmCounts) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets, in seconds; the last holds every answer."""
    ordered = sorted(counts.latency_ms_buckets.items())
    finite = [(f"{bound / 1e3:g}", float(n)) for bound, n in ordered if math.isfinite(bound)]
    return [*finite, ("+Inf", float(ordered[-1][1] if ordered else 0))]


@contextmanager
def serve_metrics(exposition: Collector, port: int, host: str) -> Iterator[None]:
    """Serve ``/metrics`` for the length of a block.

    Raises:
        InputError: The port is in use.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(exposition)  # type: ignore[arg-type] # a collector by its method alone
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as exc:
        raise InputError(
            f"port {port} cannot be listened on ({exc.strerror})", where="--metrics-port"
        ) from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
