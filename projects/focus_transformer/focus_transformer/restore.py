"""Read a model back from the torch file of a release, and hold it against a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from focus_transformer.network import FocusTransformer
from kfm_mlflow.authoring.project import restore_model

if TYPE_CHECKING:
    from pathlib import Path


def load_transformer(path: Path) -> FocusTransformer:
    """Return the model in a release's ``model.pt``, in evaluation mode; no code of the file runs.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    return cast("FocusTransformer", restore_model(path, lambda config: FocusTransformer(**config)))


def same_weights(model: FocusTransformer, state: dict[str, torch.Tensor]) -> bool:
    """Return whether a model's weights are, bit by bit, those of a checkpoint."""
    ours = model.state_dict()
    return set(ours) == set(state) and all(torch.equal(ours[name], state[name]) for name in ours)
