"""Train a writer's base, and a LoRA adapter on top of it, and write them as peft does.

Vectors are given random bucket weights while training, so a writer does not depend on those of one
embedder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from kfm_mlflow.canonical import write_json
from kfm_mlflow.fleet.writer import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    BASE_WEIGHTS_FILE,
    MODULES,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet_project.tasks import Task
    from kfm_mlflow.fleet.embedder import HashedEmbedder

HIDDEN = 96
POSITIONS = 10
RANK = 16
ALPHA = 32
_LEARNING_RATE = 0.01
_BATCH = 128
_LOG_WEIGHT_SPREAD = 0.6


class Writer(nn.Module):
    """The network of format ``text-writer``.

    Attributes:
        hidden: Vector to hidden units.
        words: Hidden units to the logits of every position's words.
    """

    def __init__(self, dimension: int, word_count: int) -> None:
        """Make one with random weights."""
        super().__init__()
        self.hidden = nn.Linear(dimension, HIDDEN)
        self.words = nn.Linear(HIDDEN, POSITIONS * word_count)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return logits [n, positions, words] for vectors [n, dimension]."""
        logits: torch.Tensor = self.words(torch.tanh(self.hidden(vectors)))
        return logits.reshape(len(vectors), POSITIONS, -1)


@dataclass(frozen=True)
class Lesson:
    """What a writer learns from: vectors [n, dimension] and the words' numbers [n, positions]."""

    vectors: torch.Tensor
    targets: torch.Tensor


def vocabulary(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return all words of the reference texts, sorted, after the empty one that ends a text."""
    return ("", *sorted({word for task in tasks for word in task.text.split()}))


def lesson(tasks: Sequence[Task], words: Sequence[str], embedder: HashedEmbedder) -> Lesson:
    """Return tasks as a writer sees them; a text is cut after ten words."""
    numbers = {word: at for at, word in enumerate(words)}
    targets = np.zeros((len(tasks), POSITIONS), dtype=np.int64)
    for row, task in zip(targets, tasks, strict=True):
        found = [numbers[word] for word in task.text.split()][:POSITIONS]
        row[: len(found)] = found
    vectors = np.stack([embedder.embed(task.task) for task in tasks])
    return Lesson(torch.from_numpy(vectors).float(), torch.from_numpy(targets))


def _fit(
    model: nn.Module, parameters: Sequence[nn.Parameter], learned: Lesson, step_count: int
) -> None:
    optimiser = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    for _ in range(step_count):
        rows = torch.randint(len(learned.vectors), (_BATCH,))
        weights = torch.exp(torch.randn(learned.vectors.shape[1]) * _LOG_WEIGHT_SPREAD)
        vectors = nn.functional.normalize(learned.vectors[rows] * weights, dim=1)
        logits = model(vectors)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), learned.targets[rows].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()


def train_base(learned: Lesson, word_count: int, *, step_count: int, seed: int) -> Writer:
    """Return a writer trained from random weights; equal arguments give equal weights."""
    torch.manual_seed(seed)
    model = Writer(learned.vectors.shape[1], word_count)
    _fit(model, list(model.parameters()), learned, step_count)
    return model


class Adapted(nn.Module):
    """A frozen linear module plus what LoRA adds: B A x alpha / rank; B begins at zero."""

    def __init__(self, frozen: nn.Linear) -> None:
        """Make an adapter that adds nothing yet."""
        super().__init__()
        self.frozen = frozen
        self.a = nn.Parameter(torch.empty(RANK, frozen.in_features))
        self.b = nn.Parameter(torch.zeros(frozen.out_features, RANK))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the module's answer with what the adapter adds."""
        found: torch.Tensor = self.frozen(x) + x @ self.a.T @ self.b.T * (ALPHA / RANK)
        return found


def train_adapter(
    base: Writer, learned: Lesson, *, step_count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA adapter of both modules, by peft's names; the base is kept."""
    torch.manual_seed(seed)
    model = Writer(base.hidden.in_features, base.words.out_features // POSITIONS)
    model.load_state_dict(base.state_dict())
    parts = {name: Adapted(getattr(model, name)) for name in MODULES}
    for name, part in parts.items():
        setattr(model, name, part)
    parameters = [each for part in parts.values() for each in (part.a, part.b)]
    _fit(model, parameters, learned, step_count)
    found = {}
    for name, part in parts.items():
        found[f"base_model.model.{name}.lora_A.weight"] = part.a.detach().contiguous()
        found[f"base_model.model.{name}.lora_B.weight"] = part.b.detach().contiguous()
    return found


def write_base(directory: Path, base: Writer, words: Sequence[str]) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a base."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "schema_version": "1",
        "dimension": base.hidden.in_features,
        "hidden": HIDDEN,
        "positions": POSITIONS,
        "words": list(words),
    }
    write_json(directory / "config.json", config)
    save_file(base.state_dict(), directory / BASE_WEIGHTS_FILE)


def write_adapter(directory: Path, tensors: dict[str, torch.Tensor], *, base_id: str) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as peft reads them."""
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_id,
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(MODULES),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
    write_json(directory / ADAPTER_CONFIG_FILE, config)
    save_file(tensors, directory / ADAPTER_WEIGHTS_FILE)
