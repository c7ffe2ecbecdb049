"""Looking over a controller's shoulder: its ports, wrapped so that others are told of every call.

The controller knows nothing of it, and nothing that a watcher does can stop it: what a watcher
raises is logged. So telemetry never stands in the way of a rollback.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_logger = logging.getLogger(__name__)
_Port = TypeVar("_Port")


@dataclass(frozen=True)
class Call:
    """One call of a port, after it ended.

    Attributes:
        name: Of the method.
        args: As the controller gave them.
        kwargs: Same.
        result: What was answered; None when it raised.
        error: Type of what it raised; empty when it answered.
        duration_ms: How long it took.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str = ""
    duration_ms: float = 0.0


class Watcher(Protocol):
    """Is told what a controller did."""

    def saw(self, call: Call) -> None:
        """Take note of a call that ended."""


def watched(port: _Port, watchers: Sequence[Watcher]) -> _Port:
    """Return a port that tells of every call of it, and is the same otherwise."""
    return cast("_Port", _Watched(port, watchers))


class _Watched:
    """Passes everything on to a port."""

    def __init__(self, port: object, watchers: Sequence[Watcher]) -> None:
        self._port, self._watchers = port, tuple(watchers)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        return self._telling(name, found) if callable(found) else found

    def _telling(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            result, error = None, ""
            try:
                result = method(*args, **kwargs)
            except BaseException as exc:
                error = type(exc).__name__
                raise
            finally:
                duration_ms = (time.perf_counter() - started_s) * 1e3
                self._tell(Call(name, args, kwargs, result, error, duration_ms))
            return result

        return call

    def _tell(self, call: Call) -> None:
        for watcher in self._watchers:
            try:
                watcher.saw(call)
            except Exception:
                _logger.exception("telemetry of %s is lost", call.name)
