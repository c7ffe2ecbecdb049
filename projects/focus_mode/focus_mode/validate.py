"""The validator's script: make the rows again, measure, sign and log."""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from focus_mode.checks import inspect_release
from focus_mode.draft import MODEL_FILE, one_row_per_cell
from focus_mode.prepared import prepare_again
from focus_mode.release import headline
from focus_mode.reserved import care_evidence
from focus_mode.restore import load_focus_model
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from focus_mode.prepared import Prepared
    from kfm_mlflow.authoring.validation import LoggedValidation

_TWICE_COUNT = 32
_OWN_SEED = 7919
"""Added to the release's seed: the validator draws rows and noise of its own."""


def validate(run_id: str, prepared: Prepared, key: Path, *, seed: int) -> LoggedValidation:
    """Measure the release of a run, sign and log what was found.

    Args:
        run_id: MLflow run that holds the release.
        prepared: The rows that it was made from.
        key: The validator's private key.
        seed: Of the release.
    """
    world, regions, now = prepared.world, prepared.regions, datetime.now(UTC)
    own = seed + _OWN_SEED
    held_out = world.rows[world.is_held_out]
    current = world.rows[one_row_per_cell(world, seed=own)]
    return log_validation(
        run_id,
        evaluate=lambda _: {},  # all of it needs the release's own files
        inputs=held_out[:_TWICE_COUNT],
        data={
            "name": world.name,
            "uri": prepared.uri,
            "digest": world.digest,
            "selection": prepared.selections["validation"],
        },
        validator_key=key,
        care=lambda predict, _: care_evidence(predict, world, regions, seed=own),
        load_model=lambda release: load_focus_model(release / MODEL_FILE),
        inspect=lambda opened: inspect_release(opened, world, regions, now, seed=own),
        current=CurrentInputs(current, has_report=False),
    )


def main() -> None:
    """Make the rows as recorded, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--data", default="generated")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--regions", default="packaged", help="packaged, or a regions file")
    parser.add_argument(
        "--post", default="no", help="models:/NAME/VERSION: send it to the registry, too"
    )
    options = parser.parse_args()
    metadata = _metadata(options.run_id)
    split = metadata["hyperparameters"].get("split") or {}
    prepared = prepare_again(split, options.data, options.regions)
    if prepared.whole.digest not in {item["digest"] for item in metadata["data"]}:
        raise DataError(
            "is not the data that the release was made from",
            where=prepared.uri,
            remedy="give the recorded data",
        )
    found = validate(options.run_id, prepared, options.key, seed=int(split["seed"]))
    if options.post != "no":
        name, version = parse_model_uri(options.post)
        RemoteRegistry(mlflow.get_tracking_uri()).attest(name, version, found.envelope)
    print(
        f"validated {found.release_id}: {headline(found.metrics)}, "
        f"deterministic {found.is_deterministic}"
    )


def _metadata(run_id: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{run_id}/release/model_metadata.json", dst_path=folder
        )
        found: dict[str, Any] = load_json(Path(path))
        return found
