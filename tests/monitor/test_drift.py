"""The drift check as a table: what is found, in which order, and when it is no evidence."""

from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import binom

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import DataError, EvidenceError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.drift import check_drift
from kfm_mlflow.monitor.drift_baseline import build_baseline, load_baseline, parse_baseline
from kfm_mlflow.monitor.drift_sample import (
    DriftSample,
    FieldRows,
    row_statistics,
    sample_of_inputs,
    thin_rows,
)
from kfm_mlflow.policy.drift import DriftPlan

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLAN = DriftPlan(permutation_count=199)
SHAPE = (6, 5)


def patches(count=120, *, seed=0, shift=0.0, scale=1.0):
    """Return rows around 280 K that vary more down than across, as a zonal field does."""
    rng = np.random.Generator(np.random.PCG64(seed))
    level = rng.normal(280.0, 5.0, (count, 1, 1))
    across = rng.normal(0.0, 1.0, (count, *SHAPE))
    down = rng.normal(0.0, 4.0, (count, SHAPE[0], 1))
    return level + scale * (across + down) + shift


def one(rows, **more):
    return DriftSample({"t": FieldRows(np.asarray(rows, dtype=np.float64), **more)})


BASELINE = build_baseline(one(patches(), unit="K", dims=("latitude", "longitude")))


def check(rows, *, plan=PLAN, baseline=BASELINE, **more):
    return check_drift(baseline, one(rows, **more), plan, NOW)


def with_missing(share):
    rows = patches(seed=1)
    rows.reshape(-1)[:: round(1 / share)] = np.nan
    return rows


def test_inputs_of_the_same_kind_pass_and_say_what_was_asked():
    found = check(patches(seed=1), unit="K")
    assert found.verdict == "PASS"
    assert [c.check for c in found.checks] == ["schema", "missing", "range", *["distribution"] * 3]
    assert {c.statistic for c in found.checks[3:]} == {"mean", "std", "axis_contrast"}
    assert found.resolvable_distance <= PLAN.detect_distance


BAD = {
    "degrees Celsius": (patches(seed=1) - 273.15, "range", "degrees Celsius"),
    "a thousandth": (patches(seed=1) / 1000, "range", "1000 times larger"),
    "all missing": (np.full((120, *SHAPE), np.nan), "missing", "missing at the source"),
    "a third missing": (with_missing(1 / 3), "missing", "missing at the source"),
    "infinite": (np.full((120, *SHAPE), np.inf), "missing", "missing at the source"),
    "swapped axes": (patches(seed=1).swapaxes(1, 2), "schema", "swap the axes"),
    "another shape": (patches(seed=1)[:, :3], "schema", "cut rows"),
    "constant": (np.full((120, *SHAPE), 280.0), "distribution", "changed at the source"),
    "warmer": (patches(seed=1, shift=5.0), "distribution", "changed at the source"),
    "rougher": (patches(seed=1, scale=2.0), "distribution", "changed at the source"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_fails_at_its_check_with_field_and_remedy(name):
    rows, kind, remedy = BAD[name]
    found = check(rows)
    assert found.verdict == "FAIL"
    worst = [c for c in found.checks if c.verdict == "FAIL"]
    assert {c.check for c in worst} == {kind}
    assert all(c.field == "t" and "t " in c.reason for c in worst)
    assert remedy in worst[0].remedy
    # What comes after a failed check is not asked of the field.
    kinds = [c.check for c in found.checks]
    assert kind == "distribution" or kinds[-1] == kind


def test_axes_that_are_swapped_in_a_square_are_found_by_their_contrast():
    square = build_baseline(one(patches()[:, :5]))
    found = check(patches(seed=1)[:, :5].swapaxes(1, 2), baseline=square)
    assert [c.statistic for c in found.checks if c.verdict == "FAIL"] == ["axis_contrast"]


@pytest.mark.parametrize(
    ("more", "remedy"), [({"unit": "degC"}, "convert it to K"), ({"dims": ("y", "x")}, "transpose")]
)
def test_what_a_field_says_of_itself_is_compared_when_both_say_it(more, remedy):
    (found,) = check(patches(seed=1), **more).checks
    assert (found.check, found.verdict) == ("schema", "FAIL")
    assert remedy in found.remedy


def test_a_field_that_is_not_there_fails_and_one_too_many_is_left_out():
    rows = {"u": FieldRows(patches(seed=1))}
    assert check_drift(BASELINE, DriftSample(rows), PLAN, NOW).verdict == "FAIL"
    more = DriftSample({**one(patches(seed=1)).fields, **rows})
    assert {c.field for c in check_drift(BASELINE, more, PLAN, NOW).checks} == {"t"}


@pytest.mark.parametrize("count", [1, PLAN.min_block_count - 1])
def test_too_few_rows_are_inconclusive_however_good_or_bad(count):
    for shift in (0.0, 5.0):
        found = check(patches(count, seed=1, shift=shift))
        assert found.verdict == "INCONCLUSIVE"
        assert "independent rows" in found.checks[-1].remedy


def test_rows_that_could_not_show_the_drift_to_be_seen_are_inconclusive():
    found = check(patches(PLAN.min_block_count, seed=1))
    assert found.verdict == "INCONCLUSIVE"
    assert found.checks[-1].check == "distribution"
    needed = int(found.checks[-1].remedy.split()[1])
    assert check(patches(needed, seed=1)).verdict == "PASS"
    assert check(patches(needed - 1, seed=1)).verdict == "INCONCLUSIVE"


def test_many_rows_of_one_block_are_one_block():
    rows = np.repeat(patches(40, seed=1), 10, axis=0)
    labels = np.repeat(np.arange(40), 10)
    sample = DriftSample(one(rows).fields, labels)
    found = check_drift(BASELINE, sample, PLAN, NOW)
    assert (found.baseline_block_count, found.current_block_count) == (120, 40)
    assert found.verdict == "INCONCLUSIVE"


def test_a_difference_below_the_least_distance_is_no_drift_however_significant():
    rows = build_baseline(one(patches(2000)))
    shifted = patches(2000, seed=1, shift=0.9)
    by_any = check(shifted, baseline=rows, plan=PLAN.model_copy(update={"min_distance": 0.0}))
    assert by_any.verdict == "FAIL"
    assert check(shifted, baseline=rows).verdict == "PASS"


def test_constants_that_stay_pass_and_a_constant_that_moves_fails():
    level = build_baseline(one(np.full(60, 7.0)))
    assert check(np.full(80, 7.0), baseline=level).verdict == "PASS"
    assert check(np.full(80, 7.1), baseline=level).verdict == "FAIL"


def test_looks_share_the_budget():
    often = PLAN.model_copy(update={"look_count": 20})
    rows = patches(60, seed=1)
    assert check(rows, plan=often).resolvable_distance > check(rows).resolvable_distance
    with pytest.raises(InputError, match="look less often"):
        check(rows, plan=PLAN.model_copy(update={"look_count": 1000}))


def test_a_check_is_the_same_bytes_again_and_keeps_its_schema():
    first, second = (canonical_bytes(check(patches(seed=1, shift=2.0)).to_dict()) for _ in range(2))
    assert first == second
    assert schema_problems("drift_summary", parse_json(first, where="summary")) == []


def test_a_check_keeps_its_false_alarm_rate():
    runs = 120
    plan = PLAN.model_copy(update={"min_distance": 0.0})
    alarms = 0
    for seed in range(runs):
        rows = patches(120, seed=1000 + seed)
        alarms += check(rows[60:], plan=plan, baseline=build_baseline(one(rows[:60]))).verdict == (
            "FAIL"
        )
    assert alarms <= binom.ppf(0.9999, runs, plan.false_alarm_ratio)


@pytest.mark.parametrize("blocks", [None, np.repeat(np.arange(60), 2)])
def test_a_baseline_reads_back_as_it_was_written(blocks):
    rows = patches()
    rows[3] = np.nan
    built = build_baseline(DriftSample(one(rows, unit="K").fields, blocks))
    document = {"inputs": parse_json(canonical_bytes(built.to_dict()), where="baseline")}
    again = parse_baseline(document, digest="")
    assert again.to_dict() == built.to_dict()
    for baseline in (built, again):
        sample = DriftSample(one(patches(seed=1)).fields)
        found = check_drift(baseline, sample, PLAN, NOW)
        assert found == check_drift(built, sample, PLAN, NOW)


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"inputs": {}},
        {"inputs": {"fields": {"t": 5}}},
        {"inputs": {"fields": {"t": {"statistics": {}}}}},
        {"inputs": {**BASELINE.to_dict(), "blocks": [1, 2]}},
        {"inputs": {**BASELINE.to_dict(), "blocks": "rows"}},
    ],
    ids=str,
)
def test_a_malformed_baseline_is_named(document):
    with pytest.raises(EvidenceError, match=r"drift/baseline\.json"):
        parse_baseline(document)


