"""Metrics of a fleet for Prometheus, served by the loop's process.

They are what the loop itself decides by, as it last wrote and read it; nothing is read for a
scrape. Formulas, units and windows: docs/fleet-health.md.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS
from kfm_mlflow.fleet.state import FleetPhase
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kfm_mlflow.fleet.plane import FleetObservation
    from kfm_mlflow.rollout.watched import Call

_AGENT = ("model", "agent", "specialty", "version")
_INSTANCE = ("model", "agent", "version")
AGENT_GAUGES = {
    "kfm_agent_coherence": ("coherence", "Agreement with the verified release on probes, 0..1."),
    "kfm_agent_error_ratio": ("error_ratio", "Failed of all tasks in the window."),
    "kfm_agent_p95_latency_ms": ("p95_ms", "95th percentile of the time to answer, ms."),
}
FLEET_GAUGES = {
    "kfm_fleet_consensus_ratio": ("consensus_rate", "Probes on which a safe quorum agrees."),
    "kfm_fleet_safety_ratio": ("safety_score", "Unsafe tasks and probes that were held."),
    "kfm_fleet_tasks_per_minute": ("tasks_per_min", "Completed tasks per minute."),
}
COUNTERS = {
    "kfm_agent_tasks": ("completed", "Tasks that an instance answered."),
    "kfm_agent_failed_tasks": ("failed", "Tasks that it was given and did not answer."),
    "kfm_agent_unsafe_tasks": ("unsafe", "Answered tasks that the release's screen calls unsafe."),
    "kfm_agent_refused_tasks": ("refused", "Of these, held back."),
}


class FleetExposition:
    """Keeps what a loop last saw, and writes it as metrics."""

    def __init__(self, model_name: str) -> None:
        """Watch the loop of one registered model."""
        self._model_name = model_name
        self._observation: FleetObservation | None = None
        self._told: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def saw(self, call: Call) -> None:
        """Keep what a call said."""
        if call.error:
            return
        with self._lock:
            if call.name == "observe":
                self._observation = call.result
            elif call.name == "save_journal":
                self._told = call.args[1].get(NARRATIVE_KEY) or {}
            elif call.name == "load_journal" and call.result is not None:
                self._told = call.result.get(NARRATIVE_KEY) or {}

    def collect(self) -> Iterable[Any]:
        """Return the metrics of this moment, as ``prometheus_client`` asks for them."""
        with self._lock:
            told, observation = self._told, self._observation
        yield from self._of_fleet(told)
        yield from self._of_agents(told)
        if observation is not None:
            yield from self._of_instances(observation)

    def _of_fleet(self, told: Mapping[str, Any]) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        phases = GaugeMetricFamily(
            "kfm_fleet_phase", "1 for the phase of the fleet.", labels=("model", "phase")
        )
        for phase in FleetPhase if told else ():
            phases.add_metric((self._model_name, phase), float(told["phase"] == phase))
        yield phases
        fleet = told.get("fleet") or {}
        for name, (field, text) in FLEET_GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=("model",))
            if fleet.get(field) is not None:
                gauge.add_metric((self._model_name,), fleet[field])
            yield gauge

    def _of_agents(self, told: Mapping[str, Any]) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        for name, (field, text) in AGENT_GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=_AGENT)
            for agent in told.get("agents") or ():
                shown = agent["canary"] if agent["canary"] is not None else agent["version"]
                if agent[field] is not None and shown is not None:
                    labels = (self._model_name, agent["name"], agent["specialty"], str(shown))
                    gauge.add_metric(labels, agent[field])
            yield gauge

    def _of_instances(self, observation: FleetObservation) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        seen = [
            ((self._model_name, instance.agent, str(instance.version)), instance.counts)
            for instance in observation.instances
        ]
        for name, (field, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=_INSTANCE)
            for labels, counts in seen:
                counter.add_metric(labels, getattr(counts, field))
            yield counter
        latency = HistogramMetricFamily(
            "kfm_agent_task_duration_seconds", "Time to answer a task.", labels=_INSTANCE
        )
        for labels, counts in seen:
            latency.add_metric(labels, _buckets(counts.latency_counts), None)
        yield latency


def _buckets(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets, in seconds; the last holds every task."""
    bounds = [f"{bound / 1e3:g}" for bound in LATENCY_BOUNDS_MS] + ["+Inf"]
    full = counts or (0,) * len(bounds)
    total, found = 0, []
    for bound, count in zip(bounds, full, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
