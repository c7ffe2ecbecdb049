"""The drivers task: six years to learn from, the two after them to be measured on.

With e = predicted - true and s the training standard deviation of a quantity about its season:

===================== =========================================================================
rmse_q, mae_q, bias_q of quantity q in its own unit
nrmse                 mean over quantities of sqrt(mean(e**2)) / s; nmae and nbias likewise
correlation           mean over quantities of Pearson's of the departures from the season
nrmse_climatology     the same of the season, two harmonics fitted to the training days
nrmse_persistence     the same of the day before
skill_vs_climatology  1 - nrmse / nrmse_climatology; skill_vs_persistence likewise
skill                 the smaller of the two
tails                 of the departures from the season / s, see extremes.py
sign_agreement, magnitude_ratio, exceedance_ratio  of the same, see impact.py
===================== =========================================================================

On a file of reanalysis fields (``winds.py``) the zonal mean stands in the place of climatology,
and there is no day before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circulation import BBOX, END_AT, NAME, START_AT, URI, VARIABLES, generate_circulation
from circulation import season_waves as waves_of
from drivers.case import Case, Days
from drivers.model import train_drivers
from drivers.region import QUANTITIES, regional_weather
from drivers.winds import cut_winds
from extremes import tail_metrics
from impact import exceedance_ratio, magnitude_ratio, sign_agreement
from kfm_mlflow.authoring.fitting import Fit
from mixing import dealt_order
from prepared import GENERATED, Prepared, Source, Trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from prepared import Predict

    Doubles = NDArray[np.float64]

PRESETS = {
    "default": (Fit(step_count=1500, batch_size=128, learning_rate=8e-3), 12, 24),
    "small": (Fit(step_count=500, batch_size=128, learning_rate=8e-3), 12, 24),
}


def prepare(data: str, *, size: str, seed: int, shuffled_ratio: float = 0.0) -> Prepared:
    """Return the task on generated fields, or on a file with geopotential and zonal wind.

    Raises:
        DataError: The file holds no such fields.
    """
    case = _generated() if data == GENERATED else cut_winds(Path(data))
    fit, eof_count, width = PRESETS[size]
    config = replace(fit, seed=seed, device="auto")
    learned, held = case.learned, case.held

    def train() -> Trained:
        targets = learned.truth.astype(np.float32)
        targets = targets[dealt_order(len(targets), shuffled_ratio, seed=seed)]
        model, history, elapsed_s = train_drivers(
            learned.rows, targets, config, eof_count=eof_count, width=width
        )
        shape = [int(n) for n in learned.rows.shape[1:]]
        built: dict[str, Any] = {
            "shape": shape,
            "eof_count": eof_count,
            "target_count": len(case.quantities),
            "width": width,
        }
        return Trained(model, built, config.said, history, elapsed_s)

    return Prepared(
        mlm_task="regression",
        source=case.source,
        selections=case.selections,
        baseline_rows=held.rows,
        validation_rows=held.rows,
        train=train,
        evaluate=lambda predict: evaluate(predict, case),
        headline=_headline,
        description=f"{' and '.join(case.quantities)} of a region from {case.source.name} by leading EOFs.",
        training_places=case.training_places,
    )


def _generated() -> Case:
    world = generate_circulation()
    weather = regional_weather(world)
    is_training = world.is_training
    waves = waves_of(world.day_of_year)
    double = np.stack([2 * waves[:, 0] * waves[:, 1], waves[:, 1] ** 2 - waves[:, 0] ** 2], axis=1)
    design = np.hstack([np.ones((len(waves), 1)), waves, double])
    weight, *_ = np.linalg.lstsq(design[is_training], weather[is_training], rcond=None)
    peers = {"climatology": design @ weight, "persistence": np.roll(weather, 1, axis=0)}
    rows = world.fields.astype(np.float32)

    def side(chosen: NDArray[np.bool_]) -> Days:
        said = {name: values[chosen] for name, values in peers.items()}
        return Days(rows[chosen], weather[chosen], said)

    source = Source(NAME, URI, world.digest, BBOX, START_AT, END_AT, VARIABLES, 4.0)
    return Case(
        side(is_training), side(~is_training), QUANTITIES, source, ("first six years", "last two")
    )


def evaluate(predict: Predict, case: Case) -> dict[str, float]:
    """Return the metrics of the module's table.

    Args:
        predict: float32 [n, channel, lat, lon] to [n, k].
        case: Both sides.

    Raises:
        ValueError: The prediction has another shape.
    """
    held = case.held
    said = np.asarray(predict(held.rows), dtype=np.float64)
    if said.shape != held.truth.shape:
        raise ValueError(f"the prediction is {said.shape}, not {held.truth.shape}")
    season = next(iter(case.learned.peers.values()))
    spread = (case.learned.truth - season).std(axis=0)
    error = said - held.truth
    found: dict[str, float] = {}
    for k, name in enumerate(case.quantities):
        found[f"rmse_{name}"] = float(np.sqrt(np.square(error[:, k]).mean()))
        found[f"mae_{name}"] = float(np.abs(error[:, k]).mean())
        found[f"bias_{name}"] = float(error[:, k].mean())
    nrmse = _nrmse(error, spread)
    apart = held.peers[next(iter(held.peers))]
    told, truly = ((values - apart) / spread for values in (said, held.truth))
    pairs = [np.corrcoef(told[:, k], truly[:, k])[0, 1] for k in range(said.shape[1])]
    found |= {
        "nrmse": nrmse,
        "nmae": float((np.abs(error) / spread).mean()),
        "nbias": float((error / spread).mean()),
        "correlation": float(np.mean(pairs)),
        **tail_metrics(told, truly),
        "sign_agreement": sign_agreement(told, truly),
        "magnitude_ratio": magnitude_ratio(told, truly),
        "exceedance_ratio": exceedance_ratio(told, truly),
    }
    for name, answers in held.peers.items():
        found[f"nrmse_{name}"] = _nrmse(answers - held.truth, spread)
        found[f"skill_vs_{name}"] = 1.0 - nrmse / found[f"nrmse_{name}"]
    found["skill"] = min(found[f"skill_vs_{name}"] for name in held.peers)
    return found


def _nrmse(error: Doubles, spread: Doubles) -> float:
    return float((np.sqrt(np.square(error).mean(axis=0)) / spread).mean())


def _headline(metrics: Mapping[str, float]) -> str:
    peers = [name.removeprefix("skill_vs_") for name in metrics if name.startswith("skill_vs_")]
    told = ", ".join(
        f"{name.replace('_', ' ')} {metrics[f'nrmse_{name}']:.3f} "
        f"(skill {metrics[f'skill_vs_{name}']:+.0%})"
        for name in peers
    )
    return f"normalised RMSE {metrics['nrmse']:.3f}; {told}"
