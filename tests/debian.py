"""What tests need from Debian: installed with apt-get when it is missing, which is said.

When that fails, so do the tests: a check that is left out because a program is missing checks
nothing.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_INSTALL_S = 600
_LOCK = Path(tempfile.gettempdir()) / "kfm-tests-apt-get.lock"


def install(package: str) -> None:
    """Install a package of Debian's; test processes do so one after the other.

    Raises:
        RuntimeError: apt-get is missing, failed, or took more than ten minutes.
    """
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(package)


def _install(package: str) -> None:
    sys.stderr.write(f"tests: {package} is missing; apt-get install {package}\n")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
        try:
            done = subprocess.run(
                [*as_root, "apt-get", "-q", *step],
                check=False,
                env=quiet,
                capture_output=True,
                text=True,
                timeout=_INSTALL_S,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise RuntimeError(f"{package} cannot be installed: {exc}") from exc
        if done.returncode:
            raise RuntimeError(f"{package} cannot be installed: {done.stderr[-2000:]}")
