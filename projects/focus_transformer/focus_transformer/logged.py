"""Checkpoints in MLflow: one logged model each, with its step and metrics, and the files as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow

from kfm_mlflow.checkpoints.records import CHECKSUMS, MANIFEST, METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.checkpoints.documents import SavedState

FOLDER = "checkpoints"
_METRICS = ("auc", "loss", "bias_index", "faircare_score", "energy_wh", "carbon_gco2e")


def log_checkpoints(root: Path, state: SavedState, name: str) -> None:
    """Log every listed checkpoint of a directory to the active run.

    Metrics have the training's epoch as their step, and name the logged model: the UI charts them,
    and ``mlflow.search_logged_models`` finds the best.

    Args:
        root: Directory of the checkpoints.
        state: What its documents say.
        name: Registered model that is trained for; by this tag a server knows whose weights they
            are, so it is written before them.
    """
    run = mlflow.active_run()
    assert run is not None
    mlflow.set_tags(
        {
            "kfm.registered_name": name,
            "kfm.model_id": state.manifest.model_id,
            "kfm.checkpoints": f"{MANIFEST}, {METRICS}, {CHECKSUMS}",
        }
    )
    rows = {row.id: row for row in state.metrics}
    for entry in state.manifest.checkpoints:
        row = rows[entry.id]
        logged = mlflow.create_external_model(
            name=entry.id,
            source_run_id=run.info.run_id,
            tags={
                "kfm.checkpoint.sha256": entry.checksum_sha256,
                "kfm.checkpoint.file": f"{FOLDER}/{entry.file_name}",
            },
            params={"phase": str(entry.phase), "epoch": str(entry.epoch)},
            model_type="checkpoint",
        )
        values = {name: getattr(row, name) for name in _METRICS}
        mlflow.log_metrics(
            {name: value for name, value in values.items() if value is not None},
            step=entry.epoch,
            model_id=logged.model_id,
        )
    mlflow.log_artifacts(str(root), FOLDER)


def log_documents(root: Path) -> None:
    """Log the documents of a directory to the active run again, as they are now: certified."""
    for path in sorted(root.glob("*.json")):
        mlflow.log_artifact(str(path), FOLDER)
