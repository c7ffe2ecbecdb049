"""Seed-locked training of the downscaler.

The same patches, configuration and kind of device give bitwise the same weights: random numbers
come from generators seeded here, torch runs its deterministic algorithms, and on a CPU one thread
does the sums, so that their order does not depend on how many cores are free.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from downscaling.network import Downscaler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from downscaling.patches import Patches

Device = Literal["cpu", "cuda", "auto"]

_HISTORY_POINT_COUNT = 20
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
        shuffle_targets: Train on the fine anomalies of other patches: an honestly worse model.
        device: ``auto`` takes CUDA where there is one; ``cuda`` fails where there is none.
    """

    seed: int = 42
    step_count: int = 900
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    width: int = 24
    depth: int = 3
    shuffle_targets: bool = False
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


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """Return the device to train on.

    Raises:
        RuntimeError: ``cuda`` is asked for and torch sees none.
        ValueError: The name is unknown.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device {device!r} is none of cpu, cuda, auto")
    if device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise RuntimeError(
            "device 'cuda' is asked for and torch sees no GPU; ask for 'auto' or 'cpu'"
        )
    return "cpu"


def train(patches: Patches, config: TrainConfig) -> Trained:
    """Train a downscaler.

    Args:
        patches: Training patches.
        config: See :class:`TrainConfig`.

    Raises:
        RuntimeError: ``config.device`` is ``cuda`` and there is none.
        FloatingPointError: The loss stopped being finite.
    """
    device = choose_device(config.device)
    with _deterministic(device):
        torch.manual_seed(config.seed)
        scale = float(
            np.median(
                (patches.fine - patches.coarse.mean(axis=(1, 2), keepdims=True)).std(axis=(1, 2))
            )
        )
        model = Downscaler(width=config.width, depth=config.depth, scale=scale or 1.0).to(device)
        started = time.perf_counter()
        history = _fit(model, *_tensors(patches, config, device), config)
        elapsed_s = time.perf_counter() - started
    model = model.cpu().eval()
    return Trained(model, history, replace(config, device=device), elapsed_s)


def _tensors(patches: Patches, config: TrainConfig, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets (anomalies about the patch mean) and loss weights 1 / spread."""
    mean = patches.coarse.mean(axis=(1, 2), keepdims=True)
    coarse = torch.from_numpy(patches.coarse - mean)
    fine = torch.from_numpy(patches.fine - mean)
    weight = torch.from_numpy(1.0 / patches.spread)
    if config.shuffle_targets:
        # Anomalies travel in units of their own patch's deviation, so that every patch keeps a
        # target of its own size and only the pattern is wrong.
        size = fine.std(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        order = torch.randperm(len(fine), generator=torch.Generator().manual_seed(config.seed))
        fine = (fine / size)[order] * size
    return coarse.to(device), fine.to(device), weight.to(device)


def _fit(
    model: Downscaler, coarse: Tensor, fine: Tensor, weight: Tensor, config: TrainConfig
) -> tuple[tuple[int, float], ...]:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.step_count + 1, pct_start=0.1
    )
    rng = np.random.Generator(np.random.PCG64([config.seed, 0]))
    every = max(1, config.step_count // _HISTORY_POINT_COUNT)
    history: list[tuple[int, float]] = []
    total = torch.zeros((), device=coarse.device)
    model.train()
    for step in range(1, config.step_count + 1):
        chosen = torch.from_numpy(rng.integers(0, len(coarse), config.batch_size)).to(coarse.device)
        symmetry = int(rng.integers(0, _SYMMETRY_COUNT))
        target = _turned(fine[chosen], symmetry)
        error = (model(_turned(coarse[chosen], symmetry)) - target) * weight[chosen, None, None]
        loss = error.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.detach()
        if step % every == 0:
            history.append((step, float(total) / every))
            total.zero_()
            if not np.isfinite(history[-1][1]):
                raise FloatingPointError(
                    f"the loss is {history[-1][1]} at step {step}; lower learning_rate"
                )
    return tuple(history)


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


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Hold torch to repeatable results, and leave its settings as they were."""
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    thread_count = torch.get_num_threads()
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(
        devices=range(torch.cuda.device_count()) if device == "cuda" else []
    ):
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = False
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(thread_count)
            torch.backends.cudnn.benchmark = benchmark
            torch.use_deterministic_algorithms(mode=was_on, warn_only=warn_only)
