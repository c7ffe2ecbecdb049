"""Probe tasks of a fleet: tasks with reference answers, and what counts as unsafe and refused.

The words of the screen and the refusals belong to whoever makes the release, not to a provider, so
an artifact does not judge itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.fleet.embedder import mask_terms, text_tokens
from kfm_mlflow.fleet.unit_files import read_object
from kfm_mlflow.metadata.schemas import schema_problems

if TYPE_CHECKING:
    from pathlib import Path

PROBES_PATH = "probes/probes.json"
"""Where a release has its probes."""


@dataclass(frozen=True)
class Probe:
    """One task, and the answer that is right.

    Attributes:
        id: Unique in its file.
        task: What is asked.
        specialty: Whom it is for.
        decision: ``act`` or ``hold``; ``hold`` for every unsafe one.
        text: Reference text.
        is_unsafe: Whether doing it would break a rule.
    """

    id: str
    task: str
    specialty: str
    decision: str
    text: str
    is_unsafe: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the probe as JSON."""
        return {
            "id": self.id,
            "task": self.task,
            "specialty": self.specialty,
            "decision": self.decision,
            "text": self.text,
            "is_unsafe": self.is_unsafe,
        }


@dataclass(frozen=True)
class ProbeSet:
    """Probes, and the words by which answers and tasks are judged.

    Attributes:
        probes: In the order of their file.
        screen: Rules: a task is unsafe when it has, for every group of one rule, one of the group's
            words.
        refusals: How a text that refuses begins.
        restricted_terms: Digests (:func:`~kfm_mlflow.fleet.embedder.term_digest`) of terms that no
            text may show and every vector must mask.
    """

    probes: tuple[Probe, ...]
    screen: tuple[tuple[frozenset[str], ...], ...] = ()
    refusals: tuple[str, ...] = ()
    restricted_terms: frozenset[str] = frozenset()

    def finds_unsafe(self, task: str) -> bool:
        """Return whether a rule of the screen finds a task unsafe."""
        words = set(text_tokens(task))
        return any(all(words & group for group in rule) for rule in self.screen)

    def is_refusal(self, text: str) -> bool:
        """Return whether a text begins as a refusal does."""
        tokens = text_tokens(text)
        starts = (text_tokens(refusal) for refusal in self.refusals)
        return any(tokens[: len(start)] == start for start in starts)

    def shows_restricted(self, text: str) -> bool:
        """Return whether a text names a restricted term."""
        tokens = text_tokens(text)
        return mask_terms(tokens, self.restricted_terms) != tokens

    def masked_text(self, text: str) -> str:
        """Return a text's tokens with every restricted term folded to one."""
        return " ".join(mask_terms(text_tokens(text), self.restricted_terms))

    def to_dict(self) -> dict[str, Any]:
        """Return the document ``fleet-probes``."""
        return {
            "schema_version": "1",
            "probes": [probe.to_dict() for probe in self.probes],
            "screen": [[sorted(group) for group in rule] for rule in self.screen],
            "refusals": list(self.refusals),
            "restricted_terms": sorted(self.restricted_terms),
        }


def parse_probes(value: Any, *, where: str) -> ProbeSet:
    """Return the probes of a ``fleet-probes`` document.

    Raises:
        DataError: It is none; names the field.
        InputError: An id appears twice, an unsafe probe is to be done, a task or a refusal has no
            words, or a word of the screen is none.
    """
    problems = schema_problems("fleet-probes", value)
    if problems:
        raise DataError("; ".join(problems[:3]), where=where, remedy="see the format fleet-probes")
    probes = tuple(
        Probe(
            entry["id"],
            entry["task"],
            entry["specialty"],
            entry["decision"],
            entry["text"],
            entry["is_unsafe"],
        )
        for entry in value["probes"]
    )
    seen: set[str] = set()
    for probe in probes:
        problem = ""
        if probe.id in seen:
            problem = "appears twice"
        elif probe.is_unsafe and probe.decision != "hold":
            problem = "is unsafe and not to be held"
        elif not text_tokens(probe.task):
            problem = "has no words"
        if problem:
            raise InputError(problem, where=f"{where}: probe {probe.id}")
        seen.add(probe.id)
    for words in (word for rule in value["screen"] for group in rule for word in group):
        if text_tokens(words) != [words]:
            raise InputError(f"{words!r} is not one word in lower case", where=f"{where}: screen")
    if not all(text_tokens(refusal) for refusal in value["refusals"]):
        raise InputError("one has no words", where=f"{where}: refusals")
    screen = tuple(tuple(frozenset(group) for group in rule) for rule in value["screen"])
    terms = frozenset(value["restricted_terms"])
    return ProbeSet(probes, screen, tuple(value["refusals"]), terms)


def load_probes(path: Path) -> ProbeSet:
    """Read a ``fleet-probes`` file; see :func:`parse_probes`.

    Raises:
        InputError: It is missing, or none.
    """
    return parse_probes(read_object(path), where=path.name)
