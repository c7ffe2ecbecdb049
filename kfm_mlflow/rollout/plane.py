"""The port between the rollout controller and whatever carries traffic.

The controller knows this interface only. ``kfm_serving.portable`` implements it on Ray Serve;
the tests implement it in memory. All calls are idempotent and synchronous; durations are in
seconds, shares are ratios in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the rollout journal reads it at run time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.monitor.drift_bins import Columns


@dataclass(frozen=True)
class MaskingOrder:
    """By which regions the answers of a release are masked.

    Attributes:
        regions_file: On every node that serves; None takes the packaged regions.
        regions_digest: ``sha256:<hex>`` that the policy gives it; None when there is no file.
        public_terms: Terms that are no misspelling of a restricted name.
    """

    regions_file: Path | None = None
    regions_digest: str | None = None
    public_terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployable:
    """One release, ready to be served.

    Attributes:
        model_name: Registered model.
        version: MLflow model version.
        release_id: ``sha256:<hex>`` that the bytes were verified against.
        release_dir: Local directory of the release (holds ``MLmodel`` and ``model.onnx``).
        masking: By which regions its answers are masked; None serves them as the model gives them,
            which a registry never asks for.
        explain_interval_s: Least time between two answered rows that a replica explains; None
            explains none.
    """

    model_name: str
    version: int
    release_id: str
    release_dir: Path
    masking: MaskingOrder | None = None
    explain_interval_s: float | None = None


@dataclass(frozen=True)
class Band:
    """The interval that a response statistic keeps to on stable's own validation data."""

    low: float
    high: float


@dataclass(frozen=True)
class Split:
    """Who answers what share of requests.

    Attributes:
        generation: Grows with every change; a router refuses a lower one.
        stable: Version that answers what the canary does not; None before a first release.
        canary: Version under test; None when there is none.
        canary_ratio: Share of requests for the canary, 0..1. With no stable version the rest is
            answered 503 with Retry-After.
        bands: Response statistic -> interval; the router counts answers outside it per version.
        mirror_ratio: Share of requests, 0..1, that is also sent to the canary, whose answers are
            counted and thrown away; only while ``canary_ratio`` is 0.
    """

    generation: int
    stable: int | None
    canary: int | None
    canary_ratio: float
    bands: Mapping[str, Band] = field(default_factory=dict)
    mirror_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1], a share for nobody, and copies beside true requests."""
        if not 0.0 <= self.canary_ratio <= 1.0:
            raise ValueError(f"canary_ratio {self.canary_ratio} is outside [0, 1]")
        if not 0.0 <= self.mirror_ratio <= 1.0:
            raise ValueError(f"mirror_ratio {self.mirror_ratio} is outside [0, 1]")
        if self.canary is None and (self.canary_ratio or self.mirror_ratio):
            raise ValueError("a canary share needs a canary")
        if self.canary_ratio and self.mirror_ratio:
            raise ValueError("a canary with a share of its own gets no copies")


@dataclass(frozen=True)
class ArmCounts:
    """What one version has answered since it was deployed; every count only grows.

    Attributes:
        request_count: Requests routed to this version (first attempts), and copies sent to it.
        error_count: Of these, answered with an error of the model or no answer in time; a client's
            own bad input is not an error of the arm and is not counted at all.
        latency_ms_buckets: Upper bound in ms -> cumulative number of answers at or below it; the
            largest bound (``math.inf``) holds every answer.
        outside_count: Response statistic -> answers outside the stable release's band.
        measured_count: Response statistic -> answers for which it was computed.
        masked_count: Of the requests, answered with something made coarser or left out.
        withheld_count: Of the requests, refused because the answer may not be published.
        mask_failure_count: Of the requests, those whose masking went wrong; nothing was shown.
        dropped_count: Copies that were not sent, because too many were under way. They are no
            requests, and evidence of nothing.
        bin_counts: Column of the version's own drift baseline -> distinct requests per bin.
        explained_count: Answered rows that were explained twice, as they are and a little changed.
        unexplained_count: Rows of which nothing could be said: no block of them mattered, or the
            model failed on one.
        instability_ppm: Sum of 1 - correlation of the two explanations over the explained rows, in
            millionths.
        worst_instability_ppm: The largest of these since the version was deployed.
        alarm_count: Alarm -> answers that raised it.
        signal_count: Signal -> answers for which it was measured.
        signal_ppm: Signal -> its sum over these answers, in millionths.
    """

    request_count: int = 0
    error_count: int = 0
    latency_ms_buckets: Mapping[float, int] = field(default_factory=dict)
    outside_count: Mapping[str, int] = field(default_factory=dict)
    measured_count: Mapping[str, int] = field(default_factory=dict)
    masked_count: int = 0
    withheld_count: int = 0
    mask_failure_count: int = 0
    dropped_count: int = 0
    bin_counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    explained_count: int = 0
    unexplained_count: int = 0
    instability_ppm: int = 0
    worst_instability_ppm: int = 0
    alarm_count: Mapping[str, int] = field(default_factory=dict)
    signal_count: Mapping[str, int] = field(default_factory=dict)
    signal_ppm: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What the plane saw up to now: applied generation and counts per version.

    Attributes:
        generation: Of the split that all routers apply.
        arms: Version -> what it answered.
        baselines: Version -> the drift baseline that its ``bin_counts`` are counted by; a version
            without one counts no bins.
    """

    generation: int
    arms: Mapping[int, ArmCounts]
    baselines: Mapping[int, Columns] = field(default_factory=dict)


class TrafficPlane(Protocol):
    """Carries the traffic of one registered model."""

    def deploy(self, release: Deployable, *, timeout_s: float) -> None:
        """Serve a release beside the others, with no traffic yet; return when it answers.

        Raises:
            PlaneError: It did not become ready within ``timeout_s``; nothing of it is left behind.
        """

    def deployed(self) -> frozenset[int]:
        """Return the versions that are up and healthy."""

    def remove(self, version: int) -> None:
        """Take a version down; the caller has moved its traffic away first."""

    def set_split(self, split: Split) -> None:
        """Apply a split on every router replica; return when all have it.

        Raises:
            PlaneError: A router did not acknowledge, or the generation is not newer.
        """

    def observe(self) -> Observation:
        """Return exact counts per version, merged over all routers, surviving their restarts."""
