"""The policy's ``rollout`` section: how a release meets traffic, in the words of Argo and Flagger.

Field names are Argo Rollouts' and Flagger's own where they have one (``setWeight``, ``pause``,
``analysis``, ``scaleDownDelay``); quantities that those tools leave without a unit carry one.
What is refused here can not go wrong later: weights that fall, a wait without a deadline, an
analysis that can never get samples, a plan that promotes without evidence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    field_validator,
    model_validator,
)

from kfm_mlflow.canonical import digest_json

CompareMetric = Literal["error_ratio", "amplification_ratio", "mean_shift_ratio"]
"""What canary and stable are compared by: the share of errors, and the share of answers whose
named statistic lies outside the stable release's own band."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FULL_PCT = 100


class Section(BaseModel):
    """Base of this section: frozen, unknown fields forbidden, no coercion of booleans."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SetWeight(Section):
    """Send a share of the traffic to the canary.

    Attributes:
        weight_pct: Percent of requests, 1..100.
    """

    weight_pct: StrictInt = Field(alias="setWeight", ge=1, le=FULL_PCT)


class AnalysisRun(Section):
    """How much evidence a step asks for, and for how long it waits.

    Attributes:
        min_samples: Requests (or measured answers) of the canary before anything can pass.
        deadline_s: Abort when there is no PASS within this time.
    """

    min_samples: StrictInt = Field(alias="minSamples", ge=1)
    deadline_s: Seconds


class AnalysisStep(Section):
    """Go on only when the canary is measured and found no worse."""

    analysis: AnalysisRun


class Pause(Section):
    """A wait: for a gate, with a deadline, or for a time.

    Attributes:
        gate: ``votes`` waits until the registry would admit the canary to production.
        deadline_s: Abort when the gate has not opened within this time.
        duration_s: Wait so long and go on.
    """

    gate: Literal["votes"] | None = None
    deadline_s: Seconds | None = None
    duration_s: Seconds | None = None

    @model_validator(mode="after")
    def _waits_for_one_thing(self) -> Self:
        if (self.gate is None) == (self.duration_s is None):
            raise ValueError("give either gate (with deadline_s) or duration_s")
        if (self.gate is None) != (self.deadline_s is None):
            raise ValueError("a gate needs deadline_s, and only a gate has one")
        return self


class PauseStep(Section):
    """Wait at the present weight; the canary stays under analysis."""

    pause: Pause


def _kind_of_step(value: Any) -> str | None:
    names = ("setWeight", "analysis", "pause")
    if isinstance(value, dict):
        return next((name for name in names if name in value), None)
    kinds: dict[type, str] = {SetWeight: "setWeight", AnalysisStep: "analysis", PauseStep: "pause"}
    return kinds.get(type(value))


Step = Annotated[
    Annotated[SetWeight, Tag("setWeight")]
    | Annotated[AnalysisStep, Tag("analysis")]
    | Annotated[PauseStep, Tag("pause")],
    Discriminator(
        _kind_of_step,
        custom_error_type="unknown_step",
        custom_error_message="a step is one of setWeight, analysis, pause",
    ),
]


class Limits(Section):
    """Absolute limits on the canary's own answers, inclusive; None sets none.

    Attributes:
        error_ratio: Largest share of requests answered with an error, 0..1.
        p95_latency_ms: Largest 95th percentile of the time to answer, in ms.
    """

    error_ratio: float | None = Field(default=None, ge=0, le=1)
    p95_latency_ms: float | None = Field(default=None, gt=0)


class AnalysisPolicy(Section):
    """What is measured while a canary has traffic.

    Attributes:
        false_alarm_ratio: Chance that a canary exactly as good as stable is ever aborted by a
            comparison, however often one looks; shared over all compared metrics.
        limits: Absolute limits.
        compare: Metrics compared with stable by a sequential test.
    """

    false_alarm_ratio: float = Field(default=0.05, alias="falseAlarmRatio", gt=0, lt=1)
    limits: Limits = Limits()
    compare: tuple[CompareMetric, ...] = ()

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
        return self

    @property
    def threshold(self) -> float:
        """e-value from which a compared metric rejects (Bonferroni over the metrics)."""
        return max(1, len(self.compare)) / self.false_alarm_ratio


class RolloutPolicy(Section):
    """The journey of a release of this family through traffic.

    Attributes:
        promotion: ``automatic`` promotes after the last step; ``manual`` waits for a person.
        steps: In order; weights only rise.
        analysis: What is measured.
        scale_down_delay_s: How long a version stays up after its traffic left it, and how long a
            new production version is watched before the rollout has succeeded.
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
    canary_ready_s: Seconds = Field(default=60.0, alias="canaryReady_s")
    promotion_deadline_s: Seconds = Field(default=86400.0, alias="promotionDeadline_s")
    pause_deadline_s: Seconds = Field(default=3600.0, alias="pauseDeadline_s")

    @field_validator("steps")
    @classmethod
    def _rises(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        weight_pct = 0
        for index, item in enumerate(value):
            if isinstance(item, SetWeight):
                if item.weight_pct < weight_pct:
                    raise ValueError(
                        f"[{index}].setWeight: {item.weight_pct} is below {weight_pct} before it"
                    )
                weight_pct = item.weight_pct
            elif isinstance(item, AnalysisStep) and not weight_pct:
                raise ValueError(f"[{index}].analysis: no setWeight before it, nothing to measure")
        if not any(isinstance(item, AnalysisStep) for item in value):
            raise ValueError("needs an analysis step: nothing is promoted without evidence")
        return value

    @model_validator(mode="after")
    def _compares_with_somebody(self) -> Self:
        for index, item in enumerate(self.steps):
            alone = self.weight_pct_at(index) == FULL_PCT
            if alone and isinstance(item, AnalysisStep) and self.analysis.compare:
                raise ValueError(
                    f"steps[{index}].analysis: at setWeight 100 there is no stable to compare"
                )
        return self

    def weight_pct_at(self, step_index: int) -> int:
        """Return the canary's weight, in percent, while a step is under way; 0 before any."""
        weights = [
            item.weight_pct for item in self.steps[: step_index + 1] if isinstance(item, SetWeight)
        ]
        return weights[-1] if weights else 0

    def min_samples_at(self, step_index: int) -> int:
        """Return the samples that a step asks for; the plan's largest where it asks for none."""
        counts = [s.analysis.min_samples if isinstance(s, AnalysisStep) else 0 for s in self.steps]
        asked = counts[step_index] if step_index < len(counts) else 0
        return asked or max(counts)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the plan; a rollout under way restarts when it changes."""
        return digest_json(self.model_dump(mode="json", by_alias=True))
