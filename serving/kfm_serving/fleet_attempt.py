"""How one call to an instance ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kfm_mlflow.fleet.pipeline import TaskAnswer
    from kfm_serving.fleet_choice import Target
    from kfm_serving.fleet_instance import InstanceAnswer
    from kfm_serving.fleet_tasks import Task

Outcome = Literal["answered", "error", "late", "lost"]
"""What became of a call: ``error`` is the release's; ``late`` and ``lost`` had no answer."""


@dataclass(frozen=True)
class Attempt:
    """One call to an instance.

    Attributes:
        target: Who was asked.
        outcome: What became of it.
        latency_ms: Until its answer, or until nobody waited any more.
        release_id: What the instance says that it serves; empty when it did not answer.
        answer: Only when it answered.
    """

    target: Target
    outcome: Outcome
    latency_ms: float = 0.0
    release_id: str = ""
    answer: TaskAnswer | None = None

    @property
    def is_good(self) -> bool:
        """True when the task was answered."""
        return self.outcome == "answered"


async def ask_instance(
    handle: Any, target: Target, task: Task, specialty: str | None, deadline_s: float
) -> Attempt:
    """Ask an instance once.

    Args:
        handle: Serve's handle to it.
        target: Which it is.
        task: The task.
        specialty: Whose head decides; None leaves that to its coordinator.
        deadline_s: How long it may take.
    """
    started_s = time.perf_counter()
    response = None
    try:
        response = handle.answer.remote(task.task, specialty)
        said: InstanceAnswer = await asyncio.wait_for(response, deadline_s)
    except TimeoutError:
        if response is not None:
            response.cancel()
        return Attempt(target, "late", _ms_since(started_s))
    except Exception:  # noqa: BLE001 Ray has a dozen ways to lose an instance, of no common root
        return Attempt(target, "lost", _ms_since(started_s))
    outcome: Outcome = "error" if said.answer is None else "answered"
    return Attempt(target, outcome, _ms_since(started_s), said.release_id, said.answer)


def _ms_since(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3
