"""Validate a logged release in a process of its own, under the validator's key."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np

from downscaling.evaluate import evaluate
from kfm_mlflow import CurrentInputs, log_validation
from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError, KfmError
from task import cut, open_fields, parse_cut

_TWICE_COUNT = 32


def main() -> None:
    """Cut the recorded validation patches again, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--data", default="generated")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--drift-report", default="no", choices=("no", "yes"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{options.run_id}/release/model_metadata.json", dst_path=folder
        )
        metadata = load_json(Path(path))
    fields, uri = open_fields(options.data)
    recorded = {item["digest"] for item in metadata["data"]}
    if fields.digest not in recorded:
        raise DataError(
            "is not the data that the release was made from",
            where=uri,
            remedy="give the recorded data",
        )
    how = parse_cut(metadata["hyperparameters"]["patches"])
    validation = cut(fields, how).validation
    found = log_validation(
        options.run_id,
        evaluate=lambda predict: evaluate(predict, validation),
        inputs=np.ascontiguousarray(validation.coarse[:_TWICE_COUNT]),
        data={"name": fields.name, "uri": uri, "digest": fields.digest, "selection": how.selection},
        validator_key=options.key,
        current=CurrentInputs(
            np.ascontiguousarray(validation.coarse), has_report=options.drift_report == "yes"
        ),
    )
    print(
        f"validated {found.release_id}: nrmse {found.metrics['nrmse']:.4f}, deterministic {found.is_deterministic}"
    )


if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
