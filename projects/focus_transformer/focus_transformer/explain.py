"""What the answer rests on, at each checkpoint: gradients times inputs, and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kfm_mlflow.focus.columns import COLUMN_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from focus_transformer.network import FocusTransformer

_ROWS = 64
_NOISE_RATIO = 0.05
_TOP = 5


def explained(model: FocusTransformer, rows: NDArray[np.float32], *, seed: int) -> dict[str, Any]:
    """Return the part of ``explainability_summary.json`` that is computed.

    ``top_features`` are the columns with the greatest mean absolute gradient times input of the
    logit. ``explainability_stability`` is Pearson's correlation of these attributions with those
    under noise of 5 % of each column's spread; ``attention_stability`` is one minus half the mean
    absolute difference of the last block's attention rows under the same noise (1 is the same).
    """
    months = model.standardised(torch.from_numpy(rows[:_ROWS]))
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    noise = torch.from_numpy(rng.standard_normal(months.shape).astype(np.float32))
    plain, there = _attributed(model, months)
    noisy, here = _attributed(model, months + _NOISE_RATIO * noise)
    importance = np.abs(plain).mean(axis=(0, 1))
    top = np.argsort(-importance, kind="stable")[:_TOP]
    return {
        "methods": ["gradient-times-input", "attention"],
        "top_features": [COLUMN_NAMES[k] for k in top],
        "explainability_stability": float(np.corrcoef(plain.ravel(), noisy.ravel())[0, 1]),
        "attention_stability": float(1.0 - 0.5 * np.abs(there - here).sum(axis=-1).mean()),
    }


def _attributed(
    model: FocusTransformer, months: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given = months.detach().clone().requires_grad_()
    logit = model.head(model.summary(given))[:, 0].sum()
    (gradient,) = torch.autograd.grad(logit, given)
    with torch.no_grad():
        _, attention = model.encode(months, torch.zeros_like(months))
    product = (gradient * months).numpy().astype(np.float64)
    return product, attention.numpy().astype(np.float64)
