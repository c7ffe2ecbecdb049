"""The steps of a rollout plan, in Argo Rollouts' and Flagger's words, and the two plans by name.

A list of steps is refused, with the step's number and what to write instead, when its weights
fall, when it skips a level (a share that nobody measures, or everything at once) or when a wait
of it has no end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    model_validator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class MirrorRoute(Section):
    """How much is copied.

    Attributes:
        percentage: Percent of requests, 1..100 (Argo's own word).
    """

    percentage: StrictInt = Field(ge=1, le=FULL_PCT)


class SetMirrorRoute(Section):
    """Copy a share of the requests to the canary and throw its answers away (shadow traffic).

    It holds until the first ``setWeight``.
    """

    mirror: MirrorRoute = Field(alias="setMirrorRoute")


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
        duration_s: Wait so long, under a controller's eyes, and go on.
    """

    gate: Literal["votes"] | None = None
    deadline_s: Seconds | None = None
    duration_s: Seconds | None = None

    @model_validator(mode="after")
    def _waits_for_one_thing(self) -> Self:
        if self.gate is None and self.duration_s is None:
            raise ValueError("never ends; give duration_s, or gate with deadline_s")
        if self.gate is not None and self.duration_s is not None:
            raise ValueError("waits for two things; give either gate or duration_s")
        if self.gate is not None and self.deadline_s is None:
            raise ValueError("a gate that never opens has no end; give deadline_s")
        if self.gate is None and self.deadline_s is not None:
            raise ValueError("duration_s is its own end; take deadline_s away")
        return self


class PauseStep(Section):
    """Wait at the present weight; the canary stays under analysis."""

    pause: Pause


# By the name that people write and by the field's own name, which exported policies have.
_KINDS = {
    "setWeight": "setWeight",
    "weight_pct": "setWeight",
    "setMirrorRoute": "setMirrorRoute",
    "mirror": "setMirrorRoute",
    "analysis": "analysis",
    "pause": "pause",
}


def _kind_of_step(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for name, kind in _KINDS.items() if name in value), None)
    kinds: dict[type, str] = {
        SetWeight: "setWeight",
        SetMirrorRoute: "setMirrorRoute",
        AnalysisStep: "analysis",
        PauseStep: "pause",
    }
    return kinds.get(type(value))


Step = Annotated[
    Annotated[SetWeight, Tag("setWeight")]
    | Annotated[SetMirrorRoute, Tag("setMirrorRoute")]
    | Annotated[AnalysisStep, Tag("analysis")]
    | Annotated[PauseStep, Tag("pause")],
    Discriminator(
        _kind_of_step,
        custom_error_type="unknown_step",
        custom_error_message="a step is one of setWeight, setMirrorRoute, analysis, pause",
    ),
]

_MEASURE = {"analysis": {"minSamples": 200, "deadline_s": 3600}}
_VOTES = {"pause": {"gate": "votes", "deadline_s": 86400}}
PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "canary": ({"setWeight": 10}, {"analysis": {"minSamples": 200, "deadline_s": 600}}, _VOTES),
    "shadow": (
        {"setMirrorRoute": {"percentage": 100}},
        _MEASURE,
        *(step for pct in (1, 5, 25, 50) for step in ({"setWeight": pct}, _MEASURE)),
        _VOTES,
    ),
}
"""Name -> steps. After the last step comes promotion, and with it 100 %: the ``canary`` plan is
10 -> 100, the ``shadow`` plan is shadow -> 1 -> 5 -> 25 -> 50 -> 100."""


def find_fault(steps: tuple[Step, ...]) -> str:
    """Return what makes a list of steps unfit, naming the step and the remedy; often nothing."""
    faults = (*_misplaced(steps), _unmeasured(steps), _aimless(steps))
    return next((fault for fault in faults if fault), "")


def _unmeasured(steps: tuple[Step, ...]) -> str:
    """Find a share after which the next one, or the end, comes without an analysis."""
    waiting = ""
    for index, item in enumerate(steps):
        if isinstance(item, AnalysisStep):
            waiting = ""
        elif isinstance(item, SetWeight | SetMirrorRoute):
            if waiting:
                break
            name = "setWeight" if isinstance(item, SetWeight) else "setMirrorRoute"
            waiting = (
                f"[{index}].{name}: the level is skipped, nothing measures it; put an analysis "
                "step after it and before the next weight"
            )
    return waiting


def _misplaced(steps: tuple[Step, ...]) -> Iterator[str]:
    """Find steps that can not stand where they do."""
    weight_pct, has_share = 0, False
    for index, item in enumerate(steps):
        if isinstance(item, SetWeight):
            if item.weight_pct < weight_pct:
                yield (
                    f"[{index}].setWeight: {item.weight_pct} is below {weight_pct} before it; "
                    "give weights that only rise"
                )
            if item.weight_pct == FULL_PCT and not weight_pct:
                yield (
                    f"[{index}].setWeight: 100 skips the canary; "
                    "put a smaller setWeight and its analysis before it"
                )
            weight_pct, has_share = item.weight_pct, True
        elif isinstance(item, SetMirrorRoute):
            if weight_pct:
                yield f"[{index}].setMirrorRoute: shadow traffic comes before any setWeight"
            has_share = True
        elif isinstance(item, AnalysisStep) and not has_share:
            yield (
                f"[{index}].analysis: nothing to measure; put setWeight or setMirrorRoute before it"
            )


def _aimless(steps: tuple[Step, ...]) -> str:
    if not any(isinstance(item, AnalysisStep) for item in steps):
        return "has no analysis step: nothing is promoted without evidence; put one after setWeight"
    if not any(isinstance(item, SetWeight) for item in steps):
        return "has no setWeight: shadow answers reach nobody; add setWeight and an analysis"
    return ""
