"""The validator's script: make the rows again, measure, sign and log."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import mlflow

from focus_mode.checks import inspect_release
from focus_mode.draft import MODEL_FILE, one_row_per_cell
from focus_mode.prepared import prepare_again
from focus_mode.release import headline
from focus_mode.reserved import care_evidence
from focus_mode.restore import load_focus_model
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.authoring.project import (
    add_validation_options,
    recorded_metadata,
    require_recorded_data,
)
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from focus_mode.prepared import Prepared
    from kfm_mlflow.authoring.validated import LoggedValidation

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
    add_validation_options(parser)
    options = parser.parse_args()
    metadata = recorded_metadata(options.run_id)
    split = metadata["hyperparameters"].get("split") or {}
    prepared = prepare_again(split, options.data, options.regions)
    require_recorded_data(metadata, prepared.whole.digest, prepared.uri)
    found = validate(options.run_id, prepared, options.key, seed=int(split["seed"]))
    if options.post != "no":
        name, version = parse_model_uri(options.post)
        RemoteRegistry(mlflow.get_tracking_uri()).attest(name, version, found.envelope)
    print(
        f"validated {found.release_id}: {headline(found.metrics)}, "
        f"deterministic {found.is_deterministic}"
    )
