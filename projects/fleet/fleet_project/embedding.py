"""Learn the weights of an embedder's buckets, so that tasks of one kind lie near each other.

The method is neighbourhood components analysis with a diagonal matrix: every task chooses another
by a softmax over cosines, and the weights are those with which it likeliest chooses one of its own
specialty and decision (Goldberger et al., "Neighbourhood Components Analysis", NIPS 2004).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleet_project.tasks import Task
    from kfm_mlflow.fleet.embedder import HashedEmbedder

_LEARNING_RATE = 0.05
_TEMPERATURE = 0.1
_DAMPING = 0.3


def learn_weights(
    tasks: Sequence[Task], embedder: HashedEmbedder, *, step_count: int, seed: int
) -> np.ndarray:
    """Return a positive weight per bucket, float32, of mean 1.

    What is best for neighbours is damped: heads and writers, which were not trained with it, still
    find the words that they need.

    Args:
        tasks: To learn from; each step looks at all pairs of them.
        embedder: Makes the vectors, without weights.
        step_count: Steps of gradient ascent.
        seed: Of torch.
    """
    torch.manual_seed(seed)
    vectors = torch.from_numpy(np.stack([embedder.embed(t.task) for t in tasks])).float()
    kinds = [(t.specialty, t.decision) for t in tasks]
    names = sorted(set(kinds))
    labels = torch.tensor([names.index(kind) for kind in kinds])
    others = ~torch.eye(len(tasks), dtype=torch.bool)
    alike = (labels[:, None] == labels[None, :]) & others
    logs = torch.zeros(vectors.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([logs], lr=_LEARNING_RATE)
    for _ in range(step_count):
        near = torch.nn.functional.normalize(vectors * logs.exp(), dim=1)
        cosines = (near @ near.T / _TEMPERATURE).masked_fill(~others, -torch.inf)
        chosen = (cosines.softmax(dim=1) * alike).sum(dim=1)
        loss = -chosen.clamp_min(1e-6).log().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
    weights = (logs.detach() * _DAMPING).exp()
    return (weights / weights.mean()).numpy()
