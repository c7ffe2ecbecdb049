"""What a person is told about a rollout: values only, written into the journal beside the state.

The registry's page and ``kfm rollout watch`` show these and work out nothing themselves. Instants
are absolute, so that what was told once stays true until something changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the journal writes by the types at run time
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

NARRATIVE_KEY = "narrative"
"""Where it stands in the journal, beside the fields of the state."""


@dataclass(frozen=True)
class PlannedStep:
    """One step of the plan.

    Attributes:
        number: From 1 on.
        words: What it does, in the plan's words.
        canary_pct: The canary's share of requests while it is under way.
        mirror_pct: Share of requests that is copied to the canary meanwhile.
        status: ``stopped`` is the step at which the candidate was given up.
    """

    number: int
    words: str
    canary_pct: int
    mirror_pct: int
    status: Literal["done", "present", "stopped", "ahead"]


@dataclass(frozen=True)
class ArmLine:
    """What one version answered since the present step, or the watch, began.

    Attributes:
        arm: ``production`` is the candidate after its promotion.
        share_pct: Of requests, as it was last asked of the routers.
        error_ratio: None without requests.
        p50_ms: Quantiles of the time to answer; None without answers, and when it lies beyond the
            last bound that is counted.
    """

    arm: Literal["canary", "stable", "production"]
    version: int
    share_pct: float
    request_count: int
    error_count: int
    error_ratio: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    masked_count: int
    withheld_count: int


@dataclass(frozen=True)
class MetricLine:
    """One metric of the last look.

    Attributes:
        kind: ``limit`` (absolute), ``compare`` (against stable) or ``drift`` (from the candidate's
            own baseline).
        verdict: A verdict, or ``NOT_APPLICABLE``.
        unit: Of both values and the limit.
        canary_value: What is held against the limit, or compared.
        stable_value: The same for stable; None when it is not compared.
        sample_count: The canary's samples since the step began.
        needed_count: Samples before the metric can pass.
        e_value: Evidence that the canary is worse, over the whole rollout.
        threshold: e-value from which it is taken for worse.
    """

    name: str
    kind: Literal["limit", "compare", "drift", "explanation", "alarm"]
    verdict: str
    unit: str
    canary_value: float | None
    stable_value: float | None
    limit: float | None
    sample_count: int
    needed_count: int
    e_value: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Narrative:
    """Where a rollout stands, why, and what comes next.

    Attributes:
        described_at: When this was true.
        since: When the phase began.
        happening: One sentence: what is going on.
        traffic: One sentence: who answers what share of requests.
        reason: Why it stands there; of a wait for votes, the registry's own sentence.
        next: What comes next, and on what condition.
        next_at: When that is due at the earliest; None when it depends on no clock.
        deadline_at: When the wait ends by itself; None without an end.
        on_deadline: What then happens; empty without an end.
        ends: What else ends it early.
        is_loud: Something is wrong that a person must see.
        to_do: What a person must do; empty when nobody needs to.
        canary_pct: The candidate's share of requests.
        step_number: The step under way, or at which it ended, from 1 on; None before the first and
            after the last.
        step: That step in the plan's words; empty without one.
        verdict: Of the last look at the traffic; None before any.
        measured: The same in words.
    """

    phase: str
    candidate: int | None
    stable: int | None
    described_at: datetime
    since: datetime
    happening: str
    traffic: str
    reason: str
    next: str
    next_at: datetime | None
    deadline_at: datetime | None
    on_deadline: str
    ends: tuple[str, ...]
    is_loud: bool
    to_do: str
    canary_pct: float
    mirror_pct: float
    step_number: int | None
    step_count: int
    step: str
    verdict: str | None
    measured: str
    steps: tuple[PlannedStep, ...]
    metrics: tuple[MetricLine, ...]
    arms: tuple[ArmLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value."""
        written: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return written


@cache
def _adapter() -> TypeAdapter[Narrative]:
    return TypeAdapter(Narrative)
