"""Spans of what a router asked of releases; see :mod:`kfm_mlflow.monitor.spans` for what they hold.

There is one for every request and copy that is counted, so that spans can be held against counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import KfmError
from kfm_mlflow.monitor.span_export import open_exporters
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO, Arm, Outcome, Prediction, SpanLog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_mlflow.rollout.plane import Split
    from kfm_serving.desired import DesiredState
    from kfm_serving.router import Attempt

_METADATA = "model_metadata.json"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def declared_seed(release_dir: Path) -> int | None:
    """Return the seed that a release declares in ``model_metadata.json``; None without one."""
    path = release_dir / _METADATA
    try:
        document = load_json(path) if path.is_file() else {}
    except KfmError:
        return None
    seed = document.get("seed") if isinstance(document, dict) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def open_span_log(options: SpanOptions, process: str, *, service_name: str) -> SpanLog:
    """Open the exporters of one process.

    Args:
        options: Which spans are kept, and where.
        process: Names the process's file; no two processes share one.
        service_name: What the spans say they are from.
    """
    name = f"spans-{_UNSAFE.sub('-', process)}.jsonl"
    path = None if options.directory is None else options.directory / name
    return SpanLog(open_exporters(path), service_name=service_name, ratio=options.ratio)


class RouterSpans:
    """The spans of one router process."""

    def __init__(
        self, model_name: str, state: DesiredState, options: SpanOptions, process: str
    ) -> None:
        """Open the exporters.

        Args:
            model_name: Registered model.
            state: Where it stands which release a deployment is.
            options: Which spans are kept, and where.
            process: Names the router's file; no two routers share one.
        """
        self._model_name, self._state = model_name, state
        self._log = open_span_log(options, process, service_name="kfm-router")
        self._releases: dict[str, tuple[str, int | None]] = {}

    def note(self, split: Split, version: int, deployment_id: str, attempt: Attempt) -> None:
        """Note a call that was just counted; returns at once."""
        outcome = outcome_of(attempt)
        answer = attempt.answer

        def build() -> Prediction:
            release_id, seed = self._release(version, deployment_id)
            return Prediction(
                model_name=self._model_name,
                version=version,
                release_id=release_id,
                arm=arm_of(split, version),
                outcome=outcome,
                latency_ms=attempt.latency_ms,
                generation=split.generation,
                masked_count=0 if answer is None else answer.masked_count,
                seed=seed,
                alarms=() if answer is None else answer.alarms,
                signals={} if answer is None else answer.signals,
            )

        self._log.note(
            build, outcome=outcome, latency_ms=attempt.latency_ms, counted_as=deployment_id
        )

    def add_counts(self, arms: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the JSON forms of tallies with the spans of each: how many, and how many lost."""
        found = {}
        for deployment_id, tally in arms.items():
            chosen, lost = self._log.counted(deployment_id)
            found[deployment_id] = {
                **tally,
                "measured_count": {**tally["measured_count"], LOST_SPAN_RATIO: chosen},
                "outside_count": {**tally["outside_count"], LOST_SPAN_RATIO: lost},
            }
        return found

    def close(self) -> None:
        """Export what waits."""
        self._log.close()

    def _release(self, version: int, deployment_id: str) -> tuple[str, int | None]:
        if deployment_id not in self._releases:
            record = self._state.read_releases().get(version)
            if record is None or record.deployment_id != deployment_id:
                return "", None
            self._releases[deployment_id] = (record.release_id, record.seed)
        return self._releases[deployment_id]


def arm_of(split: Split, version: int) -> Arm:
    """Return why a release was asked under a split."""
    if version != split.canary:
        return "stable"
    return "mirror" if split.mirror_ratio > 0 else "canary"


def outcome_of(attempt: Attempt) -> Outcome:
    """Return what became of a call that counts for or against a release."""
    answer = attempt.answer
    if answer is None:
        return "late" if attempt.outcome == "late" else "lost"
    if not attempt.is_good:
        return "error"
    return answer.masking if answer.masking in ("masked", "withheld") else "answered"
