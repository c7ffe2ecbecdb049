"""Read a model back from the torch file of a release; runs no code of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from focus_mode.model import FocusModel
from kfm_mlflow.authoring.project import restore_model

if TYPE_CHECKING:
    from pathlib import Path


def load_focus_model(path: Path) -> FocusModel:
    """Return the model in a release's ``focus_model.pt``, in evaluation mode.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    return cast("FocusModel", restore_model(path, lambda config: FocusModel(**config)))
