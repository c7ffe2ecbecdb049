"""``log_release``: from a trained model to a signed release in an MLflow run."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kfm_mlflow.authoring.compose import compose_release
from kfm_mlflow.authoring.lock import MLPROJECT
from kfm_mlflow.authoring.logged import LoggedRelease, log_composed, release_agents, require_run
from kfm_mlflow.authoring.replay import hand_over, load_replay
from kfm_mlflow.authoring.source import SourceState, read_source
from kfm_mlflow.authoring.spec import DEFAULT_LICENSE, Contents, ReleaseSpec
from kfm_mlflow.authoring.training_run import PROJECT_TAG, placeless, run_fact
from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.extent import wgs84_bbox
from kfm_mlflow.metadata.facts import DatasetFact
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.monitor.attribution import Baseline
    from kfm_mlflow.monitor.energy import EnergyMeasurement, EnergyReport

MIN_NDIM = 2


@dataclass(frozen=True)
class Dataset:
    """Data that a release was made from.

    Attributes:
        role: What it was used for.
        name: Short name.
        uri: Where it is or what it is called; an absolute path of this machine is refused.
        digest: ``sha256:<hex>`` of what was read.
        license: SPDX expression.
        bbox: West, south, east, north in degrees, if it may be told.
        selection: Which part, in words.
    """

    role: Literal["training", "validation"]
    name: str
    uri: str
    digest: str
    license: str = "NOASSERTION"
    bbox: tuple[float, float, float, float] | None = None
    selection: str = ""
    start_at: datetime | None = None
    end_at: datetime | None = None
    variables: tuple[str, ...] = ()

    def fact(self) -> DatasetFact:
        """Return the value that the documents are built from.

        Raises:
            InputError: A field is wrong, or the URI is a path of this machine.
        """
        if placeless(self.uri) != self.uri:
            raise InputError(
                "is a path of this machine",
                where=f"uri of data set {self.name!r}",
                remedy="give a URL, or the name of the file",
            )
        return DatasetFact(
            name=f"{self.name}-{self.role}",
            uri=self.uri,
            sha256=self.digest,
            license=self.license,
            role=self.role,
            bbox=self.bbox,
            start_at=self.start_at,
            end_at=self.end_at,
            variables=self.variables,
            selection=self.selection,
        )


@dataclass
class Measurement:
    """Energy, carbon and duration of what runs inside :func:`measure_energy`."""

    started_at: datetime
    _running: EnergyMeasurement
    _stack: ExitStack
    ended_at: datetime | None = None

    def so_far(self) -> tuple[float, float]:
        """Return Wh and gCO2e of the block until now."""
        return self._running.so_far()

    def finish(self) -> EnergyReport:
        """End the measurement, if it has not ended yet, and return its report."""
        if self.ended_at is None:
            self._stack.close()
            self.ended_at = datetime.now(UTC)
        return self._running.report


@contextmanager
def measure_energy() -> Iterator[Measurement]:
    """Measure energy and carbon of a block (CodeCarbon, offline; grid of Kansas).

    Yields:
        A measurement for ``log_release(energy=…)``. It ends with the block, or when
        ``log_release`` takes it, whichever comes first: composing a release is not training.
    """
    from kfm_mlflow.monitor.energy import measure_energy as measured

    with ExitStack() as stack:
        found = Measurement(datetime.now(UTC), stack.enter_context(measured()), stack)
        yield found
        found.finish()


def run_source(run: Any, folder: Path | None) -> SourceState | None:
    """Return the checkout of what runs: the project of ``mlflow run``, else the script's."""
    here = Path.cwd()
    if folder is None and PROJECT_TAG in run.data.tags and (here / MLPROJECT).is_file():
        return read_source(here, is_project=True)
    script = Path(sys.argv[0])
    place = folder or (script.resolve().parent if script.is_file() else here)
    return read_source(place, is_project=False)


