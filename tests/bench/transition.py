"""Round trip of registry writes over REST: the governed server against stock MLflow.

One good release moves candidate, staging, candidate, … on both, in turns, over one kept connection
each. The way up passes every staging gate of the climate policy on cached evidence (the bytes are
hashed and the signatures verified every time; what the documents say is remembered by digest).
"""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

from registries import MODEL_NAME
from report import Row, paired_ratio, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = {"small": 40, "full": 150}
_WARM_UP_COUNT = 5
_API = "/api/2.0/mlflow/model-versions"


class Registry:
    """One kept connection to one server."""

    def __init__(self, port: int) -> None:
        """Connect at the first request."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: dict[str, Any]) -> float:
        """Send one request and return how long it took in milliseconds.

        Raises:
            RuntimeError: The answer was not 200.
        """
        data = json.dumps({"name": MODEL_NAME, "version": "1", **body})
        started_s = time.perf_counter()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        took_ms = (time.perf_counter() - started_s) * 1e3
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status} {text[:300]!r}")
        return took_ms

    def move(self, stage: str) -> float:
        """Move the version to a stage; milliseconds."""
        body = {"stage": stage, "archive_existing_versions": False}
        return self.post(f"{_API}/transition-stage", body)

    def tag(self, value: str) -> float:
        """Set a tag, which no gate guards; milliseconds."""
        return self.post(f"{_API}/set-tag", {"key": "bench", "value": value})

    def act(self, what: str, number: int) -> float:
        """Do one of ``Staging``, ``Archived`` and ``tag``."""
        return self.tag(str(number)) if what == "tag" else self.move(what)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _row(what: str, ours: Sequence[float], theirs: Sequence[float], note: str) -> Row:
    numbers = [(percentile(x, 50), percentile(x, 95)) for x in (ours, theirs)]
    (our_50, our_95), (their_50, their_95) = numbers
    return Row(
        what,
        f"p50 {our_50:.1f}, p95 {our_95:.1f} ms",
        "`mlflow server`",
        f"p50 {their_50:.1f}, p95 {their_95:.1f} ms",
        paired_ratio(ours, theirs),
        note=f"p50 {our_50 - their_50:+.1f} ms, p95 {our_95 - their_95:+.1f} ms; {note}",
    )


def measure(size: str, governed_port: int, plain_port: int) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        governed_port: Of a ``kfm server`` where version 1 of the model passes all staging gates.
        plain_port: Of an ``mlflow server`` with a version 1 of the same name.
    """
    governed, plain = Registry(governed_port), Registry(plain_port)
    actions = ("Staging", "Archived", "tag")
    first_ms = governed.move("Staging")
    governed.move("Archived")
    for k in range(_WARM_UP_COUNT):
        for what in actions:
            governed.act(what, k)
            plain.act(what, k)
    found: dict[tuple[str, str], list[float]] = {}
    for k in range(ROUNDS[size]):
        pair = (("ours", governed), ("theirs", plain))
        for what in actions:
            for name, registry in pair if k % 2 else pair[::-1]:
                found.setdefault((what, name), []).append(registry.act(what, k))
    governed.close()
    plain.close()
    titles = {
        "Staging": (
            "stage transition None to Staging, all gates pass",
            f"evidence cached; the very first, which also freezes, took {first_ms:.0f} ms (n = 1)",
        ),
        "Archived": (
            "stage transition Staging to Archived",
            "asks no gates; signed and in the ledger",
        ),
        "tag": ("set a tag on a version", "no gates"),
    }
    return [
        _row(title, found[what, "ours"], found[what, "theirs"], f"{note}; SQLite, 1 worker")
        for what, (title, note) in titles.items()
    ]
