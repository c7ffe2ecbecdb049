"""Shared by all tests: no network but loopback, and fresh keys."""

from __future__ import annotations

import os
import socket
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

_TOGETHER = {
    "ray": ("tests/serving/", "tests/test_demo.py"),  # two at once start too slowly on two cores
    "doors": ("test_rest_doors.py", "test_artifact_doors.py", "test_prompts.py"),
    "server": ("test_server.py", "test_stac_api.py", "test_settings.py"),
    "exports": ("tests/cli/test_export",),
    "commands": tuple(f"cli/test_{name}.py" for name in ("remote", "policy_life", "ledger")),
}
"""Tests of one group share servers, so one process runs them where there are several."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Deal out whole files, and what shares a server together."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            groups = (name for name, files in _TOGETHER.items() if any(f in file for f in files))
            return next(groups, file)

    return Together(config, log)


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
