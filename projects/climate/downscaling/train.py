"""Seed-locked training of the downscaler: its patches, their symmetries, its loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from downscaling.network import Downscaler
from kfm_mlflow.authoring.fitting import Device, Fit, choose_device, fit
from mixing import dealt_order

if TYPE_CHECKING:
    from downscaling.patches import Patches

_SYMMETRY_COUNT = 8


@dataclass(frozen=True)
class TrainConfig:
    """What decides a training run, besides the patches.

    Attributes:
        seed: Of initial weights, batches, flips and the shuffle.
        step_count: Optimiser steps.
        batch_size: Patches per step, drawn with replacement.
        learning_rate: Peak of a cosine schedule that ends at zero.
        weight_decay: Of AdamW.
        width: Channels of the network.
        depth: Hidden layers of the network.
        shuffled_ratio: Share of patches trained on the fine anomalies of others: an honestly worse
            model. At one half it answers with the right pattern, half as strong.
        device: ``auto`` takes CUDA where there is one; ``cuda`` fails where there is none.
    """

    seed: int = 42
    step_count: int = 900
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    width: int = 24
    depth: int = 3
    shuffled_ratio: float = 0.0
    device: Device = "cpu"

    def __post_init__(self) -> None:
        """Refuse numbers that train nothing."""
        for name in ("step_count", "batch_size", "width", "depth", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")


PRESETS = {
    "default": TrainConfig(),
    "small": TrainConfig(step_count=150, width=16, depth=2, learning_rate=5e-3),
}
"""``default`` trains in under 15 s on one core; ``small`` in under 3 s, for tests."""


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about.

    Attributes:
        model: On the CPU, in evaluation mode.
        history: (step, mean loss since the previous point); the loss is the mean squared error
            in units of the variable's variance.
        config: As asked, with ``device`` as used.
        elapsed_s: Wall time of the training loop.
    """

    model: Downscaler
    history: tuple[tuple[int, float], ...]
    config: TrainConfig
    elapsed_s: float


def train(patches: Patches, config: TrainConfig) -> Trained:
    """Train a downscaler.

    Args:
        patches: Training patches.
        config: See :class:`TrainConfig`.

    Raises:
        RuntimeError: ``config.device`` is ``cuda`` and there is none.
        FloatingPointError: The loss stopped being finite.
    """
    scale = float(
        np.median((patches.fine - patches.coarse.mean(axis=(1, 2), keepdims=True)).std(axis=(1, 2)))
    )

    def build() -> Downscaler:
        return Downscaler(width=config.width, depth=config.depth, scale=scale or 1.0)

    turns = np.random.Generator(np.random.PCG64([config.seed, 1]))

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        coarse, fine, weight = batch
        symmetry = int(turns.integers(0, _SYMMETRY_COUNT))
        error: Tensor = model(_turned(coarse, symmetry)) - _turned(fine, symmetry)
        return (error * weight[:, None, None]).square().mean()

    how = Fit(
        seed=config.seed,
        step_count=config.step_count,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        device=config.device,
    )
    model, history, elapsed_s = fit(build, loss, _tensors(patches, config), how)
    device = choose_device(config.device)
    return Trained(cast("Downscaler", model), history, replace(config, device=device), elapsed_s)


def _tensors(patches: Patches, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets (anomalies about the patch mean) and loss weights 1 / spread."""
    mean = patches.coarse.mean(axis=(1, 2), keepdims=True)
    coarse = torch.from_numpy(patches.coarse - mean)
    fine = torch.from_numpy(patches.fine - mean)
    weight = torch.from_numpy(1.0 / patches.spread)
    if config.shuffled_ratio:
        # Anomalies travel in units of their own patch's deviation, so that every patch keeps a
        # target of its own size and only the pattern is wrong.
        size = fine.std(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        order = dealt_order(len(fine), config.shuffled_ratio, seed=config.seed)
        fine = (fine / size)[torch.from_numpy(order)] * size
    return coarse, fine, weight


def _turned(patches: Tensor, symmetry: int) -> Tensor:
    """Apply one of the eight symmetries of the square.

    Orientation carries no information that should be learned by heart: it is what makes a model
    that was trained on shuffled targets answer with almost nothing.
    """
    if symmetry & 1:
        patches = patches.flip(1)
    if symmetry & 2:
        patches = patches.flip(2)
    if symmetry & 4:
        patches = patches.transpose(1, 2)
    return patches
