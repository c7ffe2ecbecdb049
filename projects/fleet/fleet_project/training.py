"""Train three heads and a coordinator, and write them with what they measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet_project.growth import Growth, judge_growth, summary
from fleet_project.softmax import Trained, train_softmax
from kfm_mlflow.canonical import write_bytes, write_json
from kfm_mlflow.errors import DataError
from kfm_mlflow.fleet.heads import COORDINATOR_FILE, DECISIONS, SPECIALTIES, head_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fleet_project.settings import Settings
    from fleet_project.tasks import Task
    from kfm_mlflow.fleet.embedder import HashedEmbedder

COORDINATOR = "coordinator"
METRICS_FILE = "fleet_training_metrics.json"
SUMMARY_FILE = "fleet_growth_summary.md"


@dataclass(frozen=True)
class TrainedFleet:
    """What one training gives.

    Attributes:
        settings: It was trained with.
        models: Specialty or ``coordinator`` -> model.
        growth: The same names -> whether it has grown.
        val_tasks: Tasks held back from every one of them.
    """

    settings: Settings
    models: Mapping[str, Trained]
    growth: Mapping[str, Growth]
    val_tasks: tuple[Task, ...]

    @property
    def has_grown(self) -> bool:
        """Whether all heads and the coordinator have grown."""
        return all(found.confirmed for found in self.growth.values())


def split_tasks(tasks: Sequence[Task], settings: Settings) -> tuple[list[Task], list[Task]]:
    """Return training and validation tasks; no task is in both, and none twice.

    Raises:
        DataError: There are too few.
    """
    unique = list({task.task: task for task in tasks}.values())
    if len(unique) < settings.min_samples:
        raise DataError(
            f"{len(unique)} different tasks are fewer than {settings.min_samples}",
            where="tasks",
            remedy="bring more",
        )
    order = np.random.default_rng(settings.seed).permutation(len(unique))
    chosen = [unique[int(at)] for at in order[: settings.max_samples]]
    val_count = max(1, round(len(chosen) * settings.val_ratio))
    return chosen[val_count:], chosen[:val_count]


def train_fleet(
    tasks: Sequence[Task], settings: Settings, embedder: HashedEmbedder
) -> TrainedFleet:
    """Train a head per specialty on its tasks, and the coordinator on all.

    Args:
        tasks: With their right answers.
        settings: How.
        embedder: Makes the vectors.

    Raises:
        DataError: There are too few tasks, or a specialty has not both decisions on either side
            of the split.
    """
    train, held = split_tasks(tasks, settings)
    vectors = {task.task: embedder.embed(task.task) for task in (*train, *held)}

    def rows(part: Sequence[Task], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        labels = [
            names.index(t.decision if tuple(names) == DECISIONS else t.specialty) for t in part
        ]
        return np.stack([vectors[t.task] for t in part]), np.array(labels)

    models = {}
    for name in SPECIALTIES:
        parts = [[t for t in part if t.specialty == name] for part in (train, held)]
        if any({t.decision for t in part} != set(DECISIONS) for part in parts):
            raise DataError(
                "needs tasks to act on and tasks to hold, for training and for validation",
                where=f"specialty {name}",
                remedy="bring more of both",
            )
        models[name] = train_softmax(
            rows(parts[0], DECISIONS), rows(parts[1], DECISIONS), len(DECISIONS), settings
        )
    models[COORDINATOR] = train_softmax(
        rows(train, SPECIALTIES), rows(held, SPECIALTIES), len(SPECIALTIES), settings
    )
    growth = {name: judge_growth(model.scores, settings) for name, model in models.items()}
    return TrainedFleet(settings, models, growth, tuple(held))


def write_models(fleet: TrainedFleet, directory: Path) -> None:
    """Write ``specialist_<name>.npz`` and ``fleet_model.npz``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in SPECIALTIES:
        model = fleet.models[name]
        np.savez(directory / head_file(name), w=model.weights, b=model.bias)
    model = fleet.models[COORDINATOR]
    np.savez(directory / COORDINATOR_FILE, weights=model.weights, bias=model.bias)


def training_metrics(fleet: TrainedFleet) -> dict[str, Any]:
    """Return the document ``fleet_training_metrics``."""
    return {
        "schema_version": "1",
        "settings": fleet.settings.to_dict(),
        "models": {
            name: {
                "train_count": model.train_count,
                "val_count": model.val_count,
                "scores": [{"accuracy": s.accuracy, "loss": s.loss} for s in model.scores],
                "growth": fleet.growth[name].to_dict(),
            }
            for name, model in fleet.models.items()
        },
        "growth_confirmed": fleet.has_grown,
    }


def write_training(fleet: TrainedFleet, directory: Path) -> None:
    """Write the models, ``fleet_training_metrics.json`` and ``fleet_growth_summary.md``."""
    write_models(fleet, directory)
    write_json(directory / METRICS_FILE, training_metrics(fleet))
    text = summary(fleet.growth, fleet.settings, confirmed=fleet.has_grown)
    write_bytes(directory / SUMMARY_FILE, text.encode())
