"""Registries in this process, and one real server, around the world of ``world.py``."""

from __future__ import annotations

import itertools
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import postgres
import pytest
from registry import server as servers
from registry.door_world import door_server  # noqa: F401 - a fixture
from registry.world import Registry, World, make_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.getbasetemp() / "world")


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[servers.Server]:
    """Return the session's server, shared with the tests of the command line."""
    yield servers.start(world)
    servers.stop()


@pytest.fixture(scope="session")
def empty_database(world: World) -> Path:
    """Return a database that MLflow and we have made our tables in; made once, for it is slow."""
    database, _ = _template(world, "sqlite", "empty")
    assert isinstance(database, Path)
    return database


@pytest.fixture
def database_kind() -> str:
    """Return what registries stand on; parametrised by tests that run on both (see BOTH)."""
    return "sqlite"


_DRIVERS = {"postgresql": "psycopg", "psycopg2": "psycopg2"}


@cache
def _template(world: World, kind: str, name: str) -> tuple[Path | str, Path]:
    """Make the database and the frozen area that tests get copies of."""
    folder = world.root / f"{kind}-{name}"
    folder.mkdir()
    if name != "empty":
        made = _copy(world, kind, "empty", folder)
    elif kind == "sqlite":
        made = Registry(world, folder / "registry.db", folder / "artifacts")
    else:
        cluster = postgres.start()
        database = cluster.create(f"{kind}-{name}")
        made = Registry(world, cluster.url(database), folder / "artifacts")
    _FILL[name](made)
    made.store._dispose_engine()
    return made.database, made.area


def _copy(world: World, kind: str, name: str, folder: Path) -> Registry:
    database, area = _template(world, "sqlite" if kind == "sqlite" else "postgresql", name)
    if area.is_dir():
        shutil.copytree(area, folder / "artifacts")
    if isinstance(database, Path):
        copied: Path | str = folder / "registry.db"
        shutil.copy(database, copied)
    else:
        cluster = postgres.start()
        copy = cluster.create(f"copy-{next(_numbers)}", database.rpartition("/")[2])
        copied = cluster.url(copy, _DRIVERS[kind])
    return Registry(world, copied, folder / "artifacts")


_numbers = itertools.count(1)


def _fill_two(made: Registry) -> None:
    for bundle in made.world.releases[:2]:
        made.register(bundle)
    made.to_production(1)
    made.to_canary(2)
    made.endorse(2)


def _fill_canary(made: Registry) -> None:
    made.register(made.world.releases[0])
    made.to_canary(1)
    made.verdict(1)


def _fill_three(made: Registry) -> None:
    for bundle in made.world.releases:
        made.register(bundle)


_FILL: dict[str, Callable[[Registry], None]] = {
    "empty": lambda _: None,
    "two": _fill_two,
    "canary": _fill_canary,
    "three": _fill_three,
}


def _opened(world: World, kind: str, name: str, folder: Path) -> Iterator[Registry]:
    made = _copy(world, kind, name, folder)
    yield made
    made.store._dispose_engine()
    if isinstance(made.database, str):
        postgres.start().drop(made.database.rpartition("/")[2])


@pytest.fixture
def registry(world: World, database_kind: str, tmp_path: Path) -> Iterator[Registry]:
    """Return an empty registry."""
    yield from _opened(world, database_kind, "empty", tmp_path)


@pytest.fixture
def two(world: World, database_kind: str, tmp_path: Path) -> Iterator[Registry]:
    """Return a registry with v1 at Production, and v2 a canary that lacks nothing."""
    yield from _opened(world, database_kind, "two", tmp_path)


@pytest.fixture
def canary(world: World, database_kind: str, tmp_path: Path) -> Iterator[Registry]:
    """Return a registry whose v1 is a canary with a good verdict and no votes."""
    yield from _opened(world, database_kind, "canary", tmp_path)


@pytest.fixture
def fresh_three(
    world: World, database_kind: str, tmp_path: Path
) -> Iterator[Callable[[], Registry]]:
    """Return a function that gives a fresh registry of three candidates, nothing frozen yet."""
    opened: list[Registry] = []

    def fresh() -> Registry:
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        opened.append(_copy(world, database_kind, "three", folder))
        return opened[-1]

    yield fresh
    for registry in opened:
        registry.store._dispose_engine()
