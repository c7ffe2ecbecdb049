"""A governed server for the tests of doors, on SQLite and on PostgreSQL, and what it must keep.

The model ``climate-tiny`` has v1 at Production (from a run), v2 at Staging (from a logged model) and
the candidate v3; ``climate-broken`` has a candidate without signature, which passes no gate.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import postgres
import pytest
from registry.server import Server, governed
from registry.world import COUNCIL, GOOD_CANARY, NAME, dump, files_of, query

from kfm_mlflow.registry.route_doors import PREFIXES, door_of
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests
    from registry.world import World

    from kfm_mlflow.registry.doors import Door

BROKEN = "climate-broken"
HELD = (1, 2)
CANDIDATE = 3


@dataclass(frozen=True)
class Ask:
    """One request through a door.

    Attributes:
        route: ``METHOD path``, as in the door table, with names such as ``{run_id}`` to fill in.
        status: What it is answered with.
        body: JSON, with names to fill in; bytes are sent as they are.
        words: What the answer says.
        recorded: Whether the refusal is a row of the ledger.
        query: Query string.
        prefixes: Below which to ask; both by default, where MLflow serves both.
    """

    route: str
    status: int
    body: Any = None
    words: tuple[str, ...] = ()
    recorded: bool = False
    query: str = ""
    prefixes: tuple[str, ...] = PREFIXES

    def paths(self) -> Iterator[str]:
        """Give every path at which this is asked."""
        path = self.route.split(" ")[1]
        yield from [path] if path.startswith("/") else [f"{start}{path}" for start in self.prefixes]

    def door(self) -> Door:
        """Return the row that this goes through."""
        (row,) = {door_of(self.route.split(" ")[0], path) for path in self.paths()}
        assert row is not None
        return row

    def __str__(self) -> str:
        """Return a short name for a test."""
        what = json.dumps(self.body) if not isinstance(self.body, bytes) else "bytes"
        return f"{self.route} {self.query}{what}"[:90].replace("::", ":")


@dataclass(frozen=True)
class Held:
    """A server that holds something.

    Attributes:
        names: What requests may name: ``run_id`` of v1, ``model_id`` of v2, ``key`` of v1's release.
    """

    server: Server
    names: dict[str, str] = field(default_factory=dict)

    def filled(self, value: Any) -> Any:
        """Return a value with its names filled in."""
        if isinstance(value, str):
            for name, meant in self.names.items():
                value = value.replace(f"{{{name}}}", meant)
            return value
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        return [self.filled(item) for item in value] if isinstance(value, list) else value

    def send(self, ask: Ask) -> Iterator[requests.Response]:
        """Send a request below every prefix, and give the answers."""
        for path in ask.paths():
            body = self.filled(ask.body)
            how = {"data": body} if isinstance(body, bytes) else {"json": body}
            url = f"{self.filled(path)}{'?' if ask.query else ''}{self.filled(ask.query)}"
            yield self.server.ask(ask.route.split(" ")[0], url, **how)

    def state(self) -> dict[str, Any]:
        """Return every row and file of the registry."""
        return self.server.state()

    def governed(self) -> dict[str, Any]:
        """Return what no door may change: levels, stages, aliases, locations, decisions, bytes."""
        database = self.server.database
        tables = dump(database)
        return {
            "versions": query(
                database,
                "SELECT version, current_stage, storage_location, source, status FROM model_versions "
                "WHERE name = ? AND version IN (1, 2) ORDER BY version",
                NAME,
            ),
            "aliases": query(
                database,
                "SELECT alias, version FROM registered_model_aliases WHERE name = ? ORDER BY alias",
                NAME,
            ),
            **{table: tables[table] for table in ("kfm_release", "kfm_outbox", "kfm_attestation")},
            "ledger": [row for row in tables["kfm_ledger"] if "refused" not in row],
            "files": files_of(self.server.data / "artifacts" / "kfm-frozen"),
            "read": [self.read(version) for version in HELD],
        }

    def read(self, version: int) -> tuple[int, bytes]:
        """Return what MLflow's own page shows of a version's model file."""
        answer = self.server.ask(
            "GET",
            "/model-versions/get-artifact",
            params={"name": NAME, "version": version, "path": "MLmodel"},
        )
        return answer.status_code, answer.content


def _logged_model(server: Server, world: World) -> tuple[int, str]:
    """Register v2 from a logged model, as MLflow 3's log_model does."""
    client = server.client()
    bundle = world.releases[1]
    logged = client.create_logged_model("0", name="tiny")
    client.log_model_artifacts(logged.model_id, str(bundle.release_dir))
    client.finalize_logged_model(logged.model_id, "READY")
    root = logged.artifact_location
    # What is said about a release lies beside it.
    path = root.removeprefix("mlflow-artifacts:/")
    for file in bundle.evidence_dir.iterdir():
        url = f"/api/2.0/mlflow-artifacts/artifacts/{path}.evidence/{file.name}"
        assert server.ask("PUT", url, data=file.read_bytes()).ok
    made = client.create_model_version(NAME, root, model_id=logged.model_id, await_creation_for=0)
    return int(made.version), logged.model_id


def _promote(server: Server, world: World, folder: Path) -> None:
    remote = RemoteRegistry(server.url, controller_key=world.key("controller"), cache_dir=folder)
    for level in ("staging", "canary"):
        remote.request_move(NAME, 1, level)
    remote.publish_verdict(NAME, 1, GOOD_CANARY)
    now = datetime.now(UTC)
    for member in COUNCIL[1:]:
        remote.cast_vote(
            NAME,
            1,
            "production",
            key=world.key(member),
            choice="approve",
            reason="measured",
            now=now,
            expires_at=now + timedelta(days=1),
        )
    remote.request_move(NAME, 1, "production")
    remote.request_move(NAME, 2, "staging")


@contextmanager
def held_on(world: World, database: str, folder: Path) -> Iterator[Held]:
    """Start a server and bring it to where the tests begin."""
    with governed(world, folder / "server", database=database) as server:
        assert server.register(world.releases[0]) == 1
        version, model_id = _logged_model(server, world)
        assert version == 2
        assert server.register(world.releases[2]) == CANDIDATE
        unsigned = world.copy(folder / "unsigned")
        unsigned.signature_path.unlink()
        server.register(unsigned, BROKEN)
        _promote(server, world, folder / "cache")
        client = server.client()
        client.create_registered_model("easy")
        run_id = client.get_model_version(NAME, "1").run_id
        client.set_terminated(run_id)
        frozen = client.get_model_version_download_uri(NAME, "1")
        names = {
            "run_id": run_id,
            "model_id": model_id,
            "key": frozen.split("/")[-2],
            "source": client.get_model_version(NAME, "1").source,
            "model_root": client.get_logged_model(model_id).artifact_location,
        }
        names |= {
            f"{name}_path": names[name].removeprefix("mlflow-artifacts:/")
            for name in ("source", "model_root")
        }
        yield Held(server, names)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def door_server(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Held]:
    """Return the server whose doors are tried, on each database."""
    folder = tmp_path_factory.mktemp(f"doors-{request.param}")
    database = ""
    if request.param == "postgresql":
        cluster = postgres.start()
        # Named after the folder: pytest may ask for this fixture again.
        database = cluster.url(cluster.create(folder.name))
    with held_on(world, database, folder) as held:
        yield held
