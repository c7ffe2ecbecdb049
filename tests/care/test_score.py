"""The FAIR+CARE score: its weights, its bands, and what it is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.care.score import CARE_PARTS, FAIR_PARTS, FairCareScore, score

NAMES = [name for of in (FAIR_PARTS, CARE_PARTS) for names in of.values() for name in names]
HELD = st.dictionaries(st.sampled_from(NAMES), st.booleans())


def test_everything_held_is_a_hundred_and_nothing_is_zero():
    assert score(dict.fromkeys(NAMES, True)).score_pct == pytest.approx(100)
    assert score({}).score_pct == 0


def test_perfect_fair_without_care_scores_seventy():
    # The standard's own weights: 0.7 * 100 + 0.3 * 0.
    fair = {name: True for names in FAIR_PARTS.values() for name in names}
    found = score(fair)
    assert found.score_pct == pytest.approx(70)
    assert (found.care_pct, found.band) == (0, "Review Needed")


@pytest.mark.parametrize(
    ("pct", "band"),
    [
        (100, "Excellent"),
        (95, "Excellent"),
        (94.9, "Strong"),
        (80, "Strong"),
        (79.9, "Review Needed"),
        (65, "Review Needed"),
        (64.9, "Blocked"),
        (0, "Blocked"),
    ],
)
def test_bands_are_those_of_the_standard(pct, band):
    assert FairCareScore(pct, pct, {}, ()).band == band


@given(HELD, st.sampled_from(NAMES))
def test_mending_a_check_never_lowers_a_score(held, name):
    assert score({**held, name: True}).score_pct >= score({**held, name: False}).score_pct


@given(HELD)
def test_what_does_not_hold_is_named_and_parts_stay_within_bounds(held):
    found = score(held)
    assert set(found.failed) == {name for name in NAMES if not held.get(name)}
    assert all(0 <= pct <= 100 for pct in found.parts_pct.values())
    assert found.to_dict()["score_pct"] == pytest.approx(
        0.7 * found.fair_pct + 0.3 * found.care_pct, abs=0.01
    )
