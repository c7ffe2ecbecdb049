"""Read a model back from the torch file of a release.

Writing it, and ONNX, is ``kfm_mlflow.authoring.export``: it is the same for every model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.project import restore_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

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

    def build(config: Mapping[str, Any]) -> nn.Module:
        place, name = MODULES[task]
        # A file knows lists where a module takes tuples.
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        module: nn.Module = getattr(import_module(place), name)(**plain)
        return module

    return restore_model(path, build)
