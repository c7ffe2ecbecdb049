"""Processes that the demo starts: each with its own log, stopped by its own id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BIN = Path(sys.executable).parent
_STOP_S = 40.0


class DemoError(Exception):
    """A step of the demo did not do what it must; the text says which and why."""


def free_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(server: str) -> dict[str, str]:
    """Return the environment of everything that the demo runs."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }


@dataclass
class Processes:
    """What is running, in the order in which it was started."""

    folder: Path
    environ: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def log_of(self, name: str) -> Path:
        """Return the log of a process."""
        return self.folder / f"{name}.log"

    def start(self, name: str, arguments: list[str]) -> None:
        """Start a long-running process in its own session."""
        with self.log_of(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                [str(BIN / arguments[0]), *arguments[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environ),
                cwd=self.folder,
                start_new_session=True,
            )

    def run(
        self,
        name: str,
        arguments: list[str],
        *,
        cwd: Path | None = None,
        code: Path | None = None,
        accepted: tuple[int, ...] = (0,),
    ) -> str:
        """Run a command to its end and return what it printed.

        Args:
            name: Of its log.
            arguments: The command.
            cwd: Where it runs; None for the demo's folder.
            code: Where it imports from before anything that is installed.
            accepted: Exit codes that are no failure.

        Raises:
            DemoError: It failed; with the end of its output.
        """
        environ = {**self.environ, "PYTHONPATH": str(code)} if code else dict(self.environ)
        done = subprocess.run(
            [str(BIN / arguments[0]), *arguments[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=cwd or self.folder,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        self.log_of(name).write_text(text)
        if done.returncode not in accepted:
            raise DemoError(f"{' '.join(arguments[:2])} failed:\n{_tail(text)}")
        return text

    def wait_for(
        self, name: str, ready: Callable[[], bool], *, timeout_s: float, what: str
    ) -> None:
        """Wait until something holds, as long as a process lives.

        Raises:
            DemoError: The process died or the time is over; with the end of its log.
        """
        end = time.monotonic() + timeout_s
        while not ready():
            if self.running[name].poll() is not None:
                raise DemoError(f"{name} stopped while waiting for {what}:\n{self.tail(name)}")
            if time.monotonic() > end:
                raise DemoError(f"{what} did not come in {timeout_s:g} s:\n{self.tail(name)}")
            time.sleep(0.2)

    def tail(self, name: str) -> str:
        """Return the end of a process's log."""
        return _tail(self.log_of(name).read_text(errors="replace"))

    def stop(self) -> None:
        """Stop everything that was started, the last first."""
        for process in reversed(self.running.values()):
            if process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.running.clear()


def remove_tree(folder: Path) -> None:
    """Remove a demo's folder, whose frozen releases are read-only."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def _tail(text: str, line_count: int = 25) -> str:
    return "\n".join(text.splitlines()[-line_count:])
