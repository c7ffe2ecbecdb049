"""The plan of a drift check: fixed tests, fixed limits and a false-alarm budget, written down."""

from __future__ import annotations

from pydantic import Field

from kfm_mlflow.policy.written import Written


class DriftPlan(Written):
    """What a drift check asks, chosen before any data are seen.

    Attributes:
        false_alarm_ratio: Chance that inputs which did not drift are called drifting by any of
            the tests, over all fields, statistics and looks together.
        look_count: How often the same release is looked at; the budget is divided by it.
        min_block_count: Fewest independent blocks on either side.
        min_distance: Smaller Kolmogorov-Smirnov distances are no drift, however significant.
        detect_distance: A distance that must not go unseen: a check that would miss it in more
            than one of five cases is inconclusive. A shift by one standard deviation of a normal
            distribution has 0.38.
        max_missing_increase_ratio: How much larger the share of missing cells may be.
        range_margin_ratio: By which share of its width the baseline's range is widened.
        max_outside_ratio: Largest share of cells outside the widened range.
        permutation_count: Fewest permutations of a test.
        seed: Of the permutations.
    """

    false_alarm_ratio: float = Field(default=0.05, gt=0, lt=0.5)
    look_count: int = Field(default=1, ge=1, le=1000)
    min_block_count: int = Field(default=30, ge=5)
    min_distance: float = Field(default=0.1, ge=0, lt=1)
    detect_distance: float = Field(default=0.35, gt=0, le=1)
    max_missing_increase_ratio: float = Field(default=0.05, ge=0, lt=1)
    range_margin_ratio: float = Field(default=0.5, ge=0)
    max_outside_ratio: float = Field(default=0.01, ge=0, lt=1)
    permutation_count: int = Field(default=1999, ge=199, le=100_000)
    seed: int = Field(default=0, ge=0)
