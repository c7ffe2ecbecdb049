"""What the projects' trainings share: one device, one seed, sums that come out the same twice.

The same rows, configuration and kind of device give bitwise the same weights: random numbers come
from generators seeded here, torch runs its deterministic algorithms, and on a CPU one thread does
the sums, so that their order does not depend on how many cores are free.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

Device = Literal["cpu", "cuda", "auto"]
History = tuple[tuple[int, float], ...]
_HISTORY_POINT_COUNT = 20


@dataclass(frozen=True)
class Fit:
    """How a module is fitted by AdamW under a cosine schedule.

    Attributes:
        seed: Of initial weights and batches.
        step_count: Optimiser steps.
        batch_size: Rows per step, drawn with replacement; 0 takes all rows in every step.
        learning_rate: Peak of a schedule that ends at zero.
        weight_decay: Of AdamW.
        device: ``auto`` takes CUDA where there is one; ``cuda`` fails where there is none.
    """

    seed: int = 42
    step_count: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    device: Device = "cpu"

    @property
    def said(self) -> dict[str, float]:
        """What a release records of it; the seed stands with the split."""
        return {
            "step_count": self.step_count,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }

    def __post_init__(self) -> None:
        """Refuse numbers that train nothing."""
        for name in ("step_count", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")
        if self.batch_size < 0:
            raise ValueError(f"batch_size {self.batch_size} is below 0")


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
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise RuntimeError(
            "device 'cuda' is asked for and torch sees no GPU; ask for 'auto' or 'cpu'"
        )
    return "cpu"


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Hold torch to repeatable results, and leave its settings as they were."""
    import torch

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


def fit(
    build: Callable[[], torch.nn.Module],
    loss: Callable[[torch.nn.Module, tuple[Tensor, ...]], Tensor],
    rows: tuple[Tensor, ...],
    config: Fit,
) -> tuple[torch.nn.Module, History, float]:
    """Fit a module, the same way every time.

    Args:
        build: Makes the module; called after torch was seeded.
        loss: (module, one batch of ``rows``) -> a scalar.
        rows: Tensors of equal first length.
        config: See :class:`Fit`.

    Returns:
        The module on the CPU in evaluation mode; (step, mean loss since the previous point); wall
        time in seconds.

    Raises:
        RuntimeError: ``config.device`` is ``cuda`` and there is none.
        FloatingPointError: The loss stopped being finite.
    """
    import torch

    device = choose_device(config.device)
    with deterministic(device):
        torch.manual_seed(config.seed)
        model = build().to(device)
        placed = tuple(tensor.to(device) for tensor in rows)
        started_s = time.perf_counter()
        history = _descend(model, loss, placed, config)
        elapsed_s = time.perf_counter() - started_s
    return model.cpu().eval(), history, elapsed_s


def _descend(
    model: torch.nn.Module,
    loss: Callable[[torch.nn.Module, tuple[Tensor, ...]], Tensor],
    rows: tuple[Tensor, ...],
    config: Fit,
) -> History:
    import torch

    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.step_count + 1, pct_start=0.1
    )
    rng = np.random.Generator(np.random.PCG64([config.seed, 0]))
    every = max(1, config.step_count // _HISTORY_POINT_COUNT)
    history: list[tuple[int, float]] = []
    total = torch.zeros((), device=rows[0].device)
    model.train()
    for step in range(1, config.step_count + 1):
        batch = rows
        if config.batch_size:
            drawn = rng.integers(0, len(rows[0]), config.batch_size)
            chosen = torch.from_numpy(drawn).to(rows[0].device)
            batch = tuple(tensor[chosen] for tensor in rows)
        value = loss(model, batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimiser.step()
        schedule.step()
        total += value.detach()
        if step % every == 0:
            history.append((step, float(total) / every))
            total.zero_()
            if not np.isfinite(history[-1][1]):
                raise FloatingPointError(
                    f"the loss is {history[-1][1]} at step {step}; lower learning_rate"
                )
    return tuple(history)
