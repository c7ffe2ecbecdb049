"""The deployment that serves one release: bytes in, an :class:`Answer` out.

A client's mistake and a model's error are told apart here, where both are known: only the second
counts against the release. Ray is used by the process around this class, not by its logic.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.monitor.statistics import response_statistics
from kfm_serving.scoring import (
    ClientError,
    ScoringRequest,
    error_body,
    parse_request,
    write_predictions,
)
from kfm_serving.session import OnnxModel, answers_records

if TYPE_CHECKING:
    from collections.abc import Mapping

_THREAD_COUNT = 2


@dataclass(frozen=True)
class Answer:
    """What a release answered.

    Attributes:
        status: HTTP status.
        body: JSON.
        fault: Whose error it is: ``none``, the ``client``'s or the ``model``'s.
        statistics: Response statistic -> value; empty when none was measured.
    """

    status: int
    body: bytes
    fault: Literal["none", "client", "model"] = "none"
    statistics: Mapping[str, float] = field(default_factory=dict)


class Replica:
    """One process that runs one release."""

    def __init__(self, release_dir: str, model_digest: str) -> None:
        """Load the model, on the GPU when Ray lent this process one.

        Args:
            release_dir: Directory of the release on this node.
            model_digest: ``sha256:<hex>`` that ``model.onnx`` must have.

        Raises:
            KfmError: The bytes are not the release's, cannot be loaded, or the GPU did not start.
        """
        import ray

        directory = Path(release_dir)
        self._model = OnnxModel(
            directory / "model.onnx", model_digest, wants_gpu=bool(ray.get_gpu_ids())
        )
        mlmodel = directory / "MLmodel"
        text = mlmodel.read_text(encoding="utf-8") if mlmodel.exists() else ""
        self._as_records = answers_records(text, self._model.inputs)
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
            request = parse_request(body, content_type, self._model.inputs)
        except ClientError as exc:
            return Answer(exc.status, error_body(exc.error_code, str(exc)), "client")
        try:
            return self._answer(request)
        except Exception as exc:  # noqa: BLE001 whatever a model raises is that model's error
            message = f"the model failed on a valid request ({type(exc).__name__})"
            return Answer(500, error_body("INTERNAL_ERROR", message), "model")

    def _answer(self, request: ScoringRequest) -> Answer:
        outputs = self._model.run(request.feeds)
        body = write_predictions(outputs, as_records=request.is_table and self._as_records)
        return Answer(200, body, statistics=response_statistics(request.feeds, outputs))
