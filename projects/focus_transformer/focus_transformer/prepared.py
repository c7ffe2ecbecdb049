"""How training and validation come to the same sequences, and what the documents say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from focus_mode.prepared import Prepared as FocusRows
from focus_mode.prepared import prepare as prepare_rows
from focus_transformer.sequences import Sequences, area_under_curve, cut_sequences
from focus_transformer.training import ridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

BASELINE_ROWS = 64
_LOGISTIC_STEPS = 25


@dataclass(frozen=True)
class Prepared:
    """Sequences of a release, the same for who trains and who validates.

    Attributes:
        rows: The world and its regions.
        learned: Sequences of training places.
        held: Sequences of held-out places.
    """

    rows: FocusRows
    learned: Sequences
    held: Sequences

    def baseline_rows(self, seed: int) -> NDArray[np.float32]:
        """Return representative sequences of training places, [64, 6, 36]."""
        rng = np.random.Generator(np.random.PCG64([seed, 11]))
        count = min(BASELINE_ROWS, len(self.learned))
        chosen = np.sort(rng.choice(len(self.learned), count, replace=False))
        return self.learned.rows[chosen]

    def evaluate(self, predict: Predict) -> dict[str, float]:
        """Return the metrics on held-out sequences.

        ``auc`` of the model, ``auc_logistic`` of a logistic regression on all 216 standardised
        numbers of a sequence, ``auc_gain`` their difference, ``auc_last_month`` of a ridge
        regression on the last month alone, and ``brier`` and ``brier_base_rate``.
        """
        said = np.asarray(predict(self.held.rows), dtype=np.float64)[:, 0]
        labels = self.held.labels.astype(np.float64)
        base = float(self.learned.labels.mean())
        known, asked = (side.rows.reshape(len(side), -1) for side in (self.learned, self.held))
        logistic = logistic_regression(known, self.learned.labels, asked)
        last = ridge(self.learned.rows[:, -1], self.learned.labels, self.held.rows[:, -1])
        auc, auc_logistic = (area_under_curve(x, labels) for x in (said, logistic))
        return {
            "auc": auc,
            "auc_logistic": auc_logistic,
            "auc_gain": auc - auc_logistic,
            "auc_last_month": area_under_curve(last, labels),
            "brier": float(np.square(said - labels).mean()),
            "brier_base_rate": float(np.square(base - labels).mean()),
        }


def prepare(data: str, *, size: str, seed: int, regions: str) -> Prepared:
    """Return the sequences of a world, reserved cells left out; see :mod:`focus_mode.prepared`.

    Raises:
        DataError: There is no such file or size, or there are too few sequences.
    """
    rows = prepare_rows(data, size=size, seed=seed, regions=regions)
    learned, held = cut_sequences(rows.world)
    return Prepared(rows, learned, held)


def logistic_regression(
    known: NDArray[np.floating[Any]],
    labels: NDArray[np.floating[Any]],
    asked: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """Return the probabilities of an L2-penalised logistic regression, fitted by Newton's method.

    Args:
        known: [n, d], standardised here.
        labels: [n], 0 or 1.
        asked: [m, d].
    """
    center, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    design, other = (
        np.hstack([(x - center) / spread, np.ones((len(x), 1))]).astype(np.float64)
        for x in (known, asked)
    )
    weight = np.zeros(design.shape[1])
    penalty = np.ones(len(weight))
    penalty[-1] = 0.0
    for _ in range(_LOGISTIC_STEPS):
        said = 1.0 / (1.0 + np.exp(-np.clip(design @ weight, -30.0, 30.0)))
        gradient = design.T @ (said - labels) + penalty * weight
        curvature = (design * (said * (1.0 - said))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        weight -= step
        if np.abs(step).max() < 1e-8:  # noqa: PLR2004 - converged
            break
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(other @ weight, -30.0, 30.0)))
    return found
