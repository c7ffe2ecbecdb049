"""What holds in a region: ceilings by sensitivity, and the rule at one instant.

The source documents state resolutions as if a larger one were stronger; read safely, each is a
ceiling, and where two of them disagree the stricter holds. Nothing here ever loosens what a regions
file says. Time decides embargo, season and consent, so the instant is a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from kfm_mlflow.care.labels import UNKNOWN_TYPE, effect_of
from kfm_mlflow.care.modes import DEFAULT_CEILING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from kfm_mlflow.care.regions import Consent, Region

SCORE_CEILINGS = ((10, 9), (25, 8), (40, 7), (55, 6), (70, 5), (85, 4), (100, 3))
"""Sensitivity score up to and including -> finest H3 resolution; what lies between goes up."""
SENSITIVITY_CEILINGS = {
    "none": 7,
    "low": 7,
    "moderate": 6,
    "medium": 6,
    "high": 5,
    "very_high": 5,
    "sacred": 4,
}
"""Sensitivity class -> finest H3 resolution."""
SCORED_K_MIN = 7
CLASSED_K_MIN = 3
FAIL_CLOSED_CEILING = 3
"""Where somebody ought to have been asked and nobody was."""
EMBARGO_DAYS = 365
"""How long an embargo lasts that says when it began and not when it ends."""
_ASK_FIRST = ("very_high", "sacred")


@dataclass(frozen=True)
class Seasonality:
    """A part of every year in which more is closed.

    Attributes:
        starts: Month and day of the first closed day.
        ends: Month and day of the last; before ``starts`` it goes over the new year.
        ceiling: Finest H3 resolution in that season; None withholds.
    """

    starts: tuple[int, int]
    ends: tuple[int, int]
    ceiling: int | None = None

    def covers(self, now: datetime) -> bool:
        """Return whether an instant lies in the season, by its date in UTC.

        A day is added on either side, because the region's own date may be another.
        """
        days = [(now.astimezone(UTC) + timedelta(days=shift)).date() for shift in (-1, 0, 1)]
        return any(self._holds((day.month, day.day)) for day in days)

    def _holds(self, day: tuple[int, int]) -> bool:
        if self.starts <= self.ends:
            return self.starts <= day <= self.ends
        return day >= self.starts or day <= self.ends


@dataclass(frozen=True)
class Rule:
    """What holds in a region at one instant.

    Attributes:
        ceiling: Finest H3 resolution that may be published; -1 when nothing may.
        k_min: Smallest number of records that one published cell may stand for.
        reasons: Why it is stricter than the region's own numbers; without names.
    """

    ceiling: int
    k_min: int
    reasons: tuple[str, ...] = ()

    @property
    def is_withheld(self) -> bool:
        """Whether nothing may be published."""
        return self.ceiling < 0


def static_ceiling(stated: int | None, sensitivity: str | None, score: float | None) -> int:
    """Return the ceiling that a regions file asks for, whatever the time.

    Args:
        stated: ``h3_max_resolution``; None takes the default of 7.
        sensitivity: A key of :data:`SENSITIVITY_CEILINGS`.
        score: 0 to 100.
    """
    asked = [DEFAULT_CEILING if stated is None else stated]
    if sensitivity is not None:
        asked.append(SENSITIVITY_CEILINGS[sensitivity])
    if score is not None:
        asked.append(next(ceiling for top, ceiling in SCORE_CEILINGS if score <= top))
    return min(asked)


def static_k_min(stated: int, sensitivity: str | None, score: float | None) -> int:
    """Return the smallest number of records that a regions file asks for."""
    asked = [stated]
    if sensitivity not in {None, "none"}:
        asked.append(CLASSED_K_MIN)
    if score is not None:
        asked.append(SCORED_K_MIN)
    return max(asked)


def has_consent(consent: Consent, now: datetime, scope: str) -> bool:
    """Return whether consent is granted for a scope at an instant."""
    return (
        consent.status == "granted"
        and consent.scope in {None, scope}
        and (consent.expires_at is None or now < consent.expires_at)
    )


def rule_of(region: Region, now: datetime, scope: str) -> Rule:
    """Return what holds in a region at an instant.

    Args:
        region: The region.
        now: The instant (aware).
        scope: The ``care.scope`` under which something is to be published.
    """
    closed = tuple(_closures(region, now))
    if closed:
        return Rule(-1, region.k_min, closed)
    limits = [(region.ceiling, "")]
    consented = region.authority is not None and has_consent(region.consent, now, scope)
    if region.authority is None:
        limits.append((FAIL_CLOSED_CEILING, "no authority is named"))
    if not consented:
        limits.append((DEFAULT_CEILING, "finer than r7 needs consent"))
        if region.sensitivity in _ASK_FIRST:
            limits.append((FAIL_CLOSED_CEILING, "sensitivity asks for consent"))
    for label in region.label_records:
        ceiling = effect_of(label.label_type).ceiling
        if ceiling is not None:
            limits.append((ceiling, f"label type {label.label_type}"))
    season = region.seasonality
    if season is not None and season.ceiling is not None and season.covers(now):
        limits.append((season.ceiling, "in season"))
    ceiling = min(limit for limit, _ in limits)
    reasons = tuple(
        reason for limit, reason in limits if reason and limit == ceiling < region.ceiling
    )
    return Rule(ceiling, region.k_min, reasons)


def _closures(region: Region, now: datetime) -> Iterable[str]:
    if region.consent.status in {"denied", "withdrawn"}:
        yield f"consent {region.consent.status}"
    if region.embargo_until is not None and now < region.embargo_until:
        yield "under embargo"
    season = region.seasonality
    if season is not None and season.ceiling is None and season.covers(now):
        yield "in season"
    for label in region.label_records:
        if effect_of(label.label_type).is_withheld:
            kind = "unknown" if label.label_type == UNKNOWN_TYPE else label.label_type
            yield f"label type {kind}"
        elif label.label_type == "seasonal" and season is None:
            yield "label type seasonal without a season"
