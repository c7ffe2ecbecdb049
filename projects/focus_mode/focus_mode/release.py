"""The release script: train, compose and sign, have it validated under another key, register."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from focus_mode.defects import DEFECTS
from focus_mode.draft import draft_of
from focus_mode.evaluate import evaluate
from focus_mode.prepared import SIZES, prepare
from focus_mode.train import train
from kfm_mlflow import log_release, measure_energy
from kfm_mlflow.authoring.project import add_release_options, find_key
from kfm_mlflow.authoring.replay import load_replay

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "focus-mode"
NO_DEFECT = "none"
PROJECT = Path(__file__).resolve().parents[1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_release_options(parser, name=NAME, data="a CSV file", sizes=SIZES)
    parser.add_argument(
        "--defect", default=NO_DEFECT, choices=(NO_DEFECT, *DEFECTS), help="what to get wrong"
    )
    return parser.parse_args()


def headline(metrics: Mapping[str, float]) -> str:
    """Return the metrics in one line for people."""
    return (
        f"situation {metrics['situation_accuracy']:.2f}, "
        f"routing {metrics['routing_accuracy']:.2f}, "
        f"hazard skill {metrics['hazard_skill']:.2f}, "
        f"recall at 10 {metrics['recall_at_10']:.2f}"
    )


def instant_of_rules() -> datetime:
    """Return when regions are asked for their rules: now, or when a rebuilt release was made.

    Consent, embargo and season decide how finely a region may be shown; a rebuild in another
    season must draw the map that was drawn.
    """
    replay = load_replay(os.environ)
    return replay.released_at if replay else datetime.now(UTC)


def main() -> None:
    """Run the whole entry point inside one MLflow run."""
    options = _options()
    trainer, validator = (find_key(options.keys, name) for name in ("trainer", "validator"))
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
            contents=draft.contents(prepared.regions, instant_of_rules()),
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
