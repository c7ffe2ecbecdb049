"""What ``mlflow.pyfunc.load_model`` gives for a release of the fleet (MLmodel: ``loader_module``).

A fused release answers tasks; an artifact's release does what its one unit does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.embedder import HashedEmbedder
from kfm_mlflow.fleet.heads import LinearHeads
from kfm_mlflow.fleet.pipeline import Pipeline, check_task, load_pipeline
from kfm_mlflow.fleet.probe_file import PROBES_PATH, load_probes
from kfm_mlflow.fleet.units import UNITS_FOLDER, load_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.fleet.units import Unit

_INPUT = "tasks"


@dataclass(frozen=True)
class FleetModel:
    """Answers tables of tasks.

    Attributes:
        answer: Task and specialty, or None, to a record.
    """

    answer: Callable[[str, str | None], dict[str, Any]]

    def predict(
        self, model_input: Any, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answer tasks.

        Args:
            model_input: DataFrame or list of records with ``task`` and, optionally, ``specialty``.
            params: Takes none.

        Returns:
            A record per task, in order.

        Raises:
            InputError: It is no such input.
        """
        del params
        answers = []
        for at, record in enumerate(_records(model_input)):
            task, specialty = record.get("task"), record.get("specialty")
            if not isinstance(specialty, str) or not specialty:
                specialty = None
            try:
                check_task(task)
                answers.append(self.answer(str(task), specialty))
            except InputError as exc:
                raise InputError(str(exc), where=f"{_INPUT}[{at}]") from exc
        return answers


def _records(model_input: Any) -> list[dict[str, Any]]:
    if hasattr(model_input, "to_dict") and hasattr(model_input, "columns"):
        model_input = model_input.to_dict(orient="records")
    if not isinstance(model_input, list) or not all(isinstance(r, dict) for r in model_input):
        raise InputError("must be a DataFrame or a list of records", where=_INPUT)
    return model_input


def _unit_answers(unit: Unit, release_dir: Path) -> Callable[[str, str | None], dict[str, Any]]:
    if isinstance(unit, HashedEmbedder):
        return lambda task, _: {"vector": unit.embed(task).tolist()}
    terms = load_probes(release_dir / PROBES_PATH).restricted_terms
    feeder = HashedEmbedder(unit.dimension, None, terms)
    if isinstance(unit, LinearHeads):

        def judge(task: str, specialty: str | None) -> dict[str, Any]:
            vector = feeder.embed(task)
            chosen = unit.specialty(vector)
            decision, confidence = unit.decide(vector, specialty or chosen)
            return {"specialty": chosen, "decision": decision, "confidence": confidence}

        return judge
    return lambda task, _: {"text": unit.write(feeder.embed(task))}


def load_fleet_model(release_dir: Path) -> FleetModel:
    """Load the release of an artifact, or a fused one.

    Raises:
        InputError: A unit cannot be run.
        DataError: A file is missing or wrong.
    """
    folders = [path for path in (release_dir / UNITS_FOLDER).glob("*") if path.is_dir()]
    if len(folders) == 1:
        (unit,) = load_units(release_dir).values()
        return FleetModel(_unit_answers(unit, release_dir))
    pipeline: Pipeline = load_pipeline(release_dir)
    return FleetModel(lambda task, specialty: pipeline.answer(task, specialty).to_dict())


def _load_pyfunc(path: str) -> FleetModel:
    """Load what MLflow asks for: the release directory."""
    return load_fleet_model(Path(path))
