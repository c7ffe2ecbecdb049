"""OpenTelemetry spans of predictions and of what a controller does, off the path of requests.

Rules kept here:

1. Of a request, a span holds what :class:`Prediction` names and nothing else: never an input, an
   output, a header, a key, a place or a name.
2. Nobody who answers requests waits: a span is put into a bounded queue, and built and exported by
   a thread of its own. What does not fit, or is not taken, is counted as lost.
3. Errors are always kept; of the rest, the share that was asked for.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.signals import signal_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from kfm_mlflow.monitor.span_export import Exporter

_logger = logging.getLogger(__name__)

Arm = Literal["stable", "canary", "mirror"]
Outcome = Literal["answered", "masked", "withheld", "error", "late", "lost"]
"""What became of a call: ``masked`` and ``withheld`` by masking; ``error`` is the model's,
or that of masking; ``late`` and ``lost`` are calls without an answer."""

SCOPE = "kfm_mlflow"
PREDICTION = "kfm.prediction"
LOST_SPAN_RATIO = "lost_span_ratio"
"""Name under which arm counts hold the spans of a release: measured are those that were chosen to
be kept, outside are those that were lost."""

FAULTS = frozenset({"error", "late", "lost"})
"""Outcomes of which a span is always kept."""
_CAPACITY = 4096
_BATCH = 512
_PERIOD_S = 1.0
_CLOSE_S = 5.0


@dataclass(frozen=True)
class SpanOptions:
    """How spans are kept.

    Attributes:
        directory: Folder of the files; None writes none. A collector is named by the environment.
        ratio: Share of good answers, 0..1, of which a span is kept; errors always are.
    """

    directory: Path | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a share outside [0, 1]."""
        if not 0.0 <= self.ratio <= 1.0:
            raise InputError(f"{self.ratio} is outside 0..1", where="span ratio")


@dataclass(frozen=True)
class Prediction:
    """One call of one release.

    Attributes:
        model_name: Registered model.
        version: Model version.
        release_id: ``sha256:<hex>``.
        arm: Why this release was asked.
        outcome: What became of it.
        latency_ms: Until its answer, or until nobody waited any more.
        generation: Of the split in force.
        masked_count: Values of the answer that were made coarser or left out.
        seed: That the release declares; None without one.
        alarms: Names of the alarms that the answer raised.
        signals: What is measured of the answer: some of
            :data:`~kfm_mlflow.monitor.signals.SIGNALS`.
    """

    model_name: str
    version: int
    release_id: str
    arm: Arm
    outcome: Outcome
    latency_ms: float
    generation: int
    masked_count: int = 0
    seed: int | None = None
    alarms: tuple[str, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)

    def attributes(self, ratio: float) -> dict[str, Any]:
        """Return the span's attributes, all of them.

        Args:
            ratio: Share of good answers that is kept, so that a reader can count back.
        """
        named: dict[str, Any] = {
            "kfm.model.name": self.model_name,
            "kfm.model.version": self.version,
            "kfm.release.id": self.release_id,
            "kfm.arm": self.arm,
            "kfm.stage": "production" if self.arm == "stable" else "canary",
            "kfm.outcome": self.outcome,
            "kfm.latency_ms": self.latency_ms,
            "kfm.masked_count": self.masked_count,
            "kfm.generation": self.generation,
            "kfm.sample_ratio": 1.0 if self.outcome in FAULTS else ratio,
        }
        if self.seed is not None:
            named["kfm.seed"] = self.seed
        if self.alarms:
            named["kfm.alarms"] = ",".join(self.alarms)
        return {**named, **signal_attributes(self.signals)}


@dataclass(frozen=True)
class _Ended:
    """A span that waits to be built."""

    name: str
    attributes: Callable[[], Mapping[str, Any]]
    ended_ns: int
    duration_ms: float
    is_fault: bool
    counted_as: str


