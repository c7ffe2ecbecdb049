"""The downscaling task: learn in the west, be measured in the east, beat bicubic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from downscaling.evaluate import evaluate
from downscaling.fields import FieldSet, generate_kansas, load_fields
from downscaling.patches import (
    Selection,
    cut_patches,
    live_patches,
    patches_around,
    training_places,
)
from downscaling.train import PRESETS
from downscaling.train import train as train_downscaler
from kfm_mlflow.errors import DataError
from prepared import GENERATED, Prepared, Source, Trained

if TYPE_CHECKING:
    from collections.abc import Mapping

GENERATED_URI = "generated:kansas-daily-temperature?seed=42"
_TRAIN_COUNT = {"default": 4096, "small": 1024}
_VALIDATION_COUNT = {"default": 512, "small": 128}
_BASELINE_COUNT = 256
_SELECTIONS: dict[str, Selection] = {"random": "random", "calmest": "calmest"}


def open_fields(data: str) -> tuple[FieldSet, str]:
    """Return the fields that ``data`` names, and what to call them in records.

    Args:
        data: ``generated``, or the path of a NetCDF file or Zarr store. A path stands in records
            by its last part only: where it lies on this machine is nobody's business.
    """
    if data == GENERATED:
        return generate_kansas(), GENERATED_URI
    path = Path(data)
    return load_fields(path), path.name


def prepare(
    data: str, *, size: str, seed: int, selection: str = "random", shuffled_ratio: float = 0.0
) -> Prepared:
    """Return the task on generated temperature or on a file of fields.

    Args:
        data: See :func:`open_fields`.
        size: ``default`` or ``small``.
        seed: Of patches and training.
        selection: Of validation patches: ``random``, or ``calmest``, which is the badly chosen set.
        shuffled_ratio: Share of patches trained on the fine anomalies of others.

    Raises:
        DataError: The file cannot be read, or there is no such selection.
    """
    if selection not in _SELECTIONS:
        raise DataError(
            f"{selection!r} is no selection",
            where="--selection",
            remedy=f"use {' or '.join(_SELECTIONS)}",
        )
    fields, uri = open_fields(data)
    patches = cut_patches(
        fields,
        seed=seed,
        train_count=_TRAIN_COUNT[size],
        validation_count=_VALIDATION_COUNT[size],
        selection=_SELECTIONS[selection],
    )
    config = replace(PRESETS[size], seed=seed, device="auto", shuffled_ratio=shuffled_ratio)

    def train() -> Trained:
        made = train_downscaler(patches.train, config)
        said = {
            "step_count": config.step_count,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
        }
        built = {"width": config.width, "depth": config.depth}
        return Trained(made.model, built, said, made.history, made.elapsed_s)

    return Prepared(
        mlm_task="super-resolution",
        source=Source(
            *(fields.name, uri, fields.digest, fields.bbox, fields.start_at, fields.end_at),
            variables=tuple(sorted(set(fields.variables))),
            cell_size_deg=abs(float(fields.lat[1] - fields.lat[0])),
        ),
        selections=("western longitudes", selection),
        baseline_rows=live_patches(fields, count=_BASELINE_COUNT).coarse,
        validation_rows=np.ascontiguousarray(patches.validation.coarse),
        train=train,
        evaluate=lambda predict: evaluate(predict, patches.validation),
        headline=_headline,
        explained_from="patch-mean",
        description=f"Downscales {fields.name} four times; bicubic plus a learnt residual.",
        training_places=training_places(fields, seed=seed, train_count=_TRAIN_COUNT[size]),
        rows_around=lambda lat_deg, lon_deg: patches_around(fields, lat_deg, lon_deg),
    )


def _headline(metrics: Mapping[str, float]) -> str:
    return (
        f"rmse {metrics['rmse']:.4f}, bicubic {metrics['rmse_bicubic']:.4f}, "
        f"skill {metrics['skill_vs_bicubic']:+.1%}"
    )
