"""Registries in this process, and one real server, around the world of ``world.py``."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from registry import server as servers
from registry.world import Registry, World, make_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    path = world.root / "empty.db"
    if not path.exists():
        Registry(world, path, world.root / "no-area").store._dispose_engine()
    return path


def _copied(template: Registry, folder: Path) -> Iterator[Registry]:
    shutil.copy(template.database, folder / "registry.db")
    if template.area.is_dir():
        shutil.copytree(template.area, folder / "artifacts")
    made = Registry(template.world, folder / "registry.db", folder / "artifacts")
    yield made
    made.store._dispose_engine()


def _template(world: World, empty_database: Path, name: str) -> Registry:
    folder = world.root / name
    folder.mkdir()
    shutil.copy(empty_database, folder / "registry.db")
    return Registry(world, folder / "registry.db", folder / "artifacts")


@pytest.fixture
def registry(world: World, empty_database: Path, tmp_path: Path) -> Iterator[Registry]:
    """Return an empty registry."""
    shutil.copy(empty_database, tmp_path / "registry.db")
    made = Registry(world, tmp_path / "registry.db", tmp_path / "artifacts")
    yield made
    made.store._dispose_engine()


@pytest.fixture(scope="session")
def _two(world: World, empty_database: Path) -> Registry:
    made = _template(world, empty_database, "two")
    for bundle in world.releases[:2]:
        made.register(bundle)
    made.to_production(1)
    made.to_canary(2)
    made.endorse(2)
    made.store._dispose_engine()
    return made


@pytest.fixture
def two(_two: Registry, tmp_path: Path) -> Iterator[Registry]:
    """Return a registry with v1 at Production, and v2 a canary that lacks nothing."""
    yield from _copied(_two, tmp_path)


@pytest.fixture(scope="session")
def _canary(world: World, empty_database: Path) -> Registry:
    made = _template(world, empty_database, "canary")
    made.register(world.releases[0])
    made.to_canary(1)
    made.verdict(1)
    made.store._dispose_engine()
    return made


@pytest.fixture
def canary(_canary: Registry, tmp_path: Path) -> Iterator[Registry]:
    """Return a registry whose v1 is a canary with a good verdict and no votes."""
    yield from _copied(_canary, tmp_path)
