"""What somebody says about a release before it exists: the values that composing starts from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import RELEASE_VERSION_PATTERN
from kfm_mlflow.release.bundle import ITEM_PATH
from kfm_mlflow.release.manifest import check_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.authoring.source import SourceState
    from kfm_mlflow.metadata.facts import AgentFact, Bbox, DatasetFact, RunFact
    from kfm_mlflow.monitor.attribution import Baseline
    from kfm_mlflow.monitor.energy import EnergyReport

DEFAULT_LICENSE = "MIT"
MIN_BASELINE_COUNT = 30
_DIM_ORDERS = {
    1: ("feature",),
    2: ("height", "width"),
    3: ("channel", "height", "width"),
    4: ("time", "channel", "height", "width"),
}

REPLACEABLE = ("xai/summary.json", "telemetry/training.json", "drift/baseline.json")
"""Documents that composing writes, unless somebody gives his own."""
_COMPOSED = (
    "MLmodel", "care.json", "conda.yaml", "model-card.json", "model.onnx", "model_metadata.json",
    "model_summary.json", "python_env.yaml", "requirements.txt", "sbom.spdx.json",
)  # fmt: skip
_COMPOSED_FOLDERS = ("provenance/", "stac/")


@dataclass(frozen=True)
class Contents:
    """What the releases of a family hold beside what every release does, and where.

    Attributes:
        model_file: Where the torch model lies.
        item_path: Where the STAC item lies.
        parts: Path, ending in ``.pt`` -> module of which the weights are written, too.
        documents: Path, ending in ``.json`` or ``.geojson`` -> JSON value. One of
            :data:`REPLACEABLE` takes the place of what composing would write there; None leaves
            that out.
        files: Path, ending in ``.pt`` or ``.json`` -> file whose bytes are copied as they are, for
            what others signed or named by digest.
        domains: Context domains that the model sees, for the STAC item.
        fusion_dimension: Length of the fused vector, for the STAC item.
        sovereignty_notes: What people must know about sovereignty.
    """

    model_file: str = "model.pt"
    item_path: str = ITEM_PATH
    parts: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    documents: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    fusion_dimension: int | None = None
    sovereignty_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse paths that are none, are of another kind, or are composing's own.

        Raises:
            InputError: Says which.
        """
        weights, texts = (self.model_file, *self.parts), (self.item_path, *self.documents)
        named = (*weights, *texts, *self.files)
        for path in named:
            suffixes: tuple[str, ...] = (".pt",) if path in weights else (".json", ".geojson")
            if path in self.files:
                suffixes = (".pt", ".json")
            problem = check_path(path)
            if not problem and not path.endswith(suffixes):
                problem = f"does not end in {' or '.join(suffixes)}"
            if not problem and (path in _COMPOSED or named.count(path) > 1):
                problem = "is written by composing, or named twice"
            if (
                not problem
                and path not in {self.model_file, self.item_path}
                and path.startswith(_COMPOSED_FOLDERS)
            ):
                problem = "lies in a folder that composing writes"
            if not problem and path not in REPLACEABLE and self.documents.get(path, path) is None:
                problem = "has no value"
            if problem:
                raise InputError(problem, where=f"contents: {path}")


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
        metrics: The trainer's own numbers; gates never read them. Without any, how far ONNX and
            torch differ stands for them.
        care: Parts of the CARE block that differ from the family's default.
        cell_size_deg: Size of an output grid cell in degrees, if the output is a grid.
        baseline: From where a row is explained: ``patch-mean`` for fields, ``sample-mean`` where
            its elements are different quantities.
        dim_order: Names of the input's dimensions after the batch; empty takes the usual ones.
        config: Plain values from which the module can be built again.
        source: The checkout that was run; None when nothing is known of it.
        contents: What the family's releases hold besides.
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
    baseline: Baseline = "patch-mean"
    description: str = ""
    license: str = DEFAULT_LICENSE
    cell_size_deg: float | None = None
    dim_order: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    predecessor: str | None = None
    source: SourceState | None = None
    contents: Contents = field(default_factory=Contents)

    def __post_init__(self) -> None:
        """Refuse at once what composing would refuse after its slow steps.

        Raises:
            InputError: The version is none, or there are too few rows for a baseline.
        """
        if not re.fullmatch(RELEASE_VERSION_PATTERN, self.version):
            raise InputError(
                f"{self.version!r} is no version", where="version", remedy="write v1.2.3"
            )
        if len(self.inputs) < MIN_BASELINE_COUNT:
            raise InputError(
                f"{len(self.inputs)} rows are too few for a baseline",
                where="inputs",
                remedy=f"give at least {MIN_BASELINE_COUNT} representative rows",
            )

    def dims_of(self, rows: NDArray[np.float32]) -> tuple[str, ...]:
        """Return the names of all dimensions of some rows, batch first."""
        rank = rows.ndim - 1
        if len(self.dim_order) == rank:
            return ("batch", *self.dim_order)
        return ("batch", *_DIM_ORDERS.get(rank, tuple(f"dim{i + 1}" for i in range(rank))))
