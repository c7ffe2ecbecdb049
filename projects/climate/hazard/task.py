"""The hazard task: learn from even years, be measured on odd ones.

Reporting changed in the 1990s, so that a split in time would measure the radar. With ``y`` whether
a day is a tornado day of a cell, ``p`` what is said of it, and the mean over all cells and days of
odd years:

================= =============================================================================
brier             mean((p - y)**2)
brier_climatology the same of the cell's own share of tornado days in that month of even years
brier_statewide   the same of all cells' share in that month of even years
skill_vs_climatology  1 - brier / brier_climatology
skill_vs_statewide    1 - brier / brier_statewide
bias_ratio        mean(p) / mean(y) - 1
log_loss          mean of -(y log p + (1 - y) log(1 - p)), natural logarithm
amplification_p99 sum of p over sum of y in the cell-months with the highest hundredth of p
correlation       Pearson's of p and the observed share, over cells and months of odd years
sign_agreement    of the statewide share of each month less that of the year, where it is a fourth of
                  a deviation away, see impact.py; magnitude_ratio of all twelve
================= =============================================================================

``brier`` of a rare event is small whoever speaks; only the skills say something.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h3
import numpy as np

from hazard.model import PENALTY, train_hazard
from hazard.records import BBOX, MONTH_COUNT, TornadoDays, load_tornadoes
from hazard.world import generate_tornado_days
from impact import magnitude_ratio, sign_agreement
from kfm_mlflow.authoring.fitting import Fit
from kfm_mlflow.errors import DataError
from mixing import dealt_order
from prepared import GENERATED, Prepared, Source, Trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from prepared import Predict

    Doubles = NDArray[np.float64]

PRESETS = {
    "default": Fit(step_count=600, batch_size=0, learning_rate=0.05, weight_decay=0.0),
    "small": Fit(step_count=150, batch_size=0, learning_rate=0.1, weight_decay=0.0),
}
_CLEAR = 0.25
_CELL_SIZE_DEG = 0.4  # edge of an H3 cell of resolution 4, 22.6 km, times two, over 111 km


def prepare(data: str, *, size: str, seed: int, shuffled_ratio: float = 0.0) -> Prepared:
    """Return the task on generated days or on a CSV file.

    Raises:
        DataError: The file cannot be read as tornado records.
    """
    if data == GENERATED:
        days, uri = generate_tornado_days(), "generated:tornado-days?seed=42"
    else:
        days, uri = load_tornadoes(Path(data)), Path(data).name
    even = np.array([year % 2 == 0 for year in days.years])
    if even.all() or not even.any():
        raise DataError("has years of one parity only", where=uri, remedy="give at least two years")
    rows = cell_months(days)
    config = replace(PRESETS[size], seed=seed, device="auto")

    def train() -> Trained:
        hits, looked_at = _counts(days, even)
        hits = hits[dealt_order(len(hits), shuffled_ratio, seed=seed)]
        model, history, elapsed_s = train_hazard(
            rows, hits.astype(np.float32), looked_at.astype(np.float32), config
        )
        said = {**config.said, "penalty": PENALTY}
        return Trained(model, {"spacing_deg": 1.0}, said, history, elapsed_s)

    source = Source(
        *(days.name, uri, days.digest, BBOX, days.start_at, days.end_at),
        variables=("tornado_day",),
        cell_size_deg=_CELL_SIZE_DEG,
    )
    return Prepared(
        mlm_task="regression",
        source=source,
        selections=("even years", "odd years"),
        baseline_rows=rows,
        validation_rows=rows,
        train=train,
        evaluate=lambda predict: evaluate(predict, days),
        headline=_headline,
        description="Probability that a day of a month is a tornado day in an H3 cell of resolution 4.",
        training_places=(rows[:, 0].astype(np.float64), rows[:, 1].astype(np.float64)),
    )


def cell_months(days: TornadoDays) -> NDArray[np.float32]:
    """Return [cell * 12, 3]: latitude and longitude of the cell's centre in degrees, and month."""
    centres = np.array([h3.cell_to_latlng(cell) for cell in days.cells])
    months = np.arange(1, MONTH_COUNT + 1)
    rows = np.empty((len(centres), MONTH_COUNT, 3), np.float32)
    rows[:, :, :2] = centres[:, None, :]
    rows[:, :, 2] = months
    return rows.reshape(-1, 3)


