"""Three phases, one checkpoint an epoch; killed anywhere and resumed, it ends in the same bytes.

=========== ==================================================== ==================================
phase       what is learned                                      what its AUC is of
=========== ==================================================== ==================================
pretrain    to restore columns that are hidden (self-supervised) a ridge regression on the encoding
finetune    the label, by cross-entropy                          the model's own answer
final       the same at a fifth of the rate                      the model's own answer
=========== ==================================================== ==================================

The order of sequences and what is hidden follow from the seed and the epoch alone, the state of a
checkpoint from the one before: nothing else is carried. Sums run on one thread.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from focus_transformer.explain import explained
from focus_transformer.network import FocusTransformer
from focus_transformer.sequences import area_under_curve, bias_index
from kfm_mlflow.checkpoints.documents import Measured
from kfm_mlflow.checkpoints.records import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from focus_transformer.sequences import Sequences
    from kfm_mlflow.checkpoints.records import Phase
    from kfm_mlflow.checkpoints.saving import CheckpointWriter

    Energy = Callable[[], tuple[float, float]]

STATE_NAMES = ("config", "model", "optimiser", "scheduler", "random", "position")
"""What a checkpoint holds."""
_HIDDEN_RATIO = 0.3
_RIDGE = 1.0
_RATES: Mapping[Phase, float] = {"pretrain": 1.0, "finetune": 1.0, "final": 0.2}


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        epochs: Of each phase.
        batch_size: Sequences of a step.
        learning_rate: Of the first two phases at their peak.
        weight_decay: Of AdamW.
        seed: Of everything.
        config: Of the network.
    """

    epochs: Mapping[Phase, int]
    config: Mapping[str, int]
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 42

    @property
    def epoch_count(self) -> int:
        """Epochs of all phases."""
        return sum(self.epochs.values())

    def schedule(self) -> list[tuple[Phase, int, str]]:
        """Return phase, epoch in the phase (from 0) and checkpoint id of every epoch.

        The last epoch of a phase has the phase's name: ``checkpoint_001_pretrain``.
        """
        found: list[tuple[Phase, int, str]] = []
        for number, phase in enumerate(PHASES, 1):
            for k in range(self.epochs[phase]):
                is_last = k + 1 == self.epochs[phase]
                name = (
                    f"checkpoint_{number:03d}_{phase}" if is_last else f"epoch_{len(found) + 1:03d}"
                )
                found.append((phase, k, name))
        return found


PLANS = {
    "default": Plan({"pretrain": 4, "finetune": 5, "final": 3}, {"width": 48, "block_count": 2}),
    "small": Plan(
        {"pretrain": 2, "finetune": 4, "final": 2}, {"width": 32, "block_count": 1}, batch_size=32
    ),
}


