"""The anomaly task: learn from ordinary fields, find those that were tampered with.

The held-out fields are later (generated) or elsewhere (a file), a tenth of them with an injected
anomaly (``injected.py``):

============================= =================================================================
average_precision             of the score, on the held-out fields
average_precision_zscore      of the mean square of per-cell z-scores about the season, the same
                              mean and deviation
skill_vs_zscore               (ap - ap_zscore) / (1 - ap_zscore)
average_precision_KIND        against fields without anomaly, per kind
score_shift                   median score of held-out ordinary fields over that of training ones,
                              less 1: how much it would cry wolf on what it has not seen
============================= =================================================================

What is explained is the score of fields with an anomaly: training fields in the release, held-out
ones in the validation. An ordinary field's score is what is left of it, a few hundredths of a
deviation that no reconstruction explains, and nobody can say from which cells that comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomaly.injected import KINDS, inject
from anomaly.model import season_of, train_reconstruction
from anomaly.patches import cut_reanalysis
from circulation import (
    BBOX,
    END_AT,
    NAME,
    START_AT,
    URI,
    YEAR_DAY_COUNT,
    generate_circulation,
    season_waves,
)
from kfm_mlflow.authoring.fitting import Fit
from mixing import dealt_order
from prepared import GENERATED, Explained, Prepared, Source, Trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from prepared import Predict

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

PRESETS = {
    "default": (Fit(step_count=1500, batch_size=128, learning_rate=5e-3, weight_decay=0.0), 14, 64),
    "small": (Fit(step_count=300, batch_size=64, learning_rate=1e-2, weight_decay=0.0), 14, 32),
}
SMOOTHING_CELLS = 0.5
_EXPLAINED_COUNT = 32


@dataclass(frozen=True)
class Case:
    """Ordinary rows to learn from, and held-out rows of which some are marked.

    Attributes:
        learned: [n, 3, lat, lon].
        held: [m, 3, lat, lon], anomalies included.
        kinds: [m]: "" or the kind of anomaly.
        tampered: Training rows with an anomaly, which nothing is learned from, [32, 3, lat, lon].
        source: Where they come from.
        selections: What the two are, in words.
        training_places: Latitude and longitude of every value of every row of ``learned``; None
            when they have no place.
    """

    learned: Floats
    held: Floats
    kinds: tuple[str, ...]
    tampered: Floats
    source: Source
    selections: tuple[str, str]
    training_places: tuple[Doubles, Doubles] | None = None


def prepare(data: str, *, size: str, seed: int, shuffled_ratio: float = 0.0) -> Prepared:
    """Return the task on generated fields or on a file of fields.

    Raises:
        DataError: The file holds no fields that are large enough.
    """
    case = _generated(seed) if data == GENERATED else _from_file(Path(data), seed)
    fit, code_size, width = PRESETS[size]
    config = replace(fit, seed=seed, device="auto")

    def train() -> Trained:
        rows = _torn_apart(case.learned, shuffled_ratio, seed)
        model, history, elapsed_s = train_reconstruction(
            rows, config, code_size=code_size, width=width, smoothing_cells=SMOOTHING_CELLS
        )
        shape = [int(n) for n in case.learned.shape[2:]]
        sizes = {"code_size": code_size, "width": width, "smoothing_cells": SMOOTHING_CELLS}
        return Trained(model, {"shape": shape, **sizes}, config.said, history, elapsed_s)

    return Prepared(
        mlm_task="regression",  # of a score: MLM has no word for finding anomalies
        source=case.source,
        selections=case.selections,
        baseline_rows=case.learned,
        validation_rows=case.held,
        train=train,
        evaluate=lambda predict: evaluate(predict, case),
        headline=_headline,
        description=f"How unlike its season a field of {case.source.name} is.",
        training_places=case.training_places,
        explained=Explained(
            case.tampered, _drawn(case.held, case.kinds, seed), "fields with an anomaly put in"
        ),
    )


def _generated(seed: int) -> Case:
    world = generate_circulation()
    waves = season_waves(world.day_of_year)
    rows = _rows(world.fields[:, 0].astype(np.float32), waves.astype(np.float32))
    learned, held = rows[world.is_training], rows[~world.is_training]
    tampered = _drawn(*_tamper(learned, learned, _year_later(learned), seed), seed)
    held, kinds = _tamper(learned, held, _year_later(held), seed)
    source = Source(NAME, URI, world.digest, BBOX, START_AT, END_AT, ("z500",), 4.0)
    words = ("first six years", "last two, a tenth tampered with")
    return Case(learned, held, kinds, tampered, source, words)


def _year_later(rows: Floats) -> NDArray[np.int64]:
    """Return for each day that a year later: the same season, other weather."""
    later: NDArray[np.int64] = (np.arange(len(rows)) + YEAR_DAY_COUNT) % len(rows)
    return later


def _from_file(path: Path, seed: int) -> Case:
    cut = cut_reanalysis(path)
    tampered = _drawn(*_tamper(cut.learned, cut.learned, cut.learned_partner, seed), seed)
    held, kinds = _tamper(cut.learned, cut.held, cut.held_partner, seed)
    words = ("every second band of longitudes", "the others, a tenth tampered with")
    return Case(cut.learned, held, kinds, tampered, cut.source, words, cut.training_places)


def _tamper(
    learned: Floats, held: Floats, partner: NDArray[np.int64], seed: int
) -> tuple[Floats, tuple[str, ...]]:
    spread = season_of(learned)[1]
    fields, _, kinds = inject(held[:, 0], spread, partner, seed=seed)
    return np.concatenate([fields[:, None], held[:, 1:]], axis=1), kinds


def _drawn(rows: Floats, kinds: tuple[str, ...], seed: int) -> Floats:
    """Return some of the rows that have an anomaly."""
    marked = np.flatnonzero([bool(kind) for kind in kinds])
    rng = np.random.Generator(np.random.PCG64([seed, 12]))
    return np.ascontiguousarray(rows[rng.permutation(marked)[:_EXPLAINED_COUNT]])


def _rows(fields: Floats, waves: Floats) -> Floats:
    season = np.broadcast_to(waves[:, :, None, None], (*waves.shape, *fields.shape[1:]))
    return np.ascontiguousarray(np.concatenate([fields[:, None], season], axis=1))


def _torn_apart(rows: Floats, shuffled_ratio: float, seed: int) -> Floats:
    """Return rows of which a share has cells of different fields: no relation is left in them."""
    flat = rows[:, 0].reshape(len(rows), -1)
    cells = range(flat.shape[1])
    order = np.stack(
        [dealt_order(len(rows), shuffled_ratio, seed=seed * len(cells) + cell) for cell in cells],
        axis=1,
    )
    fields = np.take_along_axis(flat, order, axis=0).reshape(rows[:, 0].shape)
    return np.concatenate([fields[:, None], rows[:, 1:]], axis=1)


def evaluate(predict: Predict, case: Case) -> dict[str, float]:
    """Return the metrics of the module's table.

    Args:
        predict: float32 [n, 3, lat, lon] to [n, 1].
        case: Both sides.

    Raises:
        ValueError: The prediction has another shape.
    """
    said = np.asarray(predict(case.held), dtype=np.float64)
    if said.shape != (len(case.held), 1):
        raise ValueError(f"the prediction is {said.shape}, not {(len(case.held), 1)}")
    score = said[:, 0]
    marked = np.array([bool(kind) for kind in case.kinds])
    plain = _zscore(case)
    ours, theirs = average_precision(score, marked), average_precision(plain, marked)
    found = {
        "average_precision": ours,
        "average_precision_zscore": theirs,
        "skill_vs_zscore": (ours - theirs) / (1.0 - theirs),
    }
    for kind in KINDS:
        of_kind = np.array([one in ("", kind) for one in case.kinds])
        name = f"average_precision_{kind.replace('-', '_')}"
        found[name] = average_precision(score[of_kind], marked[of_kind])
    usual = float(np.median(np.asarray(predict(case.learned), dtype=np.float64)))
    found["score_shift"] = float(np.median(score[~marked])) / usual - 1.0
    return found


def _zscore(case: Case) -> Doubles:
    season, spread = season_of(case.learned)
    rows = case.held.astype(np.float64)
    usual = season[0] + rows[:, 1] * season[1] + rows[:, 2] * season[2]
    scored: Doubles = np.square((rows[:, 0] - usual) / spread).mean(axis=(1, 2))
    return scored


def average_precision(score: Doubles, marked: NDArray[np.bool_]) -> float:
    """Return the mean over marked rows of the precision at their rank, ties as one rank.

    The sum over thresholds of (recall gained) times precision, as scikit-learn defines it. A score
    that is not finite makes it NaN.
    """
    if not np.isfinite(score).all():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], marked[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = np.cumsum(hits)[last]
    precision = found / (last + 1)
    gained = np.diff(found, prepend=0) / marked.sum()
    return float((gained * precision).sum())


def _headline(metrics: Mapping[str, float]) -> str:
    return (
        f"average precision {metrics['average_precision']:.3f}, per-cell z-score "
        f"{metrics['average_precision_zscore']:.3f} (skill {metrics['skill_vs_zscore']:+.0%})"
    )
