"""What a step of a rollout may ask for. Values only; the controller carries them out in order.

Every action may be carried out twice: a controller that was killed asks for it again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deploy:
    """Fetch and verify a release, and serve it beside the others, with no traffic yet."""

    version: int


@dataclass(frozen=True)
class SetSplit:
    """Send a share of the traffic to the canary and the rest to stable.

    Attributes:
        ratio: The canary's share, 0..1.
        generation: Newer than any that the plane has applied.
        mirror_ratio: Share of requests that is copied to the canary, its answers thrown away.
    """

    stable: int | None
    canary: int | None
    ratio: float
    generation: int
    mirror_ratio: float = 0.0


@dataclass(frozen=True)
class PublishVerdict:
    """Sign what the analysis found about a canary and give it to the registry."""

    version: int


@dataclass(frozen=True)
class Promote:
    """Move the canary to production in the registry, by compare-and-set."""

    version: int
    expect_production: int | None
    expect_canary: int | None


@dataclass(frozen=True)
class Restore:
    """Move the last stable version back to production in the registry, by compare-and-set."""

    version: int
    expect_production: int | None
    expect_canary: int | None
    reason: str


@dataclass(frozen=True)
class Demote:
    """Take a version off its level in the registry, by compare-and-set."""

    version: int
    expect_production: int | None
    expect_canary: int | None
    reason: str


@dataclass(frozen=True)
class WriteReports:
    """Write the three reports of a rollback."""

    rolled_back_version: int
    restored_version: int | None


@dataclass(frozen=True)
class Remove:
    """Take a version down that has had no traffic for the scale-down delay."""

    version: int


Action = Deploy | SetSplit | PublishVerdict | Promote | Restore | Demote | WriteReports | Remove
