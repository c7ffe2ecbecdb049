"""Read a model back from the torch file of a release.

Writing it, and ONNX, is ``kfm_mlflow.authoring.export``: it is the same for every model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import nn

from kfm_mlflow.authoring.export import FORMAT
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

MODULES = {
    "downscaling": ("downscaling.network", "Downscaler"),
    "drivers": ("drivers.model", "DriverNetwork"),
    "anomaly": ("anomaly.model", "Reconstruction"),
    "hydrology": ("hydrology.model", "BucketNetwork"),
    "hazard": ("hazard.model", "HazardModel"),
}
"""Task -> where its module is."""


def load_torch(path: Path, task: str = "downscaling") -> nn.Module:
    """Read what ``save_state`` wrote with the config of a task; runs no code of the file.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    remedy = "give the model.pt of a release of this project"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as exc:  # damaged bytes reach torch's unpickler, which raises whatever it meets
        reason = " ".join(str(exc).split())[:200]
        raise DataError(f"cannot be read ({reason})", where=path.name, remedy=remedy) from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"is not of format {FORMAT}", where=path.name, remedy=remedy)
    try:
        place, name = MODULES[task]
        config = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in found["config"].items()
        }
        model: nn.Module = getattr(import_module(place), name)(**config)
        model.load_state_dict(found["state_dict"], strict=True)
    except (KeyError, TypeError, RuntimeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise DataError(
            f"has the wrong weights ({reason})", where=path.name, remedy=remedy
        ) from exc
    return model.eval()
