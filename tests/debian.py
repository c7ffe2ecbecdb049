"""What tests need from Debian: installed with apt-get when it is missing, which is said.

When that fails, so do the tests: a check that is left out because a program is missing checks
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys

_INSTALL_S = 600


def install(package: str) -> None:
    """Install a package of Debian's.

    Raises:
        RuntimeError: apt-get is missing, failed, or took more than ten minutes.
    """
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
