"""How good a downscaler is: one definition of every number.

With ``e = predicted - fine`` over all cells of all patches, ``s`` the patch's ``spread`` and ``c``
its ``center`` (both of the training longitudes, see :class:`downscaling.patches.Patches`):

============== ================================================================================
rmse           sqrt(mean(e**2)), in ``patches.units``
mae            mean(abs(e)), in ``patches.units``
bias           mean(e), in ``patches.units``
nrmse          sqrt(mean((e / s)**2))
nmae           mean(abs(e / s))
nbias          mean(e / s)
correlation    Pearson's over all cells of the anomalies (predicted - c) / s and (fine - c) / s
pattern_correlation  mean over patches of Pearson's between the two patches
ssim           mean structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004): uniform windows
               of 7 by 7, K1 = 0.01, K2 = 0.03, dynamic range 4 s
tails          of the anomalies / s, see extremes.py
rmse_bicubic   rmse of bicubic interpolation of the same patches
skill_vs_bicubic  1 - rmse / rmse_bicubic
============== ================================================================================

Where variables have different units, ``patches.units`` is ``1`` and rmse, mae, bias and
rmse_bicubic are the normalised ones. The sums run in float64. A prediction that is not finite
makes every number non-finite that depends on it; nothing is skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from downscaling.network import bicubic_matrix
from extremes import tail_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from downscaling.patches import Patches

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_SSIM_RANGE = 4.0  # in units of the spread: two deviations to either side


def bicubic(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate [n, 8, 8] to [n, 32, 32]: what a downscaler has to beat."""
    matrix = bicubic_matrix().numpy().astype(np.float64)
    mean = coarse.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    fine: NDArray[np.float32] = (mean + matrix @ (coarse - mean) @ matrix.T).astype(np.float32)
    return fine


def evaluate(predict: Predict, patches: Patches) -> dict[str, float]:
    """Return the metrics of the module's table.

    Args:
        predict: float32 [n, 8, 8] to [n, 32, 32], physical units.
        patches: Held-out patches.

    Raises:
        ValueError: The prediction has another shape than the fine patches.
    """
    predicted = np.asarray(predict(patches.coarse), dtype=np.float64)
    if predicted.shape != patches.fine.shape:
        raise ValueError(f"the prediction is {predicted.shape}, not {patches.fine.shape}")
    spread = patches.spread[:, None, None].astype(np.float64)
    center = patches.center[:, None, None].astype(np.float64)
    fine = patches.fine.astype(np.float64)
    unit = spread if patches.units == "1" else 1.0
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = predicted - fine
        scaled = error / spread
        rmse = _rms(error / unit)
        rmse_bicubic = _rms((bicubic(patches.coarse) - fine) / unit)
        return {
            "rmse": rmse,
            "mae": float(np.abs(error / unit).mean()),
            "bias": float((error / unit).mean()),
            "correlation": _correlation((predicted - center) / spread, (fine - center) / spread),
            "nrmse": _rms(scaled),
            "nmae": float(np.abs(scaled).mean()),
            "nbias": float(scaled.mean()),
            "rmse_bicubic": rmse_bicubic,
            "skill_vs_bicubic": float(1.0 - np.float64(rmse) / rmse_bicubic),
            "pattern_correlation": _pattern_correlation(predicted, fine),
            "ssim": _ssim((predicted - center) / spread, (fine - center) / spread),
            **tail_metrics((predicted - center) / spread, (fine - center) / spread),
        }


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of all cells; NaN where one of the two is constant."""
    first = first - first.mean()
    second = second - second.mean()
    return float(
        (first * second).mean() / (np.sqrt(np.square(first).mean() * np.square(second).mean()))
    )


def _pattern_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the mean over patches of the correlation of their cells, [n, lat, lon] each."""
    first = first - first.mean(axis=(1, 2), keepdims=True)
    second = second - second.mean(axis=(1, 2), keepdims=True)
    sizes = np.square(first).mean(axis=(1, 2)) * np.square(second).mean(axis=(1, 2))
    return float(((first * second).mean(axis=(1, 2)) / np.sqrt(sizes)).mean())


def _ssim(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the mean structural similarity of patches in units of their spread."""
    a, b = (np.lib.stride_tricks.sliding_window_view(x, (7, 7), (1, 2)) for x in (first, second))
    mean_a, mean_b = a.mean(axis=(3, 4)), b.mean(axis=(3, 4))
    var_a, var_b = a.var(axis=(3, 4)), b.var(axis=(3, 4))
    shared = (a * b).mean(axis=(3, 4)) - mean_a * mean_b
    low, high = (0.01 * _SSIM_RANGE) ** 2, (0.03 * _SSIM_RANGE) ** 2
    similar = (2 * mean_a * mean_b + low) * (2 * shared + high)
    similar /= (mean_a**2 + mean_b**2 + low) * (var_a + var_b + high)
    return float(similar.mean())
