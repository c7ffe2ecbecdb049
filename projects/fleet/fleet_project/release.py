"""The release script: train, sample, collect, fuse, register, validate.

It plays every part: the providers, whoever collects and fuses what they made, and, in a second
process under another key, the validator. ``kfm fleet collect`` and ``kfm fleet fuse`` do the middle
of it alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from fleet_project.defects import DEFECTS, NONE, check_defect
from fleet_project.samples import PROBES_FILE, write_samples
from fleet_project.scripts import GENERATED, train_on, whole_number
from fleet_project.sizes import SIZES
from kfm_mlflow.authoring.project import find_key
from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.collect import collect
from kfm_mlflow.fleet.fused import REJECTIONS_FILE, RELEASE_FILE
from kfm_mlflow.fleet.fusion import Fused, Limits, fuse
from kfm_mlflow.fleet.manifest import load_manifests
from kfm_mlflow.fleet.registering import Terms, register_artifact, register_fused
from kfm_mlflow.fleet.stores import parse_stores
from kfm_mlflow.fleet.stores_fetch import Trust
from kfm_mlflow.trust.keys import TrustedKey, load_private_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.fleet.registering import Registration

KANSAS = (-102.06, 36.99, -94.58, 40.01)
PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Asked:
    """What the options say, checked."""

    data: str
    size: str
    seed: int
    trainer: Path
    validator: Path
    defect: str
    output: Path


def _options() -> Asked:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=GENERATED, help="generated, or a CSV file of tasks")
    parser.add_argument("--size", default="default", choices=tuple(SIZES))
    parser.add_argument("--seed", type=whole_number, default=42)
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), help="holds trainer.pem and validator.pem"
    )
    parser.add_argument("--defect", default=NONE, help=f"{NONE}, {', '.join(DEFECTS)}")
    parser.add_argument("--output", type=Path, default=Path("fleet-release"), help="a new folder")
    given = parser.parse_args()
    check_defect(given.defect)
    output = given.output.resolve()
    if output.exists():
        remedy = "remove it, or name a new folder: -P output=FOLDER"
        raise InputError("is there already", where=str(output), remedy=remedy)
    return Asked(
        given.data,
        given.size,
        given.seed,
        find_key(given.keys, "trainer"),
        find_key(given.keys, "validator"),
        given.defect,
        output,
    )


def sample(asked: Asked) -> list[Path]:
    """Train, and write the providers' samples; return their manifests."""
    with mlflow.start_run():
        mlflow.log_params({"size": asked.size, "defect": asked.defect})
        task_count = SIZES[asked.size].task_count
        fleet = train_on(asked.data, task_count, asked.seed, asked.output / "trained")
    return write_samples(
        asked.output / "samples",
        size=SIZES[asked.size],
        seed=asked.seed,
        defect=asked.defect,
        key=asked.trainer,
        fleet=fleet,
    )


def collect_and_fuse(asked: Asked, manifests: Sequence[Path]) -> tuple[Fused, list[Registration]]:
    """Collect what the manifests name, register every artifact, and the release fused of them.

    Raises:
        InputError: An artifact was refused, or a provider has none that passes.
    """
    samples, artifacts = asked.output / "samples", asked.output / "artifacts"
    signer = TrustedKey("trainer", load_private_key(asked.trainer).public_key.pem)
    known = load_manifests(manifests)
    stores = parse_stores([f"file://{samples}"])
    found = collect(known, stores, artifacts, Trust((signer,), datetime.now(UTC)))
    fused = fuse(known, Limits())
    write_json(asked.output / REJECTIONS_FILE, fused.rejections_document())
    if found.findings or not fused.is_complete:
        problems = (*found.findings, *fused.findings)
        raise InputError("; ".join(str(one) for one in problems), where="fused release")
    write_json(asked.output / RELEASE_FILE, fused.release_document())
    terms = Terms(asked.trainer, KANSAS, samples / PROBES_FILE)
    made = [register_artifact(one, terms) for one in found.fetched]
    made.append(register_fused(fused, artifacts, terms))
    return fused, made


def main() -> None:
    """Run the whole story."""
    asked = _options()
    manifests = sample(asked)
    fused, made = collect_and_fuse(asked, manifests)
    for rejection in fused.rejections:
        report = asked.output / REJECTIONS_FILE
        print(f"rejected {rejection.judged.artifact.id}: see {report}", flush=True)
    client = mlflow.tracking.MlflowClient()
    run_ids = []
    for one in made:
        print(f"registered {one.name} v{one.version}", flush=True)
        run_ids.append(client.get_model_version(one.name, str(one.version)).run_id)
    arguments = ["--run-id", *run_ids, "--key", str(asked.validator)]
    subprocess.run([sys.executable, str(PROJECT / "validate.py"), *arguments], check=True)
