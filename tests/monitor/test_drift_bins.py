"""The bins of a drift baseline: what is counted of live requests, against the same document."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.authoring.evidence_files import drift_baseline
from kfm_mlflow.canonical import digest_file, write_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.monitor.drift_bins import DriftBins, load_bins
from kfm_mlflow.monitor.drift_sample import row_statistics
from kfm_mlflow.monitor.statistics import response_statistics


def patches(count=200, *, seed=0, channels=1):
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = rng.normal(280, 5, (count, channels, 1, 1)) + rng.normal(0, 2, (count, channels, 4, 4))
    return rows.astype(np.float32)


def written(folder, inputs, outputs):
    write_json(folder / "drift" / "baseline.json", drift_baseline(inputs, outputs))
    return load_bins(folder)


@pytest.fixture(scope="module")
def bins(tmp_path_factory) -> DriftBins:
    rows = patches()
    return written(tmp_path_factory.mktemp("release"), rows, 2 * rows + 1)


def counted(bins, inputs, outputs):
    found = {name: np.zeros(2 * len(c.below) + 1) for name, c in bins.known.columns.items()}
    for row, answer in zip(inputs, outputs, strict=True):
        for name, place in bins.place({"x": row[None]}, {"y": answer[None]}).items():
            found[name][place] += 1
    return found


def test_columns_are_those_of_the_check_before_promotion_and_of_the_answers(bins):
    assert set(bins.known.columns) == {
        "inputs.input.mean",
        "inputs.input.std",
        "inputs.input.axis_contrast",
        "outputs.amplification_ratio",
        "outputs.mean_shift_ratio",
    }


def test_the_baseline_itself_lies_in_its_bins_as_the_document_says(bins):
    rows = patches()
    for name, counts in counted(bins, rows, 2 * rows + 1).items():
        column = bins.known.columns[name]
        shares = np.cumsum(counts) / counts.sum()
        # A quantile of n rows is known to one row; an exact share to rounding.
        slack = 1 / column.sample_count + 1e-9
        assert counts.sum() == column.sample_count == len(rows)
        assert np.all(shares[0:-1:2] <= np.array(column.below) + slack), name
        assert np.all(shares[1::2] >= np.array(column.upto) - slack), name


def test_the_digest_is_that_of_the_document(bins, tmp_path):
    again = written(tmp_path, patches(), 2 * patches() + 1)
    assert again.known.digest == digest_file(tmp_path / "drift" / "baseline.json")
    assert again.known == bins.known


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_a_bin_is_where_the_statistic_of_the_first_row_lies(bins, seed, more):
    rows = patches(1 + more, seed=seed)
    cuts = bins.cuts
    statistic = {
        **{f"inputs.input.{k}": float(v[0]) for k, v in row_statistics(rows[:1, 0]).items()},
        **{
            f"outputs.{k}": v
            for k, v in response_statistics({"x": rows[:1]}, {"y": 2 * rows[:1]}).items()
        },
    }
    for name, place in bins.place({"x": rows}, {"y": 2 * rows}).items():
        lows, highs = cuts[name]
        inside, cut = place % 2, place // 2
        if inside:
            assert lows[cut] <= statistic[name] <= highs[cut]
        else:
            assert cut == 0 or statistic[name] > highs[cut - 1]
            assert cut == len(lows) or statistic[name] < lows[cut]


@pytest.mark.parametrize("shape", [(60, 3), (60, 2, 4, 4), (60, 5, 6), (60, 70, 2, 2)])
def test_every_column_of_a_baseline_is_placed_whatever_the_shape_of_a_row(shape, tmp_path):
    rows = np.random.Generator(np.random.PCG64(3)).normal(size=shape).astype(np.float32)
    answers = 2 * rows
    bins = written(tmp_path, rows, answers)
    placed = bins.place({"x": rows[:1]}, {"y": answers[:1]})
    assert set(placed) == set(bins.known.columns)


def test_what_two_runtimes_round_differently_lies_on_one_cut(tmp_path):
    rows = patches()
    bins = written(tmp_path, rows, 2 * rows)
    (column,) = (c for n, c in bins.known.columns.items() if n == "outputs.amplification_ratio")
    places = {
        bins.place({"x": rows[:1]}, {"y": factor * rows[:1]})["outputs.amplification_ratio"]
        for factor in (2.0, 2.0 * (1 - 1e-6), 2.0 * (1 + 1e-6))
    }
    assert len(column.below) == 1
    assert places == {1}


def test_release_without_a_baseline_counts_nothing(tmp_path):
    assert load_bins(tmp_path) is None


@pytest.mark.parametrize(
    "quantiles", [{"0.5": "x"}, {"0.1": 2, "0.9": 1}, {"2": 1}, {"-0.1": 1}, {"a": 1}], ids=str
)
def test_malformed_quantiles_are_refused(quantiles, tmp_path):
    document = {"sample_count": 9, "statistics": {"s": {"quantiles": quantiles}}, "inputs": {}}
    write_json(tmp_path / "drift" / "baseline.json", document)
    with pytest.raises(EvidenceError, match=r"statistics\.s\.quantiles"):
        load_bins(tmp_path)


def test_bands_alone_are_no_columns(tmp_path):
    document = {"statistics": {"s": {"low": 0, "high": 1}}}
    write_json(tmp_path / "drift" / "baseline.json", document)
    assert load_bins(tmp_path).known.columns == {}
