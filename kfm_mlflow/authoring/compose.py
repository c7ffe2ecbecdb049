"""Composing a release: every document written in the order in which one rests on the other.

Model files first, then what is measured on them, then CARE, metadata and card, then lineage and
bill of materials, and last the STAC item, which lists the checksum of everything else. Nothing
here asks the clock or the network; the same specification gives the same bytes, apart from the
measured telemetry.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.authoring.described import (
    ReleaseFiles,
    model_metadata,
    release_fact,
    tensor_entries,
    write_documents,
    write_screening,
)
from kfm_mlflow.authoring.evidence_files import drift_baseline, model_summary, telemetry
from kfm_mlflow.authoring.export import (
    INPUT_NAME,
    MAX_RELATIVE_DIFFERENCE,
    OUTPUT_NAME,
    export_onnx,
    onnx_difference,
    save_state,
)
from kfm_mlflow.authoring.spec import REPLACEABLE
from kfm_mlflow.canonical import write_bytes, write_json
from kfm_mlflow.care.modes import MODES, mode_resolution
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.facts import TensorFact
from kfm_mlflow.metadata.packages import resolved_packages
from kfm_mlflow.monitor.attribution import integrated_gradients_summary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from kfm_mlflow.authoring.spec import ReleaseSpec
    from kfm_mlflow.metadata.facts import ReleaseFact
    from kfm_mlflow.release.manifest import Manifest

_XAI_ROWS = 32
# What inference needs; recorded with the versions that are installed.
_REQUIREMENTS = ("mlflow", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")


def _answers(spec: ReleaseSpec) -> NDArray[np.float32]:
    import torch

    try:
        with torch.no_grad():
            answers: NDArray[np.float32] = spec.model.eval()(torch.from_numpy(spec.inputs)).numpy()
    except Exception as exc:
        # A module runs its author's code, which raises whatever it likes.
        raise EvidenceError(
            f"cannot answer the given inputs ({' '.join(str(exc).split())[:300]})",
            where=type(spec.model).__name__,
            remedy="give a module on the CPU that takes and returns one float32 tensor [n, …]",
        ) from exc
    if answers.dtype != np.float32 or answers.shape[:1] != spec.inputs.shape[:1]:
        raise EvidenceError(
            f"answers {answers.dtype} {list(answers.shape)}, not float32 [{len(spec.inputs)}, …]",
            where=type(spec.model).__name__,
        )
    if not np.isfinite(answers).all():
        raise EvidenceError("answers NaN or infinity on the given inputs", where=spec.name)
    return answers


def _write_model(spec: ReleaseSpec, root: Path, outputs: NDArray[np.float32]) -> float:
    """Write MLflow's files, model.onnx and model.pt; return how far the two models differ."""
    import mlflow
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    proto = export_onnx(spec.model, spec.inputs.shape[1:])
    difference = onnx_difference(spec.model, proto.SerializeToString(), spec.inputs)
    if not difference <= MAX_RELATIVE_DIFFERENCE:
        raise EvidenceError(
            f"ONNX differs from torch by {difference:.3g}, allowed is {MAX_RELATIVE_DIFFERENCE:g}",
            where="model.onnx",
            remedy="export operations that onnxruntime computes alike",
        )
    schemas = [
        Schema([TensorSpec(np.dtype("float32"), (-1, *array.shape[1:]), name)])
        for name, array in ((INPUT_NAME, spec.inputs), (OUTPUT_NAME, outputs))
    ]
    installed = {p.name: p.version for p in resolved_packages(None)}
    # MLflow puts a random id and its own clock into MLmodel; a release must be the same again.
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{spec.name}@{spec.version}").hex
    mlflow.onnx.save_model(
        proto,
        str(root),
        signature=ModelSignature(*schemas),
        # One file, not a second one under a random name; the CPU is what every reader has.
        save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
        mlflow_model=Model(
            model_uuid=identity, utc_time_created=spec.released_at.replace(tzinfo=None)
        ),
        pip_requirements=[f"{n}=={installed[n]}" for n in _REQUIREMENTS if n in installed],
    )
    save_state(spec.model, spec.config, root / spec.contents.model_file)
    for path, part in sorted(spec.contents.parts.items()):
        save_state(part, spec.config, root / path)
    for path, source in sorted(spec.contents.files.items()):
        write_bytes(root / path, source.read_bytes())
    return difference


