"""How far a freeze is: for a caller's hook, and for the server's log.

A move is one HTTP request and its caller hears nothing before it ends, so the log is where a
person sees that a large release is being copied. It is the same log whichever worker copies.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# MLflow's server shows what is logged below its own name (MLFLOW_LOGGING_LEVEL), and nothing else.
_log = logging.getLogger("mlflow.kfm.freeze")
EVERY_S = 5.0
_KILO = 1000


@dataclass(frozen=True)
class Progress:
    """How far one phase of a freeze is.

    Attributes:
        release_id: What is being frozen.
        phase: ``copying`` or ``reading back``.
        done_bytes: Bytes that are through this phase.
        total_bytes: Bytes of the release.
        elapsed_s: Seconds since the phase began.
    """

    release_id: str
    phase: str
    done_bytes: int
    total_bytes: int
    elapsed_s: float

    @property
    def bytes_per_s(self) -> float:
        """Mean rate of the phase so far; 0 before any time has passed."""
        return self.done_bytes / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def __str__(self) -> str:
        """Return one line for a log."""
        return (
            f"{self.release_id}: {self.phase} {_size(self.done_bytes)} of "
            f"{_size(self.total_bytes)}, {_size(self.bytes_per_s)}/s"
        )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < _KILO:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} TB"


class Meter:
    """Counts bytes and tells of them at most every few seconds; safe between threads."""

    def __init__(
        self,
        release_id: str,
        total_bytes: int,
        tell: Callable[[Progress], None] | None = None,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count towards ``total_bytes`` per phase; every phase ends with one call of ``tell``."""
        self._release_id, self._total_bytes = release_id, total_bytes
        self._tell, self._every_s, self._clock = tell, every_s, clock
        self._lock = Lock()
        self._phase, self._done_bytes = "", 0
        self._began_s = self._told_s = clock()

    def begin(self, phase: str) -> None:
        """Start counting another phase from nothing."""
        with self._lock:
            self._phase, self._done_bytes = phase, 0
            self._began_s = self._told_s = self._clock()

    def add(self, count_bytes: int) -> None:
        """Count bytes that are through."""
        with self._lock:
            self._done_bytes += count_bytes
            now_s = self._clock()
            if now_s - self._told_s < self._every_s:
                return
            self._told_s = now_s
            self._say(now_s)

    def end(self) -> None:
        """Say how the phase ended, however short it was."""
        with self._lock:
            self._say(self._clock())

    def _say(self, now_s: float) -> None:
        progress = Progress(
            self._release_id,
            self._phase,
            self._done_bytes,
            self._total_bytes,
            now_s - self._began_s,
        )
        _log.info("%s", progress)
        if self._tell is not None:
            self._tell(progress)
