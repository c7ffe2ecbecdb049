"""Servers that a bench starts, and stops again with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
_START_S = 120.0
_STOP_S = 15.0

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""No telemetry, and as many threads on every machine."""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, quiet, with this interpreter's scripts found first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **QUIET, "PATH": path, **more}


def stop_on_terminate() -> None:
    """Let SIGTERM unwind the program, so that every ``finally`` runs."""

    def leave(*_: object) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)


@contextlib.contextmanager
def server(
    command: Sequence[str], *, log: Path, health_url: str, env: Mapping[str, str]
) -> Iterator[None]:
    """Run a server for the length of a ``with`` block, from when it answers.

    Raises:
        RuntimeError: It ended or did not answer in time; the message ends with its last lines.
    """
    with log.open("wb") as sink:
        process = psutil.Popen(
            list(command), stdout=sink, stderr=subprocess.STDOUT, env=dict(env), cwd=log.parent
        )
        try:
            _await_answer(process, health_url, log)
            yield
        finally:
            _stop(process)


def _await_answer(process: psutil.Popen, url: str, log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise RuntimeError(f"{url} does not answer (exit status {process.poll()})\n{tail}")


def _stop(process: psutil.Popen) -> None:
    """End a process and its descendants, which are listed before any of them goes."""
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_S)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=_STOP_S)


def run(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: It failed; the message ends with its last lines.
    """
    with log.open("wb") as sink:
        found = subprocess.run(
            list(command),
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=log.parent,
            check=False,
        )
    if found.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{command[0]} ended with {found.returncode}\n{tail}")
