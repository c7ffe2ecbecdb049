"""A PostgreSQL server for the session, and a fresh database per test.

PostgreSQL refuses root, so as root it runs as user ``postgres``, which Debian's package makes. When
its programs are not there, they are installed with apt-get, which is said; when that fails, so do
the tests. Nothing is kept: a temporary folder, no fsync, 127.0.0.1 only.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import debian
import psycopg
from conftest import free_port

_USER = "kfm"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL server.

    Attributes:
        port: On 127.0.0.1.
        folder: Where it lies; removed when it stops.
    """

    port: int
    folder: Path

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the SQLAlchemy URL of a database; driver ``psycopg`` (3) or ``psycopg2``."""
        return f"postgresql+{driver}://{_USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str | None = None) -> str:
        """Create a database, empty or as a copy of one that nobody is connected to."""
        copied = f' TEMPLATE "{template}"' if template else ""
        self._administer(f'CREATE DATABASE "{database}"{copied}')
        return database

    def drop(self, database: str) -> None:
        """Drop a database, with whoever is still connected."""
        self._administer(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _administer(self, sql: str) -> None:
        with connect(self.url("postgres")) as connection:
            connection.execute(sql)


def connect(url: str) -> psycopg.Connection[Any]:
    """Open a connection that commits every statement, as psql does."""
    return psycopg.connect(url.replace("+psycopg2", "").replace("+psycopg", ""), autocommit=True)


def _programs() -> Path | None:
    """Return the folder of the newest initdb and pg_ctl, which Debian keeps out of PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4])
    )
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _install() -> Path:
    debian.install("postgresql")
    found = _programs()
    if found is None:
        raise RuntimeError("apt-get installed postgresql, and there is no initdb")
    return found


def _run(*command: object) -> None:
    as_user: dict[str, Any] = (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd="/",
        # A server that inherits a pipe keeps it open; so pg_ctl writes to nobody.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if "start" not in command else subprocess.DEVNULL,
        text=True,
        **as_user,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} failed: {done.stderr or ''}")


@lru_cache(maxsize=1)
def start() -> Cluster:
    """Start the session's server, or return the one that runs; it stops with this process."""
    programs = _programs() or _install()
    folder = Path(tempfile.mkdtemp(prefix="kfm-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    cluster = Cluster(free_port(), folder)
    place, log = folder / "cluster", folder / "log"
    _run(
        *(programs / "initdb", "--pgdata", place, "--username", _USER, "--auth", "trust"),
        *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
    )
    options = " ".join(f"-c {name}='{value}'" for name, value in _SETTINGS.items())
    try:
        _run(
            *(programs / "pg_ctl", "start", "--wait", "--pgdata", place, "--log", log),
            *("--options", f"-p {cluster.port} {options}"),
        )
    except RuntimeError as exc:
        raise RuntimeError(log.read_text()[-2000:] if log.exists() else str(exc)) from exc
    atexit.register(_stop, programs, cluster, os.getpid())
    return cluster


def _stop(programs: Path, cluster: Cluster, started_by: int) -> None:
    if os.getpid() != started_by:
        return
    _run(programs / "pg_ctl", "stop", "--mode", "immediate", "--pgdata", cluster.folder / "cluster")
    shutil.rmtree(cluster.folder, ignore_errors=True)
