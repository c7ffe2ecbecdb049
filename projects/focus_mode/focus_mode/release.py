"""The release script: train, compose and sign, have it validated under another key, register."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from focus_mode.defects import DEFECTS
from focus_mode.draft import draft_of
from focus_mode.evaluate import evaluate
from focus_mode.prepared import SIZES, prepare
from focus_mode.train import train
from kfm_mlflow import is_rebuild, log_release, measure_energy
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "focus-mode"
NO_DEFECT = "none"
PROJECT = Path(__file__).resolve().parents[1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="auto", help=f"registered model; auto: {NAME}")
    parser.add_argument("--version", default="v1.0.0")
    parser.add_argument("--data", default="generated", help="generated, or a CSV file")
    parser.add_argument("--size", default="default", choices=SIZES)
    parser.add_argument("--seed", type=lambda text: int(float(text)), default=42)
    parser.add_argument(
        "--regions", default="packaged", help="packaged, or the policy's regions_file"
    )
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), help="holds trainer.pem and validator.pem"
    )
    parser.add_argument(
        "--defect", default=NO_DEFECT, choices=(NO_DEFECT, *DEFECTS), help="what to get wrong"
    )
    return parser.parse_args()


def _key(folder: Path, name: str) -> Path:
    path = folder / f"{name}.pem"
    # A rebuild signs nothing, and whoever makes one has no keys of the trainer's.
    if not path.is_file() and not is_rebuild():
        raise InputError(
            "no such key file", where=str(path), remedy=f"kfm keys new {name} --dir {folder}"
        )
    return path.resolve()


def headline(metrics: Mapping[str, float]) -> str:
    """Return the metrics in one line for people."""
    return (
        f"situation {metrics['situation_accuracy']:.2f}, "
        f"routing {metrics['routing_accuracy']:.2f}, "
        f"hazard skill {metrics['hazard_skill']:.2f}, "
        f"recall at 10 {metrics['recall_at_10']:.2f}"
    )


def main() -> None:
    """Run the whole entry point inside one MLflow run."""
    options = _options()
    trainer, validator = _key(options.keys, "trainer"), _key(options.keys, "validator")
    split: dict[str, Any] = {"size": options.size, "seed": options.seed}
    prepared = prepare(options.data, **split, regions=options.regions)
    name = NAME if options.name == "auto" else options.name
    with mlflow.start_run() as run:
        with measure_energy() as energy:
            trained = train(prepared.world, size=options.size, seed=options.seed)
        draft = draft_of(
            trained, prepared.whole, prepared.world, prepared.regions, seed=options.seed
        )
        if options.defect != NO_DEFECT:
            draft = DEFECTS[options.defect].apply(draft)
        metrics = evaluate(draft.predict, prepared.world)
        mlflow.log_metrics(metrics)
        mlflow.log_metrics({f"train_{k}_s": v for k, v in trained.part_seconds.items()})
        for step, loss in trained.history:
            mlflow.log_metric("loss", loss, step=step)
        released = log_release(
            draft.model,
            draft.baseline_rows,
            name=name,
            version=options.version,
            family=NAME,
            task="classification",
            bbox=prepared.whole.bbox,
            seed=options.seed,
            signing_key=trainer,
            energy=energy,
            datasets=prepared.datasets(),
            hyperparameters={**trained.hyperparameters, "split": split},
            config=trained.config,
            metrics=metrics,
            care=draft.care,
            cell_size_deg=draft.cell_size_deg,
            baseline="sample-mean",
            description="Context of five domains, fused, and the stories told from it.",
            regions=prepared.regions_path,
            contents=draft.contents(prepared.regions),
        )
    print(f"released {released.release_id}: {headline(metrics)}", flush=True)
    arguments = ["--run-id", run.info.run_id, "--data", options.data, "--key", str(validator)]
    subprocess.run(
        [
            sys.executable,
            str(PROJECT / "validate.py"),
            *arguments,
            "--regions",
            options.regions,
        ],
        check=True,
    )
    registered = mlflow.register_model(released.model_uri, name)
    print(f"registered {name} v{registered.version} from run {run.info.run_id}")
