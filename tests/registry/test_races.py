"""Races: exactly one Production, whoever asks at once, and losers are told so without a retry."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import postgres
import pytest
import requests
from mlflow.exceptions import MlflowException
from registry.server import Server, governed
from registry.world import BOTH, NAME, Registry, claims_of, query

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.trust.ledger import verify_chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.world import World

REFUSED = {400, 403, 409}
COLUMNS = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")


def at_once(asks: list[Callable[[], Any]]) -> list[Any]:
    """Ask all at the same moment, each in its own thread, and return the answers in order."""
    barrier = threading.Barrier(len(asks))

    def wait(ask: Callable[[], Any]) -> Any:
        barrier.wait()
        return ask()

    with ThreadPoolExecutor(len(asks)) as threads:
        return list(threads.map(wait, asks))


def production_of(database: Any) -> int:
    """Return the one Production version, as stage, aliases and ledger all say; no row is torn."""
    staged = query(
        database, "SELECT version FROM model_versions WHERE current_stage = 'Production'"
    )
    assert len(staged) == 1, staged
    ((version,),) = staged
    named = query(
        database,
        "SELECT version FROM registered_model_aliases WHERE alias IN ('production', 'champion')",
    )
    assert named == [(version,), (version,)]
    promoted = query(
        database, "SELECT version FROM kfm_outbox WHERE level = 'production' ORDER BY seq DESC"
    )
    assert promoted[0] == (version,)
    return int(version)


def require_whole_ledger(database: Any) -> int:
    """Assert that the ledger verifies and has no gap; return its length."""
    rows = query(database, f"SELECT {', '.join(COLUMNS)} FROM kfm_ledger ORDER BY seq")
    named = [dict(zip((*COLUMNS[:-1], "row_hash"), row, strict=True)) for row in rows]
    assert verify_chain(named) is None
    assert [row["seq"] for row in named] == list(range(1, len(rows) + 1))
    told = {row["seq"] for row in named if row["kind"] == "moved"}
    assert {seq for (seq,) in query(database, "SELECT seq FROM kfm_outbox")} == told
    assert query(database, "SELECT * FROM kfm_permit") == []
    return len(rows)


def challenge(registry: Registry) -> tuple[int, int]:
    """Make the version that is not Production a canary that lacks nothing; return both."""
    stable = production_of(registry.database)
    challenger = 3 - stable
    registry.now = datetime.now(UTC)
    if registry.level(challenger) == "candidate":
        registry.store.move(NAME, challenger, Level.STAGING)
    if registry.level(challenger) == "staging":
        registry.store.move(NAME, challenger, Level.CANARY)
    registry.endorse(challenger)
    return stable, challenger


# -- in one process, every driver ------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", [*BOTH, "psycopg2"])
def test_promotions_and_restores_at_once_leave_one_production_by_every_driver(two):
    def asking(*what: Any, **how: Any) -> Callable[[], Any]:
        store = two.open()

        def ask() -> Any:
            try:
                return store.move(NAME, *what, **how).seq
            except MlflowException as exc:
                if exc.get_http_status_code() not in REFUSED:
                    raise
                return None

        return ask

    for index in range(4):
        stable, challenger = challenge(two)
        rival = Level.STAGING if index % 2 else Level.PRODUCTION
        seqs = at_once([asking(challenger, Level.PRODUCTION)] * 3 + [asking(challenger, rival)])
        assert any(seqs)
        if production_of(two.database) == challenger:
            down = asking(challenger, Level.CANDIDATE, restore=stable)
            seqs = at_once([down] * 3 + [asking(challenger, Level.PRODUCTION)])
            assert len([seq for seq in seqs if seq]) == 1
            assert production_of(two.database) == stable
        require_whole_ledger(two.database)


@pytest.mark.parametrize("database_kind", [*BOTH, "psycopg2"])
def test_archiving_by_mlflows_own_door_works_with_every_driver(two):
    # Plain MLflow 3.17 fails with psycopg 3, SQLAlchemy's default driver of postgresql://.
    two.store.transition_model_version_stage(
        NAME, "2", "Production", archive_existing_versions=True
    )
    assert production_of(two.database) == 2
    rows = query(two.database, "SELECT current_stage FROM model_versions WHERE version = 1")
    assert rows == [("Archived",)]


# -- two workers, four clients over HTTP -----------------------------------------------------------


@pytest.fixture(scope="module")
def two_workers(world: World):
    """Return one server of two workers on SQLite and one on PostgreSQL, started side by side."""
    cluster = postgres.start()
    database = cluster.url(cluster.create("two-workers"))
    contexts = [
        governed(world, world.root / "two-workers-sqlite", workers=2),
        governed(world, world.root / "two-workers-postgresql", database=database, workers=2),
    ]
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        yield dict(zip(BOTH, threads.map(stack.enter_context, contexts), strict=True))


@pytest.fixture
def server(two_workers: dict[str, Server], database_kind: str) -> Server:
    return two_workers[database_kind]


@pytest.fixture
def beside(server: Server, world: World):
    """Return a third writer on the server's database: v1 at Production, v2 registered."""
    made = Registry(world, server.database, server.data / "artifacts", datetime.now(UTC))
    if not made.query("SELECT 1 FROM registered_models"):
        for bundle in world.releases[:2]:
            made.register(bundle)
        made.to_production(1)
    yield made
    made.store._dispose_engine()


