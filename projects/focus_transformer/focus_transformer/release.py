"""The release script: train to the end of the plan, have the council certify, release, register.

Run again with the same ``--checkpoints``, it goes on where it stopped: a training that was killed is
resumed from its last listed checkpoint, one that waits for its council is looked at again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import torch

from focus_mode.geography import H3_RESOLUTION
from focus_transformer.audit import Facts, audit, restricted_rows
from focus_transformer.logged import FOLDER, log_checkpoints, log_documents
from focus_transformer.prepared import Prepared, prepare
from focus_transformer.training import PLANS, STATE_NAMES, train
from kfm_mlflow import Contents, log_release, measure_energy
from kfm_mlflow.authoring.project import add_release_options, find_key
from kfm_mlflow.canonical import load_json, write_bytes
from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.passages import KM_PER_DEGREE
from kfm_mlflow.checkpoints.approval import approve
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.documents import Measured, Training
from kfm_mlflow.checkpoints.records import CERTIFICATE
from kfm_mlflow.checkpoints.saving import CheckpointWriter
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.certificates import (
    Candidate,
    build_certificate,
    certificate_problems,
    sign_vote,
)
from kfm_mlflow.monitor.energy import grid_intensity
from kfm_mlflow.policy.load import load_policies, load_policy
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from kfm_mlflow.authoring.release import Measurement
    from kfm_mlflow.checkpoints.records import ManifestEntry
    from kfm_mlflow.policy.models import Policy

NAME, FAMILY = "focus-transformer", "focus-transformer"
MODEL_ID = "focus_transformer_v2"
NONE = "none"
PROJECT = Path(__file__).resolve().parents[1]
_VOTE_DAYS = 7


@dataclass(frozen=True)
class Asked:
    """What the options say, checked."""

    name: str
    version: str
    data: str
    size: str
    seed: int
    regions: str
    trainer: Path
    validator: Path
    checkpoints: Path
    policy: Policy
    council: Path | None


def _options() -> Asked:
    parser = argparse.ArgumentParser(description=__doc__)
    add_release_options(parser, name=NAME, data="a CSV file", sizes=tuple(PLANS))
    parser.add_argument(
        "--checkpoints", default="auto", help="folder; auto: checkpoints/NAME-VERSION"
    )
    parser.add_argument(
        "--policy", default="packaged", help="file of the policy whose council certifies"
    )
    parser.add_argument(
        "--council",
        default=NONE,
        help="folder whose council*.pem all vote: one hand for all members, to try it out",
    )
    given = parser.parse_args()
    name = NAME if given.name == "auto" else given.name
    folder = f"checkpoints/{name}-{given.version}"
    return Asked(
        name=name,
        version=given.version,
        data=given.data,
        size=given.size,
        seed=given.seed,
        regions=given.regions,
        trainer=find_key(given.keys, "trainer"),
        validator=find_key(given.keys, "validator"),
        checkpoints=Path(folder if given.checkpoints == "auto" else given.checkpoints),
        policy=load_policies(None).policy(FAMILY)
        if given.policy == "packaged"
        else load_policy(Path(given.policy)),
        council=None if given.council == NONE else Path(given.council),
    )


def training_of(asked: Asked, prepared: Prepared) -> Training:
    """Return what is the same for all checkpoints, and how each is audited."""
    limits = asked.policy.gates.checkpoints
    if limits is None:
        raise InputError(
            "has no gate checkpoints", where="--policy", remedy="extend focus-transformer"
        )
    intensity, source = grid_intensity("USA", "kansas")
    datasets = prepared.rows.datasets()
    facts = Facts(
        model_id=MODEL_ID,
        version=asked.version,
        datasets={item.role: item.digest for item in datasets},
        licences=tuple(item.license for item in datasets),
        intensity_source=source,
        seed=asked.seed,
        weight_roles=asked.policy.access.may_download_weights,
        restricted_row_count=restricted_rows(prepared.learned.rows, prepared.rows.regions),
        kept_names=STATE_NAMES,
        max_energy_wh=limits.max_energy_wh,
        max_carbon_gco2e=limits.max_carbon_gco2e,
        max_bias_index=1.0 if limits.max_bias_index is None else limits.max_bias_index,
    )

    def audited(measured: Measured) -> tuple[float, tuple[str, ...]]:
        return audit(facts, measured)

    return Training(
        model_id=MODEL_ID,
        version=asked.version,
        planned_epochs=PLANS[asked.size].epoch_count,
        intensity_g_per_kwh=intensity,
        intensity_source=source,
        energy_method="estimated",
        datasets=facts.datasets,
        audit=audited,
        limits={
            "max_energy_wh": limits.max_energy_wh,
            "max_carbon_gco2e": limits.max_carbon_gco2e,
            "min_faircare_score": limits.min_faircare_score,
        },
    )


def certify(asked: Asked, entry: ManifestEntry) -> bool:
    """Return whether a quorum certified the last checkpoint, letting a council at hand vote first."""
    now = datetime.now(UTC)
    candidate = Candidate(MODEL_ID, asked.version, entry.id, entry.checksum_sha256)
    path = asked.checkpoints / CERTIFICATE
    held = load_json(path) if path.is_file() else None
    if not certificate_problems(held, candidate, asked.policy, now):
        return True
    votes = asked.checkpoints / "votes"
    for key in sorted(asked.council.glob("council*.pem")) if asked.council else ():
        envelope = sign_vote(
            candidate,
            asked.policy,
            load_private_key(key),
            choice="approve",
            reason="verified, audited and within the limits",
            now=now,
            expires_at=now + timedelta(days=_VOTE_DAYS),
        )
        write_bytes(votes / f"{key.stem}.intoto.json", envelope)
    envelopes = [path.read_bytes() for path in sorted(votes.glob("*.json"))]
    try:
        certificate = build_certificate(
            envelopes, candidate, asked.policy, now, auditor="@kfm-governance"
        )
    except EvidenceError as exc:
        print(f"waiting for the council: {exc}")
        return False
    approve(asked.checkpoints, certificate)
    print(
        f"certified {entry.id} ({entry.checksum_sha256}), "
        f"reviewed by {certificate['record']['reviewed_by']}"
    )
    return True


def main() -> None:
    """Run the whole entry point inside one MLflow run."""
    asked = _options()
    prepared = prepare(asked.data, size=asked.size, seed=asked.seed, regions=asked.regions)
    training, plan = training_of(asked, prepared), PLANS[asked.size]
    with mlflow.start_run() as run:
        with (
            measure_energy() as energy,
            CheckpointWriter(asked.checkpoints, training) as writer,
        ):
            model = train(prepared.learned, prepared.held, plan, writer, energy.so_far)
            saved = writer.state
        log_checkpoints(asked.checkpoints, saved, asked.name)
        found = verify_directory(asked.checkpoints)
        if not found.ok:
            raise EvidenceError(str(found.findings[0]), where=str(asked.checkpoints))
        last = saved.manifest.checkpoints[-1]
        print(
            f"trained {last.id} ({last.checksum_sha256}): AUC {last.auc:.3f}, "
            f"FAIR+CARE {last.faircare_score:.1f}, {last.energy_wh:.3f} Wh",
            flush=True,
        )
        if not certify(asked, last):
            print(
                f"then: kfm checkpoints vote {asked.checkpoints} {last.id} --policy POLICY --key KEY "
                "--approve --reason WHY, and run this again"
            )
            return
        log_documents(asked.checkpoints)
        uri = _release(asked, prepared, model, energy)
        _validate(asked, run.info.run_id)
        registered = mlflow.register_model(uri, asked.name)
    print(f"registered {asked.name} v{registered.version} from run {run.info.run_id}")


def _release(asked: Asked, prepared: Prepared, model: torch.nn.Module, energy: Measurement) -> str:
    """Log the release of the certified checkpoint; return its URI."""

    def predict(rows: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()

    metrics = prepared.evaluate(predict)
    mlflow.log_metrics(metrics)
    whole = prepared.rows.whole
    files = {
        f"{FOLDER}/{path.name}": path
        for path in sorted(asked.checkpoints.iterdir())
        if path.suffix in {".pt", ".json"}
    }
    released = log_release(
        model,
        prepared.baseline_rows(asked.seed),
        name=asked.name,
        version=asked.version,
        family=FAMILY,
        task="classification",
        bbox=whole.bbox,
        seed=asked.seed,
        signing_key=asked.trainer,
        energy=energy,
        datasets=prepared.rows.datasets(),
        hyperparameters={
            "epochs": dict(PLANS[asked.size].epochs),
            "batch_size": PLANS[asked.size].batch_size,
            "learning_rate": PLANS[asked.size].learning_rate,
            "split": {"size": asked.size, "seed": asked.seed},
        },
        config=dict(PLANS[asked.size].config),
        metrics=metrics,
        # An answer is about one cell.
        cell_size_deg=cell_side_km(H3_RESOLUTION) / KM_PER_DEGREE,
        baseline="sample-mean",
        description="Whether six months of a place were a dry spell; from a certified checkpoint.",
        regions=prepared.rows.regions_path,
        contents=Contents(files=files),
    )
    print(
        f"released {released.release_id}: AUC {metrics['auc']:.3f}, "
        f"logistic regression {metrics['auc_logistic']:.3f}",
        flush=True,
    )
    return released.model_uri


def _validate(asked: Asked, run_id: str) -> None:
    arguments = ["--run-id", run_id, "--data", asked.data, "--key", str(asked.validator)]
    subprocess.run(
        [sys.executable, str(PROJECT / "validate.py"), *arguments, "--regions", asked.regions],
        check=True,
    )
