"""The policy's ``rollout`` section: how a release meets traffic, in the words of Argo and Flagger.

Field names are Argo Rollouts' and Flagger's own where they have one (``setWeight``, ``pause``,
``analysis``, ``scaleDownDelay``); quantities that those tools leave without a unit carry one.
What is refused here can not go wrong later: weights that fall, a wait without a deadline, an
analysis that can never get samples, a plan that promotes without evidence.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads it at run time
from typing import Any, Literal, Self

from pydantic import Field, StrictInt, field_validator, model_validator

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.policy.drift import DriftPlan
from kfm_mlflow.policy.steps import (
    FULL_PCT,
    PRESETS,
    AnalysisStep,
    PauseStep,
    Seconds,
    Section,
    SetMirrorRoute,
    SetWeight,
    Step,
    find_fault,
)

CompareMetric = Literal[
    "error_ratio",
    "slow_p50_ratio",
    "slow_p95_ratio",
    "slow_p99_ratio",
    "amplification_ratio",
    "mean_shift_ratio",
]
"""What canary and stable are compared by: the share of errors; the share of answers slower than
stable's own median, 95th or 99th percentile; and the share of answers whose named statistic lies
outside the stable release's own band."""

DRIFT_PLAN = DriftPlan()
"""Whose numbers the drift watch takes where its own are not written."""


class Limits(Section):
    """Absolute limits on the canary's own answers, inclusive; None sets none.

    Attributes:
        error_ratio: Largest share of requests answered with an error, 0..1.
        p95_latency_ms: Largest 95th percentile of the time to answer, in ms.
        cost_usd_per_1k_requests: Largest cost of 1000 answers, in US dollars: the mean time to
            answer, at ``replicaUsdPerHour``.
    """

    error_ratio: float | None = Field(default=None, ge=0, le=1)
    p95_latency_ms: float | None = Field(default=None, gt=0)
    cost_usd_per_1k_requests: float | None = Field(default=None, gt=0)


class DriftWatch(Section):
    """How what a release answers and is asked is held against its own drift baseline.

    Attributes:
        mode: ``enforce`` gives a release up whose answers drift, and passes nothing before there
            are ``minSamples``; ``audit`` only records.
        inputs: The same of inputs that drift: they do for every release alike.
        false_alarm_ratio: Chance that a release which answers as its baseline says is ever called
            drifting, however often one looks; shared over all columns, besides that of the
            comparisons.
        min_samples: Distinct requests before anything can pass.
        min_distance: Smaller distances from the baseline are no drift, however significant.
    """

    mode: Literal["enforce", "audit"] = "enforce"
    inputs: Literal["enforce", "audit"] = "audit"
    false_alarm_ratio: float = Field(
        default=DRIFT_PLAN.false_alarm_ratio, alias="falseAlarmRatio", gt=0, lt=1
    )
    min_samples: StrictInt = Field(default=50, alias="minSamples", ge=1)
    min_distance: float = Field(default=DRIFT_PLAN.min_distance, alias="minDistance", ge=0, lt=1)


class ExplanationWatch(Section):
    """How stable the explanations of a served release's answers have to be.

    Attributes:
        mode: ``enforce`` gives a release up whose explanations are not stable, and before promotion
            passes nothing without ``minSamples``; ``audit`` only records.
        min_stability: Least mean correlation of a row's explanation with that of the same row,
            changed a little; -1..1.
        min_samples: Explained rows that a mean is taken over.
        interval_s: Least time between two rows that a replica explains.
    """

    mode: Literal["enforce", "audit"] = "enforce"
    min_stability: float = Field(default=0.5, alias="minStability", ge=-1, le=1)
    min_samples: StrictInt = Field(default=20, alias="minSamples", ge=1)
    interval_s: Seconds = 10.0


AlarmName = Literal["narrative-safety", "fusion-collapse"]
"""What an answer itself can be alarming for: a story that had to be withheld; fused vectors that
no longer tell the rows apart that they come from."""


