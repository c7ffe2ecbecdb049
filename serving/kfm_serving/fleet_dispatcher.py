"""The deployment that gives tasks to a fleet's agents.

Rules kept here:

1. An attempt uses one immutable snapshot of route table and handles; a change swaps it. A second
   attempt looks again, so that it never goes to an instance that has left meanwhile.
2. Generations only grow. The truth is read at start and twice a second; a broadcast is faster.
3. A table is applied even when an instance of it does not answer: putting the others back must not
   wait for it. That instance is doubted.
4. A doubted instance comes last until it answers a ping again. A call to an instance whose node
   died ends only with its deadline; so one task pays for it, not every one.
5. A task that one agent fails is given to another of the specialty, once. Tasks change nothing, so
   two may have done the same one.
6. What an instance fails is counted each time; what it answers, when the answer is used.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import InputError
from kfm_serving.applications import own_replica_id, warm_handle
from kfm_serving.fleet_attempt import Attempt, ask_instance
from kfm_serving.fleet_choice import rank_targets
from kfm_serving.fleet_counts import TaskTally
from kfm_serving.fleet_desired import DesiredTable, FleetStore, agent_app, parse_desired_table
from kfm_serving.fleet_tasks import Done, Task, failed_task, parse_tasks, unserved_task
from kfm_serving.fleet_traces import TaskSpans
from kfm_serving.scoring import ClientError, check_content_type, error_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_serving.fleet_choice import Target

_logger = logging.getLogger(__name__)

REFRESH_PERIOD_S = 0.5
_WARM_DEADLINE_S = 2.0
_RETRY_AFTER_S = 1
_ATTEMPTS = 2
_KEPT_HANDLES = 256


@dataclass(frozen=True)
class Snapshot:
    """What one attempt sees: the table in force and a warm handle per deployment id.

    Handles of instances that had tasks before are kept: putting them back waits for no ping.
    """

    table: DesiredTable = field(default_factory=DesiredTable)
    handles: Mapping[str, Any] = field(default_factory=dict)


class Dispatcher:
    """One dispatcher process of the fleet."""

    def __init__(
        self, route_prefix: str, deadline_s: float, spans: SpanOptions | None = None
    ) -> None:
        """Make a dispatcher that gives nothing yet; ``reconfigure`` loads the table.

        Args:
            route_prefix: Path under which Serve mounts this application.
            deadline_s: How long an instance may take for a task.
            spans: Which spans are kept of what was asked; None keeps none.
        """
        self._prefix = route_prefix.rstrip("/")
        self._deadline_s = deadline_s
        self._store = FleetStore()
        self._snapshot = Snapshot()
        self._doubted: frozenset[str] = frozenset()
        self._tallies: dict[str, TaskTally] = {}
        self._lock = asyncio.Lock()
        self._epoch = uuid.uuid4().hex
        self._refresher: asyncio.Task[None] | None = None
        self._spans = None if spans is None else TaskSpans(spans, own_replica_id())

    def __del__(self) -> None:
        """Export the spans that wait; Serve calls this when it stops a dispatcher on purpose."""
        spans = getattr(self, "_spans", None)
        if spans is not None:
            spans.close()

    async def reconfigure(self, _config: object) -> None:
        """Load the newest table before the first task; Serve awaits this at every start."""
        if self._refresher is None:
            await self._refresh()
            self._refresher = asyncio.create_task(self._keep_fresh())

    async def apply(self, data: bytes) -> int:
        """Take a table that was just declared, and return the generation in force."""
        await self._take(parse_desired_table(data))
        return self._snapshot.table.generation

    async def counts(self) -> dict[str, Any]:
        """Return what this process has counted since it started, per deployment id."""
        return {
            "process": f"{own_replica_id()}/{self._epoch}",
            "generation": self._snapshot.table.generation,
            "tallies": {key: tally.to_dict() for key, tally in self._tallies.items()},
        }

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        path = request.url.path.removeprefix(self._prefix)
        if request.method == "POST" and path == "/tasks":
            return await self._take_tasks(request)
        if request.method == "GET" and path in {"/ping", "/health"}:
            return self._respond(200, b"\n")
        message = f"no such route: {request.method} {path[:100]}; POST /tasks gives tasks"
        return self._respond(404, error_body("ENDPOINT_NOT_FOUND", message))

    async def _take_tasks(self, request: Request) -> Response:
        body = await request.body()
        try:
            check_content_type(request.headers.get("content-type", ""))
            tasks, is_list = parse_tasks(body, self._snapshot.table.specialties)
        except ClientError as exc:
            return self._respond(exc.status, error_body(exc.error_code, str(exc)))
        except InputError as exc:
            told = {
                "error_code": "INVALID_PARAMETER_VALUE",
                "message": str(exc),
                "field": exc.where,
                "remedy": exc.remedy,
            }
            return self._respond(400, canonical_bytes(told))
        found = await asyncio.gather(*(self._do(task) for task in tasks))
        if not is_list:
            return self._respond(found[0].status, found[0].to_bytes(), headers=found[0].headers)
        listed = {"answers": [{"status": done.status, **done.body} for done in found]}
        return self._respond(max(done.status for done in found), canonical_bytes(listed))

    async def _do(self, task: Task) -> Done:
        """Have one task done."""
        attempt = await self._ask(task, task.specialty)
        if attempt is None:
            return unserved_task(task, task.specialty)
        specialty = task.specialty
        if specialty is None and attempt.answer is not None:
            # The coordinator's own agent is the first choice of its specialty, too.
            specialty = attempt.answer.specialty
            if attempt.target.specialty != specialty:
                attempt = await self._ask(task, specialty)
                if attempt is None:
                    return unserved_task(task, specialty)
        if attempt.answer is None:
            return failed_task(task, specialty, attempt)
        self._count(task, attempt)
        return Done.from_answer(task, attempt.target, attempt.release_id, attempt.answer)

    async def _ask(self, task: Task, specialty: str | None) -> Attempt | None:
        """Ask for an answer, a second time elsewhere; None when there is nobody to ask."""
        attempt: Attempt | None = None
        tried: set[str] = set()
        for _ in range(_ATTEMPTS):
            snapshot = self._snapshot
            ranked = rank_targets(snapshot.table, specialty, task.id, self._doubted)
            others = [target for target in ranked if target.deployment_id not in tried]
            # Serve replaces a lost process: the only instance there is may answer yet.
            again = ranked if attempt is not None and attempt.outcome == "lost" else ()
            target = next(iter(others or again), None)
            if target is None:
                break
            tried.add(target.deployment_id)
            attempt = await self._attempt(snapshot, target, task, specialty)
            if attempt.is_good:
                break
        return attempt

    async def _attempt(
        self, snapshot: Snapshot, target: Target, task: Task, specialty: str | None
    ) -> Attempt:
        handle = snapshot.handles.get(target.deployment_id)
        if handle is None:
            return Attempt(target, "lost")  # it never answered: it was not given the task
        attempt = await ask_instance(handle, target, task, specialty, self._deadline_s)
        if attempt.outcome in {"late", "lost"}:
            self._doubted |= {target.deployment_id}
        if not attempt.is_good:
            self._count(task, attempt)
        return attempt

    def _count(self, task: Task, attempt: Attempt) -> None:
        tally = self._tallies.setdefault(attempt.target.deployment_id, TaskTally())
        if attempt.answer is None:
            tally.add_failure()
        else:
            tally.add_answer(
                attempt.latency_ms,
                is_unsafe=attempt.answer.is_unsafe,
                is_held=attempt.answer.decision == "hold",
            )
        if self._spans is not None:
            self._spans.note(task.id, self._snapshot.table.generation, attempt)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_PERIOD_S)
            try:
                await self._refresh()
                await self._clear_doubts()
            except Exception:
                _logger.exception("the newest route table could not be read; trying again")

    async def _refresh(self) -> None:
        desired = await asyncio.to_thread(self._store.read_table)
        if desired is not None:
            await self._take(desired)

    async def _take(self, desired: DesiredTable) -> None:
        async with self._lock:
            if desired.age <= self._snapshot.table.age:
                return
            targets = desired.targets
            kept = self._kept_handles(targets)
            new = [k for k in targets if k not in kept and k not in self._doubted]
            warm = await self._warm(new, targets)
            self._snapshot = Snapshot(desired, {**kept, **warm})
            self._doubted = (self._doubted | (set(new) - set(warm))) & set(targets)

    def _kept_handles(self, targets: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        """Return handles that stay: of a new table, and those that it may be put back to."""
        handles = self._snapshot.handles
        others = [k for k in handles if k not in targets and k not in self._doubted]
        stay = {*targets, *others[-_KEPT_HANDLES:]}
        return {k: handle for k, handle in handles.items() if k in stay}

    async def _clear_doubts(self) -> None:
        """Ping the doubted; those that answer get tasks again."""
        targets = self._snapshot.table.targets
        warm = await self._warm([k for k in self._doubted if k in targets], targets)
        # Another table may have come meanwhile: it does not wait for those that do not answer.
        table = self._snapshot.table
        still = {k: handle for k, handle in warm.items() if k in table.targets}
        if still:
            self._snapshot = Snapshot(table, {**self._snapshot.handles, **still})
            self._doubted -= set(still)

    async def _warm(
        self, deployment_ids: list[str], targets: Mapping[str, tuple[str, int]]
    ) -> dict[str, Any]:
        """Return handles to those that answer a ping, asked all at once."""
        found = await asyncio.gather(
            *(self._warm_handle(*targets[k]) for k in deployment_ids), return_exceptions=True
        )
        pairs = zip(deployment_ids, found, strict=True)
        return {k: handle for k, handle in pairs if not isinstance(handle, BaseException)}

    async def _warm_handle(self, agent: str, version: int) -> Any:
        return await warm_handle(agent_app(agent, version), deadline_s=_WARM_DEADLINE_S)

    def _respond(
        self, status: int, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        from starlette.responses import Response

        named = {"X-KFM-Generation": str(self._snapshot.table.generation), **(headers or {})}
        if status == 503:  # noqa: PLR2004 Service Unavailable
            named["Retry-After"] = str(_RETRY_AFTER_S)
        return Response(body, status, headers=named, media_type="application/json")
