"""Train a downscaler, release it, have it validated by another process, and register it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import torch

from downscaling.evaluate import evaluate
from downscaling.patches import live_patches
from downscaling.train import train
from kfm_mlflow import Dataset, is_rebuild, log_release, measure_energy
from kfm_mlflow.errors import InputError, KfmError
from task import choose_cut, cut, open_fields, preset

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

_BASELINE_COUNT = 256
HERE = Path(__file__).resolve().parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="climate-downscaler")
    parser.add_argument("--version", default="v1.0.0")
    parser.add_argument("--data", default="generated", help="generated, or a NetCDF or Zarr path")
    parser.add_argument("--size", default="default", choices=("default", "small"))
    parser.add_argument("--seed", type=lambda text: int(float(text)), default=42)
    parser.add_argument(
        "--selection", default="random", help="validation patches: random or calmest"
    )
    parser.add_argument("--shuffle-targets", default="no", choices=("no", "yes"))
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), help="holds trainer.pem and validator.pem"
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
    trainer, validator = _key(options.keys, "trainer"), _key(options.keys, "validator")
    fields, uri = open_fields(options.data)
    how = choose_cut(options.size, options.seed, options.selection)
    patches = cut(fields, how)
    config = replace(
        preset(options.size),
        seed=options.seed,
        device="auto",
        shuffle_targets=options.shuffle_targets == "yes",
    )
    with mlflow.start_run() as run:
        with measure_energy() as energy:
            trained = train(patches.train, config)
        metrics = evaluate(predict_with(trained.model), patches.validation)
        mlflow.log_metrics(metrics)
        for step, loss in trained.history:
            mlflow.log_metric("loss", loss, step=step)
        released = log_release(
            trained.model,
            live_patches(fields, count=_BASELINE_COUNT).coarse,
            name=options.name,
            version=options.version,
            family="climate",
            task="super-resolution",
            bbox=fields.bbox,
            seed=options.seed,
            signing_key=trainer,
            energy=energy,
            datasets=[
                Dataset(
                    role,
                    fields.name,
                    uri,
                    fields.digest,
                    selection=selection,
                    bbox=fields.bbox,
                    start_at=fields.start_at,
                    end_at=fields.end_at,
                    variables=tuple(sorted(set(fields.variables))),
                )
                for role, selection in (
                    ("training", "western longitudes"),
                    ("validation", options.selection),
                )
            ],
            hyperparameters={
                "patches": how.to_dict(),
                "step_count": config.step_count,
                "batch_size": config.batch_size,
                "learning_rate": config.learning_rate,
                "weight_decay": config.weight_decay,
                "shuffle_targets": config.shuffle_targets,
            },
            config={"width": config.width, "depth": config.depth},
            metrics=metrics,
            cell_size_deg=abs(float(fields.lat[1] - fields.lat[0])),
            description=f"Downscales {fields.name} four times; bicubic plus a learnt residual.",
        )
    print(
        f"released {released.release_id}: rmse {metrics['rmse']:.4f}, bicubic {metrics['rmse_bicubic']:.4f}, "
        f"skill {metrics['skill_vs_bicubic']:+.1%} on {options.selection} validation patches",
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
        ],
        check=True,
    )
    registered = mlflow.register_model(released.model_uri, options.name)
    print(f"registered {options.name} v{registered.version} from run {run.info.run_id}")


if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
