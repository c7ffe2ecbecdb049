import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.focus.answers import ANSWER_WIDTH, FUSION_DIMENSION, PART_SLICES
from kfm_mlflow.focus.columns import COLUMNS, DOMAINS, domain_slice
from kfm_mlflow.focus.fusion import (
    MIN_DISTINCT_COUNT,
    FusionBaseline,
    WindowedFusion,
    check_window,
    contamination,
    contributions,
    effective_rank,
    fusion_metrics,
    measure_fusion,
    only_domain,
    sample_rows,
    separation,
)

WIDTH = len(COLUMNS)


def _rng(seed=0):
    return np.random.default_rng(seed)


def made_rows(count=120, seed=0):
    return _rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def made_predict(projection=None, *, shift=0.0, scale=1.0, crosstalk=0.0):
    """A linear fusion of the columns, and weights that a domain's first column decides."""
    if projection is None:
        projection = _rng(9).standard_normal((WIDTH, FUSION_DIMENSION)) / np.sqrt(WIDTH)
    firsts = [domain_slice(domain).start for domain in DOMAINS]

    def predict(rows):
        answers = np.zeros((len(rows), ANSWER_WIDTH), np.float32)
        scores = rows[:, firsts].astype(np.float64)
        scores = scores + crosstalk * scores[:, ::-1] * np.arange(len(DOMAINS))
        weights = np.exp(scores - scores.max(1, keepdims=True))
        answers[:, PART_SLICES["context_weights"]] = weights / weights.sum(1, keepdims=True)
        answers[:, PART_SLICES["fusion"]] = scale * (rows @ projection + 3.0) + shift
        return answers

    return predict


def rank_one():
    across, along = _rng(8).standard_normal(WIDTH), _rng(7).standard_normal(FUSION_DIMENSION)
    return np.outer(across, along) / np.sqrt(WIDTH)


# --- effective rank -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_vectors_that_spread_alike_along_k_axes_have_effective_rank_k(count):
    axes = np.eye(20)[:count]
    assert effective_rank(np.concatenate([axes, -axes])) == pytest.approx(count)


def test_two_unequal_axes_have_the_rank_that_roy_and_vetterli_define():
    # Singular values 3 and 1: exp(-(0.75 ln 0.75 + 0.25 ln 0.25)).
    points = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(points) == pytest.approx(1.7547653506033232)


@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100.0), shift=st.floats(-5.0, 5.0))
@settings(max_examples=25, deadline=None)
def test_effective_rank_ignores_scale_place_and_order_and_stays_below_the_count(seed, scale, shift):
    vectors = _rng(seed).standard_normal((9, 30))
    rank = effective_rank(vectors)
    assert 1.0 <= rank <= 8.0
    changed = scale * (_rng(seed).permutation(vectors) + shift)
    assert effective_rank(changed) == pytest.approx(rank, rel=1e-6)


def test_vectors_that_are_all_the_same_have_no_rank():
    assert effective_rank(np.ones((5, 40), np.float32) * 0.1) == 0.0


# --- separation and contamination -----------------------------------------------------------------


def test_separation_is_one_for_orthogonal_directions_and_zero_for_a_common_one():
    axes = np.eye(5)[:, None, :] * _rng().standard_normal((5, 30, 1))
    assert separation(axes) == pytest.approx(1.0)
    common = _rng().standard_normal((5, 30, 1)) * np.ones(8)
    assert separation(common) == pytest.approx(0.0, abs=1e-12)
    assert separation(np.zeros((5, 30, 8))) == 0.0


def test_two_planes_that_share_one_of_two_axes_are_half_apart():
    # M = (e1e1' + e2e2')/2 and (e1e1' + e3e3')/2: cosine (1/4) / (1/2).
    one = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    other = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    assert separation(np.stack([one, other])) == pytest.approx(0.5)


def test_a_domain_contributes_what_its_own_columns_move():
    rows, mean = made_rows(6), made_rows(1, seed=4)[0]
    projection = _rng(9).standard_normal((WIDTH, FUSION_DIMENSION)) / np.sqrt(WIDTH)
    parts = contributions(made_predict(projection), rows, mean)
    for part, domain in zip(parts, DOMAINS, strict=True):
        own = domain_slice(domain)
        expected = (rows - mean)[:, own] @ projection[own]
        np.testing.assert_allclose(part, expected, atol=1e-4)


def test_only_the_chosen_domain_keeps_its_values():
    rows, mean = made_rows(4), np.full(WIDTH, 0.5, np.float32)
    only = only_domain(rows, "climate", mean)
    own = domain_slice("climate")
    np.testing.assert_array_equal(only[:, own], rows[:, own])
    assert (np.delete(only, np.r_[own], axis=1) == 0.5).all()


def test_domains_that_are_weighed_by_themselves_do_not_contaminate_each_other():
    rows = made_rows()
    assert contamination(made_predict(), rows) < 1e-6
    little, much = (contamination(made_predict(crosstalk=c), rows) for c in (0.05, 0.5))
    assert 0.001 < little < much <= 1.0


# --- stability ------------------------------------------------------------------------------------


def test_the_rows_that_were_frozen_have_not_moved():
    rows = made_rows()
    metrics = fusion_metrics(made_predict(), rows, measure_fusion(made_predict(), rows))
    for name in ("centroid", "norm", "variance"):
        assert metrics[f"fusion_{name}_shift"] < 1e-4
    assert metrics["share_shift_max"] < 1e-6
    assert metrics["weight_sum_error"] < 1e-6


