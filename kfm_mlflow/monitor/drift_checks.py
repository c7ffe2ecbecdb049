"""What a drift check asks of one field, in order, and how its tests are judged together.

Schema, missingness and range are fixed limits, not tests; the false-alarm budget is not theirs.
Pure: values in, checks out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kfm_mlflow.monitor.drift_tests import blocks_needed, holm, resolvable_distance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kfm_mlflow.monitor.drift_baseline import FieldBaseline
    from kfm_mlflow.monitor.drift_sample import FieldRows
    from kfm_mlflow.monitor.drift_tests import Measured
    from kfm_mlflow.policy.drift import DriftPlan

Verdict = Literal["PASS", "INCONCLUSIVE", "FAIL"]
_CONSTANT_MARGIN_RATIO = 1e-6
# What a value times the first plus the second was mistaken for.
_CONVERSIONS = (
    ("degrees Celsius where the baseline has kelvin", 1.0, 273.15),
    ("kelvin where the baseline has degrees Celsius", 1.0, -273.15),
    ("geopotential height where the baseline has geopotential", 9.80665, 0.0),
    ("geopotential where the baseline has geopotential height", 1 / 9.80665, 0.0),
    ("a unit 1000 times larger", 1000.0, 0.0),
    ("a unit 1000 times smaller", 0.001, 0.0),
    ("a unit 100 times larger", 100.0, 0.0),
    ("a unit 100 times smaller", 0.01, 0.0),
)


@dataclass(frozen=True)
class DriftCheck:
    """One thing that was asked about one field.

    Attributes:
        check: ``schema``, ``missing``, ``range``, ``samples`` or ``distribution``.
        field: Name of the field.
        statistic: What was tested; empty for the other checks.
        verdict: What it means.
        observed: Ratio, count or distance that was found; None where there is none.
        limit: What it was held against.
        p_value: Of the test, before correction.
        adjusted_p_value: After Holm's correction over all tests.
        reason: The sentence.
        remedy: What to do next; empty when it passed.
    """

    check: Literal["schema", "missing", "range", "samples", "distribution"]
    field: str
    verdict: Verdict
    reason: str
    statistic: str = ""
    observed: float | None = None
    limit: float | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    remedy: str = ""


@dataclass(frozen=True)
class FieldState:
    """What the first checks need to know of a field now, whoever counted it."""

    row_shape: tuple[int, ...]
    unit: str
    dims: tuple[str, ...]
    missing_ratio: float
    outside_ratio: float
    low: float
    high: float


def widened_range(field: FieldBaseline, margin_ratio: float) -> tuple[float, float]:
    """Return the range of a field with its margin; of a constant, with room for rounding."""
    margin = margin_ratio * (field.high - field.low)
    margin = margin or _CONSTANT_MARGIN_RATIO * max(abs(field.high), 1.0)
    return field.low - margin, field.high + margin


def field_state(field: FieldBaseline, now: FieldRows, plan: DriftPlan) -> FieldState:
    """Count what the first checks need in rows that are at hand."""
    present = np.isfinite(now.rows)
    values = now.rows[present]
    low, high = widened_range(field, plan.range_margin_ratio)
    outside = float(((values < low) | (values > high)).mean()) if values.size else 0.0
    ends = (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)
    missing = 1.0 - float(present.mean()) if present.size else 1.0
    return FieldState(now.rows.shape[1:], now.unit, now.dims, missing, outside, *ends)


def _one_unit(text: str) -> str:
    return "".join(text.replace("**", "").replace("^", "").split())


def _schema_problem(field: FieldBaseline, state: FieldState) -> tuple[str, str] | None:
    if state.row_shape != field.row_shape:
        swapped = sorted(state.row_shape) == sorted(field.row_shape)
        remedy = (
            f"swap the axes into {', '.join(field.dims) or 'the order of the release'}"
            if swapped
            else "cut rows of the shape that the model takes"
        )
        return f"has rows of {list(state.row_shape)}, not {list(field.row_shape)}", remedy
    if field.dims and state.dims and state.dims != field.dims:
        return (
            f"has axes {', '.join(state.dims)}, not {', '.join(field.dims)}",
            "transpose it into the order of the release",
        )
    if field.unit and state.unit and _one_unit(state.unit) != _one_unit(field.unit):
        return f"is in {state.unit}, not {field.unit}", f"convert it to {field.unit}"
    return None


def _unit_hint(field: FieldBaseline, state: FieldState, margin_ratio: float) -> str:
    low, high = widened_range(field, margin_ratio)
    fitting = []
    for text, factor, offset in _CONVERSIONS:
        ends = (state.low * factor + offset, state.high * factor + offset)
        if low <= ends[0] and ends[1] <= high:
            fitting.append((abs(ends[0] - field.low) + abs(ends[1] - field.high), text))
    if fitting:
        return f"the values could be {min(fitting)[1]}: convert them, or give the right field"
    return "find out what changed at the source"


def field_checks(
    name: str, field: FieldBaseline, state: FieldState | None, plan: DriftPlan
) -> list[DriftCheck]:
    """Check schema, missingness and range of one field, up to the first that fails.

    Args:
        name: Of the field.
        field: Its baseline.
        state: The field now; None when it is not there.
        plan: Limits.
    """
    if state is None:
        problem: tuple[str, str] | None = ("is not there", f"give {name!r}, or map it by its name")
    else:
        problem = _schema_problem(field, state)
    if problem is not None or state is None:
        text, remedy = problem or ("", "")
        return [DriftCheck("schema", name, "FAIL", f"{name} {text}", remedy=remedy)]
    found = [DriftCheck("schema", name, "PASS", f"{name} has the shape and unit of the release")]
    limit = min(1.0, field.missing_ratio + plan.max_missing_increase_ratio)
    is_missing = state.missing_ratio > limit or state.missing_ratio == 1.0
    found.append(
        DriftCheck(
            "missing",
            name,
            "FAIL" if is_missing else "PASS",
            f"{state.missing_ratio:.1%} of {name} is missing, {limit:.1%} may be",
            observed=state.missing_ratio,
            limit=limit,
            remedy="find out why values are missing at the source" if is_missing else "",
        )
    )
    if is_missing:
        return found
    is_outside = state.outside_ratio > plan.max_outside_ratio
    low, high = widened_range(field, plan.range_margin_ratio)
    found.append(
        DriftCheck(
            "range",
            name,
            "FAIL" if is_outside else "PASS",
            f"{state.outside_ratio:.1%} of {name} is outside {low:.6g} to {high:.6g}, "
            f"{plan.max_outside_ratio:.1%} may be",
            observed=state.outside_ratio,
            limit=plan.max_outside_ratio,
            remedy=_unit_hint(field, state, plan.range_margin_ratio) if is_outside else "",
        )
    )
    return found


def is_sound(checks: Iterable[DriftCheck]) -> bool:
    """Say whether nothing failed."""
    return all(check.verdict == "PASS" for check in checks)


def samples_check(name: str, before: int, now: int, plan: DriftPlan) -> list[DriftCheck]:
    """Return that there are too few blocks of a field to test; nothing when there are enough."""
    if min(before, now) >= plan.min_block_count:
        return []
    side = "now" if now < before else "in the baseline"
    return [
        DriftCheck(
            "samples",
            name,
            "INCONCLUSIVE",
            f"{name} has {min(before, now)} blocks {side}, {plan.min_block_count} are needed",
            observed=float(min(before, now)),
            limit=float(plan.min_block_count),
            remedy="collect more independent rows"
            if now < before
            else "release again with more representative rows",
        )
    ]


def judge_distributions(
    names: Sequence[tuple[str, str]],
    measured: Sequence[Measured],
    blocks: tuple[int, int],
    plan: DriftPlan,
) -> list[DriftCheck]:
    """Judge all tests of a check together.

    Args:
        names: Field and statistic of each.
        measured: Distance and p-value of each.
        blocks: Fewest blocks before and now.
        plan: The budget and the distances.
    """
    alpha, count = plan.false_alarm_ratio / plan.look_count, len(names)
    found = []
    adjusted = holm([one.p_value for one in measured])
    for (field, statistic), one, p_value in zip(names, measured, adjusted, strict=True):
        verdict: Verdict = "PASS"
        remedy = ""
        subject = f"{field} ({statistic}) is {one.distance:.2f} from its baseline"
        if p_value <= alpha:
            drifts = one.distance >= plan.min_distance
            verdict = "FAIL" if drifts else "PASS"
            reason = f"{subject}, more than chance (p {p_value:.2g})"
            if drifts:
                remedy = "find out what changed at the source, or train on what inputs are now"
            else:
                reason += f" but less than {plan.min_distance:g}"
        elif resolvable_distance(*blocks, alpha, count) <= plan.detect_distance:
            reason = f"{subject}, within chance (p {p_value:.2g})"
        else:
            verdict = "INCONCLUSIVE"
            reason = f"{subject}: too few blocks to see {plan.detect_distance:g}"
            needed = blocks_needed(blocks[0], plan.detect_distance, alpha, count)
            remedy = (
                f"collect {needed} independent rows"
                if needed
                else "release again with more representative rows"
            )
        found.append(
            DriftCheck(
                "distribution",
                field,
                verdict,
                reason,
                statistic,
                one.distance,
                plan.min_distance,
                one.p_value,
                p_value,
                remedy,
            )
        )
    return found
