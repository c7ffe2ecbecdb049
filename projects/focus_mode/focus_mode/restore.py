"""Read a model back from the torch file of a release; runs no code of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from focus_mode.model import FocusModel
from kfm_mlflow.authoring.export import FORMAT
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def load_focus_model(path: Path) -> FocusModel:
    """Return the model in a release's ``focus_model.pt``, in evaluation mode.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    remedy = "give the focus_model.pt of a release of this project"
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
        model = FocusModel(**found["config"])
        model.load_state_dict(found["state_dict"], strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise DataError(
            f"has the wrong weights ({reason})", where=path.name, remedy=remedy
        ) from exc
    return model.eval()
