"""Shared by all tests: no network but loopback, and fresh keys."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports ray, mlflow or torch.
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MPLBACKEND": "Agg",
    }
)

import leaks
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUPS = {"fleet": "ray", "door_server": "doors", "exports": "exports", "server": "server"}
"""Fixture that starts servers -> group of the tests that share it in one process."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, where tests run in several processes, what shares a server; else a file."""
    for item in items:
        folder, fixtures = item.path.parent.name, getattr(item, "fixturenames", ())
        shared = next((group for name, group in _GROUPS.items() if name in fixtures), "")
        group = f"{folder}: {shared}" if shared else str(item.path)
        if item.get_closest_marker("ray") or shared == "ray":
            group = "ray"  # Two at once are more than two cores start in time.
        item.add_marker(pytest.mark.xdist_group(group))


_LOOPBACK = ("127.", "::1", "0.0.0.0", "localhost", "::ffff:127.")
_connect = socket.socket.connect
_getaddrinfo = socket.getaddrinfo


def pytest_configure(config: pytest.Config) -> None:
    """Search whatever this session leaves behind for restricted names and exact places."""
    leaks.watch(config)


def _is_loopback(host: object) -> bool:
    return isinstance(host, str | bytes) and (
        (text := host.decode() if isinstance(host, bytes) else host) == ""
        or text.startswith(_LOOPBACK)
        or text == socket.gethostname()
    )


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]  # type: ignore[index]
            own = {"127.0.0.1", *_own_addresses()}
            if not _is_loopback(host) and host not in own:
                raise OSError(f"tests have no network: {host}")
        _connect(self, address)  # type: ignore[arg-type]

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> object:
        if host is not None and not _is_loopback(host) and host not in _own_addresses():
            raise socket.gaierror(f"tests have no network: {host}")
        return _getaddrinfo(host, *args, **kwargs)  # type: ignore[arg-type]

    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    yield
    socket.socket.connect = _connect  # type: ignore[method-assign]
    socket.getaddrinfo = _getaddrinfo


@pytest.fixture(autouse=True)
def _nothing_left_in_the_tree(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail the test that lets MLflow make its default database in the working folder."""
    left = Path(pytestconfig.rootpath) / "mlflow.db"
    known = left.exists()
    yield
    if left.exists() and not known:
        left.unlink()
        pytest.fail("left mlflow.db in the tree: some process has no tracking URI")


def _own_addresses() -> set[str]:
    # Ray names its own node by the address of the network card, which never leaves the machine.
    import psutil

    return {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}


def free_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def plain_environ() -> dict[str, str]:
    """Return the environment without what MLflow's in-process tests left in it."""
    kept = ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION")
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") or k in kept}