def _counts(days: TornadoDays, chosen: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """Return tornado days and days looked at, [cell * 12, 1], of the chosen years."""
    hits = days.counts[:, chosen].sum(axis=1, dtype=np.float64)
    looked_at = np.broadcast_to(days.day_counts[chosen].sum(axis=0, dtype=np.float64), hits.shape)
    return hits.reshape(-1, 1), looked_at.reshape(-1, 1)


def evaluate(predict: Predict, days: TornadoDays) -> dict[str, float]:
    """Return the metrics of the module's table.

    Args:
        predict: float32 [n, 3] to [n, 1].
        days: Odd years are looked at; even ones give the climatologies.

    Raises:
        ValueError: The prediction has another shape.
    """
    rows = cell_months(days)
    said = np.asarray(predict(rows), dtype=np.float64)
    if said.shape != (len(rows), 1):
        raise ValueError(f"the prediction is {said.shape}, not {(len(rows), 1)}")
    even = np.array([year % 2 == 0 for year in days.years])
    past_hits, past_days = _counts(days, even)
    hits, looked_at = _counts(days, ~even)
    shape = (len(days.cells), MONTH_COUNT)
    by_month = past_hits.reshape(shape).sum(axis=0) / past_days.reshape(shape).sum(axis=0)
    statewide = np.tile(by_month, len(days.cells))[:, None]
    brier = _brier(said, hits, looked_at)
    of_cells = _brier(past_hits / past_days, hits, looked_at)
    of_state = _brier(statewide, hits, looked_at)
    share = hits / looked_at
    told, truly = (_months(values, looked_at, shape) for values in (said, share))
    with np.errstate(invalid="ignore", divide="ignore"):
        surprise = -(hits * np.log(said) + (looked_at - hits) * np.log1p(-said))
        return {
            "brier": brier,
            "brier_climatology": of_cells,
            "brier_statewide": of_state,
            "skill_vs_climatology": 1.0 - brier / of_cells,
            "skill_vs_statewide": 1.0 - brier / of_state,
            "bias_ratio": float((said * looked_at).sum() / hits.sum() - 1.0),
            "log_loss": float(surprise.sum() / looked_at.sum()),
            "correlation": float(np.corrcoef(said[:, 0], share[:, 0])[0, 1]),
            "amplification_p99": float(_sharpest(said, hits, looked_at)),
            "sign_agreement": sign_agreement(told, truly, far=_CLEAR),
            "magnitude_ratio": magnitude_ratio(told, truly),
        }


def _brier(said: Doubles, hits: Doubles, looked_at: Doubles) -> float:
    """Return the mean of (p - y)**2 over days, from counts."""
    squares = hits * np.square(1.0 - said) + (looked_at - hits) * np.square(said)
    return float(squares.sum() / looked_at.sum())


def _months(share: Doubles, looked_at: Doubles, shape: tuple[int, int]) -> Doubles:
    """Return by how much the state's share of tornado days in a month differs from the year's."""
    hits = (share * looked_at).reshape(shape).sum(axis=0)
    days = looked_at.reshape(shape).sum(axis=0)
    departures: Doubles = hits / days - hits.sum() / days.sum()
    return departures


def _sharpest(said: Doubles, hits: Doubles, looked_at: Doubles) -> float:
    """Return forecast over observed days in the hundredth of the rows with the highest forecast."""
    top = said >= np.percentile(said, 99)
    return float((said * looked_at)[top].sum() / hits[top].sum())


def _headline(metrics: Mapping[str, float]) -> str:
    return (
        f"Brier {metrics['brier']:.6f}, per-cell climatology {metrics['brier_climatology']:.6f} "
        f"(skill {metrics['skill_vs_climatology']:+.2%}), statewide {metrics['brier_statewide']:.6f} "
        f"(skill {metrics['skill_vs_statewide']:+.3%})"
    )
