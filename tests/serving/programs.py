"""Programs with a Ray of their own: a process has one at most, so each runs in another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run_program(name: str, *, timeout_s: float) -> dict[str, Any]:
    """Run a program of this folder; return what it printed last, one JSON object.

    Its first argument is a folder with a short path, because Ray's sockets lie below it.
    """
    folder = tempfile.mkdtemp(prefix="kfm-")
    # A session of Ray in this process must not be taken for the program's.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name(name)), folder],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environ,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