def _inputs(values: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise InputError(f"are no numbers ({exc})", where="inputs") from exc
    if array.ndim < MIN_NDIM or not np.isfinite(array).all():
        raise InputError(
            "must be finite numbers [n, …]",
            where="inputs",
            remedy="give representative rows, batch first",
        )
    return array


def log_release(
    model: torch.nn.Module,
    inputs: NDArray[np.float32],
    *,
    name: str,
    version: str,
    bbox: tuple[float, float, float, float],
    signing_key: str | Path,
    energy: Measurement,
    family: str = "climate",
    task: str = "regression",
    seed: int = 42,
    datasets: Sequence[Dataset] = (),
    hyperparameters: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    care: Mapping[str, Any] | None = None,
    regions: Path | None = None,
    cell_size_deg: float | None = None,
    baseline: Baseline = "patch-mean",
    description: str = "",
    license: str = DEFAULT_LICENSE,  # noqa: A002 - the field's own name
    predecessor: str | None = None,
    responsible: str = "release-team",
    source: Path | None = None,
    contents: Contents | None = None,
) -> LoggedRelease:
    """Compose a release from a trained model, sign it, and log it to the active MLflow run.

    Beside the release lie its signature and what the signer says of it: provenance of the run,
    the outcome of the CARE screening, and the STAC item (``*.intoto.json``).

    Inside ``kfm rebuild`` the release is composed with the instants, run and energy of the record,
    handed over unsigned, and the process ends: what a project does afterwards is not repeated.

    Args:
        model: Takes one float32 tensor [n, …], returns one; exportable to ONNX.
        inputs: Representative rows, float32 [n, …], n >= 30, in physical units.
        name: Registered model that it is meant for.
        version: Release version, ``v1.2.3``, unique per registered model for ever.
        bbox: West, south, east, north in degrees where the model applies.
        signing_key: Private key (``kfm keys new``) that a policy must trust.
        energy: From :func:`measure_energy` around the training; ended here if it still runs.
        family: Policy family.
        task: In MLM's vocabulary, for example ``super-resolution``.
        seed: The one seed from which all randomness followed.
        datasets: Training and validation data; without any, ``inputs`` stand for both.
        hyperparameters: Name -> JSON value.
        config: Plain values from which the module can be built again.
        metrics: The trainer's own numbers; no gate believes them. Without any, how far ONNX and
            torch differ stands for them.
        care: Parts of the CARE block that differ from the family's default.
        regions: GeoJSON of sovereign regions for the screening.
        cell_size_deg: Size of an output grid cell in degrees.
        baseline: From where a row is explained: ``patch-mean`` for fields of one quantity,
            ``sample-mean`` where the elements of a row are different quantities.
        description: One or two sentences.
        license: SPDX expression.
        predecessor: Release version that this one revises.
        responsible: Organisation on whose behalf the software acts.
        source: Folder of the code, whose commit is recorded; by default that of the MLflow
            project, else of the script that runs.
        contents: What the family's releases hold besides; None for nothing.

    Returns:
        Where it was logged; ``mlflow.register_model(logged.model_uri, name)`` registers it.

    Raises:
        InputError: There is no active run, or an argument is wrong; nothing is logged.
        EvidenceError: The model cannot be exported, or torch and ONNX disagree.
    """
    run = require_run("log_release")
    rows = _inputs(inputs)
    replay = load_replay(os.environ)
    key_path = Path(signing_key)
    trainer = replay.trainer if replay else load_private_key(key_path).public_key.key_id
    extent = wgs84_bbox(*bbox)
    run_id = replay.run_id if replay else run.info.run_id
    given = tuple(datasets) or tuple(
        Dataset(role, "inputs", f"run:{run_id}/inputs", digest_bytes(rows.tobytes()))
        for role in ("training", "validation")
    )
    report = energy.finish()
    state = run_source(run, source)
    spec = ReleaseSpec(
        model=model,
        inputs=rows,
        name=name,
        version=version,
        family=family,
        task=task,
        bbox=extent,
        datasets=tuple(dataset.fact() for dataset in given),
        run=run_fact(run, state, (energy.started_at, energy.ended_at), seed, replay),
        agents=release_agents(responsible, trainer),
        energy=replay.energy if replay else report,
        released_at=replay.released_at if replay else datetime.now(UTC),
        hyperparameters={"seed": seed, **(hyperparameters or {})},
        metrics=metrics or {},
        care=care or {},
        baseline=baseline,
        description=description,
        license=license,
        cell_size_deg=cell_size_deg,
        config=config or {},
        predecessor=predecessor,
        source=state,
        contents=contents or Contents(),
    )
    if replay:
        hand_over(spec, replay, regions)
    return log_composed(
        spec,
        partial(compose_release, spec, regions=regions),
        run_id=run.info.run_id,
        signing_key=key_path,
        item_path=spec.contents.item_path,
    )
