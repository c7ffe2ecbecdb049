"""Six months of one place as a sequence, and whether they were a dry spell.

A sequence is float32 [6, 36]: the columns of :mod:`kfm_mlflow.focus.columns` for six months in a
row. Its label is 1 when at least two of its last three months were a drought, a heat wave or
fire weather in truth. No column says so: each month's situation is told by one domain among
misleading others, so that neither one month nor a weighted sum of columns is enough. The truth comes
from the made-up world (or from the ``situation`` column of a user's table); held out are whole
places, as the world says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import SITUATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from focus_mode.world import World

MONTHS = 6
RECENT_MONTHS, NEEDED_MONTHS = 3, 2
DRY = tuple(SITUATIONS.index(name) for name in ("drought", "heat", "fire"))
MIN_COUNT = 60


@dataclass(frozen=True)
class Sequences:
    """Sequences of some places.

    Attributes:
        rows: float32 [n, 6, 36].
        labels: float32 [n], 0 or 1.
        region: [n] region of the place, for the bias index.
        cells: H3 index of each.
    """

    rows: NDArray[np.float32]
    labels: NDArray[np.float32]
    region: NDArray[np.int64]
    cells: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows)


def cut_sequences(world: World) -> tuple[Sequences, Sequences]:
    """Return the sequences of training places and of held-out ones, by cell, then by month.

    Raises:
        DataError: No place has six months in a row, or one of the two sides has too few sequences
            or one label only.
    """
    order = np.lexsort((world.months, np.array(world.cells)))
    cells = np.array(world.cells)[order]
    months, rows = world.months[order], world.rows[order]
    is_dry = np.isin(world.situation[order], DRY)
    ends = np.array(
        [
            end
            for end in range(MONTHS - 1, len(order))
            if cells[end - MONTHS + 1] == cells[end]
            and months[end] - months[end - MONTHS + 1] == MONTHS - 1
        ],
        dtype=np.int64,
    )
    if not len(ends):
        raise DataError(
            f"no place has {MONTHS} months in a row",
            where=world.name,
            remedy=f"give at least {MONTHS} months of each cell",
        )
    window = ends[:, None] + np.arange(1 - MONTHS, 1)
    recent = is_dry[window[:, -RECENT_MONTHS:]].sum(axis=1)
    labels = (recent >= NEEDED_MONTHS).astype(np.float32)
    held = world.is_held_out[order][ends]
    return tuple(  # type: ignore[return-value]  # two, as annotated
        _side(rows[window[side]], labels[side], world.region[order][ends[side]], cells[ends[side]])
        for side in (~held, held)
    )


def _side(
    rows: NDArray[np.float32],
    labels: NDArray[np.float32],
    region: NDArray[np.int64],
    cells: NDArray[np.str_],
) -> Sequences:
    if len(rows) < MIN_COUNT or len(np.unique(labels)) < 2:  # noqa: PLR2004 - both labels
        raise DataError(
            f"{len(rows)} sequences with {len(np.unique(labels))} labels are too few",
            where="sequences",
            remedy=f"give at least {MIN_COUNT} on each side of the split, dry spells and others",
        )
    return Sequences(np.ascontiguousarray(rows), labels, region, tuple(cells.tolist()))


def area_under_curve(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney, 1947).

    Args:
        scores: [n]; greater is likelier 1.
        labels: [n], 0 or 1, both present.
    """
    _, rank_of, count = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(count)
    rank = (upper - (count - 1) / 2.0)[rank_of]
    is_one = labels > 0
    ones, zeros = int(is_one.sum()), int((~is_one).sum())
    return float((rank[is_one].sum() - ones * (ones + 1) / 2.0) / (ones * zeros))


def bias_index(
    probability: NDArray[np.floating], labels: NDArray[np.floating], region: NDArray[np.int64]
) -> float:
    """Return the largest miscalibration of a region that chance does not explain.

    Of each region, the absolute difference of mean probability and mean label, less two standard
    errors of the mean label under the probabilities (Bernoulli); 0 where nothing is left.
    """
    found = [0.0]
    for r in np.unique(region):
        here = region == r
        said = np.clip(probability[here], 0.0, 1.0)
        error = 2.0 * float(np.sqrt((said * (1.0 - said)).sum())) / int(here.sum())
        found.append(abs(float(said.mean() - labels[here].mean())) - error)
    return max(found)
