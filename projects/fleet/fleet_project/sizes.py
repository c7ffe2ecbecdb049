"""How much the sample artifacts are trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """One preset.

    Attributes:
        task_count: Generated tasks of each provider.
        neighbour_count: Of them, how many the embedder's weights are learned from.
        embedder_steps: Steps of that learning.
        base_steps: Steps of the writer's base.
        adapter_steps: Steps of each adapter.
        probe_count: Tasks that each artifact is measured on.
    """

    task_count: int = 3600
    neighbour_count: int = 300
    embedder_steps: int = 40
    base_steps: int = 250
    adapter_steps: int = 300
    probe_count: int = 600


SIZES = {
    "default": Size(),
    "small": Size(
        task_count=2400,
        neighbour_count=200,
        embedder_steps=30,
        base_steps=200,
        adapter_steps=300,
        probe_count=600,
    ),
}
