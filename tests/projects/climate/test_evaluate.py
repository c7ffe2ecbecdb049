from dataclasses import replace

import numpy as np
import pytest
import torch

from downscaling.evaluate import bicubic, evaluate


@pytest.fixture
def patches(few_patches):
    return few_patches.validation


def test_a_perfect_prediction_has_no_error(patches):
    metrics = evaluate(lambda _: patches.fine, patches)
    for name in ("rmse", "mae", "bias", "nrmse", "nmae", "nbias"):
        assert metrics[name] == 0.0
    assert metrics["correlation"] == pytest.approx(1.0)
    assert metrics["skill_vs_bicubic"] == 1.0


def test_a_constant_offset_is_all_bias(patches):
    metrics = evaluate(lambda _: patches.fine - np.float32(0.5), patches)
    assert metrics["bias"] == pytest.approx(-0.5, abs=1e-5)
    assert metrics["rmse"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["mae"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["nbias"] == pytest.approx(float((-0.5 / patches.spread).mean()), rel=1e-4)


def test_every_number_is_what_numpy_says(patches):
    noise = np.random.default_rng(0).normal(0.1, 1.0, patches.fine.shape).astype(np.float32)
    predicted = patches.fine + noise
    spread, center = patches.spread[:, None, None], patches.center[:, None, None]
    metrics = evaluate(lambda _: predicted, patches)
    error = predicted.astype(float) - patches.fine
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(patches.coarse)[:, None], scale_factor=4, mode="bicubic"
    )[:, 0].numpy()
    rmse_bicubic = np.sqrt(((upsampled.astype(float) - patches.fine) ** 2).mean())
    expected = {
        "rmse": np.sqrt((error**2).mean()),
        "mae": np.abs(error).mean(),
        "bias": error.mean(),
        "nrmse": np.sqrt(((error / spread) ** 2).mean()),
        "nmae": np.abs(error / spread).mean(),
        "nbias": (error / spread).mean(),
        "correlation": np.corrcoef(
            ((predicted - center) / spread).ravel(), ((patches.fine - center) / spread).ravel()
        )[0, 1],
        "rmse_bicubic": rmse_bicubic,
        "skill_vs_bicubic": 1.0 - np.sqrt((error**2).mean()) / rmse_bicubic,
    }
    first, second = (predicted - center) / spread, (patches.fine - center) / spread
    for share in (95, 99):
        far = second >= np.quantile(second, share / 100)
        expected[f"nbias_p{share}"] = (first - second)[far].mean()
        expected[f"nrmse_p{share}"] = np.sqrt(((first - second)[far] ** 2).mean())
    expected["amplification_p99"] = np.quantile(first, 0.99) / np.quantile(second, 0.99)
    expected["pattern_correlation"] = np.mean(
        [
            np.corrcoef(a.ravel(), b.ravel())[0, 1]
            for a, b in zip(predicted, patches.fine, strict=True)
        ]
    )
    expected["ssim"] = np.mean(
        [slow_ssim(a, b) for a, b in zip(first[:3], second[:3], strict=True)]
    )
    few = replace(
        patches,
        variables=patches.variables[:3],
        **{name: getattr(patches, name)[:3] for name in ("coarse", "fine", "center", "spread")},
    )
    metrics["ssim"] = evaluate(lambda _: predicted[:3], few)["ssim"]
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)


def slow_ssim(first, second):
    """Structural similarity as its paper writes it, window by window, with a range of 4."""
    low, high = (0.01 * 4.0) ** 2, (0.03 * 4.0) ** 2
    found = []
    for row in range(first.shape[0] - 6):
        for column in range(first.shape[1] - 6):
            a, b = (x[row : row + 7, column : column + 7].ravel() for x in (first, second))
            covariance = np.cov(a, b, bias=True)
            light = (2 * a.mean() * b.mean() + low) / (a.mean() ** 2 + b.mean() ** 2 + low)
            shape = (2 * covariance[0, 1] + high) / (covariance.trace() + high)
            found.append(light * shape)
    return np.mean(found)


def test_field_half_as_strong_keeps_its_pattern_and_loses_its_extremes(patches):
    mean = patches.fine.mean(axis=(1, 2), keepdims=True)
    half = evaluate(lambda _: mean + np.float32(0.5) * (patches.fine - mean), patches)
    assert half["pattern_correlation"] == pytest.approx(1.0, abs=1e-5)
    assert half["nbias_p99"] < half["nbias_p95"] < 0.0
    assert half["amplification_p99"] < 1.0
    assert half["ssim"] < 0.95
    twice = evaluate(lambda _: mean + np.float32(2.0) * (patches.fine - mean), patches)
    assert twice["amplification_p99"] > 1.0


def test_normalised_numbers_do_not_depend_on_the_unit(patches):
    fahrenheit = replace(
        patches,
        coarse=patches.coarse * 1.8 + 32.0,
        fine=patches.fine * 1.8 + 32.0,
        center=patches.center * 1.8 + 32.0,
        spread=patches.spread * 1.8,
    )
    first, second = evaluate(bicubic, patches), evaluate(bicubic, fahrenheit)
    for name in ("nrmse", "nmae", "nbias", "correlation"):
        assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-5)
    assert second["rmse"] == pytest.approx(1.8 * first["rmse"], rel=1e-4)


def test_with_mixed_units_rmse_is_the_normalised_one(patches):
    metrics = evaluate(bicubic, replace(patches, units="1"))
    assert metrics["rmse"] == metrics["nrmse"] == metrics["rmse_bicubic"]
    assert metrics["skill_vs_bicubic"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_cell_that_is_not_finite_is_never_hidden(patches, bad):
    predicted = patches.fine.copy()
    predicted[0, 0, 0] = bad
    metrics = evaluate(lambda _: predicted, patches)
    for name, value in metrics.items():
        assert np.isfinite(value) == (name == "rmse_bicubic"), name


def test_a_prediction_of_another_shape_is_refused(patches):
    with pytest.raises(ValueError, match="prediction"):
        evaluate(lambda coarse: coarse, patches)
