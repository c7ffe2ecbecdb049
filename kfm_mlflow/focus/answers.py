"""What a Focus Mode model answers: one float32 tensor [n, 2121], cut into named parts.

=================== ===== ======================================================================
part                width what it is
=================== ===== ======================================================================
context_weights     5     the router's weight of each domain, summing to 1
attribution         5     share of each domain in the answer: how far the logit of the likeliest
                          situation moves when the domain is replaced by its baseline, absolute,
                          summing to 1 (0 everywhere when nothing moves)
situation           6     probability of each of :data:`~kfm_mlflow.focus.columns.SITUATIONS`
relevance           14    0..1, how much a story should state each told column
bands               42    for each told column the probabilities of low, moderate, high
attention_entropy   1     mean entropy of the cross-domain attention over its largest, 0..1
fusion              2048  the fused vector
=================== ===== ======================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS, TOLD

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

BANDS = ("low", "moderate", "high")
FUSION_DIMENSION = 2048
PARTS: dict[str, int] = {
    "context_weights": len(DOMAINS),
    "attribution": len(DOMAINS),
    "situation": len(SITUATIONS),
    "relevance": len(TOLD),
    "bands": len(TOLD) * len(BANDS),
    "attention_entropy": 1,
    "fusion": FUSION_DIMENSION,
}
ANSWER_WIDTH = sum(PARTS.values())
_ENDS = dict(zip(PARTS, accumulate(PARTS.values()), strict=True))
PART_SLICES = {name: slice(_ENDS[name] - width, _ENDS[name]) for name, width in PARTS.items()}


@dataclass(frozen=True)
class FocusAnswers:
    """The parts of n answers, float32; ``bands`` is [n, 14, 3], ``attention_entropy`` [n]."""

    context_weights: NDArray[np.float32]
    attribution: NDArray[np.float32]
    situation: NDArray[np.float32]
    relevance: NDArray[np.float32]
    bands: NDArray[np.float32]
    attention_entropy: NDArray[np.float32]
    fusion: NDArray[np.float32]

    def __len__(self) -> int:
        """Return how many answers there are."""
        return len(self.fusion)


def split_answers(tensor: NDArray[np.float32]) -> FocusAnswers:
    """Cut a model's answers into their parts.

    Args:
        tensor: float32 [n, 2121].

    Raises:
        DataError: It has another width.
    """
    if tensor.ndim != 2 or tensor.shape[1] != ANSWER_WIDTH:  # noqa: PLR2004 rows and parts
        raise DataError(
            f"is {list(tensor.shape)}, not [n, {ANSWER_WIDTH}]",
            where="answer",
            remedy="serve a model of the focus-mode family",
        )
    parts: dict[str, Any] = {name: tensor[:, where] for name, where in PART_SLICES.items()}
    parts["bands"] = parts["bands"].reshape(len(tensor), len(TOLD), len(BANDS))
    parts["attention_entropy"] = parts["attention_entropy"][:, 0]
    return FocusAnswers(**parts)
