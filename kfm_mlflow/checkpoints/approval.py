"""Writing down that a council certified a checkpoint: certificate first, then who reviewed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    EXPLAINABILITY,
    GOVERNANCE,
    MANIFEST,
    CheckpointsManifest,
    read_record,
    record_json,
)
from kfm_mlflow.checkpoints.saving import hold_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def approve(root: Path, certificate: Mapping[str, Any]) -> None:
    """Write a certificate that was found to hold, and then the documents that rest on it.

    Killed between two of them, the directory still says that it is not approved: the manifest is
    written last.

    Args:
        root: Directory of the checkpoints.
        certificate: With ``checkpoint_id`` and the ``record`` of who reviewed it.

    Raises:
        ConflictError: A trainer is writing here.
        EvidenceError: A document cannot be read.
    """
    record = certificate["record"]
    said = {"reviewed_by": record["reviewed_by"], "auditor": record["auditor"]}
    with hold_directory(root):
        manifest = read_record(CheckpointsManifest, root / MANIFEST)
        manifest.entry(str(certificate["checkpoint_id"]))
        write_json(root / CERTIFICATE, dict(certificate))
        governance = load_json(root / GOVERNANCE)
        write_json(
            root / GOVERNANCE,
            {
                **governance,
                **said,
                "ledger_id": record["ledger_id"],
                "status": record["status"],
                "models_certified": [certificate["checkpoint_id"]],
                # A council's word on the bytes makes no violation undone.
                "ethics_status": governance["ethics_status"]
                if governance.get("violations")
                else "approved",
            },
        )
        explained = load_json(root / EXPLAINABILITY)
        write_json(
            root / EXPLAINABILITY,
            {**explained, "reviewed_by": said["reviewed_by"], "status": record["status"]},
        )
        approved = manifest.model_copy(update={**said, "approved": True})
        write_json(root / MANIFEST, record_json(approved))