class AlarmLimit(Section):
    """How many answers of a release may raise an alarm.

    Attributes:
        mode: ``enforce`` gives a release up that raises it more often; ``audit`` only records.
        max_count: Most answers with the alarm within a step of the plan, or within the watch.
    """

    mode: Literal["enforce", "audit"] = "enforce"
    max_count: StrictInt = Field(default=0, alias="maxCount", ge=0)


class AnalysisPolicy(Section):
    """What is measured while a canary has traffic.

    Attributes:
        false_alarm_ratio: Chance that a canary exactly as good as stable is ever aborted by a
            comparison, however often one looks; shared over all compared metrics.
        limits: Absolute limits.
        compare: Metrics compared with stable by a sequential test.
        replica_usd_per_hour: What a replica costs, in US dollars; asked for by the cost limit.
        drift: How drift from the release's own baseline is watched; None does not watch.
        explanations: How stable explanations have to be; None explains nothing.
        alarms: Alarm -> how often it may be raised; one without a limit is counted and shown.
    """

    false_alarm_ratio: float = Field(default=0.05, alias="falseAlarmRatio", gt=0, lt=1)
    limits: Limits = Limits()
    compare: tuple[CompareMetric, ...] = ()
    replica_usd_per_hour: float | None = Field(default=None, alias="replicaUsdPerHour", gt=0)
    drift: DriftWatch | None = None
    explanations: ExplanationWatch | None = None
    alarms: Mapping[AlarmName, AlarmLimit] = Field(default_factory=dict)

    @field_validator("compare")
    @classmethod
    def _names_each_once(cls, value: tuple[CompareMetric, ...]) -> tuple[CompareMetric, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a metric appears twice")
        return value

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not self.compare and not self.limits.model_dump(exclude_none=True):
            raise ValueError("give limits, compare or both: nothing measured can never pass")
        if self.limits.cost_usd_per_1k_requests is not None and self.replica_usd_per_hour is None:
            raise ValueError("limits.cost_usd_per_1k_requests needs replicaUsdPerHour")
        return self

    @property
    def threshold(self) -> float:
        """e-value from which a compared metric rejects (Bonferroni over the metrics)."""
        return max(1, len(self.compare)) / self.false_alarm_ratio


class RolloutPolicy(Section):
    """The journey of a release of this family through traffic.

    Attributes:
        promotion: ``automatic`` promotes after the last step; ``manual`` waits for a person.
        steps: In order; weights only rise. Written as a list, or as the name of a preset:
            ``canary`` (10 -> 100) or ``shadow`` (shadow -> 1 -> 5 -> 25 -> 50 -> 100).
        analysis: What is measured.
        scale_down_delay_s: How long a version stays up after its traffic left it, and how long a
            new production version is watched at least before another canary may take its place.
        post_promotion_watch_s: How long a new production version is watched, its predecessor kept
            warm, before the rollout has succeeded. Only time with a controller at work counts, and
            without ``minSamples`` good answers it goes on.
        telemetry_gap_s: Give the candidate up when nothing could be measured for so long.
        canary_ready_s: How long a release may take to answer after it was deployed; also how
            long a rollback may take before it is called failed.
        promotion_deadline_s: Abort when promotion is due and not admitted (or, with ``manual``,
            not ordered) for so long.
        pause_deadline_s: Abort when an operator's pause lasts so long.
    """

    promotion: Literal["automatic", "manual"] = "automatic"
    steps: tuple[Step, ...] = Field(min_length=1)
    analysis: AnalysisPolicy
    scale_down_delay_s: float = Field(default=30.0, alias="scaleDownDelay_s", ge=0)
    post_promotion_watch_s: float = Field(default=172800.0, alias="postPromotionWatch_s", ge=0)
    telemetry_gap_s: Seconds = Field(default=300.0, alias="telemetryGap_s")
    canary_ready_s: Seconds = Field(default=60.0, alias="canaryReady_s")
    promotion_deadline_s: Seconds = Field(default=86400.0, alias="promotionDeadline_s")
    pause_deadline_s: Seconds = Field(default=3600.0, alias="pauseDeadline_s")

    @field_validator("steps", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in PRESETS:
            raise ValueError(f"there is no plan {value!r}; give a list, or {', '.join(PRESETS)}")
        return PRESETS[value]

    @field_validator("steps")
    @classmethod
    def _is_fit(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        fault = find_fault(value)
        if fault:
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _compares_with_somebody(self) -> Self:
        for index, item in enumerate(self.steps):
            alone = self.weight_pct_at(index) == FULL_PCT
            if alone and isinstance(item, AnalysisStep) and self.analysis.compare:
                raise ValueError(
                    f"steps[{index}].analysis: at setWeight 100 there is no stable to compare; "
                    "end with a smaller weight, promotion gives 100"
                )
        return self

    @model_validator(mode="after")
    def _can_explain_in_time(self) -> Self:
        """Refuse a canary that must end before so many rows can have been explained."""
        asked = self.analysis.explanations
        if asked is None or asked.mode == "audit":
            return self
        first = next(k for k, item in enumerate(self.steps) if isinstance(item, AnalysisStep))
        time_s = sum(
            item.analysis.deadline_s
            if isinstance(item, AnalysisStep)
            else item.pause.duration_s or item.pause.deadline_s or 0.0
            for item in self.steps[: first + 1]
            if isinstance(item, AnalysisStep | PauseStep)
        )
        # The first row is explained at once.
        needed_s = (asked.min_samples - 1) * asked.interval_s
        if needed_s >= time_s:
            raise ValueError(
                f"analysis.explanations: {asked.min_samples} rows, one in {asked.interval_s:g} s, "
                f"take {needed_s:g} s, and steps[{first}] ends after {time_s:g} s; "
                "give fewer, a shorter interval_s, or a longer deadline_s"
            )
        return self

    def weight_pct_at(self, step_index: int) -> int:
        """Return the canary's weight, in percent, while a step is under way; 0 before any."""
        weights = [
            item.weight_pct for item in self.steps[: step_index + 1] if isinstance(item, SetWeight)
        ]
        return weights[-1] if weights else 0

    def mirror_pct_at(self, step_index: int) -> int:
        """Return the share copied to the canary, in percent, while a step is under way."""
        if self.weight_pct_at(step_index):
            return 0
        shares = [
            item.mirror.percentage
            for item in self.steps[: step_index + 1]
            if isinstance(item, SetMirrorRoute)
        ]
        return shares[-1] if shares else 0

    def min_samples_at(self, step_index: int) -> int:
        """Return the samples that a step asks for; the plan's largest where it asks for none."""
        counts = [s.analysis.min_samples if isinstance(s, AnalysisStep) else 0 for s in self.steps]
        asked = counts[step_index] if step_index < len(counts) else 0
        return asked or max(counts)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the plan; a rollout under way restarts when it changes."""
        return digest_json(self.model_dump(mode="json", by_alias=True))


def lint_rollout(plan: RolloutPolicy) -> list[str]:
    """Return what a plan will do that its author may not expect; often nothing."""
    notes: list[str] = []
    if not plan.analysis.limits.model_dump(exclude_none=True):
        notes.append(
            "rollout.analysis.limits is empty: no first release passes, and after promotion "
            "nothing is measured; give error_ratio"
        )
    drift = plan.analysis.drift
    if drift is not None and drift.mode == "audit":
        notes.append(
            "rollout.analysis.drift.mode is audit: answers that drift are recorded, and give no "
            "release up"
        )
    explained = plan.analysis.explanations
    if explained is not None and explained.mode == "enforce" and explained.min_stability <= 0:
        notes.append(
            "rollout.analysis.explanations.minStability is not above 0: explanations that have "
            "nothing in common pass"
        )
    notes += [
        f"rollout.analysis.alarms.{name}.mode is audit: it is recorded, and gives no release up"
        for name, limit in plan.analysis.alarms.items()
        if limit.mode == "audit"
    ]
    if plan.post_promotion_watch_s < plan.scale_down_delay_s:
        notes.append(
            "rollout.postPromotionWatch_s is below scaleDownDelay_s: the watch ends before the "
            "old version goes"
        )
    return notes