class SpanLog:
    """Takes what happened and has it exported, later and elsewhere."""

    def __init__(
        self,
        exporters: Sequence[Exporter],
        *,
        service_name: str,
        ratio: float = 1.0,
        capacity: int = _CAPACITY,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Start a log; without an exporter, every span counts as lost.

        Args:
            exporters: Where spans go; one that takes them is enough.
            service_name: ``service.name`` of the resource, unless ``OTEL_SERVICE_NAME`` says so.
            ratio: Share of good answers that is kept, 0..1.
            capacity: Spans that may wait.
            chance: Draws from [0, 1).
        """
        self._exporters, self._service_name = tuple(exporters), service_name
        self._ratio, self._capacity, self._chance = ratio, capacity, chance
        self._waiting: deque[_Ended] = deque()
        self._lock = threading.Lock()
        self._chosen: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._wake, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="kfm-spans", daemon=True)
        self._thread.start()

    def note(
        self,
        build: Callable[[], Prediction],
        *,
        outcome: Outcome,
        latency_ms: float,
        counted_as: str = "",
    ) -> None:
        """Note a call of a release that just ended; never waits and never raises.

        Args:
            build: Tells the rest about it, in the log's own thread.
            outcome: What became of it.
            latency_ms: How long it took.
            counted_as: Under what the span, and its loss, is counted.
        """
        is_fault = outcome in FAULTS
        if not is_fault and self._ratio < 1.0 and self._chance() >= self._ratio:
            return
        ratio = self._ratio
        self._put(
            _Ended(
                PREDICTION,
                lambda: build().attributes(ratio),
                time.time_ns(),
                latency_ms,
                is_fault,
                counted_as,
            )
        )

    def event(
        self, name: str, attributes: Mapping[str, Any], *, duration_ms: float, is_fault: bool
    ) -> None:
        """Note something else that just ended; it is always kept.

        Args:
            name: Name of the span.
            attributes: Texts, numbers and truth values; None is left out.
            duration_ms: How long it took.
            is_fault: It failed.
        """
        held = {key: value for key, value in attributes.items() if value is not None}
        self._put(_Ended(name, lambda: held, time.time_ns(), duration_ms, is_fault, ""))

    def counted(self, counted_as: str) -> tuple[int, int]:
        """Return how many spans were chosen to be kept, and how many of those were lost."""
        with self._lock:
            return self._chosen[counted_as], self._lost[counted_as]

    def close(self) -> None:
        """Export what waits, for at most 5 s, and end."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _put(self, ended: _Ended) -> None:
        is_full = self._is_closed or len(self._waiting) >= self._capacity
        with self._lock:
            self._chosen[ended.counted_as] += 1
            if is_full:
                self._lost[ended.counted_as] += 1
        if not is_full:
            self._waiting.append(ended)
            if len(self._waiting) >= _BATCH:
                self._wake.set()

    def _run(self) -> None:
        while not self._is_closed:
            self._wake.wait(_PERIOD_S)
            self._wake.clear()
            self._drain()
        self._drain()
        for exporter in self._exporters:
            exporter.shutdown()

    def _drain(self) -> None:
        while self._waiting:
            count = min(_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            if not self._export(batch):
                with self._lock:
                    self._lost.update(ended.counted_as for ended in batch)

    def _export(self, batch: Sequence[_Ended]) -> bool:
        try:
            spans = [self._build(ended) for ended in batch]
            taken = [exporter.export(spans) for exporter in self._exporters]
        except Exception:
            _logger.exception("spans are lost")
            return False
        return any(taken)

    def _build(self, ended: _Ended) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        resource, scope, ids = self._about()
        flags = TraceFlags(TraceFlags.SAMPLED)
        context = SpanContext(
            ids.generate_trace_id(), ids.generate_span_id(), is_remote=False, trace_flags=flags
        )
        is_call = ended.name == PREDICTION
        return ReadableSpan(
            ended.name,
            context,
            resource=resource,
            attributes=dict(ended.attributes()),
            kind=SpanKind.SERVER if is_call else SpanKind.INTERNAL,
            instrumentation_scope=scope,
            status=Status(StatusCode.ERROR if ended.is_fault else StatusCode.UNSET),
            start_time=ended.ended_ns - int(ended.duration_ms * 1e6),
            end_time=ended.ended_ns,
        )

    def _about(self) -> Any:
        """Return resource, scope and maker of ids; the vendor is loaded by this thread only."""
        if not hasattr(self, "_vendor"):
            import os

            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope

            named = (
                {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: self._service_name}
            )
            self._vendor = (
                Resource.create(named),
                InstrumentationScope(SCOPE, installed_version("kfm-mlflow")),
                RandomIdGenerator(),
            )
        return self._vendor
