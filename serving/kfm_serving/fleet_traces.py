"""Spans of what a dispatcher asked of instances: one per counted attempt, without its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_serving.split import bucket, canary_bucket_count
from kfm_serving.traces import open_span_log

if TYPE_CHECKING:
    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_serving.fleet_attempt import Attempt

TASK = "kfm.task"
"""Name of a span."""


class TaskSpans:
    """The spans of one dispatcher process."""

    def __init__(self, options: SpanOptions, process: str) -> None:
        """Open the exporters.

        Args:
            options: Which spans are kept, and where.
            process: Names the dispatcher's file; no two dispatchers share one.
        """
        self._ratio = options.ratio
        self._log = open_span_log(options, process, service_name="kfm-dispatcher")

    def note(self, task_id: str, generation: int, attempt: Attempt) -> None:
        """Note an attempt that was just counted; returns at once.

        Args:
            task_id: Decides whether the span of a good answer is kept, and stands in none.
            generation: Of the route table in force.
            attempt: How it ended.
        """
        chosen = bucket(f"span/{task_id}".encode()) < canary_bucket_count(self._ratio)
        if attempt.is_good and not chosen:
            return
        self._log.event(
            TASK,
            task_attributes(generation, attempt, ratio=self._ratio),
            duration_ms=attempt.latency_ms,
            is_fault=not attempt.is_good,
        )

    def close(self) -> None:
        """Export what waits."""
        self._log.close()


def task_attributes(generation: int, attempt: Attempt, *, ratio: float) -> dict[str, Any]:
    """Return everything that a span says of an attempt.

    Args:
        generation: Of the route table in force.
        attempt: How it ended.
        ratio: Share of good answers that is kept, so that a reader can count back.
    """
    target, answer = attempt.target, attempt.answer
    return {
        "kfm.agent": target.agent,
        "kfm.specialty": target.specialty,
        "kfm.model.version": target.version,
        "kfm.release.id": attempt.release_id or None,
        "kfm.stage": "canary" if target.is_canary else "production",
        "kfm.outcome": attempt.outcome,
        "kfm.latency_ms": attempt.latency_ms,
        "kfm.generation": generation,
        "kfm.decision": None if answer is None else answer.decision,
        "kfm.unsafe": None if answer is None else answer.is_unsafe,
        "kfm.sample_ratio": ratio if attempt.is_good else 1.0,
    }
