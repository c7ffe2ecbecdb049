"""False alarms and power of the drift check on a real field, by drawing twice from the same grid.

    python tests/bench/drift.py --data FIELDS.nc [--variable u] [--runs 400]

The grid is cut into squares of 18 degrees; each run deals squares of all levels and months at
random to a baseline and to current inputs, so that nothing has drifted, and asks four ways:
the check with squares as blocks; the same without blocks, every 4.5-degree row for itself;
SciPy's Kolmogorov-Smirnov test on single cells; and, for power, the check after a shift by one
standard deviation of the baseline's row means.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.stats import binom, ks_2samp

from kfm_mlflow.monitor.drift import check_drift
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows
from kfm_mlflow.policy.drift import DriftPlan

SQUARE_CELLS, ROW_CELLS, SIDE_COUNT = 24, 6, 100
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def squares(path: Path, variable: str) -> np.ndarray:
    """Return [square, row, cell, cell]."""
    with xr.open_dataset(path) as dataset:
        grid = dataset[variable].to_numpy().astype(np.float64)
    grid = grid.reshape(-1, *grid.shape[-2:])
    rows, columns = (size // SQUARE_CELLS for size in grid.shape[1:])
    per = SQUARE_CELLS // ROW_CELLS
    cut = grid[:, : rows * SQUARE_CELLS, : columns * SQUARE_CELLS]
    parts = cut.reshape(-1, rows, per, ROW_CELLS, columns, per, ROW_CELLS)
    return parts.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, per * per, ROW_CELLS, ROW_CELLS)


def main() -> None:
    """Print the rate of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variable", default="u")
    parser.add_argument("--runs", type=int, default=400)
    options = parser.parse_args()
    pool = squares(options.data, options.variable)
    plan = DriftPlan(permutation_count=199, min_distance=0.0, detect_distance=0.9)
    rng = np.random.Generator(np.random.PCG64(1))
    labels = np.repeat(np.arange(SIDE_COUNT), pool.shape[1])
    found = dict.fromkeys(("blocks", "rows alone", "cells", "shifted"), 0)
    began = time.perf_counter()
    for _ in range(options.runs):
        dealt = pool[rng.permutation(len(pool))[: 2 * SIDE_COUNT]]
        before, now = (
            part.reshape(-1, ROW_CELLS, ROW_CELLS)
            for part in (dealt[:SIDE_COUNT], dealt[SIDE_COUNT:])
        )
        spread = before.mean(axis=(1, 2)).std()
        for name, current, blocks in (
            ("blocks", now, labels),
            ("rows alone", now, None),
            ("shifted", now + spread, labels),
        ):
            baseline = build_baseline(DriftSample({"x": FieldRows(before)}, blocks))
            sample = DriftSample({"x": FieldRows(current)}, blocks)
            found[name] += check_drift(baseline, sample, plan, NOW).verdict == "FAIL"
        p_value = ks_2samp(before.ravel(), now.ravel(), method="asymp").pvalue
        found["cells"] += p_value <= plan.false_alarm_ratio
    print(f"{options.variable}: {len(pool)} squares, {SIDE_COUNT} a side, {options.runs} runs")
    for name, count in found.items():
        print(f"  {name:10}  {count / options.runs:6.1%} found to drift")
    limit = binom.ppf(0.999, options.runs, plan.false_alarm_ratio) / options.runs
    print(f"  declared {plan.false_alarm_ratio:.1%}; a run of this length may show {limit:.1%}")
    print(f"  {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
