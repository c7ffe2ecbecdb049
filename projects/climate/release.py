"""Train a climate model, release it, have it validated by another process, and register it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import torch

from explanation import contents_of
from kfm_mlflow import Dataset, log_release, measure_energy
from kfm_mlflow.authoring.project import add_release_options, find_key
from kfm_mlflow.errors import KfmError
from task import SIZES, TASKS, default_name, prepare, regions_path

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="downscaling", choices=TASKS)
    add_release_options(parser, name="climate-TASK", data="a path", sizes=SIZES)
    parser.add_argument(
        "--selection", default="random", help="validation patches: random or calmest"
    )
    parser.add_argument(
        "--shuffled-ratio", type=float, default=0.0, help="training rows with the targets of others"
    )
    return parser.parse_args()


def predict_with(model: torch.nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a model's inference on arrays."""

    def predict(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = model(torch.from_numpy(rows)).numpy()
        return answer

    return predict


def main() -> None:
    """Run the whole entry point inside one MLflow run."""
    options = _options()
    trainer, validator = (find_key(options.keys, name) for name in ("trainer", "validator"))
    regions = regions_path(options.regions)
    split = {
        "task": options.task,
        "size": options.size,
        "seed": options.seed,
        "selection": options.selection,
    }
    prepared = prepare(**split, data=options.data, shuffled_ratio=options.shuffled_ratio)
    source = prepared.source
    name = default_name(options.task) if options.name == "auto" else options.name
    with mlflow.start_run() as run:
        with measure_energy() as energy:
            trained = prepared.train()
        metrics = prepared.evaluate(predict_with(trained.model))
        mlflow.log_metrics(metrics)
        for step, loss in trained.history:
            mlflow.log_metric("loss", loss, step=step)
        released = log_release(
            trained.model,
            prepared.baseline_rows,
            name=name,
            version=options.version,
            family="climate",
            task=prepared.mlm_task,
            bbox=source.bbox,
            seed=options.seed,
            signing_key=trainer,
            energy=energy,
            datasets=[
                Dataset(
                    role,
                    source.name,
                    source.uri,
                    source.digest,
                    selection=selection,
                    bbox=source.bbox,
                    start_at=source.start_at,
                    end_at=source.end_at,
                    variables=source.variables,
                )
                for role, selection in zip(
                    ("training", "validation"), prepared.selections, strict=True
                )
            ],
            hyperparameters={
                **trained.hyperparameters,
                "split": split,
                "shuffled_ratio": options.shuffled_ratio,
            },
            config=trained.config,
            metrics=metrics,
            cell_size_deg=source.cell_size_deg,
            baseline=prepared.explained_from,
            description=prepared.description,
            regions=regions,
            contents=contents_of(prepared, trained.model, seed=options.seed),
        )
    print(
        f"released {released.release_id}: {prepared.headline(metrics)} "
        f"on {prepared.selections[1]} validation rows",
        flush=True,
    )
    subprocess.run(
        [
            sys.executable,
            str(HERE / "validate.py"),
            "--run-id",
            run.info.run_id,
            "--data",
            options.data,
            "--key",
            str(validator),
            "--regions",
            options.regions,
        ],
        check=True,
    )
    registered = mlflow.register_model(released.model_uri, name)
    print(f"registered {name} v{registered.version} from run {run.info.run_id}")


if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
