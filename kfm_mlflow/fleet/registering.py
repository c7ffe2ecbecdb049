"""From collected artifacts, and from a fusion, to governed versions of registered models.

An artifact becomes a version of ``fleet-<role>``, a fusion one of ``fleet``. Which artifact a
version was made from is a tag of it, so that registering again finds it and changes nothing. The
tag decides nothing else: gates read the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.imported import (
    ImportedUnit,
    Parent,
    TensorFact,
    log_imported,
    text_field,
)
from kfm_mlflow.authoring.training_run import placeless
from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError, InputError, StorageError
from kfm_mlflow.fleet.collect import signed_digests
from kfm_mlflow.fleet.fused import fused_parts
from kfm_mlflow.fleet.licences import NO_ASSERTION, join_licences, unit_licence
from kfm_mlflow.fleet.probe_file import PROBES_PATH, load_probes
from kfm_mlflow.fleet.units import unit_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kfm_mlflow.fleet.fusion import Fused
    from kfm_mlflow.fleet.manifest import Artifact
    from kfm_mlflow.fleet.stores_fetch import Fetched

FUSED_MODEL = "fleet"
DIGEST_TAG = "fleet.digest"
"""Of an artifact its digest, of a fusion its content digest."""
UNSIGNED_TAG = "fleet.unsafe_unsigned"
"""``true`` on a version that holds an artifact which nobody had signed."""
_EXPERIMENT = "fleet"
_LOADER = "kfm_mlflow.fleet.loading"
_TASKS = {"textgen": "generative", "embed": "similarity-search", "runtime": "classification"}
"""Role -> task in MLM's vocabulary."""


@dataclass(frozen=True)
class Terms:
    """What whoever registers says of every release.

    Attributes:
        signing_key: Private key that signs it.
        bbox: West, south, east, north in degrees where it is used.
        probes: Probe tasks that go into it: what is asked of it wherever it runs.
    """

    signing_key: Path
    bbox: tuple[float, float, float, float]
    probes: Path


@dataclass(frozen=True)
class Registration:
    """A version of a registered model.

    Attributes:
        name: Registered model.
        version: Its number.
        is_new: Whether it was registered now; else it was there.
    """

    name: str
    version: int
    is_new: bool


def _column(name: str, dtype: str) -> TensorFact:
    return TensorFact(name, dtype, (-1,), ("batch",))


def _inputs(role: str) -> tuple[TensorFact, ...]:
    task = text_field("task")
    # Whose head is asked; without it the coordinator chooses. Other units have no heads.
    asks_head = role in (FUSED_MODEL, "runtime")
    return (task, text_field("specialty", optional=True)) if asks_head else (task,)


def _outputs(role: str, directory: Path) -> tuple[TensorFact, ...]:
    judged = (text_field("specialty"), text_field("decision"), _column("confidence", "float64"))
    if role == "runtime":
        return judged
    if role == "embed":
        dimension = _stated(directory).get("dimension", -1)
        return (TensorFact("vector", "float32", (-1, dimension), ("batch", "dimension")),)
    if role == "textgen":
        return (text_field("text"),)
    # An answer also says ``is_unsafe``; MLM has no type for truth values.
    return (*judged, text_field("text"))


def _stated(directory: Path) -> dict[str, Any]:
    path = directory / "unit.json"
    value = load_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _format(artifact: Artifact, directory: Path) -> str:
    """Return the format of an artifact's files: what they state, else the manifest's type."""
    try:
        return unit_format(directory)
    except (InputError, DataError):
        return artifact.type


def _parameter_count(directory: Path) -> int:
    """Count numbers in the weights of a folder: safetensors and NumPy archives."""
    import numpy as np
    from safetensors import safe_open

    count = 0
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    count += int(np.prod(tensors.get_slice(name).get_shape()))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                count += sum(int(arrays[name].size) for name in arrays.files)
    return count


def _unit(artifact: Artifact, directory: Path) -> ImportedUnit:
    parents = [
        Parent(
            name=artifact.id,
            # Where a folder lies on this machine is nobody's business.
            uri=placeless(artifact.uri),
            digest=artifact.digest,
            license=artifact.license or NO_ASSERTION,
            selection=f"{artifact.type} of provider {artifact.provider}",
        )
    ]
    if artifact.base is not None:
        base = artifact.base
        parents.append(Parent(base.id, base.id, base.digest, selection="base of the adapter"))
    return ImportedUnit(
        artifact.role,
        directory,
        _format(artifact, directory),
        _parameter_count(directory),
        tuple(parents),
    )


def _labels(artifacts: Sequence[Artifact]) -> list[str]:
    return sorted({label for artifact in artifacts for label in artifact.labels})