def train(
    learned: Sequences, held: Sequences, plan: Plan, writer: CheckpointWriter, energy: Energy
) -> FocusTransformer:
    """Train from where the directory stands to the end of the plan.

    Args:
        learned: Sequences to learn from.
        held: Sequences of other places, to measure on.
        plan: How long and how fast.
        writer: Where checkpoints go, and where the latest is read.
        energy: Gives Wh and gCO2e since this process began to train.

    Returns:
        The model of the last checkpoint, in evaluation mode.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(plan.seed)
    model = FocusTransformer(**plan.config)
    model.learn_scale(learned.rows)
    latest = writer.latest()
    begin, spent = 0, (0.0, 0.0, 0.0)
    state: dict[str, Any] = {"model": model.state_dict(), "optimiser": None, "position": {}}
    if latest is not None:
        entry, state = latest
        begin = entry.epoch
        last = writer.state.metrics[-1]
        spent = (last.energy_wh, last.carbon_gco2e, writer.elapsed_s)
        model.load_state_dict(state["model"])
    began_at = time.monotonic()
    rows, labels = torch.from_numpy(learned.rows), torch.from_numpy(learned.labels)
    months = model.standardised(rows)
    optimiser_state = state["optimiser"]
    for epoch, (phase, place, name) in enumerate(plan.schedule()):
        if epoch < begin:
            continue
        optimiser = _optimiser(model, plan, phase)
        # A phase begins with an optimiser that knows nothing; within it, it goes on.
        if place > 0:
            optimiser.load_state_dict(optimiser_state)
        loss = _epoch(model, optimiser, (months, labels), plan, epoch)
        optimiser_state = optimiser.state_dict()
        probability = probabilities(model, phase, learned, held)
        wh, grams = energy()
        measured = Measured(
            auc=area_under_curve(probability, held.labels),
            loss=loss,
            bias_index=bias_index(probability, held.labels, held.region),
            energy_wh=spent[0] + wh,
            carbon_gco2e=spent[1] + grams,
            elapsed_s=spent[2] + time.monotonic() - began_at,
            explained=explained(model, held.rows, seed=plan.seed),
        )
        whole = {
            "config": model.config,
            "model": model.state_dict(),
            "optimiser": optimiser_state,
            "scheduler": {"phase": phase, "epoch_of_phase": place + 1},
            # All randomness of an epoch is PCG64([seed, epoch]): this is its whole state.
            "random": {"seed": plan.seed, "next_epoch": epoch + 1},
            "position": {"epoch": epoch + 1, "sequences_seen": (epoch + 1) * len(learned)},
        }
        writer.save(name, phase, epoch + 1, whole, measured)
    writer.wait()
    return model.eval()


def _optimiser(model: FocusTransformer, plan: Plan, phase: Phase) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        lr=plan.learning_rate * _RATES[phase],
        weight_decay=plan.weight_decay,
        foreach=False,
    )


def _epoch(
    model: FocusTransformer,
    optimiser: torch.optim.AdamW,
    data: tuple[torch.Tensor, torch.Tensor],
    plan: Plan,
    epoch: int,
) -> float:
    """Go once through all sequences, standardised, and their labels; return the mean loss."""
    phase, place, _ = plan.schedule()[epoch]
    months, labels = data
    rng = np.random.Generator(np.random.PCG64([plan.seed, epoch]))
    order = torch.from_numpy(rng.permutation(len(months)))
    batches = torch.split(order, plan.batch_size)
    total_steps = len(batches) * plan.epochs[phase]
    model.train()
    losses = []
    for k, chosen in enumerate(batches):
        step = place * len(batches) + k
        rate = (
            plan.learning_rate
            * _RATES[phase]
            * 0.5
            * (1.0 + math.cos(math.pi * step / total_steps))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = _loss(model, phase, months[chosen], labels[chosen], rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch says no types
        optimiser.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def _loss(
    model: FocusTransformer,
    phase: Phase,
    batch: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    if phase != "pretrain":
        logit = model.head(model.summary(batch))[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logit, labels)
    hidden = torch.from_numpy((rng.random(batch.shape) < _HIDDEN_RATIO).astype(np.float32))
    vector, _ = model.encode(batch, hidden)
    error = (model.restore(vector) - batch) * hidden
    restored: torch.Tensor = error.square().sum() / hidden.sum()
    return restored


def probabilities(
    model: FocusTransformer, phase: Phase, learned: Sequences, held: Sequences
) -> NDArray[np.float64]:
    """Return the probability of each held-out sequence: the model's, or a probe's in pretraining."""
    model.eval()
    with torch.no_grad():
        if phase != "pretrain":
            answers: NDArray[np.float32] = model(torch.from_numpy(held.rows)).numpy()
            return answers[:, 0].astype(np.float64)
        known, other = (
            model.summary(model.standardised(torch.from_numpy(side.rows))).numpy()
            for side in (learned, held)
        )
    return ridge(known, learned.labels, other)


def ridge(
    known: NDArray[np.floating], labels: NDArray[np.floating], other: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return a ridge regression's answers, cut to 0..1: the linear probe of an encoding."""
    center, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    design, asked = ((x - center) / spread for x in (known.astype(np.float64), other))
    mean = labels.mean()
    gram = design.T @ design + _RIDGE * np.eye(design.shape[1])
    weight = np.linalg.solve(gram, design.T @ (labels - mean))
    answers: NDArray[np.float64] = np.clip(asked @ weight + mean, 0.0, 1.0)
    return answers