def test_a_release_without_a_baseline_is_named(tmp_path):
    with pytest.raises(EvidenceError, match=r"drift/baseline\.json"):
        load_baseline(tmp_path)


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({}, None),
        ({"a": FieldRows(np.empty(0))}, None),
        ({"a": FieldRows(np.ones(3)), "b": FieldRows(np.ones(4))}, None),
        ({"a": FieldRows(np.ones(3))}, np.arange(2)),
        ({f"f{k}": FieldRows(np.ones(3)) for k in range(65)}, None),
    ],
    ids=["none", "empty", "ragged", "labels", "too many"],
)
def test_samples_that_are_none_are_refused(fields, blocks):
    with pytest.raises(DataError):
        DriftSample(fields, blocks)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((9, 8, 8), ["input"]),
        ((9, 3), ["input.0", "input.1", "input.2"]),
        ((9, 1), ["input"]),
        ((9, 2, 8, 8), ["input.0", "input.1"]),
        ((9, 1024), ["input"]),
    ],
)
def test_a_tensor_is_split_into_the_fields_that_mean_something_alone(shape, names):
    sample = sample_of_inputs(np.zeros(shape, dtype=np.float32))
    assert list(sample.fields) == names
    assert all(len(field.rows) == shape[0] for field in sample.fields.values())


def test_row_statistics_are_those_of_numpy_without_the_missing():
    rows = patches(9)
    rows[2, 1, 1] = np.nan
    rows[5] = np.nan
    found = row_statistics(rows)
    kept = [k for k in range(9) if k != 5]
    flat = rows.reshape(9, -1)[kept]
    np.testing.assert_allclose(found["mean"][kept], np.nanmean(flat, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["std"][kept], np.nanstd(flat, axis=1), rtol=1e-6)
    assert all(np.isnan(values[5]) for values in found.values())


def test_thinning_keeps_whole_blocks_and_the_same_ones_again():
    labels = np.repeat(np.arange(100), 50)
    kept = thin_rows(5000, labels, limit=2048)
    assert len(kept) == 2000
    assert set(np.bincount(labels[kept])) == {0, 50}
    np.testing.assert_array_equal(kept, thin_rows(5000, labels, limit=2048))
    assert len(thin_rows(5000, None, limit=100)) == 100
