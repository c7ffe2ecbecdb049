"""Round trip of registry writes over REST: the governed server against stock MLflow.

One good release moves candidate, staging, candidate, … on both, in turns, over one kept connection
each. The way up passes every staging gate of the climate policy on warm evidence: signatures and
attestations are verified every time, digests of files that nobody wrote to since and what follows
from the bytes alone are remembered.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from registries import MODEL_NAME
from report import Row, paired_ratio, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registries import GovernedServer, PlainServer

ROUNDS = {"small": 40, "full": 150}
CROWDS = {"small": (100, 100_000), "full": (100, 1_000, 10_000, 100_000)}
CROWD_ROUNDS = {"small": 20, "full": 60}
_WARM_UP_COUNT = 5
_SETTLED_S = 2.5
_BATCH = 10_000
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


def _in_turns(
    governed: Registry, plain: Registry, actions: Sequence[str], round_count: int
) -> dict[tuple[str, str], list[float]]:
    """Do every action on both registries, in turns; milliseconds by action and registry."""
    found: dict[tuple[str, str], list[float]] = {}
    for k in range(-_WARM_UP_COUNT, round_count):
        pair = (("ours", governed), ("theirs", plain))
        for what in actions:
            for name, registry in pair if k % 2 else pair[::-1]:
                took_ms = registry.act(what, k)
                if k >= 0:
                    found.setdefault((what, name), []).append(took_ms)
    return found


def measure(size: str, governed_port: int, plain_port: int, database: str) -> list[Row]:
    """Return the rows of round trips among few versions.

    Args:
        size: ``small`` or ``full``.
        governed_port: Of a ``kfm server`` where version 1 of the model passes all staging gates.
        plain_port: Of an ``mlflow server`` with a version 1 of the same name.
        database: What both keep their rows in, for the note.
    """
    with closing(Registry(governed_port)) as governed, closing(Registry(plain_port)) as plain:
        first_ms = governed.move("Staging")
        governed.move("Archived")
        # A file's digest is remembered once it has been left alone for two seconds.
        time.sleep(_SETTLED_S)
        found = _in_turns(governed, plain, ("Staging", "Archived", "tag"), ROUNDS[size])
    titles = {
        "Staging": (
            "stage transition None to Staging, all gates pass",
            f"evidence warm; the very first, which also freezes, took {first_ms:.0f} ms (n = 1)",
        ),
        "Archived": (
            "stage transition Staging to Archived",
            "asks no gates; signed and in the ledger",
        ),
        "tag": ("set a tag on a version", "no gates"),
    }
    return [
        _row(title, found[what, "ours"], found[what, "theirs"], f"{note}; {database}, 1 worker")
        for what, (title, note) in titles.items()
    ]


def measure_crowded(
    size: str, governed: GovernedServer, plain: PlainServer, database: str
) -> list[Row]:
    """Return a row for each number of versions that the model has besides the one that moves.

    The versions are written to both databases directly, for making 100,000 over REST takes hours.
    """
    rows = []
    for count in CROWDS[size]:
        for uri in (governed.database, plain.database):
            _crowd(uri, count)
        # Connected only now: filling takes longer than the servers keep a silent connection.
        with closing(Registry(governed.port)) as ours, closing(Registry(plain.port)) as theirs:
            found = _in_turns(ours, theirs, ("Staging", "Archived"), CROWD_ROUNDS[size])
        rows.append(
            _row(
                f"the same among {count:,} versions of the model",
                found["Staging", "ours"],
                found["Staging", "theirs"],
                f"None to Staging; {database}, 1 worker",
            )
        )
    return rows


def _crowd(uri: str, count: int) -> None:
    """Fill the model up to a number of versions, as plain rows."""
    from sqlalchemy import create_engine, func, insert, select, text
    from sqlalchemy.schema import MetaData, Table

    engine = create_engine(uri)
    with engine.begin() as connection:
        table = Table("model_versions", MetaData(), autoload_with=connection)
        of_model = table.c.name == MODEL_NAME
        first = connection.execute(select(table).where(of_model, table.c.version == 1)).one()
        top = connection.execute(select(func.max(table.c.version)).where(of_model)).scalar_one()
        like_first = {**first._mapping, "current_stage": "None", "storage_location": None}
        added = [{**like_first, "version": number} for number in range(top + 1, count + 1)]
        for start in range(0, len(added), _BATCH):
            connection.execute(insert(table), added[start : start + _BATCH])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()
