"""The validator's script: make the sequences again, measure, compare weights, sign and log."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np

from focus_transformer.logged import FOLDER
from focus_transformer.prepared import Prepared, prepare
from focus_transformer.restore import load_transformer, same_weights
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.authoring.project import (
    add_validation_options,
    recorded_metadata,
    require_recorded_data,
)
from kfm_mlflow.authoring.validation import Inspected
from kfm_mlflow.care.screen_measured import count_training_rows
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.state import load_checkpoint
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import COLUMN_NAMES
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from kfm_mlflow.authoring.validation import OpenedRelease

_TWICE_COUNT = 32


def inspect(opened: OpenedRelease) -> Inspected:
    """Verify the release's checkpoints, and hold its model against the last one, bit by bit."""
    root = opened.release_dir / FOLDER
    found = verify_directory(root)
    if not found.entries:
        raise DataError("holds no checkpoints", where=FOLDER, remedy="release it anew")
    last = found.entries[-1]
    state = load_checkpoint(root / last.file_name, last.checksum_sha256)
    is_same = opened.model is not None and same_weights(opened.model, state["model"])  # type: ignore[arg-type]  # load_model gives the transformer
    return Inspected(
        metrics={
            "checkpoint_finding_count": float(len(found.findings)),
            "checkpoint_weights_equal": float(is_same),
        }
    )


def _care(prepared: Prepared) -> dict[str, Any]:
    """Count training months in regions; sequences of one place have nothing to exchange with others."""
    flat = prepared.learned.rows.reshape(-1, len(COLUMN_NAMES)).astype(float)
    latitude, longitude = (
        flat[:, COLUMN_NAMES.index(name)] for name in ("latitude_deg", "longitude_deg")
    )
    return {
        "regions_digest": prepared.rows.regions.digest,
        "training_rows": count_training_rows(latitude, longitude, prepared.rows.regions),
    }


def main() -> None:
    """Make the sequences as recorded, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_validation_options(parser)
    options = parser.parse_args()
    metadata = recorded_metadata(options.run_id)
    split = metadata["hyperparameters"].get("split") or {}
    prepared = prepare(
        options.data,
        size=str(split.get("size")),
        seed=int(split.get("seed", 0)),
        regions=options.regions,
    )
    whole, held = prepared.rows.whole, prepared.held.rows
    require_recorded_data(metadata, whole.digest, prepared.rows.uri)
    found = log_validation(
        options.run_id,
        evaluate=prepared.evaluate,
        inputs=held[:_TWICE_COUNT],
        data={
            "name": whole.name,
            "uri": prepared.rows.uri,
            "digest": whole.digest,
            "selection": prepared.rows.selections["validation"],
        },
        validator_key=options.key,
        care=lambda *_: _care(prepared),
        load_model=lambda release: load_transformer(release / "model.pt"),
        inspect=inspect,
        current=CurrentInputs(_one_per_place(prepared), has_report=False),
    )
    if options.post != "no":
        name, version = parse_model_uri(options.post)
        RemoteRegistry(mlflow.get_tracking_uri()).attest(name, version, found.envelope)
    print(
        f"validated {found.release_id}: AUC {found.metrics['auc']:.3f}, "
        f"logistic regression {found.metrics['auc_logistic']:.3f}, "
        f"deterministic {found.is_deterministic}"
    )


def _one_per_place(prepared: Prepared) -> Any:
    """Return the last sequence of each held-out place: others of it are not independent."""
    last = {cell: k for k, cell in enumerate(prepared.held.cells)}
    return np.ascontiguousarray(prepared.held.rows[sorted(last.values())])
