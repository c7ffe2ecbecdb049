"""Sketches: counts that add up, say what a file says, and hold no input."""

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows
from kfm_mlflow.monitor.sketch import BIN_COUNT, FieldSketch, check_sketches
from kfm_mlflow.policy.drift import DriftPlan

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLAN = DriftPlan()


def patches(count=200, *, seed=0, shift=0.0):
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.normal(280.0, 5.0, (count, 1, 1)) + rng.normal(0.0, 2.0, (count, 4, 4)) + shift


BASELINE = build_baseline(DriftSample({"t": FieldRows(patches())}))
EMPTY = FieldSketch.empty(BASELINE.fields["t"], PLAN)


def check(sketch, plan=PLAN):
    return check_sketches(BASELINE, {} if sketch is None else {"t": sketch}, plan, NOW)


def spoilt(share):
    rows = patches(seed=1)
    rows.reshape(-1)[:: round(1 / share)] = np.nan
    return rows


@pytest.mark.parametrize(
    ("rows", "verdict", "kind"),
    [
        (patches(seed=1), "PASS", "distribution"),
        (patches(seed=1, shift=5.0), "FAIL", "distribution"),
        (patches(seed=1) - 273.15, "FAIL", "range"),
        (spoilt(0.25), "FAIL", "missing"),
        (patches(seed=1)[:, :3], "FAIL", "schema"),
        (patches(10, seed=1, shift=5.0), "INCONCLUSIVE", "samples"),
        (patches(0), "INCONCLUSIVE", "samples"),
    ],
)
def test_a_sketch_is_judged_as_its_rows_would_be(rows, verdict, kind):
    found = check(EMPTY.update(rows))
    assert found.verdict == verdict
    assert kind in {c.check for c in found.checks if c.verdict == verdict}


def test_a_field_that_nobody_sketched_fails():
    assert check(None).verdict == "FAIL"


def test_the_unit_is_guessed_from_extremes_as_with_a_file():
    assert "degrees Celsius" in check(EMPTY.update(patches(seed=1) - 273.15)).checks[-1].remedy


def test_a_summary_of_sketches_keeps_the_schema_and_is_the_same_again():
    sketch = EMPTY.update(patches(seed=1))
    first, second = (canonical_bytes(check(sketch).to_dict()) for _ in range(2))
    assert first == second
    assert schema_problems("drift_summary", parse_json(first, where="summary")) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_replicas_may_split_and_merge_in_any_way(sizes, random):
    rows = patches(sum(sizes), seed=2)
    rows.reshape(-1)[::17] = np.nan
    ends = np.cumsum([0, *sizes])
    parts = [EMPTY.update(rows[a:b]) for a, b in pairwise(ends)]
    random.shuffle(parts)
    merged = EMPTY
    for part in parts:
        merged = merged.merge(part)
    assert merged == EMPTY.update(rows)


def test_a_sketch_reads_back_as_it_was_written():
    for sketch in (EMPTY, EMPTY.update(spoilt(0.1)).update(np.zeros((3, 2)))):
        written = parse_json(canonical_bytes(sketch.to_dict()), where="sketch")
        assert EMPTY.parse(written) == sketch


def test_a_sketch_has_the_same_size_however_many_rows_and_no_value_but_two_extremes():
    few, many = (EMPTY.update(patches(n, seed=1)).to_dict() for n in (1, 5000))
    assert {k: len(v) for k, v in few["counts"].items()} == {
        k: len(v) for k, v in many["counts"].items()
    }
    assert all(len(v) <= BIN_COUNT + 1 for v in many["counts"].values())
    numbers = [v for k, v in many.items() if k != "counts"]
    assert sum(isinstance(v, float) for v in numbers) == 2


def test_bins_hold_equal_shares_of_the_baseline():
    counts = EMPTY.update(patches()).counts
    for found in counts.values():
        # A quantile between two rows may fall on either.
        assert all(abs(n - 200 // BIN_COUNT) <= 1 for n in found[:-1])
        assert (found[-1], sum(found)) == (0, 200)


def test_sketches_of_two_releases_do_not_merge():
    other = build_baseline(DriftSample({"t": FieldRows(patches(seed=3))}))
    with pytest.raises(InputError, match="one release"):
        EMPTY.merge(FieldSketch.empty(other.fields["t"], PLAN))


@pytest.mark.parametrize(
    "change",
    [
        {"row_count": -1},
        {"row_count": True},
        {"cell_count": 1.5},
        {"counts": {}},
        {"counts": {"mean": [1], "std": [1], "axis_contrast": [1]}},
        {"low": "cold"},
    ],
    ids=str,
)
def test_a_malformed_sketch_is_refused(change):
    with pytest.raises(EvidenceError, match="replica 3"):
        EMPTY.parse({**EMPTY.to_dict(), **change}, where="replica 3")


def test_a_baseline_of_larger_blocks_is_not_held_against_sketches():
    labels = np.repeat(np.arange(50), 4)
    blocked = build_baseline(DriftSample({"t": FieldRows(patches())}, labels))
    with pytest.raises(InputError, match="kfm drift"):
        check_sketches(blocked, {"t": EMPTY}, PLAN, NOW)


def test_a_constant_that_moves_within_its_range_is_seen():
    flat = build_baseline(DriftSample({"t": FieldRows(np.append(np.full(99, 7.0), 8.0))}))
    sketch = FieldSketch.empty(flat.fields["t"], PLAN)
    moved = check_sketches(flat, {"t": sketch.update(np.full(100, 7.3))}, PLAN, NOW)
    assert moved.verdict == "FAIL"
    same = check_sketches(flat, {"t": sketch.update(np.full(100, 7.0))}, PLAN, NOW)
    assert same.verdict == "PASS"
