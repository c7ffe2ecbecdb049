"""Each climate model against its baselines: score, training time, energy, size; generated data.

A round is one seed: data are split, a model is trained by the task's own code inside
``measure_energy`` and measured by the task's own evaluation on rows that it has not seen. Every
score is one of which less is better, so that a ratio below 1 beats the baseline:

- downscaling: RMSE; drivers and hydrology: RMSE in units of the training spread; hazard: Brier;
- anomaly: what is missing to an average precision of 1.

``size=small`` trains the presets for tests.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from report import Row, paired_ratio

from kfm_mlflow import measure_energy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SEEDS = {"small": (42, 43), "full": (42, 43, 44)}
PRESETS = {"small": "small", "full": "default"}
GOAL = 1.0
"""A model that does not beat its baseline has no business in a registry."""
SCORES = {
    "downscaling": ("RMSE", "rmse", {"bicubic interpolation": "rmse_bicubic"}),
    "drivers": (
        "normalised RMSE",
        "nrmse",
        {"the season": "nrmse_climatology", "the day before": "nrmse_persistence"},
    ),
    "anomaly": (
        "1 - average precision",
        "average_precision",
        {"mean square of z-scores": "average_precision_zscore"},
    ),
    "hydrology": ("normalised RMSE", "nrmse", {"linear regression": "nrmse_linear"}),
    "hazard": (
        "Brier score",
        "brier",
        {
            "climatology of the cell": "brier_climatology",
            "climatology of the state": "brier_statewide",
        },
    ),
}


@dataclass(frozen=True)
class Round:
    """One training: wall time of the loop, energy of the block, parameters, metrics."""

    train_s: float
    energy_wh: float
    parameter_count: int
    metrics: Mapping[str, float]


def measure(size: str) -> list[Row]:
    """Train every task once per seed, and return one row per baseline."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects" / "climate"))
    rows: list[Row] = []
    for task in SCORES:
        rows += _rows(task, [_train(task, PRESETS[size], seed) for seed in SEEDS[size]])
    return rows


def _train(task: str, preset: str, seed: int) -> Round:
    from task import prepare

    prepared = prepare(task, "generated", size=preset, seed=seed)
    with measure_energy() as energy:
        trained = prepared.train()
    used = energy.finish()
    return Round(
        trained.elapsed_s,
        used.energy_wh,
        sum(part.numel() for part in trained.model.parameters()),
        prepared.evaluate(_predictor(trained.model)),
    )


def _predictor(model: torch.nn.Module) -> Predict:
    def predict(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = model(torch.from_numpy(rows)).numpy()
        return answer

    return predict


def _rows(task: str, rounds: list[Round]) -> list[Row]:
    unit, name, peers = SCORES[task]
    ours = [_loss(one.metrics, name) for one in rounds]
    said = (
        f"trained in {median(one.train_s for one in rounds):.1f} s with "
        f"{median(one.energy_wh for one in rounds):.3f} Wh (CodeCarbon's estimate); "
        f"{rounds[0].parameter_count} parameters"
    )
    rows = []
    for peer, metric in peers.items():
        theirs = [_loss(one.metrics, metric) for one in rounds]
        rows.append(
            Row(
                f"climate `{task}`, {unit} on held-out rows",
                f"{median(ours):.4g}",
                peer,
                f"{median(theirs):.4g}",
                paired_ratio(ours, theirs),
                GOAL,
                said,
            )
        )
    return rows


def _loss(metrics: Mapping[str, float], name: str) -> float:
    return 1.0 - metrics[name] if name.startswith("average_precision") else metrics[name]
