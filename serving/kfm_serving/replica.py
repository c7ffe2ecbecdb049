"""The deployment that serves one release: bytes in, an :class:`Answer` out.

A client's mistake and a model's error are told apart here, where both are known: only the second
counts against the release. Ray is used by the process around this class, not by its logic.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.monitor.drift_bins import load_bins
from kfm_mlflow.monitor.statistics import response_statistics
from kfm_serving.explained import load_explained
from kfm_serving.focus import FocusScorer
from kfm_serving.focus_published import publish
from kfm_serving.focus_request import FocusRequest
from kfm_serving.masking import AnswerMask
from kfm_serving.scoring import (
    ClientError,
    ScoringRequest,
    check_finite,
    error_body,
    parse_request,
    write_predictions,
)
from kfm_serving.session import OnnxModel, answers_records, choose_gpu
from kfm_serving.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kfm_mlflow.rollout.plane import MaskingOrder

_THREAD_COUNT = 2
WITHHELD_STATUS = 451
"""Unavailable for legal reasons (RFC 7725): asked rightly, answered, and not to be published."""

Masking = Literal["none", "masked", "withheld", "failed"]


@dataclass(frozen=True)
class Answer:
    """What a release answered.

    Attributes:
        status: HTTP status.
        body: JSON.
        fault: Whose error it is: ``none``, the ``client``'s or the ``model``'s.
        statistics: Response statistic -> value; empty when none was measured.
        masking: What became of the answer: ``none`` (shown as it is), ``masked`` (coarser, or with
            parts left out), ``withheld`` (refused), ``failed`` (masking itself went wrong).
        masked_count: Places, texts and pixels that were changed.
        bins: Column of the release's drift baseline -> bin; empty when it was seen before.
        explained: Of rows explained since the last answer, 1 - stability in millionths; None for
            one of which nothing could be said.
        alarms: What the answer itself is alarming for, each once: ``narrative-safety``,
            ``fusion-collapse``.
        signals: What is measured of the answer by name, none below 0.
    """

    status: int
    body: bytes
    fault: Literal["none", "client", "model"] = "none"
    statistics: Mapping[str, float] = field(default_factory=dict)
    masking: Masking = "none"
    masked_count: int = 0
    bins: Mapping[str, int] = field(default_factory=dict)
    explained: tuple[int | None, ...] = ()
    alarms: tuple[str, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)


class Replica:
    """One process that runs one release."""

    def __init__(
        self,
        release_dir: str,
        model_digest: str,
        masking: MaskingOrder | None = None,
        *,
        gpu_share: float = 0.0,
        explain_interval_s: float | None = None,
    ) -> None:
        """Load the model, on the GPU when Ray lent this process one.

        Args:
            release_dir: Directory of the release on this node.
            model_digest: ``sha256:<hex>`` that ``model.onnx`` must have.
            masking: By which regions answers are masked; None shows them as the model gives them.
            gpu_share: GPUs that were asked of Ray for this process.
            explain_interval_s: Least time between two rows that are explained; None explains none.

        Raises:
            KfmError: The bytes are not the release's, cannot be loaded, or the GPU that was asked
                for was not lent or did not start; or the regions cannot be read.
        """
        import ray

        directory = Path(release_dir)
        self._model = OnnxModel(
            directory / "model.onnx",
            model_digest,
            wants_gpu=choose_gpu(gpu_share, ray.get_gpu_ids()),
        )
        mlmodel = directory / "MLmodel"
        text = mlmodel.read_text(encoding="utf-8") if mlmodel.exists() else ""
        self._as_records = answers_records(text, self._model.inputs)
        self._mask = None if masking is None else AnswerMask.load(directory, masking)
        self._watched = Watched(load_bins(directory))
        self._focus = FocusScorer.load(directory)
        self._explained = load_explained(directory, self._model, explain_interval_s)
        # The event loop stays free for pings and health checks while a field is computed.
        self._threads = ThreadPoolExecutor(_THREAD_COUNT, thread_name_prefix="kfm-score")

    async def ping(self) -> str:
        """Answer that the model is loaded, naming its provider."""
        return self._model.provider

    async def predict(self, body: bytes, content_type: str) -> Answer:
        """Score one request; never raises for what a client or a model does wrong."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.score, body, content_type)

    def score(self, body: bytes, content_type: str) -> Answer:
        """Score one request in the calling thread."""
        try:
            request = self._parse(body, content_type)
        except ClientError as exc:
            return Answer(exc.status, error_body(exc.error_code, str(exc)), "client")
        try:
            answer = self._answer(request, body)
        except Exception as exc:  # noqa: BLE001 whatever a model raises is that model's error
            message = f"the model failed on a valid request ({type(exc).__name__})"
            return Answer(500, error_body("INTERNAL_ERROR", message), "model")
        if self._explained is None or answer.status != HTTPStatus.OK:
            return answer
        found = self._explained.offer(request.feeds)
        return replace(answer, explained=found) if found else answer

    def _parse(self, body: bytes, content_type: str) -> ScoringRequest | FocusRequest:
        if self._focus is None:
            return parse_request(body, content_type, self._model.inputs)
        return self._focus.parse(body, content_type, self._model.inputs[0].name)

    def _answer(self, request: ScoringRequest | FocusRequest, asked: bytes) -> Answer:
        outputs = self._model.run(request.feeds)
        self._model.check_shapes(request.feeds, outputs)
        if isinstance(request, FocusRequest):
            return self._tell(request, outputs, asked)
        as_records = request.is_table and self._as_records
        statistics = response_statistics(request.feeds, outputs)
        if self._mask is None:
            body = write_predictions(outputs, as_records=as_records)
            bins = self._watched.place(asked, request.feeds, outputs)
            return Answer(200, body, statistics=statistics, bins=bins)
        check_finite(outputs)
        masked = self._mask.mask(outputs)
        if masked.withheld:
            body = error_body("CARE_POLICY_VIOLATION", f"the answer is withheld: {masked.reason}")
            masking: Masking = "failed" if masked.failed else "withheld"
            return Answer(WITHHELD_STATUS, body, masking=masking)
        body = write_predictions(masked.value, as_records=as_records)
        changed = masked.masked_count or masked.withheld_count
        return Answer(
            200,
            body,
            statistics=statistics,
            masking="masked" if changed else "none",
            masked_count=masked.masked_count,
            bins=self._watched.place(asked, request.feeds, outputs),
        )

    def _tell(
        self, request: FocusRequest, outputs: Mapping[str, NDArray[Any]], asked: bytes
    ) -> Answer:
        """Tell what a Focus Mode model answered."""
        assert self._focus is not None
        check_finite(outputs)
        reply = self._focus.reply(request, next(iter(outputs.values())))
        published, masked = publish(
            reply.predictions,
            reply.fusion,
            max_resolution=self._focus.max_resolution,
            mask=None if self._mask is None else self._mask.mask_json,
        )
        if masked is not None and not published:
            reason = masked.reason or "none of its cells may be published"
            body = error_body("CARE_POLICY_VIOLATION", f"the answer is withheld: {reason}")
            masking: Masking = "failed" if masked.failed else "withheld"
            return Answer(WITHHELD_STATUS, body, masking=masking, alarms=reply.alarms)
        changed = masked is not None and (masked.masked_count or masked.withheld_count)
        return Answer(
            200,
            json.dumps({"predictions": published}, allow_nan=False).encode(),
            statistics=response_statistics(request.feeds, outputs),
            masking="masked" if changed else "none",
            masked_count=0 if masked is None else masked.masked_count,
            bins=self._watched.place(asked, request.feeds, outputs),
            alarms=reply.alarms,
            signals=reply.signals,
        )
