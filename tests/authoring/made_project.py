"""A small MLflow project in a git repository of its own."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

from kfm_mlflow.metadata.packages import resolved_packages

MLPROJECT = """\
name: made
python_env: python_env.yaml
entry_points:
  release:
    parameters:
      data: {type: string, default: fields.nc}
    command: "python train.py --data {data}"
"""
ENVIRONMENT = "build_dependencies: [pip]\ndependencies: [-c locked.txt, torch, pyyaml]\n"


@cache
def pins(*names: str) -> str:
    """Return a lock of what some packages need, as it is installed."""
    found = resolved_packages(names)
    return "".join(f"{package.name}=={package.version}\n" for package in found)


def git(folder: Path, *arguments: str) -> str:
    """Run git without anybody's settings."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    nobody = {
        f"GIT_{who}_{what}": f"{what}@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**kept, **nobody, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def make_project(root: Path, folder: str = ".", **files: str | None) -> Path:
    """Commit a project; a file given as None is left out.

    Args:
        root: Of the repository, which must not exist yet.
        folder: Of the project in it.
        files: ``MLproject``, ``python_env``, ``locked``, ``train`` instead of the usual ones.

    Returns:
        The folder of the project.
    """
    place = root / folder
    place.mkdir(parents=True)
    usual = {
        "MLproject": MLPROJECT,
        "python_env": ENVIRONMENT,
        "locked": pins("torch", "pyyaml"),
        "train": "",
    }
    names = {"python_env": "python_env.yaml", "locked": "locked.txt", "train": "train.py"}
    for name, text in {**usual, **files}.items():
        if text is not None:
            (place / names.get(name, name)).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "made")
    return place
