"""The validator's script: ask a release probes of the validator's own, sign and log what was found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from fleet_project.samples import USD_PER_CPU_HOUR
from fleet_project.scripts import GENERATED, whole_number
from fleet_project.tasks import probe_set
from kfm_mlflow import log_imported_validation
from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.loading import load_fleet_model
from kfm_mlflow.fleet.probes import ProbeSet, load_probes, measure_release
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from kfm_mlflow.authoring.validated import LoggedValidation

OWN_SEED = 7961
"""Of the validator's probes: neither training nor a release has them."""
_PROBE_COUNT = 600
_TWICE_COUNT = 64


def validate(run_id: str, probes: ProbeSet, data: dict[str, str], key: Path) -> LoggedValidation:
    """Measure the release of a run, sign and log what was found.

    Args:
        run_id: MLflow run that holds the release, of an artifact or fused.
        probes: What it is asked.
        data: What they are called, without their digest.
        key: The validator's private key.
    """

    def answers(release_dir: Path) -> list[dict[str, Any]]:
        asked = [{"task": probe.task} for probe in probes.probes[:_TWICE_COUNT]]
        return load_fleet_model(release_dir).predict(asked)

    return log_imported_validation(
        run_id,
        measure=lambda release_dir: measure_release(release_dir, probes, USD_PER_CPU_HOUR),
        answers=answers,
        data={**data, "digest": digest_json(probes.to_dict())},
        validator_key=key,
    )


def main() -> None:
    """Make or read the probes, measure, sign and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True, nargs="+", help="one or more runs")
    parser.add_argument("--data", default=GENERATED, help="generated, or a fleet-probes file")
    parser.add_argument("--seed", type=whole_number, default=OWN_SEED, help="of generated probes")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument(
        "--post", default="no", help="models:/NAME/VERSION: send it to the registry, too"
    )
    given = parser.parse_args()
    if given.post != "no" and len(given.run_id) > 1:
        raise InputError("is for one run", where="--post", remedy="validate one at a time")
    if given.data == GENERATED:
        probes, name = probe_set(_PROBE_COUNT, seed=given.seed), f"generated, seed {given.seed}"
    else:
        probes, name = load_probes(Path(given.data)), Path(given.data).name
    named = {"name": "fleet-probes", "uri": name}
    for run_id in given.run_id:
        _report(validate(run_id, probes, named, given.key), given.post)


def _report(found: LoggedValidation, post: str) -> None:
    """Print what was found, and send it to the registry where that was asked."""
    if post != "no":
        model, version = parse_model_uri(post)
        RemoteRegistry(mlflow.get_tracking_uri()).attest(model, version, found.envelope)
    metrics = found.metrics
    print(
        f"validated {found.release_id}: quality {metrics['quality']:.3f}, "
        f"safety {metrics['safety']:.3f}, p95 {metrics['latency_ms_p95']:.2f} ms, "
        f"deterministic {found.is_deterministic}"
    )
