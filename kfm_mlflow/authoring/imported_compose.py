"""Composing a release whose model others made: their files as they are, and what we say of them.

The same specification gives the same bytes. The release holds no code of its own: MLmodel names an
installed module that loads it, and nothing in it is unpickled.
"""

from __future__ import annotations

import platform
import shutil
import uuid
from importlib.metadata import version
from posixpath import splitext
from typing import TYPE_CHECKING, Any

import yaml

from kfm_mlflow.authoring.described import (
    ReleaseFiles,
    model_metadata,
    release_fact,
    tensor_entries,
    write_documents,
    write_screening,
)
from kfm_mlflow.authoring.evidence_files import telemetry
from kfm_mlflow.authoring.imported_spec import INDEX_PATH
from kfm_mlflow.canonical import write_bytes, write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.packages import resolved_packages

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.authoring.imported_spec import ImportedSpec
    from kfm_mlflow.metadata.facts import TensorFact
    from kfm_mlflow.release.manifest import Manifest

DEFAULT_CARE = {
    # No detail finer than the coarsest cell: whoever's answers name places must say something else.
    "masking": "h3_r0",
    "scope": "public-generalized",
    "notes": ["Answers tasks with text and numbers; publishes no map, no grid and no place."],
    "authority": None,
    "labels": [],
    "h3_max_resolution": 0,
}
_FRAMEWORK = "kfm-mlflow"
# What loading needs; recorded with the versions that are installed.
_REQUIREMENTS = ("kfm-mlflow", "mlflow", "numpy", "safetensors")
_KINDS = {".npz": "npz", ".safetensors": "safetensors"}
_COLUMN_TYPES = {
    "string": "string", "boolean": "boolean", "int32": "integer", "int64": "long",
    "float32": "float", "float64": "double",
}  # fmt: skip


def _schema(facts: tuple[TensorFact, ...], *, where: str) -> Any:
    """Return MLflow's schema: tensors, or a table where one is text or may be left out."""
    import numpy as np
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    if not any(fact.dtype == "string" or fact.optional for fact in facts):
        return Schema([TensorSpec(np.dtype(f.dtype), f.shape, f.name) for f in facts])
    columns = []
    for fact in facts:
        if fact.dtype not in _COLUMN_TYPES:
            raise InputError(
                f"{fact.dtype!r} is no type of a column",
                where=f"{where}: {fact.name}",
                remedy=f"use one of {', '.join(_COLUMN_TYPES)}",
            )
        kind: Any = _COLUMN_TYPES[fact.dtype]
        for _ in fact.shape[1:]:
            kind = Array(kind)
        columns.append(ColSpec(kind, fact.name, required=not fact.optional))
    return Schema(columns)


def _write_model(spec: ImportedSpec, root: Path) -> tuple[str, ...]:
    """Copy the units, write MLflow's files, and return the paths of the units' files."""
    import mlflow
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature

    copied: list[str] = []
    for unit in sorted(spec.units, key=lambda one: one.role):
        for path, source in unit.files().items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            copied.append(path)
    installed = {p.name: p.version for p in resolved_packages(None)}
    lines = [f"{name}=={installed[name]}\n" for name in _REQUIREMENTS if name in installed]
    write_bytes(root / "requirements.txt", "".join(lines).encode())
    env = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    write_bytes(root / "python_env.yaml", yaml.safe_dump(env, sort_keys=False).encode())
    # MLflow puts a random id and its own clock into MLmodel; a release must be the same again.
    model = Model(
        model_uuid=uuid.uuid5(uuid.NAMESPACE_URL, f"{spec.name}@{spec.version}").hex,
        utc_time_created=spec.released_at.replace(tzinfo=None),
        signature=ModelSignature(
            _schema(spec.inputs, where="inputs"), _schema(spec.outputs, where="outputs")
        ),
    )
    mlflow.pyfunc.add_to_model(
        model, loader_module=spec.loader_module, python_env="python_env.yaml"
    )
    model.save(str(root / "MLmodel"))
    return tuple(copied)


def _index(spec: ImportedSpec, files: ReleaseFiles, copied: tuple[str, ...]) -> dict[str, Any]:
    return {
        "schema_version": "1",
        "units": [
            {
                "role": unit.role,
                "format": unit.format,
                "parameter_count": unit.parameter_count,
                "parents": sorted(
                    {fact.sha256 for fact in spec.datasets if unit.folder in fact.folders}
                ),
                "files": [
                    {"path": fact.path, "size_bytes": fact.size_bytes, "digest": fact.sha256}
                    for fact in (files.of(path) for path in copied)
                    if fact.path.startswith(unit.folder)
                ],
            }
            for unit in sorted(spec.units, key=lambda one: one.role)
        ],
    }


def _summary(spec: ImportedSpec, copied: tuple[str, ...]) -> dict[str, Any]:
    formats = [
        {"path": path, "kind": _KINDS[suffix]}
        for path in copied
        if (suffix := splitext(path)[1].lower()) in _KINDS
    ]
    return {
        "schema_version": "1",
        "parameter_count": _parameter_count(spec),
        "layers": [
            {"name": unit.role, "kind": unit.format, "parameter_count": unit.parameter_count}
            for unit in sorted(spec.units, key=lambda one: one.role)
        ],
        "metrics": dict(spec.metrics),
        "formats": [{"path": INDEX_PATH, "kind": "other"}, *formats],
        "onnx_max_relative_difference": None,
    }


def _parameter_count(spec: ImportedSpec) -> int:
    return sum(unit.parameter_count for unit in spec.units)


def compose_imported(spec: ImportedSpec, root: Path, *, regions: Path | None = None) -> Manifest:
    """Write a whole release into an empty directory.

    Args:
        spec: What the release is.
        root: Directory that does not exist yet.
        regions: GeoJSON of sovereign regions; None takes the packaged, illustrative extents.

    Returns:
        The manifest; its ``release_id`` names the release.

    Raises:
        InputError: Something in the specification is wrong, or a unit holds no plain files.
    """
    copied = _write_model(spec, root)
    files = ReleaseFiles(root)
    write_json(root / INDEX_PATH, _index(spec, files, copied))
    write_json(root / "model_summary.json", _summary(spec, copied))
    if spec.energy is not None:
        write_json(root / "telemetry" / "training.json", telemetry(spec, spec.energy))
    for path, value in sorted(spec.documents.items()):
        write_json(root / path, value)
    architecture = spec.architecture or "+".join(sorted(unit.format for unit in spec.units))
    framework = {"name": _FRAMEWORK, "version": version(_FRAMEWORK)}
    tensors = {"inputs": tensor_entries(spec.inputs), "outputs": tensor_entries(spec.outputs)}
    metadata = model_metadata(
        spec, files.of(INDEX_PATH), tensors, architecture=architecture, framework=framework
    )
    write_json(root / "model_metadata.json", metadata)
    grid = {"bbox": list(spec.bbox), "h3_resolution": 0}
    care = {**DEFAULT_CARE, "output_grid": grid, **spec.care}
    status = write_screening(root, care, spec, regions)
    fact = release_fact(
        spec,
        architecture=architecture,
        framework=framework["name"],
        framework_version=framework["version"],
        parameter_count=_parameter_count(spec),
        inputs=spec.inputs,
        outputs=spec.outputs,
        care=care,
        energy_wh=spec.energy.energy_wh if spec.energy else None,
        carbon_gco2e=spec.energy.carbon_gco2e if spec.energy else None,
        screening_status=status,
        weights_path=INDEX_PATH,
        imported=copied,
    )
    return write_documents(root, files, fact, spec)
