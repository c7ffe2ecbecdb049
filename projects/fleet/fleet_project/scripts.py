"""What the entry points ``train`` and ``samples`` do, with their options."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from fleet_project.defects import DEFECTS, NONE
from fleet_project.samples import reference_embedder, write_samples
from fleet_project.settings import Settings
from fleet_project.sizes import SIZES
from fleet_project.table import read_tasks
from fleet_project.tasks import generate_tasks
from fleet_project.training import COORDINATOR, train_fleet, write_training
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from fleet_project.training import TrainedFleet

GENERATED = "generated"


def whole_number(text: str) -> int:
    """Read an option that is a whole number."""
    # mlflow hands numbers over as it parsed them: 42 arrives as 42.0.
    return int(float(text))


def train_on(data: str, task_count: int, seed: int, output: Path) -> TrainedFleet:
    """Train heads and coordinator, write them, and log them to the MLflow run that is going on.

    Args:
        data: ``generated``, or a CSV file of tasks.
        task_count: How many to generate.
        seed: Of tasks, split and order.
        output: Folder that gets the models, their metrics and the summary of their growth.

    Raises:
        InputError: The tasks are wrong, or too few.
    """
    tasks = generate_tasks(task_count, seed=seed) if data == GENERATED else read_tasks(Path(data))
    fleet = train_fleet(tasks, replace(Settings(), seed=seed), reference_embedder())
    write_training(fleet, output)
    mlflow.log_params(fleet.settings.to_dict())
    mlflow.log_metrics(
        {f"val_accuracy_{name}": model.scores[-1].accuracy for name, model in fleet.models.items()}
    )
    mlflow.log_artifacts(str(output), "trained")
    grown = "confirmed" if fleet.has_grown else "not confirmed"
    accuracy = fleet.models[COORDINATOR].scores[-1].accuracy
    print(f"trained {output}: coordinator accuracy {accuracy:.3f}, growth {grown}", flush=True)
    return fleet


def train() -> None:
    """Train heads and coordinator inside one MLflow run."""
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--data", default=GENERATED, help="generated, or a CSV file of tasks")
    parser.add_argument("--tasks", type=whole_number, default=3600, help="how many to generate")
    parser.add_argument("--seed", type=whole_number, default=42)
    parser.add_argument("--output", type=Path, default=Path("trained"))
    given = parser.parse_args()
    with mlflow.start_run():
        train_on(given.data, given.tasks, given.seed, given.output)


def samples() -> None:
    """Write the sample artifacts of three providers, and their manifests."""
    parser = argparse.ArgumentParser(description=samples.__doc__)
    parser.add_argument("--output", type=Path, default=Path("samples"))
    parser.add_argument("--size", default="default", choices=tuple(SIZES))
    parser.add_argument("--seed", type=whole_number, default=42)
    parser.add_argument("--defect", default=NONE, help=f"{NONE}, {', '.join(DEFECTS)}")
    parser.add_argument(
        "--store", default="auto", help="prefix of the URIs; auto: file:// and the folder"
    )
    parser.add_argument("--key", default=NONE, help="private key that signs every artifact")
    given = parser.parse_args()
    if given.key != NONE and not Path(given.key).is_file():
        raise InputError("no such key file", where=given.key, remedy="kfm keys new provider")
    paths = write_samples(
        given.output,
        size=SIZES[given.size],
        seed=given.seed,
        defect=given.defect,
        store="" if given.store == "auto" else given.store,
        key=None if given.key == NONE else Path(given.key),
    )
    print("wrote", *paths)
