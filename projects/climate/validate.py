"""Validate a logged release in a process of its own, under the validator's key."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import mlflow

from care_evidence import care_evidence
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.canonical import load_json
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import DataError, KfmError
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from restore import load_torch
from task import prepare_again, regions_path

_TWICE_COUNT = 32


def main() -> None:
    """Split the data as recorded, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--data", default="generated")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--regions", default="packaged", help="packaged, or a regions file")
    parser.add_argument(
        "--post", default="no", help="models:/NAME/VERSION: send it to the registry, too"
    )
    parser.add_argument("--drift-report", default="no", choices=("no", "yes"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{options.run_id}/release/model_metadata.json", dst_path=folder
        )
        metadata = load_json(Path(path))
    split = metadata["hyperparameters"].get("split") or {}
    prepared = prepare_again(split, options.data)
    source = prepared.source
    recorded = {item["digest"] for item in metadata["data"]}
    if source.digest not in recorded:
        raise DataError(
            "is not the data that the release was made from",
            where=source.uri,
            remedy="give the recorded data",
        )
    regions = load_regions(regions_path(options.regions))
    rows = prepared.validation_rows
    found = log_validation(
        options.run_id,
        evaluate=prepared.evaluate,
        inputs=rows[:_TWICE_COUNT],
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
