"""Read a model back: from the torch file of a release, or from a checkpoint."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from focus_transformer.network import FocusTransformer
from kfm_mlflow.authoring.export import FORMAT
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def load_transformer(path: Path) -> FocusTransformer:
    """Return the model in a release's ``model.pt``, in evaluation mode; no code of the file runs.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    try:
        found = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        is_ours = found.get("format") == FORMAT
        model = FocusTransformer(**found["config"])
        model.load_state_dict(found["state_dict"], strict=True)
    except Exception as exc:
        # Damaged bytes reach torch's unpickler, which raises whatever it meets.
        raise DataError(
            f"cannot be read ({' '.join(str(exc).split())[:200]})",
            where=path.name,
            remedy="give the model.pt of a release of this project",
        ) from exc
    if not is_ours:
        raise DataError(f"is not of format {FORMAT}", where=path.name)
    return model.eval()


def same_weights(model: FocusTransformer, state: dict[str, torch.Tensor]) -> bool:
    """Return whether a model's weights are, bit by bit, those of a checkpoint."""
    ours = model.state_dict()
    return set(ours) == set(state) and all(torch.equal(ours[name], state[name]) for name in ours)
