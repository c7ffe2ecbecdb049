"""Read a downscaler back from the torch file of a release.

Writing it, and ONNX, is ``kfm_mlflow.authoring.export``: it is the same for every model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from downscaling.network import Downscaler
from kfm_mlflow.authoring.export import FORMAT
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def load_torch(path: Path) -> Downscaler:
    """Read what ``save_state`` wrote with a config of width and depth; runs no code of the file.

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
        model = Downscaler(width=found["config"]["width"], depth=found["config"]["depth"])
        model.load_state_dict(found["state_dict"], strict=True)
    except (KeyError, TypeError, RuntimeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise DataError(
            f"has the wrong weights ({reason})", where=path.name, remedy=remedy
        ) from exc
    return model.eval()