def test_shifts_are_in_deviations_and_ratios():
    rows = made_rows()
    frozen = measure_fusion(made_predict(), rows)
    moved = fusion_metrics(made_predict(shift=0.25), rows, frozen)
    expected = 0.25 * np.sqrt(FUSION_DIMENSION) / np.sqrt(frozen.variance)
    assert moved["fusion_centroid_shift"] == pytest.approx(expected, rel=1e-4)
    assert moved["fusion_variance_shift"] < 1e-4
    doubled = fusion_metrics(made_predict(scale=2.0), rows, frozen)
    assert doubled["fusion_norm_shift"] == pytest.approx(1.0, rel=1e-4)
    assert doubled["fusion_variance_shift"] == pytest.approx(3.0, rel=1e-4)


def test_a_collapsed_projection_loses_separation_and_rank():
    rows = made_rows()
    sound = measure_fusion(made_predict(), rows)
    flat = measure_fusion(made_predict(rank_one()), rows)
    assert sound.separation > 0.9
    assert sound.effective_rank > 25
    assert flat.separation < 0.01
    assert flat.effective_rank < 1.5


def test_a_constant_fusion_is_measured_and_not_divided_by():
    rows = made_rows()
    dead = measure_fusion(made_predict(np.zeros((WIDTH, FUSION_DIMENSION))), rows)
    assert (dead.variance, dead.separation, dead.effective_rank) == (0.0, 0.0, 0.0)
    assert np.isfinite(list(fusion_metrics(made_predict(), rows, dead).values())).all()


def test_many_rows_are_measured_by_a_fixed_draw():
    np.testing.assert_array_equal(sample_rows(5, 10), np.arange(5))
    drawn = sample_rows(10_000, 64)
    assert len(set(drawn.tolist())) == 64
    np.testing.assert_array_equal(drawn, sample_rows(10_000, 64))


# --- the frozen document --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen():
    return measure_fusion(made_predict(), made_rows(400))


def test_a_baseline_comes_back_from_json_as_it_was(frozen):
    assert FusionBaseline.from_dict(frozen.to_dict()) == frozen
    assert sum(frozen.shares.values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"centroid": [0.0] * 10}, "centroid"),
        ({"norm": float("nan")}, "norm"),
        ({"separation": 1.5}, "separation"),
        ({"shares": dict.fromkeys(DOMAINS, 0.3)}, "sum to 1.5"),
        ({"shares": {"spatial": 1.0}}, "shares are of"),
        ({"more": 1}, "more"),
    ],
)
def test_a_baseline_that_is_none_is_refused_by_name(frozen, change, told):
    with pytest.raises(EvidenceError, match=told):
        FusionBaseline.from_dict({**frozen.to_dict(), **change}, where="fusion_weights.json")
    with pytest.raises(EvidenceError, match=r"fusion_weights\.json"):
        FusionBaseline.from_dict(None)


# --- served vectors -------------------------------------------------------------------------------


def _fused(rows, predict=None):
    return (predict or made_predict())(rows)[:, PART_SLICES["fusion"]]


def test_a_window_of_other_rows_of_a_sound_release_has_not_collapsed(frozen):
    rows = made_rows(64, seed=5)
    check = check_window(rows, _fused(rows), frozen)
    assert check.is_collapsed is False
    assert check.distinct_count == 64
    assert check.rank_ratio > 0.8
    assert 0.8 < check.spread_ratio < 1.2
    assert abs(check.norm_shift) < 0.05


@pytest.mark.parametrize(
    "predict",
    [
        made_predict(rank_one()),
        made_predict(np.zeros((WIDTH, FUSION_DIMENSION))),
        made_predict(scale=0.1),
    ],
    ids=["one direction", "one point", "a tenth of the spread"],
)
def test_a_window_of_collapsed_vectors_is_told(frozen, predict):
    rows = made_rows(64, seed=5)
    assert check_window(rows, _fused(rows, predict), frozen).is_collapsed is True


def test_like_answers_to_like_questions_are_no_collapse(frozen):
    near = made_rows(1) + 0.05 * made_rows(40, seed=3)
    assert check_window(near, _fused(near), frozen).is_collapsed is False
    same = np.repeat(made_rows(1), 40, axis=0)
    assert check_window(same, _fused(same), frozen).is_collapsed is None
    few = made_rows(MIN_DISTINCT_COUNT - 1)
    assert check_window(few, _fused(few, made_predict(rank_one())), frozen).is_collapsed is None


def test_a_question_that_is_asked_again_does_not_count_again(frozen):
    rows = made_rows(30, seed=5)
    twice = np.concatenate([rows, rows[::-1]])
    assert check_window(twice, _fused(twice), frozen) == check_window(rows, _fused(rows), frozen)


def test_a_served_window_keeps_the_last_different_rows(frozen):
    window = WindowedFusion(frozen, size=20)
    nothing = np.empty((0, WIDTH), np.float32)
    assert window.add(nothing, _fused(nothing)) is None
    rows = made_rows(30, seed=5)
    for row in rows:
        check = window.add(row[None], _fused(row[None]))
    last = check_window(rows[-20:], _fused(rows[-20:]), frozen)
    assert check.distinct_count == last.distinct_count == 20
    # One row at a time and all at once round differently.
    assert check.rank_ratio == pytest.approx(last.rank_ratio, rel=1e-4)
    for _ in range(50):
        check = window.add(rows[-1:], _fused(rows[-1:]))
    assert check.distinct_count == 20
    flat = made_rows(20, seed=6)
    assert window.add(flat, _fused(flat, made_predict(rank_one()))).is_collapsed is True
