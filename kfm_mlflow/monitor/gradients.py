"""Integrated gradients and what judges them: completeness, and noise that should change little.

Sundararajan, Taly and Yan, ICML 2017; by Captum. What is explained by them stands in
:mod:`kfm_mlflow.monitor.attribution` and :mod:`kfm_mlflow.monitor.domain_attribution`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from numpy.typing import NDArray

    Target = Callable[[torch.Tensor], torch.Tensor]

Baseline = Literal["patch-mean", "sample-mean"]

NOISE_RATIO = 0.05
"""Noise that judges stability, in units of a sample's (or, of columns, an element's) deviation."""
_MIN_SEED_COUNT = 2
_BATCH_ROWS = 256


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch use deterministic algorithms only, for the length of a block."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)


def prepare(inputs: Any, step_count: int, seed_count: int) -> torch.Tensor:
    """Return inputs as a float32 tensor of their own.

    Raises:
        InputError: They are empty or not finite, or a count is too small.
    """
    import torch

    rows = torch.as_tensor(np.asarray(inputs, dtype=np.float32)).clone()
    if rows.dim() < 2 or not rows.numel() or not bool(torch.isfinite(rows).all()):  # noqa: PLR2004
        raise InputError("must be finite numbers [n, …] with at least one row", where="inputs")
    if step_count < 1 or seed_count < _MIN_SEED_COUNT:
        raise InputError("needs at least 1 step and 2 seeds", where="integrated gradients")
    return rows


def baselines(inputs: torch.Tensor, baseline: Baseline) -> torch.Tensor:
    """Return the baseline of each sample, of the shape of ``inputs``."""
    if baseline == "sample-mean":
        return inputs.mean(dim=0, keepdim=True).expand_as(inputs).contiguous()
    mean = inputs.reshape(inputs.shape[0], -1).mean(dim=1)
    return mean.reshape(-1, *([1] * (inputs.dim() - 1))).expand_as(inputs).contiguous()


def integrate(
    model: torch.nn.Module,
    target: Target,
    inputs: torch.Tensor,
    start: torch.Tensor,
    step_count: int,
    *,
    classes: torch.Tensor | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Integrate gradients along the straight path from a baseline to each sample.

    Args:
        model: Takes one float32 tensor [n, …] and returns one.
        target: Outputs [n, …] to one number per sample [n]; with ``classes``, to [n, k].
        inputs: Samples [n, …].
        start: Their baselines, of the same shape.
        step_count: Points on the path (Gauss-Legendre).
        classes: Of each sample, which of the k numbers is explained.

    Returns:
        Attributions like ``inputs``, and the error of completeness: the sum of absolute
        deviations over the sum of absolute target differences.
    """
    import torch
    from captum.attr import IntegratedGradients

    def score(rows: torch.Tensor) -> torch.Tensor:
        return target(model(rows))

    found = IntegratedGradients(score).attribute(
        inputs,
        baselines=start,
        target=classes,
        n_steps=step_count,
        method="gausslegendre",
        internal_batch_size=max(inputs.shape[0], _BATCH_ROWS),
    )
    attributions = found.detach().numpy().astype(np.float64)
    with torch.no_grad():
        moved = score(inputs) - score(start)
        if classes is not None:
            moved = moved.gather(1, classes[:, None])[:, 0]
        difference = moved.numpy().astype(np.float64)
    error = attributions.reshape(len(attributions), -1).sum(axis=1) - difference
    scale = float(np.abs(difference).sum())
    return attributions, float(np.abs(error).sum()) / scale if scale else 0.0


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of two arrays of one shape; 0 where one is constant."""
    x, y = a.ravel() - a.mean(), b.ravel() - b.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip((x @ y) / scale, -1.0, 1.0)) if scale else 0.0


def noisy(inputs: torch.Tensor, seed: int, baseline: Baseline) -> torch.Tensor:
    """Return inputs with normal noise of :data:`NOISE_RATIO` of their deviation."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    if baseline == "sample-mean":
        return inputs + NOISE_RATIO * inputs.std(dim=0, keepdim=True, unbiased=False) * noise
    spread = inputs.reshape(inputs.shape[0], -1).std(dim=1, unbiased=False)
    return inputs + NOISE_RATIO * spread.reshape(-1, *([1] * (inputs.dim() - 1))) * noise
