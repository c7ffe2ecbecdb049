"""Sketches of inputs: what a replica may keep of what it was asked.

A sketch is counts: how many rows fell between which quantiles of the baseline, how many cells were
missing or out of range. No input, no place and no order is in it. Sketches of replicas and of
moments add up, and the sum is held against the baseline of the release by the same rules as a
file is (:mod:`kfm_mlflow.monitor.drift`); the distance is taken at the quantiles only.

Every row counts as a block: a client that asks for one place a thousand times gives a thousand rows
that say one thing, so feed a sketch once per distinct request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.monitor.drift import conclude, permutation_count
from kfm_mlflow.monitor.drift_checks import (
    DriftCheck,
    FieldState,
    field_checks,
    is_sound,
    samples_check,
    widened_range,
)
from kfm_mlflow.monitor.drift_sample import row_statistics
from kfm_mlflow.monitor.drift_tests import Measured, binned_permutation_ks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift import DriftSummary
    from kfm_mlflow.monitor.drift_baseline import DriftBaseline, FieldBaseline
    from kfm_mlflow.policy.drift import DriftPlan

BIN_COUNT = 20
METHOD = "binned-permutation-ks"
_COUNTS = ("row_count", "cell_count", "missing_count", "outside_count", "misshapen_count")


@dataclass(frozen=True)
class FieldSketch:
    """Counts of one field; a value, changed by making a new one.

    Attributes:
        row_shape: Shape of the rows that are counted.
        range: Lowest and highest value that is not out of range.
        edges: Statistic -> ascending inner edges of its bins.
        counts: Statistic -> rows per bin, one more than edges; a row on an edge lies below it.
        row_count: Rows of that shape.
        cell_count: Cells in them.
        missing_count: Cells without a finite value.
        outside_count: Cells out of range.
        misshapen_count: Rows of another shape; nothing else is counted of them.
        low: Smallest finite value; infinity before there is one.
        high: Largest finite value; minus infinity before there is one.
    """

    row_shape: tuple[int, ...]
    range: tuple[float, float]
    edges: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, tuple[int, ...]]
    row_count: int = 0
    cell_count: int = 0
    missing_count: int = 0
    outside_count: int = 0
    misshapen_count: int = 0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def empty(cls, field: FieldBaseline, plan: DriftPlan) -> FieldSketch:
        """Return the sketch of no rows, with bins at the quantiles of a baseline."""
        edges = {
            name: _edges(values[np.isfinite(values)]) for name, values in field.statistics.items()
        }
        return cls(
            row_shape=field.row_shape,
            range=widened_range(field, plan.range_margin_ratio),
            edges=edges,
            counts={name: (0,) * (len(inner) + 1) for name, inner in edges.items()},
        )

    def update(self, rows: NDArray[Any]) -> FieldSketch:
        """Return the sketch with some more rows.

        Args:
            rows: [n, …] in the model's units.
        """
        values = np.asarray(rows, dtype=np.float64)
        if values.shape[1:] != self.row_shape:
            return replace(self, misshapen_count=self.misshapen_count + len(values))
        finite = values[np.isfinite(values)]
        low, high = self.range
        found = row_statistics(values)
        return replace(
            self,
            counts={
                name: _added(self.counts[name], _binned(found[name], inner))
                for name, inner in self.edges.items()
            },
            row_count=self.row_count + len(values),
            cell_count=self.cell_count + values.size,
            missing_count=self.missing_count + values.size - finite.size,
            outside_count=self.outside_count + int(((finite < low) | (finite > high)).sum()),
            low=min(self.low, float(finite.min(initial=math.inf))),
            high=max(self.high, float(finite.max(initial=-math.inf))),
        )

    def merge(self, other: FieldSketch) -> FieldSketch:
        """Return the sketch of the rows of both.

        Raises:
            InputError: They have different bins, as sketches of two releases do.
        """
        mine, its = (replace(one, **_EMPTY, counts={}) for one in (self, other))
        if mine != its:
            raise InputError(
                "sketches have different bins",
                where="merge",
                remedy="merge sketches of one release under one plan only",
            )
        return replace(
            self,
            counts={name: _added(self.counts[name], other.counts[name]) for name in self.counts},
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            row_count=self.row_count + other.row_count,
            cell_count=self.cell_count + other.cell_count,
            missing_count=self.missing_count + other.missing_count,
            outside_count=self.outside_count + other.outside_count,
            misshapen_count=self.misshapen_count + other.misshapen_count,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: counts and extremes, without the bins, which the release holds."""
        return {
            "schema_version": "1",
            "counts": {name: list(counts) for name, counts in self.counts.items()},
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def parse(self, document: Any, *, where: str = "sketch") -> FieldSketch:
        """Read the JSON form of a sketch that has the bins of this one.

        Raises:
            EvidenceError: It is malformed, or its bins are of another release.
        """
        try:
            counts = {
                name: tuple(_whole(n) for n in document["counts"][name]) for name in self.edges
            }
            totals: dict[str, Any] = {name: _whole(document[name]) for name in _COUNTS}
            ends = [document["low"], document["high"]]
            low, high = (
                float(e) if e is not None else d
                for e, d in zip(ends, (math.inf, -math.inf), strict=True)
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise EvidenceError(f"is malformed ({exc})", where=where) from exc
        if {n: len(c) for n, c in counts.items()} != {n: len(e) + 1 for n, e in self.edges.items()}:
            raise EvidenceError(
                "has other bins", where=where, remedy="read it with the baseline of its own release"
            )
        return replace(self, counts=counts, low=low, high=high, **totals)


_EMPTY: dict[str, Any] = {**dict.fromkeys(_COUNTS, 0), "low": math.inf, "high": -math.inf}


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    if not values.size:
        return ()
    inner = np.quantile(values, np.arange(1, BIN_COUNT) / BIN_COUNT, method="inverted_cdf")
    # The largest value is an edge, too: of a constant baseline, what lies above it must show.
    return tuple(float(v) for v in np.unique(np.append(inner, values.max())))


def _binned(values: NDArray[np.float64], edges: tuple[float, ...]) -> tuple[int, ...]:
    places = np.searchsorted(edges, values[np.isfinite(values)], side="left")
    return tuple(int(n) for n in np.bincount(places, minlength=len(edges) + 1))


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _state(field: FieldBaseline, sketch: FieldSketch) -> FieldState:
    finite = sketch.cell_count - sketch.missing_count
    return FieldState(
        row_shape=field.row_shape,
        unit="",
        dims=(),
        missing_ratio=sketch.missing_count / sketch.cell_count if sketch.cell_count else 0.0,
        outside_ratio=sketch.outside_count / finite if finite else 0.0,
        low=sketch.low,
        high=sketch.high,
    )


def _shape_check(name: str, sketch: FieldSketch, plan: DriftPlan) -> list[DriftCheck]:
    total = sketch.row_count + sketch.misshapen_count
    ratio = sketch.misshapen_count / total if total else 0.0
    if ratio <= plan.max_outside_ratio:
        return []
    return [
        DriftCheck(
            "schema",
            name,
            "FAIL",
            f"{ratio:.1%} of the rows of {name} are not {list(sketch.row_shape)}",
            observed=ratio,
            limit=plan.max_outside_ratio,
            remedy="cut rows of the shape that the model takes",
        )
    ]


def check_sketches(
    baseline: DriftBaseline, sketches: Mapping[str, FieldSketch], plan: DriftPlan, at: datetime
) -> DriftSummary:
    """Hold sketches against the baseline of a release.

    Args:
        baseline: What the inputs looked like; rows must be its blocks, as they are in every
            baseline that a release writes of independently drawn rows.
        sketches: Field -> merged sketch.
        plan: Tests, limits and budget; ``look_count`` must count every time this is asked.
        at: When (aware).

    Returns:
        Every check, with a verdict, as :func:`kfm_mlflow.monitor.drift.check_drift` does.

    Raises:
        InputError: The baseline has blocks of several rows, which sketches do not keep.
    """
    if baseline.blocks is not None:
        raise InputError(
            "has blocks of several rows, which sketches do not keep",
            where="drift baseline",
            remedy="check a file of inputs instead: kfm drift",
        )
    checks: list[DriftCheck] = []
    pairs: list[tuple[tuple[str, str], NDArray[np.int64], NDArray[np.int64]]] = []
    for name, field in sorted(baseline.fields.items()):
        sketch = sketches.get(name)
        first = _shape_check(name, sketch, plan) if sketch is not None else []
        if sketch is not None and not first and not sketch.row_count:
            checks += samples_check(name, plan.min_block_count, 0, plan)
            continue
        first = first or field_checks(
            name, field, None if sketch is None else _state(field, sketch), plan
        )
        checks += first
        if sketch is None or not is_sound(first):
            continue
        for statistic, values in sorted(field.statistics.items()):
            before = np.array(_binned(values, sketch.edges[statistic]), dtype=np.int64)
            now = np.array(sketch.counts[statistic], dtype=np.int64)
            short = samples_check(f"{name} ({statistic})", int(before.sum()), int(now.sum()), plan)
            checks += short
            pairs += [] if short else [((name, statistic), before, now)]
    count = permutation_count(plan, len(pairs))
    tests: list[tuple[tuple[str, str], tuple[int, int], Measured]] = [
        (
            name,
            (int(before.sum()), int(now.sum())),
            binned_permutation_ks(before, now, permutation_count=count, seed=plan.seed),
        )
        for name, before, now in pairs
    ]
    return conclude(baseline, checks, tests, plan, at, method=METHOD)
