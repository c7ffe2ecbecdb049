"""The deployment that splits a model's traffic between its releases.

Rules kept here:

1. A request uses one immutable snapshot of split and handles; a change swaps the snapshot. Only
   a second attempt looks again, so that it never goes to a release that has left meanwhile.
2. Generations only grow. The truth is read at start and twice a second; a broadcast is faster.
3. A release's handle is warm before the release becomes visible.
4. A failing, late or lost canary costs the client nothing: the stable release answers. A request
   lost with a replica is sent once more. Predictions are idempotent.
5. First attempts are counted, once each, when they end; a client's own mistake never is. What
   only a canary calls a mistake, while the stable release answers it, is the canary's error.
6. A copy for a mirrored canary is sent after the answer was found, and waited for by nobody. So
   many may be under way; the rest is dropped, and counted as that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.rollout.plane import Split
from kfm_serving.applications import own_replica_id, warm_handle
from kfm_serving.counts import ArmTally
from kfm_serving.desired import DesiredSplit, DesiredState, parse_desired_split
from kfm_serving.names import release_app
from kfm_serving.scoring import error_body
from kfm_serving.split import choose_version, request_key, wants_copy
from kfm_serving.traces import RouterSpans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_serving.replica import Answer

_logger = logging.getLogger(__name__)

REFRESH_PERIOD_S = 0.5
MAX_COPIES = 8
"""Copies that one router has under way: a canary that hangs holds no more bodies than this."""
_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Arm:
    """A release that can be called: its handle bound to ``predict``, and its deployment."""

    predict: Any
    deployment_id: str


@dataclass(frozen=True)
class Snapshot:
    """What one request sees: the split in force and a warm handle per version.

    ``is_whole`` is False when a release of the split was down at the router's start.
    """

    split: Split
    arms: Mapping[int, Arm] = field(default_factory=dict)
    is_whole: bool = True


@dataclass(frozen=True)
class Attempt:
    """How one call to a release ended; ``answer`` is None when it was late or lost."""

    outcome: Literal["answered", "late", "lost"]
    latency_ms: float
    answer: Answer | None = None

    @property
    def is_good(self) -> bool:
        """True unless the release is to blame."""
        return (
            self.answer is not None
            and self.answer.fault != "model"
            and self.answer.masking != "failed"
        )

    @property
    def blames_client(self) -> bool:
        """True when the release calls the request a mistake."""
        return self.answer is not None and self.answer.fault == "client"

    def refuted(self) -> Attempt:
        """Return the attempt as the release's own error: another one has answered the request."""
        if self.answer is None:
            return self
        return replace(self, answer=replace(self.answer, fault="model"))


