"""Keys, a small release and instants for the trust tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from kfm_mlflow.trust.keys import TrustedKey, generate_key

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def key_dir(tmp_path_factory) -> Path:
    """A folder with the keys of alice, bob and mallory."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob", "mallory"):
        generate_key(folder / name)
    return folder


@pytest.fixture(scope="session")
def trust(key_dir):
    """Make the trusted key of somebody."""

    def of(name: str, **bounds) -> TrustedKey:
        return TrustedKey(name, (key_dir / f"{name}.pub").read_text(), **bounds)

    return of


@pytest.fixture
def release(tmp_path) -> Path:
    """A small release directory with a folder in it."""
    folder = tmp_path / "release"
    (folder / "xai").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"weights" * 100)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "xai" / "summary.json").write_text("{}")
    return folder
