"""The downscaling task as both processes see it: which data, which patches, under which digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscaling.fields import FieldSet, generate_kansas, load_fields
from downscaling.patches import PatchSplit, cut_patches
from downscaling.train import PRESETS, TrainConfig
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

GENERATED = "generated"
GENERATED_URI = "generated:kansas-daily-temperature?seed=42"
_TRAIN_COUNT = {"default": 4096, "small": 1024}
_VALIDATION_COUNT = {"default": 512, "small": 128}


@dataclass(frozen=True)
class Cut:
    """How patches are cut; recorded in the release, so that a validator can cut the same ones."""

    seed: int
    train_count: int
    validation_count: int
    selection: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that stands in the release's hyperparameters."""
        return {
            "seed": self.seed,
            "train_count": self.train_count,
            "validation_count": self.validation_count,
            "selection": self.selection,
        }


def parse_cut(value: Mapping[str, Any]) -> Cut:
    """Read a cut from a release's hyperparameters.

    Raises:
        DataError: A field is missing or of the wrong type.
    """
    try:
        return Cut(
            int(value["seed"]),
            int(value["train_count"]),
            int(value["validation_count"]),
            str(value["selection"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(
            f"does not say how patches were cut ({exc})", where="model_metadata.json"
        ) from exc


def choose_cut(size: str, seed: int, selection: str) -> Cut:
    """Return the cut of a preset size."""
    if size not in _TRAIN_COUNT:
        raise DataError(f"{size!r} is no size", where="--size", remedy="use default or small")
    return Cut(seed, _TRAIN_COUNT[size], _VALIDATION_COUNT[size], selection)


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


def cut(fields: FieldSet, how: Cut) -> PatchSplit:
    """Cut training and validation patches."""
    if how.selection not in ("random", "calmest"):
        raise DataError(
            f"{how.selection!r} is no selection",
            where="--selection",
            remedy="use random or calmest",
        )
    return cut_patches(
        fields,
        seed=how.seed,
        train_count=how.train_count,
        validation_count=how.validation_count,
        selection=how.selection,  # type: ignore[arg-type] - checked above
    )


def preset(size: str) -> TrainConfig:
    """Return the training configuration of a preset size."""
    return PRESETS[size]
