"""Tiny releases of the Focus Mode family: a linear model, whose answers are known by arithmetic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h3
import numpy as np

from kfm_mlflow.focus.answers import ANSWER_WIDTH, FUSION_DIMENSION, PART_SLICES
from kfm_mlflow.focus.columns import COLUMN_NAMES, COLUMNS, DOMAINS, TOLD, domain_slice
from kfm_mlflow.focus.fusion import measure_fusion
from kfm_mlflow.focus.lexicon import build_lexicon

if TYPE_CHECKING:
    from pathlib import Path

TIME = "2024-07"
_MIDDLE, _SPREAD = 0.25, 0.1
_HIGHS = {"temperature_c": 30.0, "temperature_anomaly_k": 2.0, "cape_j_kg": 2000.0}


def make_rows(count: int, seed: int = 0, cells: list[str] | None = None) -> np.ndarray:
    """Return plausible rows: every column varies around a quarter of its range.

    With ``cells``, the coordinates are those of each row's cell.
    """
    rng = np.random.default_rng(seed)
    low = np.array([max(column.low, 0.0) for column in COLUMNS])
    high = np.array([_HIGHS.get(column.name, min(column.high, 100.0)) for column in COLUMNS])
    shares = np.clip(rng.normal(_MIDDLE, _SPREAD, (count, len(COLUMNS))), 0.01, 0.99)
    rows = low + shares * (high - low)
    if cells is not None:
        rows[:, :2] = [h3.cell_to_latlng(cell) for cell in cells]
    return rows.astype(np.float32)


def make_cells(count: int, lat: float = 38.9, lon: float = -99.5) -> list[str]:
    """Return neighbouring cells of resolution 5, sorted."""
    found = h3.grid_disk(h3.latlng_to_cell(lat, lon, 5), 12)
    return sorted(found)[:count]


def linear(*, is_collapsed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return A and b of ``y = x A + b``: each domain moves 100 numbers of the vector of its own."""
    rng = np.random.default_rng(5)
    rows = make_rows(400, seed=9)
    matrix = np.zeros((len(COLUMNS), ANSWER_WIDTH))
    fusion = PART_SLICES["fusion"].start
    for place, domain in enumerate(DOMAINS):
        where = domain_slice(domain)
        width = where.stop - where.start
        start = fusion + (0 if is_collapsed else 100 * place)
        moves = np.ones((width, 100)) if is_collapsed else rng.normal(size=(width, 100))
        matrix[where, start : start + 100] = moves / rows.std(axis=0)[where, None]
    start = np.zeros(ANSWER_WIDTH)
    start[PART_SLICES["context_weights"]] = [0.1, 0.2, 0.4, 0.2, 0.1]
    start[PART_SLICES["attribution"]] = [0.5, 0.2, 0.1, 0.1, 0.1]
    start[PART_SLICES["situation"]] = [0.6, 0.1, 0.1, 0.1, 0.05, 0.05]
    start[PART_SLICES["relevance"]] = [0.9, 0.8] + [0.1] * (len(TOLD) - 2)
    start[PART_SLICES["bands"]] = [1.0, 0.0, 0.0] * len(TOLD)
    start[PART_SLICES["attention_entropy"]] = 0.75
    return matrix.astype(np.float32), start.astype(np.float32)


def write_release(
    directory: Path,
    models,
    *,
    is_collapsed: bool = False,
    outlook: str | None = None,
    cells: list[str] | None = None,
    max_resolution: int = 7,
) -> Path:
    """Write a release that a replica can load; ``outlook`` is what its stories end with."""
    from onnx import helper

    matrix, start = linear(is_collapsed=is_collapsed)
    models.write_model(
        directory,
        [helper.make_node("Gemm", ["x", "a", "b"], ["y"])],
        shape=("n", len(COLUMNS)),
        out_shape=("n", ANSWER_WIDTH),
        constants={"a": matrix, "b": start},
    )
    healthy, origin = linear()
    baseline = measure_fusion(lambda rows: rows @ healthy + origin, make_rows(200, seed=3))
    assert len(baseline.centroid) == FUSION_DIMENSION
    lexicon = build_lexicon({column.name: (0.0, 90.0) for column in TOLD}).to_dict()
    if outlook is not None:
        lexicon["outlooks"] = dict.fromkeys(lexicon["outlooks"], outlook)
    known = cells or make_cells(30)
    lats, lons = zip(*(h3.cell_to_latlng(cell) for cell in known), strict=True)
    documents = {
        "storynode_lexicon.json": lexicon,
        "fusion_weights.json": {
            "schema_version": "1",
            "seed": 42,
            "dimension": FUSION_DIMENSION,
            "weights": baseline.shares,
            "baseline": baseline.to_dict(),
        },
        "context_cells.json": {
            "schema_version": "1",
            "time": TIME,
            "resolution": 5,
            "bbox": [min(lons), min(lats), max(lons), max(lats)],
            "withheld_cell_count": 0,
            "columns": list(COLUMN_NAMES),
            "cells": dict(zip(known, make_rows(len(known), cells=known).tolist(), strict=True)),
        },
        "care.json": {
            "care": {"masking": "h3-focus-generalized", "h3_max_resolution": max_resolution}
        },
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document))
    return directory


def as_records(cells, rows, time=TIME):
    """Return rows as ``dataframe_records``."""
    return [
        {"cell": cell, "time": time, **dict(zip(COLUMN_NAMES, row, strict=True))}
        for cell, row in zip(cells, rows.tolist(), strict=True)
    ]
