"""The command line as a person runs it, in this process: exit code, what it printed, what it said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cli.export_world import exports  # noqa: F401 - a fixture
from registry import server as servers
from registry.world import World, make_world

from kfm_mlflow.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    def fails_in_one_line(self, code: int, *words: str) -> None:
        """Assert one line on standard error, no traceback, nothing on standard output."""
        assert self.code == code, (self.out, self.err)
        assert self.err.startswith("kfm: ")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.getbasetemp() / "world")


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[servers.Server]:
    """Return the session's server, shared with the tests of the registry."""
    yield servers.start(world)
    servers.stop()


@pytest.fixture
def kfm(capsys: pytest.CaptureFixture[str], monkeypatch) -> Callable[..., Said]:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(item) for item in arguments])
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    return run
