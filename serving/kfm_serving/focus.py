"""Answers of a Focus Mode release: cells or rows in; context, story and attribution out.

A release of the family is known by its ``storynode_lexicon.json``. Rules kept here:

1. A story that :func:`~kfm_mlflow.focus.narrative.check_story` finds anything in is not given out.
   The other parts of the answer are; the reason names the checks and quotes nothing.
2. A story names no place more finely than the release promises, whatever cell was asked for: what
   a client sends is never an alarm.
3. Equal requests to one release give equal bytes. What the last vectors say about the fusion is
   counted and measured, and is in no answer.

It neither runs the model nor masks nor knows HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import load_json
from kfm_mlflow.care.modes import DEFAULT_CEILING
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.focus.answers import split_answers
from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS
from kfm_mlflow.focus.fusion import FusionBaseline, WindowedFusion
from kfm_mlflow.focus.lexicon import parse_lexicon
from kfm_mlflow.focus.narrative import check_story
from kfm_mlflow.focus.story import tell
from kfm_serving.focus_published import coarsened
from kfm_serving.focus_request import ContextCells, FocusRequest, load_context, parse_focus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kfm_mlflow.focus.answers import FocusAnswers
    from kfm_mlflow.focus.fusion import WindowCheck
    from kfm_mlflow.focus.lexicon import Lexicon
    from kfm_mlflow.focus.rows import FocusRows

LEXICON_PATH = "storynode_lexicon.json"
WEIGHTS_PATH = "fusion_weights.json"
NARRATIVE_SAFETY = "narrative-safety"
FUSION_COLLAPSE = "fusion-collapse"
_DECIMALS = 6


@dataclass(frozen=True)
class FocusReply:
    """What a release says to one request, before masking.

    Attributes:
        predictions: One JSON object per row; the fused vectors are kept apart.
        fusion: [n, 2048]; None when nobody asked for it.
        alarms: ``narrative-safety`` when a story was withheld, ``fusion-collapse`` when the last
            vectors have collapsed.
        signals: Name -> number, none below 0: the means of this answer, and of the last vectors.
    """

    predictions: list[dict[str, Any]]
    fusion: NDArray[np.float32] | None
    alarms: tuple[str, ...]
    signals: Mapping[str, float]


@dataclass(frozen=True)
class FocusScorer:
    """Reads requests and tells answers of one release; safe between threads.

    Attributes:
        lexicon: What its stories are told with.
        context: The latest row of each of its cells; None without them, when rows must be sent.
        max_resolution: Finest H3 resolution that a story may name.
    """

    lexicon: Lexicon
    context: ContextCells | None
    max_resolution: int
    _window: WindowedFusion
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def load(cls, release_dir: Path) -> FocusScorer | None:
        """Read what a release tells stories with; None for a release of another family.

        Raises:
            EvidenceError: A document is missing or malformed.
        """
        path = release_dir / LEXICON_PATH
        if not path.is_file():
            return None
        weights = load_json(release_dir / WEIGHTS_PATH, where=WEIGHTS_PATH)
        if not isinstance(weights, dict):
            raise EvidenceError("is no object", where=WEIGHTS_PATH)
        return cls(
            parse_lexicon(load_json(path, where=LEXICON_PATH)),
            load_context(release_dir),
            _promised_resolution(release_dir),
            WindowedFusion(FusionBaseline.from_dict(weights.get("baseline"))),
        )

    def parse(self, body: bytes, content_type: str, input_name: str) -> FocusRequest:
        """Read a request for a model that calls its input so.

        Raises:
            ClientError: It is at fault; says column, row and remedy.
        """
        return parse_focus(body, content_type, input_name=input_name, context=self.context)

    def reply(self, request: FocusRequest, tensor: NDArray[np.float32]) -> FocusReply:
        """Tell what the model answered.

        Args:
            request: What was asked.
            tensor: float32 [n, 2121], finite.

        Raises:
            DataError: It has another width.
        """
        answers = split_answers(tensor)
        rows = request.asked.rows
        told = [self._tell(answers, k, request.asked) for k in range(len(rows))]
        findings = sum(len(found) for _, found in told)
        with self._lock:
            window = self._window.add(rows, answers.fusion)
        alarms = [NARRATIVE_SAFETY] if findings else []
        alarms += [FUSION_COLLAPSE] if window is not None and window.is_collapsed else []
        return FocusReply(
            [prediction for prediction, _ in told],
            answers.fusion if request.include_fusion else None,
            tuple(alarms),
            {**_signals(answers, window), "narrative_finding_count": float(findings)},
        )

    def _tell(
        self, answers: FocusAnswers, k: int, rows: FocusRows
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what is said about a row, and which checks found something in its story."""
        cell, time = rows.cells[k], rows.times[k]
        place = coarsened(cell, self.max_resolution)
        story = tell(answers, k, rows.rows[k], cell=place, time=time, lexicon=self.lexicon)
        found = check_story(story, rows.rows[k], self.lexicon, max_resolution=self.max_resolution)
        checks = tuple(finding.check for finding in found)
        unsafe = ", ".join(sorted(set(checks)))
        withheld = {"withheld": True, "reason": f"{NARRATIVE_SAFETY}: {unsafe}"}
        prediction = {
            "cell": cell,
            "time": time,
            "context_weights": _named(DOMAINS, answers.context_weights[k]),
            "situation": _named(SITUATIONS, answers.situation[k]),
            "story": withheld if checks else story,
            "attribution": _named(DOMAINS, answers.attribution[k]),
        }
        return prediction, checks


def _signals(answers: FocusAnswers, window: WindowCheck | None) -> dict[str, float]:
    found = {"attention_entropy": float(answers.attention_entropy.mean())}
    for name, shares in (
        ("context_weight", answers.context_weights),
        ("attribution", answers.attribution),
    ):
        for domain, mean in zip(DOMAINS, shares.mean(axis=0).tolist(), strict=True):
            found[f"{name}_{domain}"] = mean
    if window is not None:
        found |= {
            "fusion_centroid_shift": window.centroid_shift,
            "fusion_norm_shift": abs(window.norm_shift),
            "fusion_rank_ratio": window.rank_ratio,
            "fusion_spread_ratio": window.spread_ratio,
        }
    return {name: max(0.0, value) for name, value in found.items() if np.isfinite(value)}


def _named(names: Sequence[str], values: NDArray[np.float32]) -> dict[str, float]:
    return {name: round(v, _DECIMALS) for name, v in zip(names, values.tolist(), strict=True)}


def _promised_resolution(release_dir: Path) -> int:
    path = release_dir / "care.json"
    document = load_json(path) if path.is_file() else {}
    block = document.get("care") if isinstance(document, dict) else None
    promised = block.get("h3_max_resolution") if isinstance(block, dict) else None
    return promised if isinstance(promised, int) else DEFAULT_CEILING