def _find_version(name: str, digest: str) -> int | None:
    import mlflow

    client = mlflow.tracking.MlflowClient()
    found = [
        int(version.version)
        for version in client.search_model_versions(f"name='{name}'")
        if version.tags.get(DIGEST_TAG) == digest
    ]
    return min(found, default=None)


def _experiment_id() -> str:
    """Return the experiment of all runs that register; the caller's active one stays."""
    import mlflow

    client = mlflow.tracking.MlflowClient()
    known = client.get_experiment_by_name(_EXPERIMENT)
    return str(known.experiment_id if known else client.create_experiment(_EXPERIMENT))


def _register(
    name: str,
    terms: Terms,
    tags: Mapping[str, str],
    *,
    units: Sequence[ImportedUnit],
    chosen: Sequence[Artifact],
    **stated: Any,
) -> Registration:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        known = _find_version(name, tags[DIGEST_TAG])
        if known is not None:
            return Registration(name, known, is_new=False)
        run_name = f"{name} {stated['version']}"
        with mlflow.start_run(experiment_id=_experiment_id(), run_name=run_name):
            logged = log_imported(
                units,
                name=name,
                bbox=terms.bbox,
                signing_key=terms.signing_key,
                loader_module=_LOADER,
                license=join_licences(
                    unit_licence(artifact.license, unit.directory)
                    for artifact, unit in zip(chosen, units, strict=True)
                ),
                care={"labels": _labels(chosen)},
                # What it was made from is the provider's to say, not the checkout of who collects.
                source=units[0].directory,
                **stated,
            )
            made = mlflow.register_model(logged.model_uri, name, tags=dict(tags))
    except MlflowException as exc:
        raise StorageError(
            f"the registry refused ({' '.join(str(exc).split())[:300]})",
            where=name,
            remedy="check --server and your rights on the model",
        ) from exc
    return Registration(name, int(made.version), is_new=True)


def register_artifact(fetched: Fetched, terms: Terms) -> Registration:
    """Register one collected artifact as a version of ``fleet-<role>``, unless it is there.

    Args:
        fetched: Its files, judged.
        terms: Who signs, and where it is used.

    Raises:
        InputError: The key or the bounding box is wrong.
        StorageError: The registry refused, or could not be reached.
    """
    artifact = fetched.artifact
    load_probes(terms.probes)
    documents = {"artifact.json": artifact.to_dict(), PROBES_PATH: load_json(terms.probes)}
    unsigned = {UNSIGNED_TAG: "true"} if fetched.signer is None else {}
    return _register(
        f"fleet-{artifact.role}",
        terms,
        {DIGEST_TAG: artifact.digest, **unsigned},
        units=[_unit(artifact, fetched.directory)],
        chosen=[artifact],
        documents=documents,
        version=f"v1.0.0-a{artifact.digest.removeprefix('sha256:')[:12]}",
        metrics=artifact.metrics.to_dict(),
        task=_TASKS[artifact.role],
        inputs=_inputs(artifact.role),
        outputs=_outputs(artifact.role, fetched.directory),
        description=f"{artifact.type} {artifact.id} of provider {artifact.provider}.",
    )


def register_fused(fused: Fused, artifacts: Path, terms: Terms) -> Registration:
    """Register a fusion as a version of ``fleet``, with every artifact as a parent.

    Args:
        fused: A complete fusion.
        artifacts: Folder of collected artifacts.
        terms: Who signs, where it is used, and its probes.

    Raises:
        InputError: The fusion is not complete, or a term is wrong.
        StorageError: An artifact was not collected, or the registry refused.
        IntegrityError: The bytes of an artifact are not those of its digest.
    """
    parts = fused_parts(fused, artifacts, terms.probes)
    document = parts.documents["fused_release.json"]
    chosen = sorted((one.artifact for one in fused.units.values()), key=lambda a: a.role)
    is_signed = {artifact.digest for artifact in chosen} <= signed_digests(artifacts)
    unsigned = {} if is_signed else {UNSIGNED_TAG: "true"}
    metrics = {
        f"{one.artifact.role}_{name}": value
        for one in fused.units.values()
        for name, value in one.metrics.to_dict().items()
    }
    return _register(
        FUSED_MODEL,
        terms,
        {DIGEST_TAG: document["content_digest"], **unsigned},
        units=[_unit(artifact, parts.units[artifact.role]) for artifact in chosen],
        chosen=chosen,
        documents=parts.documents,
        version=document["version"],
        metrics=metrics,
        task=_TASKS["textgen"],
        inputs=_inputs(FUSED_MODEL),
        outputs=_outputs(FUSED_MODEL, artifacts),
        description=f"Fused release {document['fused_model_id']}.",
    )
