"""What an analysis finds, and what it remembers between two looks. Values only."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the journal reads the types at run time
from dataclasses import dataclass, field, replace
from typing import Literal

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.drift_watch import DriftFindings, DriftWindow  # noqa: TC001 - same
from kfm_mlflow.rollout.explanation_watch import ExplanationFindings, ExplanationWindow
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.sequential import Sequential  # noqa: TC001 - same

MASKING = "masking"
"""The metric that says that masking failed."""


@dataclass(frozen=True)
class MetricAnalysis:
    """One metric's outcome.

    Attributes:
        kind: ``limit`` (absolute), ``compare`` (against stable), ``drift`` (from the release's
            own baseline), ``explanation`` (how stable explanations are; ``limit`` is a floor) or
            ``alarm`` (answers that raised it).
        verdict: None when the metric is not applicable.
        canary_ratio: Bad share of the canary's samples in the window.
        stable_ratio: The same for stable.
        value: What is held against ``limit``.
        e_value: Evidence of the sequential test over the whole rollout.
        threshold: e-value from which the test rejects.
        sample_count: The canary's samples in the window.
        reason: One clause for people.
    """

    name: str
    kind: Literal["limit", "compare", "drift", "explanation", "alarm"]
    verdict: Verdict | None
    sample_count: int = 0
    canary_ratio: float | None = None
    stable_ratio: float | None = None
    value: float | None = None
    limit: float | None = None
    e_value: float | None = None
    threshold: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Analysis:
    """All metrics of one look; the whole is its worst applicable part.

    Attributes:
        is_silent: The ``ERROR`` is an arm that answers nothing. It may be stuck, or nobody may
            have asked it; so nothing passes, and this alone gives no candidate up.
        drift: How far answers and inputs are from the release's baseline; None when that is not
            watched, or could not be looked at.
        explanations: How stable explanations of its answers are; None likewise.
    """

    verdict: Verdict
    metrics: tuple[MetricAnalysis, ...]
    false_alarm_ratio: float
    is_silent: bool = False
    drift: DriftFindings | None = None
    explanations: ExplanationFindings | None = None

    @property
    def is_unmasked(self) -> bool:
        """Masking of an answer failed: what is served can not be kept to its ceilings."""
        return any(metric.name == MASKING for metric in self.metrics)

    @property
    def is_drifting(self) -> bool:
        """What is served left its own baseline, and the policy gives it up for that."""
        return self._fails("drift")

    @property
    def is_unstable(self) -> bool:
        """Explanations are less stable than the policy's floor, and it gives them up for that."""
        return self._fails("explanation")

    @property
    def alarm(self) -> str:
        """The alarm that was raised too often; empty when none was."""
        failing = (m for m in self.metrics if m.kind == "alarm" and m.verdict is Verdict.FAIL)
        return next((metric.name for metric in failing), "")

    def _fails(self, kind: str) -> bool:
        return any(m.kind == kind and m.verdict is Verdict.FAIL for m in self.metrics)

    @property
    def reason(self) -> str:
        """The worst metrics' reasons in one line."""
        found = [f"{m.name}: {m.reason}" for m in self.metrics if m.verdict is self.verdict]
        return "; ".join(found) or "nothing was measured"


@dataclass(frozen=True)
class Memory:
    """What earlier looks left behind.

    Attributes:
        canary_seen: The canary's raw counters at the last look; None before the first and after
            a redeployment, when the next look only sets the mark.
        stable_seen: The same for stable.
        canary: What the canary answered in the present window (since the step began).
        stable: The same for stable.
        sequential: Metric -> comparison since the canary began.
        slow_bounds_ms: Metric -> bound above which an answer is slow: stable's own quantile, set
            once, from answers that came before any that it is applied to.
        silent_count: Arm -> answers of the other arm since this one last answered.
        drift: Arm -> what was counted by its drift baseline since the canary began.
        explanations: What was explained of the canary since it began.
    """

    canary_seen: ArmCounts | None = None
    stable_seen: ArmCounts | None = None
    canary: ArmCounts = field(default_factory=ArmCounts)
    stable: ArmCounts = field(default_factory=ArmCounts)
    sequential: Mapping[str, Sequential] = field(default_factory=dict)
    slow_bounds_ms: Mapping[str, float] = field(default_factory=dict)
    silent_count: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, DriftWindow] = field(default_factory=dict)
    explanations: ExplanationWindow = field(default_factory=ExplanationWindow)

    def with_new_window(self) -> Memory:
        """Forget the window; keep the marks, the comparisons and what is watched over all steps."""
        return replace(self, canary=ArmCounts(), stable=ArmCounts(), silent_count={})

    def with_canary_unmarked(self) -> Memory:
        """Forget the canary's mark, because its counters may start anew."""
        return replace(self, canary_seen=None)

    def with_stable_unmarked(self) -> Memory:
        """Forget stable's mark, because its counters may start anew."""
        return replace(self, stable_seen=None)