class Client:
    """One HTTP client."""

    def __init__(self, server: Server) -> None:
        self.url = server.url

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        """Send JSON on a connection of its own, so that either worker may take it."""
        return requests.post(f"{self.url}{path}", json=body, timeout=60)

    def stage(self, version: int, stage: str) -> requests.Response:
        """Ask for a stage as the UI's dropdown does."""
        body = {"name": NAME, "version": str(version), "stage": stage}
        return self.post(
            "/api/2.0/mlflow/model-versions/transition-stage",
            {**body, "archive_existing_versions": stage in ("Production", "Staging")},
        )

    def alias(self, version: int, alias: str) -> requests.Response:
        """Set an alias as the UI's dialog does."""
        body = {"name": NAME, "version": str(version), "alias": alias}
        return self.post("/api/2.0/mlflow/registered-models/alias", body)

    def move(self, version: int, to: str, **how: Any) -> requests.Response:
        """Ask for a level as the rollout controller does."""
        return self.post(f"/kfm/api/v1/models/{NAME}/versions/{version}/moves", {"to": to, **how})


def statuses(answers: list[requests.Response]) -> list[int]:
    found = [answer.status_code for answer in answers]
    assert set(found) <= {200, *REFUSED}, [answer.text for answer in answers]
    return found


@pytest.mark.server
@pytest.mark.parametrize("database_kind", BOTH)
def test_four_clients_racing_at_two_workers_leave_one_production(server, beside):
    clients = [Client(server) for _ in range(4)]
    one, two, three, four = clients
    restores = 0
    for index in count():
        stable, challenger = challenge(beside)
        rival = "Staging" if index % 2 else "Production"
        found = statuses(
            at_once(
                [
                    lambda n=challenger: one.stage(n, "Production"),
                    lambda n=challenger: two.alias(n, "champion"),
                    lambda n=challenger, s=stable: three.move(
                        n, "production", expect={"production": s, "canary": n}
                    ),
                    lambda n=challenger, rival=rival: four.stage(n, rival),
                ]
            )
        )
        assert 200 in found
        require_whole_ledger(server.database)
        if production_of(server.database) == challenger:
            downs = [
                lambda c=c, n=challenger, s=stable: c.move(n, "candidate", restore=s)
                for c in clients[:3]
            ]
            answers = at_once([*downs, lambda n=challenger: four.stage(n, "Production")])
            statuses(answers)
            # A late one finds it done: 200, and no row.
            seqs = [answer.json().get("seq", 0) for answer in answers[:3]]
            assert len([seq for seq in seqs if seq]) == 1
            assert production_of(server.database) == stable
            restores += 1
        require_whole_ledger(server.database)
        if index >= 5 and restores:
            break
    outcomes = {
        claims_of(body)["outcome"]
        for (body,) in query(server.database, "SELECT body FROM kfm_ledger WHERE kind = 'moved'")
    }
    assert outcomes == {"allowed"}


@pytest.mark.server
@pytest.mark.parametrize("database_kind", BOTH)
def test_repeating_a_finished_move_over_http_changes_nothing(server, beside):
    _, challenger = challenge(beside)
    client = Client(server)
    assert client.stage(challenger, "Production").status_code == 200
    rows = require_whole_ledger(server.database)
    before = server.state()
    for _ in range(3):
        again = client.stage(challenger, "Production")
        assert again.status_code == 200
        assert again.json()["model_version"]["current_stage"] == "Production"
        assert client.alias(challenger, "champion").status_code == 200
        assert client.move(challenger, "production").json()["seq"] == 0
    assert server.state() == before
    assert require_whole_ledger(server.database) == rows


@pytest.mark.server
@pytest.mark.parametrize("database_kind", BOTH)
def test_four_clients_registering_at_once_get_four_versions_and_each_is_remembered(server, beside):
    client = Client(server)
    name = "climate-crowd"
    client.post("/api/2.0/mlflow/registered-models/create", {"name": name})
    body = {"name": name, "source": "s3://elsewhere/model"}
    asks = [Client(server) for _ in range(4)]
    answers = at_once(
        [lambda c=c: c.post("/api/2.0/mlflow/model-versions/create", body) for c in asks]
    )
    assert statuses(answers) == [200] * 4
    made = sorted(answer.json()["model_version"]["version"] for answer in answers)
    assert made == ["1", "2", "3", "4"]
    assert query(
        server.database,
        "SELECT version FROM kfm_registration WHERE model = ? ORDER BY version",
        name,
    ) == [(1,), (2,), (3,), (4,)]
