"""The policy's ``fleet`` section: how a release reaches the agents of a fleet, batch by batch.

A fleet's models have no ``rollout`` steps of their own: level canary is the first batch, one agent
per specialty, which takes ``canary_ratio`` of the tasks; level production is all others.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from kfm_mlflow.policy.written import NonEmpty, Written

Seconds = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class HealthLimits(Written):
    """What keeps an agent, and the fleet, healthy (docs/fleet-health.md has the formulas).

    Attributes:
        min_coherence: An agent whose coherence is not above this is degraded.
        isolate_below: Under this it gets no tasks.
        return_at: From this on it gets tasks again.
        smoothing: Weight of the newest probe round in the moving average of coherence.
        max_error_ratio: An agent's share of failed tasks has to stay below this.
        max_p95_latency_ms: Its 95th percentile of the time to answer has to stay within this.
        min_safety: The fleet's share of unsafe tasks that were refused has to reach this.
        min_consensus: Its share of probes on which a safe quorum of agents agrees, likewise.
        min_samples: Tasks and probes of an agent before anything of it can pass.
        window_s: Over how long error ratio, latency and throughput are counted.
    """

    min_coherence: Ratio = 0.7
    isolate_below: Ratio = 0.3
    return_at: Ratio = 0.5
    smoothing: float = Field(default=0.3, gt=0, le=1)
    max_error_ratio: Ratio = 0.05
    max_p95_latency_ms: float = Field(default=200.0, gt=0)
    min_safety: Ratio = 0.95
    min_consensus: Ratio = 0.95
    min_samples: StrictInt = Field(default=20, ge=1)
    window_s: Seconds = 60.0

    @model_validator(mode="after")
    def _has_hysteresis(self) -> Self:
        if not self.isolate_below < self.return_at <= self.min_coherence:
            raise ValueError("needs isolate_below < return_at <= min_coherence")
        return self


class FleetPolicy(Written):
    """How a release is rolled out over agents.

    Attributes:
        specialties: What agents are there for; every one needs an agent.
        canary_ratio: Share of a specialty's tasks that the first batch takes before promotion.
        batch_ratio: Size of every later batch as a share of the fleet, at least one agent.
        watch_s: How long a batch must stay healthy before the next.
        start_deadline_s: An agent that does not run and answer by then fails its batch.
        silence_s: An agent that answers no probe for this long is lost.
        evidence_deadline_s: A batch without enough evidence by then is given up.
        votes_deadline_s: How long a sound first batch waits for the council.
        warm_versions: Stable releases, the present one included, whose instances are kept.
        postPromotionWatch_s: How long after the last batch the fleet still goes back by itself.
        promotion: ``automatic`` moves to Production when the gates allow it; ``manual`` waits.
    """

    specialties: tuple[NonEmpty, ...] = Field(min_length=1)
    canary_ratio: float = Field(default=0.10, gt=0, le=1)
    batch_ratio: float = Field(default=0.34, gt=0, le=1)
    watch_s: Seconds = 300.0
    start_deadline_s: Seconds = 120.0
    silence_s: Seconds = 10.0
    evidence_deadline_s: Seconds = 900.0
    votes_deadline_s: Seconds = 86400.0
    warm_versions: StrictInt = Field(default=2, ge=1)
    post_promotion_watch_s: Seconds = Field(default=172800.0, alias="postPromotionWatch_s")
    probe_interval_s: Seconds = 5.0
    probe_count: StrictInt = Field(default=8, ge=1)
    promotion: Literal["automatic", "manual"] = "automatic"
    health: HealthLimits = HealthLimits()

    @model_validator(mode="after")
    def _can_end(self) -> Self:
        if len(set(self.specialties)) != len(self.specialties):
            raise ValueError("specialties: one appears twice")
        if self.evidence_deadline_s < self.watch_s:
            raise ValueError("evidence_deadline_s is shorter than watch_s: no batch could pass")
        return self
