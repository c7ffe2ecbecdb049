"""The deployment that is one agent serving one version: a task in, an :class:`InstanceAnswer` out.

Rules kept here:

1. An instance computes the release id of the directory that it loads, before and after loading,
   and does not come up when it is not the one that it was told. It reports what it computed.
2. A GPU that was lent has to work, or the instance does not come up.
3. What a release raises on a task is the release's failure and is answered as that; only a lost
   process is an error of the call.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import parse_digest
from kfm_mlflow.errors import IntegrityError
from kfm_mlflow.fleet.pipeline import load_pipeline
from kfm_mlflow.fleet.plane import ProbeAnswer
from kfm_mlflow.release.manifest import build_manifest
from kfm_serving.fleet_gpu import check_gpu
from kfm_serving.session import choose_gpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.fleet.pipeline import Pipeline, TaskAnswer

_THREAD_COUNT = 2


@dataclass(frozen=True)
class Identity:
    """Who an instance is.

    Attributes:
        release_id: ``sha256:<hex>`` of the files that it loaded, computed by itself.
        node_id: Ray's id of its node, in hex.
    """

    release_id: str
    node_id: str


@dataclass(frozen=True)
class InstanceAnswer:
    """What an instance answered to a task.

    Attributes:
        release_id: That of its :class:`Identity`.
        answer: None when the release failed.
        error: Class of what it raised; empty when it answered.
    """

    release_id: str
    answer: TaskAnswer | None = None
    error: str = ""


def load_verified(directory: Path, release_id: str) -> tuple[Pipeline, str]:
    """Load a release whose files have the given release id, before and after.

    Args:
        directory: The release directory.
        release_id: ``sha256:<hex>``.

    Returns:
        The pipeline, and the release id that was computed.

    Raises:
        IntegrityError: They are other files, or changed meanwhile.
        KfmError: They are no release, or cannot be run.
    """
    wanted = parse_digest(release_id, where="release_id")
    found = build_manifest(directory).release_id
    if found != wanted:
        raise IntegrityError(
            f"its release id is {found}, expected {wanted}",
            where=directory.name,
            remedy="restore the release's bytes on this node, or start the version anew",
        )
    pipeline = load_pipeline(directory)
    if build_manifest(directory).release_id != found:
        raise IntegrityError(
            "its files changed while they were loaded",
            where=directory.name,
            remedy="keep releases where nobody writes",
        )
    return pipeline, found


class AgentInstance:
    """One process that serves one release for one agent."""

    def __init__(self, release_dir: str, release_id: str, gpu_ratio: float) -> None:
        """Verify and load the release.

        Args:
            release_dir: Directory of the release on this node.
            release_id: ``sha256:<hex>`` that its files must have.
            gpu_ratio: GPUs that were asked of Ray for this process.

        Raises:
            KfmError: The files are not the release's, cannot be run, or a GPU that was asked for
                was not lent or does not work.
        """
        import ray

        if choose_gpu(gpu_ratio, ray.get_gpu_ids()):
            check_gpu()
        self._pipeline, found = load_verified(Path(release_dir), release_id)
        self._identity = Identity(found, ray.get_runtime_context().get_node_id())
        # The event loop stays free for pings and health checks while a task is computed.
        self._threads = ThreadPoolExecutor(_THREAD_COUNT, thread_name_prefix="kfm-agent")

    async def ping(self) -> Identity:
        """Answer that the release is loaded, and which."""
        return self._identity

    async def answer(self, task: str, specialty: str | None) -> InstanceAnswer:
        """Answer a task; never raises for what the release does wrong.

        Args:
            task: The text.
            specialty: Whose head decides; None asks the coordinator.
        """
        loop = asyncio.get_running_loop()
        release_id = self._identity.release_id
        try:
            found = await loop.run_in_executor(
                self._threads, self._pipeline.answer, task, specialty
            )
        except Exception as exc:  # noqa: BLE001 whatever a release raises is that release's failure
            return InstanceAnswer(release_id, error=type(exc).__name__)
        return InstanceAnswer(release_id, found)

    async def probe(self, tasks: Sequence[str], timeout_s: float) -> list[ProbeAnswer | None]:
        """Answer probes one after the other, by the head that the coordinator chooses.

        Args:
            tasks: The texts.
            timeout_s: How long all may take.

        Returns:
            The answers in order; None for those that failed or were not reached in time.
        """
        deadline_s = time.monotonic() + timeout_s
        found: list[ProbeAnswer | None] = []
        for task in tasks:
            started_s = time.perf_counter()
            try:
                said = await asyncio.wait_for(
                    self.answer(task, None), deadline_s - time.monotonic()
                )
            except TimeoutError:
                break
            latency_ms = (time.perf_counter() - started_s) * 1e3
            answer = said.answer
            found.append(
                None
                if answer is None
                else ProbeAnswer(answer.decision, answer.specialty, answer.text, latency_ms)
            )
        return [*found, *[None] * (len(tasks) - len(found))]
