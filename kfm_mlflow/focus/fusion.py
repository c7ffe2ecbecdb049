"""Whether fused vectors are still what they were: stability, contamination and collapse.

What is frozen with a release (:class:`FusionBaseline`) is one measurement of training rows; the
same measurement of other rows is then compared with it (:func:`fusion_metrics`), and the vectors
that a served release gives are watched window by window (:class:`WindowedFusion`).

What a domain contributes to a row's vector is what its own values move when the values of every
other domain are the mean ones. *Separation* says how little of that the domains have in common:
1 less the cosine (Frobenius) of the second moments of two domains' unit contributions, averaged
over pairs. It is the RV coefficient of Robert & Escoufier (1976), uncentred and taken from 1: 1
where the domains move the vector in orthogonal directions, 0 where all move it the same way, or
not at all. The *effective rank* is the exponential of the entropy of the singular values (Roy &
Vetterli 2007), of vectors less their mean. A fusion has collapsed when either falls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.focus.answers import FUSION_DIMENSION, split_answers
from kfm_mlflow.focus.columns import COLUMNS, DOMAINS, domain_slice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kfm_mlflow.focus.columns import Domain

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SAMPLE_COUNT = 512
"""Rows that a measurement takes, drawn by a fixed seed; all where there are fewer."""
_PAIRED_COUNT = 128
WINDOW_SIZE = 64
MIN_DISTINCT_COUNT = 16
MIN_RANK_RATIO = 0.6
MIN_SPREAD_RATIO = 0.4
_MIN_INPUT_RANK = 3.0
_SHARE_TOLERANCE = 1e-3
_DECIMALS = 6
_BEYOND = 1e9
"""A quotient by 0: beyond every limit, and still a number that JSON has."""


class FusionBaseline(BaseModel):
    """What the fused vectors of some rows are like; of training rows, what a release freezes.

    Attributes:
        centroid: Mean vector, [2048].
        norm: Mean length of a vector.
        variance: Mean squared distance of a vector from the centroid.
        shares: Mean context weight of each domain, summing to 1.
        separation: See the module, 0..1.
        effective_rank: 0 where all vectors are the same.
        column_mean: Mean of each column of the rows, [36], in the column's unit: what a domain is
            given when it is to say nothing.
        column_std: Standard deviation of each column, [36]; 0 where a column is constant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    centroid: tuple[float, ...] = Field(min_length=FUSION_DIMENSION, max_length=FUSION_DIMENSION)
    norm: float = Field(ge=0)
    variance: float = Field(ge=0)
    shares: dict[str, float]
    separation: float = Field(ge=0, le=1)
    effective_rank: float = Field(ge=0)
    column_mean: tuple[float, ...] = Field(min_length=len(COLUMNS), max_length=len(COLUMNS))
    column_std: tuple[float, ...] = Field(min_length=len(COLUMNS), max_length=len(COLUMNS))

    @model_validator(mode="after")
    def _shares_are_of_the_domains(self) -> Self:
        if tuple(sorted(self.shares)) != tuple(sorted(DOMAINS)):
            raise ValueError(f"shares are of {sorted(self.shares)}, not of {sorted(DOMAINS)}")
        total = sum(self.shares.values())
        if min(self.shares.values()) < 0 or abs(total - 1) > _SHARE_TOLERANCE:
            raise ValueError(f"shares sum to {total:.6f}, not to 1, or one is below 0")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, document: Any, *, where: str = "fusion_weights.json") -> FusionBaseline:
        """Read it back.

        Args:
            document: What :meth:`to_dict` gave.
            where: The document that it stands in, for messages.

        Raises:
            EvidenceError: It lacks a part, or a part is of another shape or not finite.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as exc:
            first = exc.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise EvidenceError(
                f"has no valid fusion baseline ({place}: {first['msg']})",
                where=where,
                remedy="freeze the baseline of the training rows with measure_fusion",
            ) from exc


def only_domain(
    rows: NDArray[np.float32], domain: Domain, column_mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return rows in which one domain keeps its values and all others have the mean ones.

    Args:
        rows: float32 [n, 36].
        domain: Which one keeps them.
        column_mean: float32 [36].
    """
    kept = domain_slice(domain)
    only = np.tile(column_mean.astype(np.float32), (len(rows), 1))
    only[:, kept] = rows[:, kept]
    return only


