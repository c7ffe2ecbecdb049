"""The anytime-valid comparison against its paper's promises."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.rollout.sequential import (
    Block,
    Sequential,
    block_log_e,
    guess_ratios,
    update,
)


def first_crossing(rng, stable_ratio, canary_ratio, *, looks, block, threshold):
    """Return the canary's samples at the first rejection, or None."""
    stable_count, canary_count = block
    stable_bad = rng.binomial(stable_count, stable_ratio, looks).tolist()
    canary_bad = rng.binomial(canary_count, canary_ratio, looks).tolist()
    state, bound = Sequential(), math.log(threshold)
    for look in range(looks):
        state = update(state, Block(stable_count, stable_bad[look], canary_count, canary_bad[look]))
        if state.log_e >= bound:
            return (look + 1) * canary_count
    return None


def test_single_block_has_its_closed_form_value():
    # One stable good, one canary bad, guesses 1/10 and 1/2, so the mean is 3/10:
    # (9/10 / 7/10) * (1/2 / 3/10) = 15/7.
    value = math.exp(block_log_e(Block(1, 0, 1, 1), 0.1, 0.5))
    assert value == pytest.approx(float(Fraction(15, 7)), rel=1e-12)


def test_first_block_is_bet_on_with_the_prior_alone():
    state = update(Sequential(), Block(9, 0, 1, 1))
    # Guesses 0.1 and 0.5, mean 0.14.
    assert state.e_value == pytest.approx((0.9 / 0.86) ** 9 * (0.5 / 0.14), rel=1e-12)


@pytest.mark.parametrize("true_ratio", [0.0, 0.01, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("guesses", [(0.1, 0.5), (0.02, 0.03), (0.5, 0.99)])
@pytest.mark.parametrize("sizes", [(3, 1), (2, 2), (1, 4)])
def test_expected_value_of_a_block_is_at_most_one_when_both_are_equal(true_ratio, guesses, sizes):
    assert expected_value(sizes, guesses, true_ratio, true_ratio) <= 1 + 1e-12


@given(
    stable=st.floats(0, 1),
    canary=st.floats(0, 1),
    guesses=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_expected_value_is_at_most_one_wherever_the_canary_is_no_worse(
    stable, canary, guesses, sizes
):
    low, high = sorted((stable, canary))
    assert expected_value(sizes, tuple(sorted(guesses)), high, low) <= 1 + 1e-9


def expected_value(sizes, guesses, stable_ratio, canary_ratio):
    """Sum over every outcome of a block, by exact enumeration."""
    total = 0.0
    for stable_bad, canary_bad in product(range(sizes[0] + 1), range(sizes[1] + 1)):
        chance = (
            math.comb(sizes[0], stable_bad)
            * stable_ratio**stable_bad
            * (1 - stable_ratio) ** (sizes[0] - stable_bad)
            * math.comb(sizes[1], canary_bad)
            * canary_ratio**canary_bad
            * (1 - canary_ratio) ** (sizes[1] - canary_bad)
        )
        block = Block(sizes[0], stable_bad, sizes[1], canary_bad)
        total += chance * math.exp(block_log_e(block, *guesses))
    return total


@pytest.mark.parametrize("ratio", [0.02, 0.3])
def test_false_alarms_stay_below_the_declared_share_under_continuous_peeking(ratio):
    rng = np.random.default_rng(20261120)
    highest = []
    for _ in range(2000):
        bad = zip(
            rng.binomial(9, ratio, 150).tolist(), rng.binomial(1, ratio, 150).tolist(), strict=True
        )
        state, peak = Sequential(), 0.0
        for stable_bad, canary_bad in bad:
            state = update(state, Block(9, stable_bad, 1, canary_bad))
            peak = max(peak, state.log_e)
        highest.append(math.exp(peak))
    for declared in (0.2, 0.05, 0.01):
        assert np.mean(np.array(highest) >= 1 / declared) <= declared


def test_broken_canary_is_found_within_a_handful_of_its_samples():
    rng = np.random.default_rng(7)
    found = [
        first_crossing(rng, 0.02, 1.0, looks=50, block=(9, 1), threshold=60) for _ in range(300)
    ]
    assert None not in found
    assert max(found) <= 8
    assert np.median(found) <= 3


def test_canary_three_times_worse_is_found_within_a_few_hundred_of_its_samples():
    rng = np.random.default_rng(8)
    found = [
        first_crossing(rng, 0.05, 0.15, looks=60, block=(90, 10), threshold=60) for _ in range(300)
    ]
    assert sum(count is not None for count in found) >= 0.98 * len(found)
    assert np.median([count for count in found if count is not None]) <= 130


def test_canary_that_is_better_is_never_found_worse():
    rng = np.random.default_rng(9)
    found = [
        first_crossing(rng, 0.15, 0.05, looks=100, block=(90, 10), threshold=20) for _ in range(300)
    ]
    assert all(count is None for count in found)


@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9), st.integers(0, 9)),
        max_size=20,
    )
)
def test_nothing_that_arrived_is_lost_and_guesses_stay_ordered_ratios(blocks):
    state, total = Sequential(), Block()
    for a, b, c, d in blocks:
        block = Block(max(a, b), min(a, b), max(c, d), min(c, d))
        state, total = update(state, block), total.plus(block)
        stable, canary = guess_ratios(state.past)
        assert 0 < stable <= canary < 1
        assert math.isfinite(state.log_e)
    assert state.past.plus(state.pending) == total


def test_one_arm_alone_is_no_evidence():
    state = update(update(Sequential(), Block(0, 0, 50, 50)), Block(0, 0, 50, 50))
    assert state.e_value == 1
    assert update(state, Block(100, 1, 0, 0)).e_value > 1000


def test_outcome_ahead_of_its_request_waits_for_it():
    state = update(Sequential(), Block(10, 0, 1, 2))
    assert state.e_value == 1
    assert update(state, Block(0, 0, 1, 0)).past == Block(10, 0, 2, 2)
