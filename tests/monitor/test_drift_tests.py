"""The statistics of a drift check, held against SciPy, tables and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp

from kfm_mlflow.monitor.drift_tests import (
    block_permutation_ks,
    blocks_needed,
    holm,
    permutations_needed,
    resolvable_distance,
)

RNG = np.random.Generator(np.random.PCG64(5))
ALPHA = 0.05


def ks(before, now, *, seed=0, count=199, **blocks):
    return block_permutation_ks(before, now, **blocks, permutation_count=count, seed=seed)


@pytest.mark.parametrize("shift", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("decimals", [0, 6])
def test_distance_is_that_of_scipy_with_and_without_ties(shift, decimals):
    before = RNG.normal(size=70).round(decimals)
    now = (RNG.normal(size=41) + shift).round(decimals)
    expected = ks_2samp(before, now, method="asymp").statistic
    assert ks(before, now).distance == pytest.approx(expected, abs=1e-12)


def test_p_value_of_independent_rows_is_the_exact_one_up_to_simulation_error():
    before, now = RNG.normal(size=50), RNG.normal(size=40) + 0.45
    exact = ks_2samp(before, now, method="exact").pvalue
    found = ks(before, now, count=9999).p_value
    assert found == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 9999) + 1e-3)


def test_equal_samples_have_no_distance_and_the_largest_p_value():
    values = RNG.normal(size=30)
    found = ks(values, values)
    assert (found.distance, found.p_value) == (0.0, 1.0)


def test_equal_values_give_equal_numbers_and_another_seed_gives_others():
    before, now = RNG.normal(size=40), RNG.normal(size=40) + 0.4
    assert ks(before, now, seed=3) == ks(before, now, seed=3)
    assert ks(before, now, seed=3).p_value != ks(before, now, seed=4, count=997).p_value


def test_holm_agrees_with_the_published_example():
    # Four hypotheses of the article "Holm-Bonferroni method" (Wikipedia), as R's p.adjust has them.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert all(
        p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True)
    )


def test_critical_value_is_that_of_the_tables():
    # Smirnov's table: c(0.05) = 1.358, c(0.01) = 1.628, times sqrt(1/n + 1/m).
    for alpha, critical in ((0.05, 1.358), (0.01, 1.628)):
        found = resolvable_distance(100, 100, alpha, 1) / math.sqrt(0.02) - 0.8416 / 2
        assert found == pytest.approx(critical, abs=1e-3)


@given(st.integers(30, 2000), st.floats(0.05, 0.9), st.integers(1, 30))
def test_the_blocks_that_are_asked_for_resolve_the_distance(before, distance, tests):
    needed = blocks_needed(before, distance, ALPHA, tests)
    if needed is None:
        assert resolvable_distance(before, 10**9, ALPHA, tests) >= distance * (1 - 1e-9)
    else:
        assert resolvable_distance(before, needed, ALPHA, tests) <= distance * (1 + 1e-6)


@pytest.mark.parametrize(("alpha", "tests"), [(0.05, 3), (0.05, 60), (0.001, 5)])
def test_permutations_resolve_the_strictest_level(alpha, tests):
    assert 1 / (1 + permutations_needed(alpha, tests, 199)) <= alpha / tests / 10


def clustered(block_count, size=16):
    """Return rows of blocks that have most of their variance in common, as a smooth field has."""
    common = np.repeat(RNG.normal(size=block_count), size)
    return common + 0.3 * RNG.normal(size=block_count * size), np.repeat(
        np.arange(block_count), size
    )


def test_blocks_keep_the_false_alarm_rate_that_single_cells_break():
    runs, by_block, by_cell = 200, 0, 0
    for seed in range(runs):
        (before, first), (now, second) = clustered(30), clustered(20)
        labelled = {"baseline_blocks": first, "current_blocks": second}
        by_block += ks(before, now, seed=seed, **labelled).p_value <= ALPHA
        by_cell += ks(before[:160], now[:160], seed=seed, count=99).p_value <= ALPHA
    # A true rate of 5 % exceeds the bound once in ten thousand simulations.
    assert by_block <= binom.ppf(0.9999, runs, ALPHA)
    assert by_cell > runs / 2


def test_a_resolvable_shift_is_found_in_four_cases_of_five():
    before_count, now_count, runs = 60, 60, 60
    distance = resolvable_distance(before_count, now_count, ALPHA, 1)
    # Uniform samples whose shift is the distance.
    found = sum(
        ks(RNG.random(before_count), RNG.random(now_count) + distance, seed=seed).p_value <= ALPHA
        for seed in range(runs)
    )
    assert found >= binom.ppf(0.001, runs, 0.8)


def test_each_block_counts_once_however_many_rows_it_has():
    before, now = RNG.normal(size=40), RNG.normal(size=30) + 0.5
    sizes = RNG.integers(1, 30, 30)
    repeated = ks(
        before, np.repeat(now, sizes), current_blocks=np.repeat(np.arange(30), sizes), count=999
    )
    plain = ks(before, now, count=999)
    assert repeated.distance == pytest.approx(plain.distance, abs=1e-9)
    assert repeated.p_value == pytest.approx(plain.p_value, abs=0.05)
