"""Format ``linear-heads``: a coordinator, and one head per specialty that acts or holds.

``fleet_model.npz`` holds the coordinator (``weights`` [dimension, 3], ``bias`` [3]; columns in the
order of :data:`SPECIALTIES`), ``specialist_<name>.npz`` a head (``w`` [dimension, 2], ``b`` [2];
columns act, hold). Each is a softmax over a vector of the embedder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.unit_files import UNIT_FILE, read_count, read_npz, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

Decision = Literal["act", "hold"]

SPECIALTIES = ("code_execute", "doc_plan", "memory_storage")
DECISIONS: tuple[Decision, ...] = ("act", "hold")
COORDINATOR_FILE = "fleet_model.npz"
_MAX_DIMENSION = 2**16


def head_file(specialty: str) -> str:
    """Return the file name of a specialty's head."""
    return f"specialist_{specialty}.npz"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the shares that logits stand for, along the last axis."""
    import numpy as np

    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares


@dataclass(frozen=True)
class LinearHeads:
    """Says whom a task is for, and whether it is done.

    Attributes:
        dimension: Of the vectors that it takes.
        coordinator: Weights [dimension, 3] and bias [3].
        heads: Specialty -> weights [dimension, 2] and bias [2].
    """

    role: ClassVar[str] = "runtime"
    dimension: int
    coordinator: tuple[np.ndarray, np.ndarray]
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def specialty(self, vector: np.ndarray) -> str:
        """Return which specialty a task is for; the first of equal ones."""
        weights, bias = self.coordinator
        return SPECIALTIES[int((vector @ weights + bias).argmax())]

    def decide(self, vector: np.ndarray, specialty: str) -> tuple[Decision, float]:
        """Return what a specialty's head decides, and how sure it is, 0.5..1.

        A tie is held.

        Raises:
            InputError: There is no such specialty.
        """
        if specialty not in self.heads:
            raise InputError(
                f"{specialty!r} is no specialty",
                where="specialty",
                remedy=f"use one of {', '.join(SPECIALTIES)}",
            )
        weights, bias = self.heads[specialty]
        act, hold = (float(share) for share in softmax(vector @ weights + bias))
        return ("act", act) if act > hold else ("hold", hold)

    def judge(self, vector: np.ndarray) -> tuple[str, tuple[Decision, float]]:
        """Return whom a task is for, and what the head of that specialty decides."""
        chosen = self.specialty(vector)
        return chosen, self.decide(vector, chosen)


def load_heads(directory: Path) -> LinearHeads:
    """Load ``unit.json``, the coordinator and the three heads.

    Raises:
        InputError: A field is wrong.
        DataError: A file is.
    """
    path = directory / UNIT_FILE
    dimension = read_count(read_object(path), "dimension", path, most=_MAX_DIMENSION)
    count = len(SPECIALTIES)
    both = read_npz(directory / COORDINATOR_FILE, {"weights": (dimension, count), "bias": (count,)})
    heads = {}
    for name in SPECIALTIES:
        head = read_npz(directory / head_file(name), {"w": (dimension, 2), "b": (2,)})
        heads[name] = (head["w"].astype("float64"), head["b"].astype("float64"))
    coordinator = (both["weights"].astype("float64"), both["bias"].astype("float64"))
    return LinearHeads(dimension, coordinator, heads)