def measure_fusion(
    predict: Predict,
    rows: NDArray[np.float32],
    *,
    column_mean: NDArray[np.floating[Any]] | None = None,
    column_std: NDArray[np.floating[Any]] | None = None,
) -> FusionBaseline:
    """Measure a fusion on rows; of at most :data:`SAMPLE_COUNT` of them.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        rows: float32 [n, 36], n >= 2, in their units.
        column_mean: Of the rows that the model was trained on, [36]; by default of these.
        column_std: The same.
    """
    mean = np.round(rows.mean(0, dtype=np.float64) if column_mean is None else column_mean, 6)
    std = np.round(rows.std(0, dtype=np.float64) if column_std is None else column_std, 6)
    chosen = rows[sample_rows(len(rows), SAMPLE_COUNT)]
    answers = split_answers(predict(chosen))
    vectors = answers.fusion.astype(np.float64)
    centroid = vectors.mean(0)
    weights = answers.context_weights.astype(np.float64).mean(0)
    share = np.round(weights, _DECIMALS)
    return FusionBaseline(
        centroid=tuple(np.round(centroid, _DECIMALS).tolist()),
        norm=round(float(np.linalg.norm(vectors, axis=1).mean()), _DECIMALS),
        variance=round(float(np.square(vectors - centroid).sum(1).mean()), _DECIMALS),
        shares=dict(zip(DOMAINS, share.tolist(), strict=True)),
        separation=round(separation(contributions(predict, chosen, mean)), _DECIMALS),
        effective_rank=round(effective_rank(vectors), _DECIMALS),
        column_mean=tuple(mean.tolist()),
        column_std=tuple(std.tolist()),
    )


def fusion_metrics(
    predict: Predict, rows: NDArray[np.float32], baseline: FusionBaseline
) -> dict[str, float]:
    """Compare the fusion of rows with what was frozen.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        rows: float32 [n, 36], n >= 2, other rows than the baseline's.
        baseline: What the release froze.

    Returns:
        ``fusion_centroid_shift`` (distance of the centroids over the root of the baseline's
        variance), ``fusion_norm_shift`` and ``fusion_variance_shift`` (relative, absolute),
        ``share_shift_max`` (largest change of a domain's mean weight), ``contamination_max``
        (:func:`contamination`), ``separation``, ``effective_rank``, and ``weight_sum_error``
        (largest distance of a row's context weights from the sum 1).
    """
    mean = np.asarray(baseline.column_mean)
    now = measure_fusion(
        predict, rows, column_mean=mean, column_std=np.asarray(baseline.column_std)
    )
    distance = float(np.linalg.norm(np.subtract(now.centroid, baseline.centroid)))
    chosen = rows[sample_rows(len(rows), SAMPLE_COUNT)]
    weights = split_answers(predict(chosen)).context_weights
    return {
        "fusion_centroid_shift": _ratio(distance, float(np.sqrt(baseline.variance))),
        "fusion_norm_shift": _ratio(abs(now.norm - baseline.norm), baseline.norm),
        "fusion_variance_shift": _ratio(abs(now.variance - baseline.variance), baseline.variance),
        "share_shift_max": max(abs(now.shares[d] - baseline.shares[d]) for d in DOMAINS),
        "contamination_max": contamination(predict, chosen),
        "separation": now.separation,
        "effective_rank": now.effective_rank,
        "weight_sum_error": float(np.abs(weights.astype(np.float64).sum(1) - 1).max()),
    }


