"""The hydrology task: learn at every second site, be measured at the others.

Over the last 30 days of windows of 60, for each quantity q of soil moisture, runoff and
evapotranspiration, with e = predicted - true and s the standard deviation of q at training sites:

=================== ===========================================================================
nrmse_q, bias_q     sqrt(mean(e**2)) / s; mean(e) in mm
nse_q               1 - mean(e**2) / var(true): Nash and Sutcliffe (1970)
nrmse, nmae, nbias  the mean over the three quantities; nbias of e / s
nrmse_linear        the same of linear regression on all 120 inputs
skill_vs_linear     1 - nrmse / nrmse_linear
closure_ratio       mean |P - ET - Q - dS| / mean P over the answered days: water made or lost
closure_linear      the same of linear regression
correlation         mean of Pearson's over the three quantities
sm_precip_correlation  Pearson's of d(storage) and P, predicted; against the true one:
sm_precip_shift     |predicted - true|
runoff_ratio_shift  |sum Q / sum P predicted - true|; evaporation_ratio_shift: of ET
rain_runoff_shift   |sum Q / sum P predicted - true| on the days with the most rain, a tenth of all
tails               of runoff, standardised over the training sites, see extremes.py
drought_coherence   share of the windows in the driest tenth by truth that are there by prediction
=================== ===========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from extremes import tail_metrics
from hydrology.model import ANSWERED_DAYS, WINDOW_DAYS, train_bucket
from hydrology.world import BBOX, NAME, START_AT, WaterYears, generate_water_years, observed
from kfm_mlflow.authoring.fitting import Fit
from kfm_mlflow.errors import DataError
from mixing import dealt_order
from prepared import GENERATED, Prepared, Source, Trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from prepared import Predict

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

PRESETS = {
    "default": (Fit(step_count=500, batch_size=64, learning_rate=0.02, weight_decay=0.0), 24),
    "small": (Fit(step_count=120, batch_size=32, learning_rate=0.05, weight_decay=0.0), 16),
}
_TRAIN_COUNT = {"default": 1536, "small": 768}
_VALIDATION_COUNT = {"default": 384, "small": 192}
_QUANTITIES = ("soil", "runoff", "et")
_TRAIN, _VALIDATION, _NOISE = 1, 2, 3


@dataclass(frozen=True)
class Windows:
    """Rows float32 [n, 60, 2] and what they led to, float64 [n, 30, 4]."""

    rows: Floats
    truth: Doubles


def cut_windows(
    years: WaterYears, *, seed: int, stream: int, first_site: int, count: int
) -> Windows:
    """Draw windows from every second site, uniformly over sites and days."""
    rng = np.random.Generator(np.random.PCG64([seed, stream]))
    sites = np.arange(first_site, len(years.soil_mm), 2)
    site = rng.choice(sites, count)
    start = rng.integers(0, years.soil_mm.shape[1] - WINDOW_DAYS + 1, count)
    seen = np.stack([years.precipitation_mm, years.temperature_c], axis=-1)
    led_to = np.stack([years.soil_mm, years.runoff_mm, years.et_mm, years.storage_mm], axis=-1)
    days = start[:, None] + np.arange(WINDOW_DAYS)
    rows = seen[site[:, None], days].astype(np.float32)
    truth = led_to[site[:, None], days[:, WINDOW_DAYS - ANSWERED_DAYS :]]
    return Windows(rows, truth)


def prepare(data: str, *, size: str, seed: int, shuffled_ratio: float = 0.0) -> Prepared:
    """Return the task on the generated water balance.

    Raises:
        DataError: Another data set is named; no real one is read here.
    """
    if data != GENERATED:
        raise DataError("the hydrology task reads no file", where="--data", remedy="use generated")
    years = generate_water_years()
    counts = _TRAIN_COUNT[size], _VALIDATION_COUNT[size]
    learned = cut_windows(years, seed=seed, stream=_TRAIN, first_site=0, count=counts[0])
    held = cut_windows(years, seed=seed, stream=_VALIDATION, first_site=1, count=counts[1])
    fit, width = PRESETS[size]
    config = replace(fit, seed=seed, device="auto")

    def train() -> Trained:
        rng = np.random.Generator(np.random.PCG64([seed, _NOISE]))
        targets = observed(learned.truth, rng).astype(np.float32)
        targets = targets[dealt_order(len(targets), shuffled_ratio, seed=seed)]
        model, history, elapsed_s = train_bucket(learned.rows, targets, config, width=width)
        return Trained(model, {"width": width}, config.said, history, elapsed_s)

    return Prepared(
        mlm_task="regression",
        source=Source(
            *(NAME, "generated:water-balance?seed=42", years.digest, BBOX, START_AT, years.end_at),
            variables=("precipitation", "temperature"),
            cell_size_deg=0.3,
        ),
        selections=("every second site", "the other sites"),
        baseline_rows=held.rows,
        validation_rows=held.rows,
        train=train,
        evaluate=lambda predict: evaluate(predict, learned, held),
        headline=_headline,
        description="Soil moisture, runoff and evapotranspiration from precipitation and temperature.",
    )


def evaluate(predict: Predict, learned: Windows, held: Windows) -> dict[str, float]:
    """Return the metrics of the module's table.

    Args:
        predict: float32 [n, 60, 2] to [n, 30, 4].
        learned: Training windows: the linear regression's, and what errors are divided by.
        held: Windows of other sites.

    Raises:
        ValueError: The prediction has another shape.
    """
    said = np.asarray(predict(held.rows), dtype=np.float64)
    if said.shape != held.truth.shape:
        raise ValueError(f"the prediction is {said.shape}, not {held.truth.shape}")
    spread = learned.truth.std(axis=(0, 1))[:3]
    line = _linear(learned, held)
    found: dict[str, float] = {}
    error = (said - held.truth)[..., :3]
    for k, name in enumerate(_QUANTITIES):
        found[f"nrmse_{name}"] = float(np.sqrt(np.square(error[..., k]).mean()) / spread[k])
        found[f"bias_{name}"] = float(error[..., k].mean())
        variance = held.truth[..., k].var()
        found[f"nse_{name}"] = float(1.0 - np.square(error[..., k]).mean() / variance)
    nrmse, nrmse_linear = _nrmse(said, held, spread), _nrmse(line, held, spread)
    falls = held.rows[:, WINDOW_DAYS - ANSWERED_DAYS :, 0].astype(np.float64)
    coupled, truly = _coupling(said, falls), _coupling(held.truth, falls)
    center = learned.truth.mean(axis=(0, 1))[1]
    runoff = tail_metrics(*((x[..., 1] - center) / spread[1] for x in (said, held.truth)))
    wettest = falls >= np.percentile(falls, 90)
    return {
        **found,
        **runoff,
        "nrmse": nrmse,
        "nmae": float((np.abs(error) / spread).mean()),
        "nbias": float((error / spread).mean()),
        "nrmse_linear": nrmse_linear,
        "skill_vs_linear": 1.0 - nrmse / nrmse_linear,
        "correlation": float(
            np.mean([_pearson(said[..., k], held.truth[..., k]) for k in range(3)])
        ),
        "closure_ratio": _closure(said, falls),
        "closure_linear": _closure(line, falls),
        "sm_precip_correlation": coupled,
        "sm_precip_shift": abs(coupled - truly),
        "runoff_ratio_shift": _share_shift(said, held.truth, falls, 1),
        "evaporation_ratio_shift": _share_shift(said, held.truth, falls, 2),
        "rain_runoff_shift": _share_shift(said[wettest], held.truth[wettest], falls[wettest], 1),
        "drought_coherence": _same_driest(said[..., 0], held.truth[..., 0]),
    }


def _nrmse(said: Doubles, held: Windows, spread: Doubles) -> float:
    error = (said - held.truth)[..., :3]
    return float((np.sqrt(np.square(error).mean(axis=(0, 1))) / spread).mean())


def _linear(learned: Windows, held: Windows) -> Doubles:
    """Return ordinary least squares on all inputs and a constant."""

    def design(rows: Floats) -> Doubles:
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        return np.hstack([flat, np.ones((len(rows), 1))])

    wanted = learned.truth.reshape(len(learned.truth), -1)
    weight, *_ = np.linalg.lstsq(design(learned.rows), wanted, rcond=None)
    return (design(held.rows) @ weight).reshape(held.truth.shape)


def _closure(said: Doubles, falls: Doubles) -> float:
    """Return |P - ET - Q - dS| over P, from the second answered day on."""
    change = np.diff(said[..., 3], axis=1)
    left = falls[:, 1:] - said[:, 1:, 2] - said[:, 1:, 1] - change
    return float(np.abs(left.sum(axis=1)).mean() / falls[:, 1:].sum(axis=1).mean())


def _coupling(said: Doubles, falls: Doubles) -> float:
    return _pearson(np.diff(said[..., 3], axis=1), falls[:, 1:])


def _share_shift(said: Doubles, truth: Doubles, falls: Doubles, quantity: int) -> float:
    """Return by how much the share of the water that a flux takes is off, 0..1."""
    return float(abs(said[..., quantity].sum() - truth[..., quantity].sum()) / falls.sum())


def _same_driest(said: Doubles, truth: Doubles) -> float:
    """Return the share of the driest tenth of windows that both name."""
    count = max(1, len(said) // 10)
    dry = [set(np.argsort(x.mean(axis=1), kind="stable")[:count].tolist()) for x in (said, truth)]
    return len(dry[0] & dry[1]) / count


def _pearson(first: Doubles, second: Doubles) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _headline(metrics: Mapping[str, float]) -> str:
    return (
        f"normalised RMSE {metrics['nrmse']:.3f}, linear regression {metrics['nrmse_linear']:.3f} "
        f"(skill {metrics['skill_vs_linear']:+.0%}), water balance closed to "
        f"{metrics['closure_ratio']:.2e}"
    )
