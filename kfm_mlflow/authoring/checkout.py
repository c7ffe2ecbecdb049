"""The recorded commit in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from kfm_mlflow.authoring.source import git_environment
from kfm_mlflow.errors import InputError

_REMOTE = re.compile(r"(https?|ssh|git)://\S+|[\w.-]+@[\w.-]+:\S+")
_SHOWN = 300


def check_out(source: str | None, commit: str, folder: Path) -> None:
    """Clone a repository and check out one commit, without touching the original.

    Args:
        source: A local clone, which lends its objects (so that commits on no branch are found,
            too), or a URL.
        commit: As hex.
        folder: Must not exist yet.

    Raises:
        InputError: No repository is named, git is not installed, it cannot be cloned, or it does
            not have the commit.
    """
    if not source:
        raise InputError(
            "the release names no repository",
            where="provenance.intoto.json",
            remedy="give a clone of it: --source DIR",
        )
    local = Path(source)
    if local.is_dir():
        options, place = ["--shared"], str(local.resolve())
    elif _REMOTE.fullmatch(source):
        options, place = [], source
    else:
        raise InputError(
            "is neither a directory nor the URL of a repository",
            where=source,
            remedy="give a clone of it: --source DIR",
        )
    quiet = ["-c", "advice.detachedHead=false", "-c", "core.hooksPath=/dev/null"]
    clone = ["clone", "--quiet", "--no-checkout", *options, "--", place, str(folder)]
    _git([*quiet, *clone], source)
    _git(["-C", str(folder), *quiet, "checkout", "--quiet", "--detach", commit], source, commit)


def _git(arguments: list[str], source: str, commit: str = "") -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments; -- parts options from the URL
            ["git", *arguments],  # noqa: S607 - the git of the PATH, as anybody runs it
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=git_environment(os.environ),
            check=False,
        )
    except OSError as exc:
        raise InputError("git is not installed", where="git", remedy="install git") from exc
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:_SHOWN]
        what = f"has no commit {commit[:12]}" if commit else "cannot be cloned"
        raise InputError(
            f"{what} ({said})",
            where=source,
            remedy="give a clone that has it: --source DIR",
        )
