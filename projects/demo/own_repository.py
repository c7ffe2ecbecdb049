"""The demo's own small repository: what stands in this folder now, as one commit.

The demo runs from a clone that somebody edited, and from an unpacked archive that is no clone at
all. A release records the commit that it was made from, and is refused above candidate when the
working copy differs; so the demo commits what it is about to run, and the recorded commit is real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from processes import DemoError

if TYPE_CHECKING:
    from pathlib import Path

_PARTS = (
    ".gitignore",
    "LICENSE",
    "MLproject",
    "README.md",
    "constraints.txt",
    "kfm_mlflow",
    "projects",
    "pyproject.toml",
    "python_env.yaml",
    "serving",
)
_BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "mlruns")
_SETTINGS = {
    "user.name": "kfm demo",
    "user.email": "demo@localhost",
    "commit.gpgsign": "false",
    "core.hooksPath": os.devnull,
    "core.excludesFile": os.devnull,
}


def commit_project(root: Path, folder: Path) -> str:
    """Copy the project into a new repository and commit it.

    Args:
        root: Of this project.
        folder: Must not exist yet.

    Returns:
        The commit.

    Raises:
        DemoError: git is not installed, or fails.
    """
    folder.mkdir()
    for part in _PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=_BUILT)
        elif source.is_file():
            shutil.copyfile(source, folder / part)
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "What the demo runs")
    return _git(folder, "rev-parse", "HEAD").strip()


def _git(folder: Path, *arguments: str) -> str:
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    try:
        done = subprocess.run(
            ["git", *settings, "-C", str(folder), *arguments],  # noqa: S607 - the git of the PATH
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as exc:
        raise DemoError("git is not installed; the demo needs it to record a commit") from exc
    if done.returncode:
        raise DemoError(f"git {arguments[0]} failed:\n{done.stderr.strip()}")
    return done.stdout