class Router:
    """One router process of one registered model."""

    def __init__(
        self,
        model_name: str,
        route_prefix: str,
        deadline_s: float,
        canary_deadline_s: float,
        spans: SpanOptions | None = None,
    ) -> None:
        """Make a router that answers nothing yet; ``reconfigure`` loads the split.

        Args:
            model_name: Registered model.
            route_prefix: Path under which Serve mounts this application.
            deadline_s: How long the stable release may take.
            canary_deadline_s: How long a canary may take before the stable one answers.
            spans: Which spans are kept of what was asked; None keeps none.
        """
        self._model_name = model_name
        self._prefix = route_prefix.rstrip("/")
        self._deadline_s = deadline_s
        self._canary_deadline_s = canary_deadline_s
        self._state = DesiredState(model_name)
        self._snapshot = Snapshot(Split(generation=0, stable=None, canary=None, canary_ratio=0.0))
        self._tallies: dict[str, ArmTally] = {}
        self._copies: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._epoch = uuid.uuid4().hex
        self._refresher: asyncio.Task[None] | None = None
        self._spans = None
        if spans is not None:
            self._spans = RouterSpans(model_name, self._state, spans, own_replica_id())

    def __del__(self) -> None:
        """Export the spans that wait; Serve calls this when it stops a router on purpose."""
        spans = getattr(self, "_spans", None)
        if spans is not None:
            spans.close()

    async def reconfigure(self, _config: object) -> None:
        """Load the newest split before the first request; Serve awaits this at every start."""
        if self._refresher is None:
            await self._refresh(must_be_warm=False)
            self._refresher = asyncio.create_task(self._keep_fresh())

    async def apply(self, data: bytes) -> int:
        """Take a split that was just declared, and return the generation in force.

        Raises:
            Exception: A release of the split did not answer a ping; the old split stays in force.
        """
        await self._take(parse_desired_split(data), must_be_warm=True)
        return self._snapshot.split.generation

    async def counts(self) -> dict[str, Any]:
        """Return what this process has counted since it started, per deployment."""
        arms = {key: tally.to_dict() for key, tally in self._tallies.items()}
        return {
            "process": f"{own_replica_id()}/{self._epoch}",
            "generation": self._snapshot.split.generation,
            "arms": arms if self._spans is None else self._spans.add_counts(arms),
        }

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        path = request.url.path.removeprefix(self._prefix)
        if request.method == "POST" and path == "/invocations":
            return await self._invoke(request)
        if request.method == "GET" and path in {"/ping", "/health"}:
            return self._respond(200, b"\n")
        if request.method == "GET" and path == "/version":
            return self._respond(200, _mlflow_version().encode())
        message = f"no such route: {request.method} {path[:100]}; POST /invocations scores"
        return self._respond(404, error_body("ENDPOINT_NOT_FOUND", message))

    async def _invoke(self, request: Request) -> Response:
        snapshot = self._snapshot
        body = await request.body()
        content_type = request.headers.get("content-type", "")
        key = request_key(request.headers, body)
        version = choose_version(snapshot.split, key)
        if version is None:
            self._mirror(key, body, content_type, is_valid=False)
            return self._unavailable("no stable release is served yet; try again")
        first = attempt = await self._attempt(snapshot, version, body, content_type)
        if not first.blames_client:
            self._count(snapshot, version, first)
        if first.blames_client or not first.is_good:
            latest = self._snapshot
            second = version if latest.split.stable is None else latest.split.stable
            if second != version or first.outcome == "lost":
                again = await self._attempt(latest, second, body, content_type)
                if first.blames_client and again.is_good and not again.blames_client:
                    self._count(snapshot, version, first.refuted())
                if again.answer is not None:
                    snapshot, version, attempt = latest, second, again
        is_valid = attempt.is_good and not attempt.blames_client
        self._mirror(key, body, content_type, is_valid=is_valid)
        if attempt.answer is None:
            return self._unavailable(f"release {version} did not answer; try again")
        return self._respond(
            attempt.answer.status, attempt.answer.body, snapshot=snapshot, version=version
        )

    async def _attempt(
        self, snapshot: Snapshot, version: int, body: bytes, content_type: str
    ) -> Attempt:
        arm = snapshot.arms.get(version)
        if arm is None:
            return Attempt("lost", 0.0)
        # A canary with a fall-back, and one that is only sent copies, is waited for less long.
        split = snapshot.split
        has_fallback = split.stable is not None or split.mirror_ratio > 0
        is_canary = version != split.stable and has_fallback
        deadline_s = self._canary_deadline_s if is_canary else self._deadline_s
        started_s = time.perf_counter()
        response = None
        try:
            response = arm.predict.remote(body, content_type)
            answer = await asyncio.wait_for(response, deadline_s)
        except TimeoutError:
            if response is not None:
                response.cancel()
            return Attempt("late", _ms_since(started_s))
        except Exception:  # noqa: BLE001 Ray has a dozen ways to lose a replica, of no common root
            return Attempt("lost", _ms_since(started_s))
        return Attempt("answered", _ms_since(started_s), answer)

    def _mirror(self, key: bytes, body: bytes, content_type: str, *, is_valid: bool) -> None:
        """Send a copy to the canary of the split in force, if it is due; returns at once."""
        snapshot = self._snapshot
        if not wants_copy(snapshot.split, key) or snapshot.split.canary is None:
            return
        version = snapshot.split.canary
        arm = snapshot.arms.get(version)
        if arm is None:
            return
        if len(self._copies) >= MAX_COPIES:
            self._tally(arm).add_dropped()
            return
        copy = self._score_copy(snapshot, version, body, content_type, is_valid=is_valid)
        # In a context of its own: Serve takes down with a request what was begun in its context.
        task = asyncio.create_task(copy, context=contextvars.Context())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _score_copy(
        self, snapshot: Snapshot, version: int, body: bytes, content_type: str, *, is_valid: bool
    ) -> None:
        attempt = await self._attempt(snapshot, version, body, content_type)
        if attempt.blames_client and is_valid:
            attempt = attempt.refuted()
        self._count(snapshot, version, attempt)

    def _tally(self, arm: Arm) -> ArmTally:
        return self._tallies.setdefault(arm.deployment_id, ArmTally())

    def _count(self, snapshot: Snapshot, version: int, attempt: Attempt) -> None:
        arm = snapshot.arms.get(version)
        if arm is None or attempt.blames_client:
            return
        if self._spans is not None:
            self._spans.note(snapshot.split, version, arm.deployment_id, attempt)
        tally = self._tally(arm)
        if attempt.answer is None:
            tally.add_error(None)
            return
        tally.add_masking(attempt.answer.masking)
        tally.add_explained(attempt.answer.explained)
        tally.add_told(attempt.answer.alarms, attempt.answer.signals)
        if attempt.answer.masking in {"withheld", "failed"}:
            tally.add_refusal(attempt.latency_ms)
        elif attempt.is_good:
            tally.add_answer(attempt.latency_ms, attempt.answer.statistics, snapshot.split.bands)
            tally.add_bins(attempt.answer.bins)
        else:
            tally.add_error(attempt.latency_ms)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_PERIOD_S)
            try:
                await self._refresh(must_be_warm=True)
            except Exception:
                _logger.exception("the newest split could not be applied; trying again")

    async def _refresh(self, *, must_be_warm: bool) -> None:
        desired = await asyncio.to_thread(self._state.read_split)
        if desired is not None:
            await self._take(desired, must_be_warm=must_be_warm)

    async def _take(self, desired: DesiredSplit, *, must_be_warm: bool) -> None:
        async with self._lock:
            current = self._snapshot
            is_news = desired.generation > current.split.generation
            is_repair = desired.generation == current.split.generation and not current.is_whole
            if not (is_news or is_repair):
                return
            arms: dict[int, Arm] = {}
            for version, deployment_id in desired.deployment_ids.items():
                known = current.arms.get(version)
                if known is not None and known.deployment_id == deployment_id:
                    arms[version] = known
                    continue
                # At a start the truth is obeyed even when a release of it is down: the other
                # one must be served, and the missing one is tried again at every refresh.
                with contextlib.nullcontext() if must_be_warm else contextlib.suppress(Exception):
                    arms[version] = Arm((await self._warm_handle(version)).predict, deployment_id)
            is_whole = len(arms) == len(desired.deployment_ids)
            self._snapshot = Snapshot(desired.to_split(), arms, is_whole)

    async def _warm_handle(self, version: int) -> Any:
        return await warm_handle(release_app(self._model_name, version))

    def _unavailable(self, message: str) -> Response:
        return self._respond(
            503,
            error_body("TEMPORARILY_UNAVAILABLE", message),
            headers={"Retry-After": str(_RETRY_AFTER_S)},
        )

    def _respond(
        self,
        status: int,
        body: bytes,
        *,
        snapshot: Snapshot | None = None,
        version: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        from starlette.responses import Response

        used = snapshot or self._snapshot
        named = {"X-KFM-Generation": str(used.split.generation), **(headers or {})}
        if version is not None:
            named["X-KFM-Version"] = str(version)
        return Response(body, status, headers=named, media_type="application/json")


def _ms_since(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3


def _mlflow_version() -> str:
    from importlib.metadata import version

    return version("mlflow")
