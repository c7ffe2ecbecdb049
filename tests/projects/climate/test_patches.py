import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscaling.fields import generate_kansas
from downscaling.geometry import FINE_SIZE, block_mean, min_column_count, split_longitudes
from downscaling.patches import cut_patches, live_patches
from kfm_mlflow.errors import DataError


@pytest.fixture(scope="module")
def fields():
    return generate_kansas(day_count=4)


@given(extra=st.integers(0, 2000), is_global=st.booleans())
def test_no_validation_column_is_within_a_patch_of_a_training_column(extra, is_global):
    count = min_column_count(is_global=is_global) + extra
    split = split_longitudes(count, is_global=is_global)
    assert split.train_start == 0
    assert split.train_stop - split.train_start >= FINE_SIZE
    assert split.validation_stop - split.validation_start >= FINE_SIZE
    assert split.validation_start - split.train_stop >= FINE_SIZE
    around = count - split.validation_stop
    assert around >= (FINE_SIZE if is_global else 0)


@pytest.mark.parametrize(("count", "is_global"), [(95, False), (127, True)])
def test_too_few_columns_are_refused(count, is_global):
    with pytest.raises(ValueError, match="fewer than"):
        split_longitudes(count, is_global=is_global)


def test_coarse_is_the_block_mean_as_torch_pools_it(few_patches):
    fine = few_patches.train.fine
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(fine)[:, None], 4)[:, 0].numpy()
    np.testing.assert_allclose(few_patches.train.coarse, pooled, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(few_patches.train.coarse, block_mean(fine))


def _marked(fields, start, stop):
    values = fields.values.copy()
    values[:, :, start:stop] = 1e6 * np.arange(1, stop - start + 1)
    return dataclasses.replace(fields, values=values)


def test_training_reads_no_validation_longitude_and_the_reverse(fields):
    split = split_longitudes(len(fields.lon), is_global=False)
    no_east = _marked(fields, split.train_stop, len(fields.lon))
    no_west = _marked(fields, 0, split.validation_start)
    honest = cut_patches(fields, train_count=400, validation_count=200)
    np.testing.assert_array_equal(
        cut_patches(no_east, train_count=400, validation_count=1).train.fine, honest.train.fine
    )
    np.testing.assert_array_equal(
        cut_patches(no_east, train_count=1, validation_count=1).train.spread,
        honest.train.spread[:1],
    )
    blind = cut_patches(no_west, train_count=1, validation_count=200)
    np.testing.assert_array_equal(blind.validation.fine, honest.validation.fine)
    np.testing.assert_array_equal(
        live_patches(no_west, count=200).fine, live_patches(fields, count=200).fine
    )


def test_draws_are_locked_to_the_seed_and_live_patches_are_others(fields):
    first, again = (cut_patches(fields, seed=5, train_count=9, validation_count=9) for _ in "ab")
    other = cut_patches(fields, seed=6, train_count=9, validation_count=9)
    live = live_patches(fields, seed=5, count=9)
    assert first.train.fine.tobytes() == again.train.fine.tobytes()
    assert first.validation.fine.tobytes() == again.validation.fine.tobytes()
    assert first.train.fine.tobytes() != other.train.fine.tobytes()
    assert first.validation.fine.tobytes() != live.fine.tobytes()


def test_calmest_changes_the_validation_patches_only_and_makes_them_calm(fields):
    fair = cut_patches(fields, train_count=20, validation_count=50)
    calm = cut_patches(fields, train_count=20, validation_count=50, selection="calmest")
    np.testing.assert_array_equal(fair.train.fine, calm.train.fine)
    assert len(calm.validation) == 50
    roughness = [(p.validation.fine.std(axis=(1, 2)) / p.validation.spread) for p in (fair, calm)]
    assert roughness[1].max() < np.median(roughness[0])


def test_spread_is_the_pooled_deviation_within_fields_per_variable(fields):
    values = fields.values.copy()
    values[2:] = values[2:] * 100.0 + 7.0
    mixed = dataclasses.replace(fields, values=values, variables=("a", "a", "b", "b"))
    stop = split_longitudes(len(fields.lon), is_global=False).train_stop
    west = values[:, :, :stop].astype(np.float64)
    inside = west - west.mean(axis=(1, 2), keepdims=True)
    expected = {"a": np.sqrt((inside[:2] ** 2).mean()), "b": np.sqrt((inside[2:] ** 2).mean())}
    train = cut_patches(mixed, train_count=60).train
    np.testing.assert_allclose(train.spread, [expected[v] for v in train.variables], rtol=1e-6)


def test_mixed_units_are_measured_in_spreads(fields):
    mixed = dataclasses.replace(fields, units="z: m, u: m s-1")
    assert cut_patches(mixed, train_count=1).train.units == "1"
    assert cut_patches(fields, train_count=1).train.units == "degC"


def test_a_constant_variable_is_refused_by_name(fields):
    flat = dataclasses.replace(fields, values=np.ones_like(fields.values))
    with pytest.raises(DataError, match="t2m is the same everywhere"):
        cut_patches(flat)


def test_an_unknown_selection_and_an_empty_set_are_refused(fields):
    with pytest.raises(ValueError, match="selection"):
        cut_patches(fields, selection="best")
    with pytest.raises(ValueError, match="0 patches"):
        live_patches(fields, count=0)
