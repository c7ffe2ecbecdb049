"""Validate a logged release in a process of its own, under the validator's key."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

import mlflow

from care_evidence import care_evidence
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.authoring.project import (
    add_validation_options,
    recorded_metadata,
    require_recorded_data,
)
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import KfmError
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from restore import load_torch
from task import prepare_again, regions_path

_TWICE_COUNT = 32


def main() -> None:
    """Split the data as recorded, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_validation_options(parser)
    parser.add_argument("--drift-report", default="no", choices=("no", "yes"))
    options = parser.parse_args()
    metadata = recorded_metadata(options.run_id)
    split = metadata["hyperparameters"].get("split") or {}
    prepared = prepare_again(split, options.data)
    source = prepared.source
    require_recorded_data(metadata, source.digest, source.uri)
    regions = load_regions(regions_path(options.regions))
    rows = prepared.validation_rows
    explained = rows if prepared.explained is None else prepared.explained.held
    found = log_validation(
        options.run_id,
        evaluate=prepared.evaluate,
        inputs=explained[:_TWICE_COUNT],
        data={
            "name": source.name,
            "uri": source.uri,
            "digest": source.digest,
            "selection": prepared.selections[1],
        },
        validator_key=options.key,
        care=care_evidence(prepared, regions, datetime.now(UTC), seed=int(split["seed"])),
        load_model=lambda release: load_torch(release / "model.pt", str(split["task"])),
        current=CurrentInputs(rows, has_report=options.drift_report == "yes"),
    )
    if options.post != "no":
        name, version = parse_model_uri(options.post)
        RemoteRegistry(mlflow.get_tracking_uri()).attest(name, version, found.envelope)
    print(
        f"validated {found.release_id}: {prepared.headline(found.metrics)}, "
        f"deterministic {found.is_deterministic}"
    )


if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
