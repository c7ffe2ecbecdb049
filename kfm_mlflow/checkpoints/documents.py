"""What lies beside the checkpoints of a training: read back, and written with each one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import write_json
from kfm_mlflow.checkpoints.records import (
    CHECKSUMS,
    EXPLAINABILITY,
    GOVERNANCE,
    MANIFEST,
    METRICS,
    TELEMETRY,
    CheckpointMetrics,
    CheckpointsManifest,
    ChecksumEntry,
    ChecksumRegistry,
    MetricsEntry,
    read_record,
    record_json,
)
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What was measured when a checkpoint was made.

    Attributes:
        auc: On held-out rows, 0..1.
        loss: Mean training loss of the epoch.
        bias_index: 0 is none; see the project.
        energy_wh: Of the whole training so far.
        carbon_gco2e: The same.
        elapsed_s: Training time so far.
        explained: ``methods``, ``top_features``, ``attention_stability`` and
            ``explainability_stability`` of ``explainability_summary.json``.
    """

    auc: float
    loss: float
    bias_index: float
    energy_wh: float
    carbon_gco2e: float
    elapsed_s: float
    explained: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What is the same for all checkpoints of a training.

    Attributes:
        model_id: For example ``focus_transformer_v2``.
        version: Release version that is trained for.
        planned_epochs: Epochs of all phases.
        intensity_g_per_kwh: Carbon factor that the measurements used.
        intensity_source: Where it comes from.
        energy_method: ``measured`` or ``estimated``.
        datasets: Digests of what is trained and measured on, ``name`` -> ``sha256:<hex>``.
        limits: Name -> greatest or least allowed, as the policy says; recorded beside the findings.
        audit: Turns what was measured into a FAIR+CARE score 0..100 and ethics violations.
    """

    model_id: str
    version: str
    planned_epochs: int
    intensity_g_per_kwh: float
    intensity_source: str
    energy_method: str
    datasets: Mapping[str, str]
    audit: Callable[[Measured], tuple[float, tuple[str, ...]]]
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedState:
    """What the documents of a directory say: the rows of all checkpoints, in order."""

    manifest: CheckpointsManifest
    metrics: tuple[MetricsEntry, ...] = ()
    checksums: tuple[ChecksumEntry, ...] = ()
    latest_instant: str = ""


def read_state(root: Path, training: Training) -> SavedState:
    """Read what a directory holds; an empty one holds nothing yet.

    Raises:
        EvidenceError: A document does not parse.
        InputError: It is the directory of another model or version.
    """
    path = root / MANIFEST
    if not path.is_file():
        return SavedState(
            CheckpointsManifest(
                model_id=training.model_id,
                version=training.version,
                checkpoints=(),
                planned_epochs=training.planned_epochs,
            )
        )
    manifest = read_record(CheckpointsManifest, path)
    theirs = (manifest.model_id, manifest.version, manifest.planned_epochs)
    ours = (training.model_id, training.version, training.planned_epochs)
    if theirs != ours:
        raise InputError(
            f"is of {theirs[0]} {theirs[1]} with {theirs[2]} epochs, "
            f"not of {ours[0]} {ours[1]} with {ours[2]}",
            where=str(path),
            remedy="give each training a directory of its own",
        )
    listed = {entry.id: entry for entry in manifest.checkpoints}
    metrics = read_record(CheckpointMetrics, root / METRICS).checkpoints
    files = read_record(ChecksumRegistry, root / CHECKSUMS).files
    names = {entry.file_name for entry in listed.values()}
    # Rows about a checkpoint that the manifest did not come to list are written again.
    kept = tuple(row for row in metrics if row.id in listed)
    return SavedState(
        manifest,
        kept,
        tuple(row for row in files if row.file in names),
        max((row.timestamp for row in metrics), default=""),
    )


def write_documents(
    root: Path,
    training: Training,
    after: SavedState,
    measured: Measured,
    violations: tuple[str, ...],
) -> None:
    """Write every document of a directory, the manifest last.

    Args:
        root: The directory; all checkpoints that ``after`` lists are in it.
        training: What is the same for all checkpoints.
        after: Rows of all checkpoints, the new one last.
        measured: At the new one.
        violations: Of ethics, one sentence each.
    """
    latest = after.manifest.checkpoints[-1]
    write_json(
        root / CHECKSUMS,
        record_json(ChecksumRegistry(model_id=training.model_id, files=after.checksums)),
    )
    write_json(
        root / METRICS,
        record_json(
            CheckpointMetrics(
                model_id=training.model_id,
                version=training.version,
                checkpoints=after.metrics,
            )
        ),
    )
    shared = {
        "schema_version": "1",
        "bias_index": measured.bias_index,
        "faircare_score": latest.faircare_score,
        "energy_wh": measured.energy_wh,
        "carbon_gco2e": measured.carbon_gco2e,
        "timestamp": after.latest_instant,
    }
    write_json(
        root / TELEMETRY,
        {
            **shared,
            "model_id": training.model_id,
            "version": training.version,
            "training_time_min": measured.elapsed_s / 60.0,
            "carbon_intensity_g_per_kwh": training.intensity_g_per_kwh,
            "carbon_intensity_source": training.intensity_source,
            "energy_method": training.energy_method,
            "metrics_logged": ["auc", "loss", "bias_index", "faircare_score", "energy_wh"],
            "governance_ref": GOVERNANCE,
        },
    )
    write_json(
        root / GOVERNANCE,
        {
            **shared,
            "governance_id": f"{training.model_id}-{training.version}-checkpoints",
            "workflow": "save, measure, audit, review, certify",
            "datasets_reviewed": dict(training.datasets),
            "models_certified": [],
            "ethics_status": "violations" if violations else "no-violation-found",
            "violations": list(violations),
            "limits": dict(training.limits),
            "reviewed_by": None,
            "auditor": None,
            "telemetry_ref": TELEMETRY,
            "care_tag": "restricted",
        },
    )
    write_json(
        root / EXPLAINABILITY,
        {
            **shared,
            "model": training.model_id,
            "version": training.version,
            **measured.explained,
            "reviewed_by": None,
            "status": "computed",
            "telemetry_ref": TELEMETRY,
        },
    )
    write_json(root / MANIFEST, record_json(after.manifest))
