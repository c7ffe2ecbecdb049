"""What somebody says about a release before it exists: the values that composing starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.metadata.facts import AgentFact, Bbox, DatasetFact, RunFact
    from kfm_mlflow.monitor.energy import EnergyReport

DEFAULT_LICENSE = "MIT"


@dataclass(frozen=True)
class ReleaseSpec:
    """Everything that composing needs and cannot find out by itself.

    Attributes:
        model: Module that takes one float32 tensor [n, …] and returns one.
        inputs: Representative rows, float32 [n, …], in the model's physical units; the drift
            baseline, the explanation and the ONNX check are computed on them.
        name: Registered model that it is meant for.
        version: Release version, ``v1.2.3``.
        family: Policy family.
        task: In MLM's vocabulary, for example ``super-resolution``.
        bbox: West, south, east, north in degrees.
        datasets: Training and validation data by digest.
        run: The training run.
        agents: Who is responsible; one of them signs.
        energy: Energy and carbon of the training run.
        hyperparameters: Name -> JSON value.
        metrics: The trainer's own numbers; gates never read them.
        care: Parts of the CARE block that differ from the family's default.
        cell_size_deg: Size of an output grid cell in degrees, if the output is a grid.
        dim_order: Names of the input's dimensions after the batch.
        config: Plain values from which the module can be built again.
    """

    model: torch.nn.Module
    inputs: NDArray[np.float32]
    name: str
    version: str
    family: str
    task: str
    bbox: Bbox
    datasets: tuple[DatasetFact, ...]
    run: RunFact
    agents: tuple[AgentFact, ...]
    energy: EnergyReport
    released_at: datetime
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    care: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    license: str = DEFAULT_LICENSE
    cell_size_deg: float | None = None
    dim_order: tuple[str, ...] = ("height", "width")
    config: Mapping[str, Any] = field(default_factory=dict)
    predecessor: str | None = None
