"""Which tasks there are, and how training and validation come to the same split of the same data."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prepared import Prepared

TASKS = ("downscaling", "drivers", "anomaly", "hydrology", "hazard")
SIZES = ("default", "small")
DEFAULT_NAMES = {"downscaling": "climate-downscaler"}


def default_name(task: str) -> str:
    """Return the registered model that a task's releases are versions of, unless told otherwise."""
    return DEFAULT_NAMES.get(task, f"climate-{task}")


def regions_path(regions: str) -> Path | None:
    """Return the regions file that is meant; None for the packaged, illustrative extents.

    Raises:
        DataError: There is no such file.
    """
    if regions == "packaged":
        return None
    path = Path(regions)
    if not path.is_file():
        raise DataError(
            "no such regions file",
            where=path.name,
            remedy="give packaged, or the file that the policy names as regions_file",
        )
    return path.resolve()


def prepare(
    task: str,
    data: str,
    *,
    size: str,
    seed: int,
    selection: str = "random",
    shuffled_ratio: float = 0.0,
) -> Prepared:
    """Return a task on data, split.

    Args:
        task: One of :data:`TASKS`.
        data: ``generated`` or a path.
        size: One of :data:`SIZES`.
        seed: Of the split and the training.
        selection: Of validation rows; only downscaling has one besides ``random``.
        shuffled_ratio: Share of the training rows, 0..1, that get the targets of others: an
            honestly worse model.

    Raises:
        DataError: There is no such task, size or selection, or the data do not fit the task.
    """
    if task not in TASKS:
        raise DataError(f"{task!r} is no task", where="task", remedy=f"use {', '.join(TASKS)}")
    if size not in SIZES:
        raise DataError(f"{size!r} is no size", where="--size", remedy="use default or small")
    more: dict[str, Any] = {"selection": selection} if task == "downscaling" else {}
    if task != "downscaling" and selection != "random":
        raise DataError(
            f"the {task} task has no {selection!r} rows", where="--selection", remedy="use random"
        )
    made: Prepared = import_module(f"{task}.task").prepare(
        data, size=size, seed=seed, shuffled_ratio=shuffled_ratio, **more
    )
    return made


def prepare_again(split: Mapping[str, Any], data: str) -> Prepared:
    """Return the task as a release recorded it.

    Args:
        split: ``hyperparameters.split`` of ``model_metadata.json``.
        data: The data set, as the validator names it.

    Raises:
        DataError: A field is missing or of the wrong type.
    """
    try:
        task, size, selection = (str(split[key]) for key in ("task", "size", "selection"))
        seed = int(split["seed"])
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(
            f"does not say how the data were split ({exc})", where="model_metadata.json"
        ) from exc
    return prepare(task, data, size=size, seed=seed, selection=selection)