def contributions(
    predict: Predict, rows: NDArray[np.float32], column_mean: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return what each domain alone moves: float64 [5, n, 2048].

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        rows: float32 [n, 36].
        column_mean: What a domain is given when it is to say nothing, [36].
    """
    silent = column_mean.astype(np.float32)
    (rest,) = split_answers(predict(silent[None])).fusion.astype(np.float64)
    return np.stack(
        [split_answers(predict(only_domain(rows, d, silent))).fusion - rest for d in DOMAINS]
    )


def separation(parts: NDArray[np.float64]) -> float:
    """Return how little the domains' contributions have in common, 0..1; see the module.

    Args:
        parts: [domains, n, 2048].
    """
    length = np.linalg.norm(parts, axis=2, keepdims=True)
    # What moves the vector by rounding only has no direction.
    moves = length > 1e-6 * max(float(length.max()), 1e-12)
    unit = np.where(moves, parts / np.where(moves, length, 1), 0)
    unit = unit[:, sample_rows(unit.shape[1], _PAIRED_COUNT)]
    within = [_overlap(one, one) for one in unit]
    values = [
        1 - _overlap(unit[d], unit[e]) / root if (root := np.sqrt(within[d] * within[e])) else 0.0
        for d, e in combinations(range(len(unit)), 2)
    ]
    return float(np.clip(np.mean(values), 0, 1))


def effective_rank(vectors: NDArray[np.floating[Any]]) -> float:
    """Return exp of the entropy of the singular values of vectors less their mean.

    Args:
        vectors: [n, k]. Two vectors span a line, so that n of them have at most n - 1.

    Returns:
        1 and more; 0 where all vectors are the same.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    # The root of a rounding error of the largest eigenvalue is not a singular value.
    values = values[values > 1e-6 * max(float(np.linalg.norm(vectors)), 1e-30)]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def contamination(predict: Predict, rows: NDArray[np.float32]) -> float:
    """Return how far one domain's values move the shares of the others among themselves.

    In turn each domain gets the values of another row, half the rows away. The weights of the
    other four are divided by their sum; what is measured is the mean absolute movement of such a
    share, and what is returned is the largest over domains and shares.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        rows: float32 [n, 36], n >= 2.

    Returns:
        0..1; 0 where each domain is weighed by its own values only.
    """
    before = split_answers(predict(rows)).context_weights.astype(np.float64)
    largest = 0.0
    for d, domain in enumerate(DOMAINS):
        changed = rows.copy()
        where = domain_slice(domain)
        changed[:, where] = np.roll(rows[:, where], max(1, len(rows) // 2), axis=0)
        after = split_answers(predict(changed)).context_weights.astype(np.float64)
        others = [k for k in range(len(DOMAINS)) if k != d]
        moved = np.abs(_mutual(after[:, others]) - _mutual(before[:, others])).mean(0)
        largest = max(largest, float(moved.max()))
    return largest


@dataclass(frozen=True)
class WindowCheck:
    """What the last served vectors say.

    Attributes:
        distinct_count: Different rows in the window.
        rank_ratio: Effective rank of the vectors, over that of the rows or the baseline's,
            whichever is less.
        spread_ratio: Root mean square distance of the vectors from their mean over the baseline's,
            divided by the same of the rows.
        centroid_shift: Distance of their mean from the baseline's centroid, over the root of its
            variance.
        norm_shift: Relative change of the mean length, signed.
        is_collapsed: A ratio is under its floor although the rows differ; None where too few rows
            differ to tell.
    """

    distinct_count: int
    rank_ratio: float
    spread_ratio: float
    centroid_shift: float
    norm_shift: float
    is_collapsed: bool | None


def check_window(
    rows: NDArray[np.float32], vectors: NDArray[np.float32], baseline: FusionBaseline
) -> WindowCheck:
    """Judge served vectors by the rows that they came from.

    That vectors are alike says nothing where the questions were alike: rank and spread are taken
    relative to those of the rows, and the same row counts once.

    Args:
        rows: float32 [m, 36], m >= 1.
        vectors: float32 [m, 2048], of these rows.
        baseline: What the release froze.
    """
    _, first = np.unique(rows, axis=0, return_index=True)
    seen, fused = rows[first].astype(np.float64), vectors[first].astype(np.float64)
    std = np.asarray(baseline.column_std)
    asked = ((seen - np.asarray(baseline.column_mean)) / np.where(std > 0, std, 1))[:, std > 0]
    input_rank = effective_rank(asked)
    input_spread = float(np.sqrt(asked.var(0).sum() / max(1, asked.shape[1])))
    spread = _ratio(float(np.sqrt(fused.var(0).sum())), float(np.sqrt(baseline.variance)))
    rank_ratio = _ratio(effective_rank(fused), min(input_rank, baseline.effective_rank))
    spread_ratio = _ratio(spread, input_spread)
    distance = float(np.linalg.norm(fused.mean(0) - np.asarray(baseline.centroid)))
    norm = float(np.linalg.norm(fused, axis=1).mean())
    can_tell = len(first) >= MIN_DISTINCT_COUNT and input_rank >= _MIN_INPUT_RANK
    is_low = rank_ratio < MIN_RANK_RATIO or spread_ratio < MIN_SPREAD_RATIO
    return WindowCheck(
        distinct_count=len(first),
        rank_ratio=rank_ratio,
        spread_ratio=spread_ratio,
        centroid_shift=_ratio(distance, float(np.sqrt(baseline.variance))),
        norm_shift=_ratio(norm - baseline.norm, baseline.norm),
        is_collapsed=is_low if can_tell else None,
    )


class WindowedFusion:
    """The last different rows that a release was asked, and their vectors.

    A row that is already in the window is not taken again, so that one question asked over and
    over does not push the others out. Not safe for several threads at once.
    """

    def __init__(self, baseline: FusionBaseline, *, size: int = WINDOW_SIZE) -> None:
        """Make an empty window of ``size`` rows."""
        self._baseline = baseline
        self._kept: deque[tuple[bytes, NDArray[np.float32], NDArray[np.float32]]] = deque(
            maxlen=size
        )

    def add(self, rows: NDArray[np.float32], vectors: NDArray[np.float32]) -> WindowCheck | None:
        """Take in answers and judge the window.

        Args:
            rows: float32 [n, 36].
            vectors: float32 [n, 2048].

        Returns:
            None while nothing was ever asked.
        """
        held = {key for key, _, _ in self._kept}
        for row, vector in zip(rows, vectors, strict=True):
            key = row.tobytes()
            if key not in held:
                self._kept.append((key, row.copy(), vector.copy()))
                held.add(key)
        if not self._kept:
            return None
        return check_window(
            np.stack([row for _, row, _ in self._kept]),
            np.stack([vector for _, _, vector in self._kept]),
            self._baseline,
        )


def sample_rows(count: int, most: int) -> NDArray[np.int64]:
    """Return which rows a measurement takes: all up to ``most``, else that many by a fixed draw.

    Args:
        count: Rows that there are.
        most: Rows to take.
    """
    if count <= most:
        return np.arange(count)
    rng = np.random.Generator(np.random.PCG64([count, most]))
    return np.sort(rng.permutation(count)[:most])


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.square(one @ other.T).mean())


def _mutual(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total > 0, total, 1)


def _ratio(value: float, over: float) -> float:
    if over > 0:
        return value / over
    return 0.0 if value == 0 else _BEYOND
