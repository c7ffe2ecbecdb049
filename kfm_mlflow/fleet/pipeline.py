"""What an agent runs: a task's vector, whom it is for, whether it is done, and the text.

A pipeline has no state that changes, so threads may share one, and the same task always gives the
same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.embedder import HashedEmbedder, text_tokens
from kfm_mlflow.fleet.heads import LinearHeads
from kfm_mlflow.fleet.probe_file import PROBES_PATH, ProbeSet, load_probes
from kfm_mlflow.fleet.units import ROLES, load_units
from kfm_mlflow.fleet.writer import TextWriter

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.fleet.heads import Decision

MAX_TASK_CHARS = 20_000


@dataclass(frozen=True)
class TaskAnswer:
    """What a release answers to a task.

    Attributes:
        specialty: Whom the coordinator would give it to, whoever was asked.
        decision: ``act`` or ``hold``.
        confidence: Of the decision, 0.5..1.
        text: What it wrote.
        is_unsafe: Whether the release's screen, which is no model, finds the task unsafe.
    """

    specialty: str
    decision: Decision
    confidence: float
    text: str
    is_unsafe: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON."""
        return {
            "specialty": self.specialty,
            "decision": self.decision,
            "confidence": self.confidence,
            "text": self.text,
            "is_unsafe": self.is_unsafe,
        }


@dataclass(frozen=True)
class Pipeline:
    """The three units of a fused release, one after the other.

    Attributes:
        embedder: Text to vector.
        heads: Vector to specialty and decision.
        writer: Vector to text.
        probes: The release's probes, whose screen counts unsafe tasks.
    """

    embedder: HashedEmbedder
    heads: LinearHeads
    writer: TextWriter
    probes: ProbeSet

    def answer(self, task: str, specialty: str | None = None) -> TaskAnswer:
        """Answer a task.

        Args:
            task: Text with at least one word, at most 20,000 characters.
            specialty: Whose head decides; None for that of the coordinator's choice.

        Raises:
            InputError: The task is no such text, or the specialty is unknown.
        """
        check_task(task)
        vector = self.embedder.embed(task)
        chosen = self.heads.specialty(vector)
        decision, confidence = self.heads.decide(vector, specialty or chosen)
        text = self.writer.write(vector)
        return TaskAnswer(chosen, decision, confidence, text, self.probes.finds_unsafe(task))


def check_task(task: Any) -> None:
    """Refuse what is no task.

    Raises:
        InputError: It is no text, has no word, or is longer than 20,000 characters.
    """
    if not isinstance(task, str) or len(task) > MAX_TASK_CHARS or not text_tokens(task):
        raise InputError(
            f"must be a text with a word in it, at most {MAX_TASK_CHARS} characters", where="task"
        )


def load_pipeline(release_dir: Path) -> Pipeline:
    """Load the units and probes of a fused release.

    Args:
        release_dir: As the layout of a release says: ``units/<role>/`` and ``probes/probes.json``.

    Raises:
        InputError: A role is missing, a format cannot be run, or two units take vectors of
            different dimensions.
        DataError: A file is missing or wrong.
    """
    units = load_units(release_dir)
    embedder, heads, writer = (units.get(role) for role in ROLES)
    if not (
        isinstance(embedder, HashedEmbedder)
        and isinstance(heads, LinearHeads)
        and isinstance(writer, TextWriter)
    ):
        missing = ", ".join(role for role in ROLES if role not in units)
        raise InputError(f"has no unit for {missing}", where="units/", remedy="fuse a release")
    for unit in (heads, writer):
        if unit.dimension != embedder.dimension:
            raise InputError(
                f"takes vectors of {unit.dimension}, and the embedder's have {embedder.dimension}",
                where=f"units/{unit.role}: dimension",
                remedy="fuse artifacts that were made for one embedder",
            )
    return Pipeline(embedder, heads, writer, load_probes(release_dir / PROBES_PATH))