def _write_evidence(
    spec: ReleaseSpec, root: Path, outputs: NDArray[np.float32], difference: float
) -> dict[str, Any]:
    """Write what is measured on the model, and what the family adds; return the explanation."""
    given = spec.contents.documents

    def written(path: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        value = given[path] if path in given else make()
        if value is not None:
            write_json(root / path, value)
        return value or {}

    xai = written(
        "xai/summary.json",
        lambda: integrated_gradients_summary(
            spec.model, spec.inputs[:_XAI_ROWS], seed=spec.run.seed, baseline=spec.baseline
        ),
    )
    written("telemetry/training.json", lambda: telemetry(spec, spec.energy))
    written("drift/baseline.json", lambda: drift_baseline(spec.inputs, outputs))
    write_json(root / "model_summary.json", model_summary(spec, difference))
    for path, value in sorted(given.items()):
        if path not in REPLACEABLE:
            write_json(root / path, value)
    return xai


def _tensors(spec: ReleaseSpec, outputs: NDArray[np.float32]) -> tuple[TensorFact, TensorFact]:
    given, answer = (
        TensorFact(name, "float32", (-1, *rows.shape[1:]), spec.dims_of(rows))
        for name, rows in ((INPUT_NAME, spec.inputs), (OUTPUT_NAME, outputs))
    )
    return given, answer


def care_block(spec: ReleaseSpec) -> dict[str, Any]:
    """Return the CARE block of a release: the family's default masking unless it says otherwise."""
    named = f"h3-{spec.family.split('-')[0]}-generalized"
    masking = named if named in MODES else "h3-generalized"
    block: dict[str, Any] = {
        "masking": masking,
        "scope": "public-generalized",
        "notes": ["Outputs are generalised where sovereign regions ask for it."],
        "authority": None,
        "labels": [],
        "h3_max_resolution": mode_resolution(masking),
        **spec.care,
    }
    if spec.cell_size_deg is not None:
        block.setdefault(
            "output_grid", {"bbox": list(spec.bbox), "cell_size_deg": spec.cell_size_deg}
        )
    return block


def _release_fact(
    spec: ReleaseSpec,
    tensors: tuple[TensorFact, TensorFact],
    care: dict[str, Any],
    xai: dict[str, Any],
    status: str,
) -> ReleaseFact:
    import torch

    return release_fact(
        spec,
        architecture=type(spec.model).__name__,
        framework="PyTorch",
        framework_version=torch.__version__,
        parameter_count=sum(p.numel() for p in spec.model.parameters()),
        inputs=tensors[:1],
        outputs=tensors[1:],
        care=care,
        energy_wh=spec.energy.energy_wh,
        carbon_gco2e=spec.energy.carbon_gco2e,
        screening_status=status,
        explainability={
            key: xai[key] for key in ("method", "library", "sample_count", "seed") if key in xai
        },
        weights_path=spec.contents.model_file,
        domains=spec.contents.domains,
        fusion_dimension=spec.contents.fusion_dimension,
        sovereignty_notes=spec.contents.sovereignty_notes,
    )


def compose_release(spec: ReleaseSpec, root: Path, *, regions: Path | None = None) -> Manifest:
    """Write a whole release into an empty directory.

    Args:
        spec: What the release is.
        root: Directory that does not exist yet.
        regions: GeoJSON of sovereign regions; None takes the packaged, illustrative extents.

    Returns:
        The manifest; its ``release_id`` names the release.

    Raises:
        EvidenceError: The model cannot be exported, or its two forms disagree.
        InputError: Something in the specification is wrong.
    """
    import torch

    outputs = _answers(spec)
    difference = _write_model(spec, root, outputs)
    if not spec.metrics:
        # Card, summary and STAC item must name a number; this one was measured here.
        spec = replace(spec, metrics={"onnx_max_relative_difference": difference})
    xai = _write_evidence(spec, root, outputs, difference)
    files, tensors = ReleaseFiles(root), _tensors(spec, outputs)
    metadata = model_metadata(
        spec,
        files.of(spec.contents.model_file),
        {"inputs": tensor_entries(tensors[:1]), "outputs": tensor_entries(tensors[1:])},
        architecture=type(spec.model).__name__,
        framework={"name": "pytorch", "version": torch.__version__},
    )
    write_json(root / "model_metadata.json", metadata)
    care = care_block(spec)
    status = write_screening(root, care, spec, regions)
    fact = _release_fact(spec, tensors, care, xai, status)
    return write_documents(root, files, fact, spec, item_path=spec.contents.item_path)
