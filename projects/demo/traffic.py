"""Live traffic: a few clients that ask all the time and write down every answer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_S = 20.0
OK = 200
NOT_SERVED_YET = 503


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (monotonic s), status (0: no answer), and who answered."""

    at_s: float
    status: int
    version: str


@dataclass
class Traffic:
    """Clients that send bodies to an endpoint, in turn, each request under its own key."""

    url: str
    bodies: Sequence[Mapping[str, Any]]
    client_count: int = 3
    rate_per_s: float = 100.0
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare; nothing is sent before :meth:`start`."""
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the clients."""
        for _ in range(self.client_count):
            thread = threading.Thread(target=self._ask, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the clients and wait for their last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)

    def since(self, at_s: float) -> list[Answer]:
        """Return the answers to everything sent from an instant on."""
        return [answer for answer in list(self.answers) if answer.at_s >= at_s]

    def _ask(self) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            pause_s = self.client_count / self.rate_per_s
            number = next(self._numbers)
            body = self.bodies[number % len(self.bodies)]
            started_s = time.monotonic()
            try:
                answer = session.post(
                    self.url,
                    json=body,
                    headers={"X-KFM-Key": f"client-{number}"},
                    timeout=_TIMEOUT_S,
                )
                found = Answer(
                    started_s, answer.status_code, answer.headers.get("X-KFM-Version", "")
                )
            except requests.RequestException:
                found = Answer(started_s, 0, "")
            self.answers.append(found)
            self._stop.wait(max(0.0, pause_s - (time.monotonic() - started_s)))


def by_status(answers: list[Answer]) -> Counter[int]:
    """Count answers by HTTP status."""
    return Counter(answer.status for answer in answers)


def by_version(answers: list[Answer]) -> Counter[str]:
    """Count good answers by the version that gave them."""
    return Counter(answer.version for answer in answers if answer.status == OK)
