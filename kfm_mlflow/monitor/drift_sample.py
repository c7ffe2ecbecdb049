"""Samples of inputs, and the few numbers to which each row of them is reduced.

A *row* is what a model is asked about once: a patch, a vector, a number. A *block* is a group of
rows that were drawn together, so that rows of different blocks say something independent; without
labels every row is a block. Neighbouring cells of a field are far from independent, so cells are
never tested: each row becomes its mean, its standard deviation and the contrast of its gradients
along the last two axes, and whole blocks are what is permuted.

Nothing here knows a place: rows have an order and a block number, no coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_FIELD_COUNT = 64
MAX_ROW_COUNT = 2048
"""More rows add power that no limit asks for; a seeded draw of whole blocks is tested."""

_RANK_OF_TABLE, _RANK_OF_CHANNELS = 2, 4


@dataclass(frozen=True)
class FieldRows:
    """Rows of one input field.

    Attributes:
        rows: float64 [n, …] in ``unit``; NaN and infinities are missing.
        unit: As the source writes it; empty when it does not say.
        dims: Names of the axes after the first; empty when unknown.
    """

    rows: NDArray[np.float64]
    unit: str = ""
    dims: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriftSample:
    """Rows of all fields of an input.

    Attributes:
        fields: Name -> rows; all with the same number of rows.
        blocks: Block number of each row, int64 [n]; None when every row is a block.
    """

    fields: Mapping[str, FieldRows]
    blocks: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Refuse what no statistic is defined on.

        Raises:
            DataError: No field, too many, no row, or numbers of rows that differ.
        """
        counts = {len(field.rows) for field in self.fields.values()}
        labels = set() if self.blocks is None else {len(self.blocks)}
        if not self.fields or len(self.fields) > MAX_FIELD_COUNT:
            raise DataError(
                f"{len(self.fields)} fields, from 1 to {MAX_FIELD_COUNT} can be checked",
                where="fields",
                remedy="name those that the model depends on",
            )
        if len(counts | labels) != 1 or counts == {0}:
            raise DataError(
                f"fields and block labels have {sorted(counts | labels)} rows",
                where=", ".join(self.fields),
                remedy="give every field the same number of rows, at least one",
            )


def splits_into_fields(rows: NDArray[Any]) -> bool:
    """Say whether the second axis of a model's input is features or channels, each a field."""
    return rows.ndim in {_RANK_OF_TABLE, _RANK_OF_CHANNELS} and rows.shape[1] <= MAX_FIELD_COUNT


def sample_of_inputs(
    inputs: NDArray[np.float32], blocks: NDArray[np.int64] | None = None, *, name: str = "input"
) -> DriftSample:
    """Split a model's input tensor into fields.

    Args:
        inputs: [n, …]. Of [n, features] every feature is a field, of [n, channel, h, w] every
            channel is, up to 64 of them; anything else is one field.
        blocks: Block number of each row; None when rows were drawn independently.
        name: Of the tensor; parts are ``name.0``, ``name.1``, ….

    Raises:
        DataError: There are no rows.
    """
    rows = np.asarray(inputs, dtype=np.float64)
    splits = splits_into_fields(rows)
    if splits and rows.shape[1] > 1:
        fields = {f"{name}.{k}": FieldRows(rows[:, k]) for k in range(rows.shape[1])}
    else:
        fields = {name: FieldRows(rows[:, 0] if splits else rows)}
    return DriftSample(fields, blocks)


def _mean(values: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean over the present cells of each row; NaN where there is none."""
    count = present.sum(axis=1)
    total = np.where(present, values, 0.0).sum(axis=1)
    mean = np.full(len(values), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _flat(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def _gradient(rows: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    step = _flat(np.abs(np.diff(rows, axis=axis)))
    return _mean(step, np.isfinite(step))


def row_statistics(rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Reduce rows to one number each, per statistic.

    Args:
        rows: [n, …]; missing cells are left out of their row.

    Returns:
        Of plain numbers ``value``; of anything larger ``mean`` and ``std`` in the field's unit,
        and with two axes ``axis_contrast``, (a - b) / (a + b) for the mean absolute differences
        a and b along the last two axes, which a swap of the two turns around. Rounded to
        float32, so that what a file keeps and what is computed anew are the same; NaN where a
        row has no value.
    """
    if rows.ndim == 1:
        found = {"value": np.where(np.isfinite(rows), rows, np.nan)}
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            flat = _flat(rows)
            present = np.isfinite(flat)
            mean = _mean(flat, present)
            found = {
                "mean": mean,
                "std": np.sqrt(_mean((flat - mean[:, None]) ** 2, present)),
            }
            if rows.ndim > _RANK_OF_TABLE and min(rows.shape[-2:]) > 1:
                down, across = _gradient(rows, -2), _gradient(rows, -1)
                total = down + across
                contrast = np.divide(
                    down - across, total, out=np.zeros(len(rows)), where=total != 0.0
                )
                found["axis_contrast"] = contrast
    with np.errstate(over="ignore"):
        short = {name: v.astype(np.float32).astype(np.float64) for name, v in found.items()}
    return {name: np.where(np.isfinite(v), v, np.nan) for name, v in short.items()}


def thin_rows(
    count: int, blocks: NDArray[np.int64] | None, *, limit: int = MAX_ROW_COUNT
) -> NDArray[np.int64]:
    """Choose the rows to test: all of them, or a seeded draw of whole blocks.

    Args:
        count: Number of rows.
        blocks: Block number of each row, or None.
        limit: Most rows; exceeded only by a single block that is larger.

    Returns:
        Row numbers, ascending.
    """
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    rng = np.random.Generator(np.random.PCG64(0))
    if blocks is None:
        return np.sort(rng.choice(count, size=limit, replace=False)).astype(np.int64)
    _, index = np.unique(blocks, return_inverse=True)
    order = rng.permutation(int(index.max()) + 1)
    sizes = np.bincount(index)[order]
    kept = order[: max(1, int(np.searchsorted(np.cumsum(sizes), limit, side="right")))]
    return np.flatnonzero(np.isin(index, kept)).astype(np.int64)
