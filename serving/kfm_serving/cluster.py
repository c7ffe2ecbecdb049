"""Start a lean Ray with Serve on this machine, or attach to a cluster that runs.

The environment is set before Ray is imported, because Ray and Serve read theirs at import. Token
authentication stays on, with a token of its own instead of the one in the user's home.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import PlaneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OBJECT_STORE_BYTES = 100 * 2**20
_CONNECT_S = 5.0
_LOGICAL_CPU_COUNT = 16
"""Serve's own actors each ask for a CPU; on a small machine that is more than there is."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be bound.

    Raises:
        PlaneError: Something listens there, or this process may not use it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise PlaneError(
                f"port {port} cannot be used ({exc.strerror})",
                where=f"{host}:{port}",
                remedy="stop what listens there, or choose another port",
            ) from exc


@contextlib.contextmanager
def start_local(port: int, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Run Ray and Serve for the length of a ``with`` block.

    Args:
        port: HTTP port of Serve's proxy; must be free.
        host: Address the proxy binds.

    Yields:
        The base URL, ``http://host:port``.

    Raises:
        PlaneError: The port is in use, this process is connected to Ray already, or Ray did not
            start. Nothing is left running.
    """
    check_port(host, port)
    # Short, because Ray's sockets lie below it and a socket's path may have 107 characters.
    session_dir = Path(tempfile.mkdtemp(prefix="kfm-ray-"))
    token = session_dir / "token"
    token.touch(mode=0o600)
    token.write_text(_process_token(), encoding="ascii")
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "1000",
        "OMP_NUM_THREADS": "1",
    }
    with _environment(wanted):
        ray, serve = _import_ray()
        if ray.is_initialized():
            shutil.rmtree(session_dir, ignore_errors=True)
            raise PlaneError(
                "this process is connected to Ray already",
                remedy="leave that cluster first (ray.shutdown()), or use it as it is",
            )
        try:
            _init(
                ray,
                address="local",
                include_dashboard=False,
                num_cpus=_LOGICAL_CPU_COUNT,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(session_dir),
            )
            _start_serve(serve, host, port)
            yield f"http://{host}:{port}"
        finally:
            if ray.is_initialized():
                serve.shutdown()
                ray.shutdown()
            shutil.rmtree(session_dir, ignore_errors=True)


@contextlib.contextmanager
def attach(address: str, *, port: int, host: str = "0.0.0.0") -> Iterator[None]:  # noqa: S104 a cluster's proxies serve other machines; say host to narrow it
    """Use a running cluster for the length of a ``with`` block; it keeps serving afterwards.

    Args:
        address: What ``ray.init`` takes: ``auto``, ``HOST:6379`` or ``ray://HOST:10001``.
        port: HTTP port of Serve's proxies, if Serve has yet to be started there.
        host: Address the proxies bind, likewise.

    Raises:
        PlaneError: There is no such cluster, or it refuses this client.
    """
    _check_reachable(address)
    ray, serve = _import_ray()
    _init(ray, address=address)
    try:
        _start_serve(serve, host, port)
        yield
    finally:
        ray.shutdown()


def reattach(address: str, *, port: int, host: str) -> None:
    """Leave a cluster that is gone, and join the one that runs at its address now.

    Ray takes a head that was restarted for a stranger, and refuses every call of whoever was
    attached to the one before, for good. It also ends every process that stays attached to a head
    that has been away for a minute, so the old one is left before the new one is there.

    Args:
        address: As in :func:`attach`, like the others.
        port: Port of Serve's proxies.
        host: Address that they bind.

    Raises:
        PlaneError: There is no cluster yet.
    """
    ray, serve = _import_ray()
    ray.shutdown()
    serve.context._set_global_client(None)  # noqa: SLF001 it outlives ray.shutdown, and no public call drops it
    _check_reachable(address)
    _init(ray, address=address)
    _start_serve(serve, host, port)


@functools.cache
def _process_token() -> str:
    """Return one token for all clusters of this process; Ray reads it once and keeps it."""
    return secrets.token_hex(32)


def _init(ray: Any, *, address: str, **options: Any) -> None:
    try:
        ray.init(
            address=address,
            namespace="serve",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except Exception as exc:  # ray.init raises a dozen unrelated classes
        raise PlaneError(
            f"Ray did not start or cannot be reached ({_first_line(exc)})",
            where=address,
            remedy="check the address, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH, free memory and disk",
        ) from exc


def _check_reachable(address: str) -> None:
    """Fail at once where ray.init would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # `auto` and the like: Ray knows where to look
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as exc:
        raise PlaneError(
            f"no cluster answers ({exc.strerror or exc})",
            where=address,
            remedy="check the address, and that the cluster runs",
        ) from exc


def _start_serve(serve: Any, host: str, port: int) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            http_options={"host": host, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
    except Exception as exc:  # serve.start passes on whatever its actors raise
        raise PlaneError(
            f"Serve did not start ({_first_line(exc)})",
            where=f"{host}:{port}",
            remedy="check that the port is free on every node",
        ) from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]


def _import_ray() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # Ray 2.60's own schema classes, under pydantic 2.14.
        warnings.filterwarnings("ignore", "Using extra keyword arguments", DeprecationWarning)
        import ray
        from ray import serve
    return ray, serve


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the user has not set, and take them back afterwards."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
