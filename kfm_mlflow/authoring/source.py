"""The checkout that a model is trained from, as git sees it at that moment.

Files that git ignores do not count: what may be imported must not be ignored. Without git, or
outside of a repository, nothing is known, and a policy that asks for a commit refuses.
"""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.authoring.lock import MLPROJECT, read_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.trust.slsa import UsedLock

_REDIRECTING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
_SHOWN = 3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceState:
    """A checkout.

    Attributes:
        commit: What is checked out, as hex.
        url: Its remote ``origin``, as git has it; None without one.
        changed: Paths that differ from the commit, and files that it does not have.
        project: Folder of the MLflow project relative to the repository; None when there is none.
        lock: The project's file of pinned versions; None when it names none.
    """

    commit: str
    url: str | None = None
    changed: tuple[str, ...] = ()
    project: str | None = None
    lock: UsedLock | None = None

    @property
    def tree(self) -> Literal["clean", "dirty"]:
        """Whether the checkout is as committed."""
        return "dirty" if self.changed else "clean"


def git_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which git looks where it is told to, and asks nobody anything."""
    kept = {name: value for name, value in environ.items() if name not in _REDIRECTING}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the git of the PATH, as anybody runs it
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=git_environment(os.environ),
            check=False,
        )
    except OSError:
        # No git here: what is not known is refused later, by name.
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def read_source(folder: Path, *, is_project: bool) -> SourceState | None:
    """Read what git says of the checkout that a folder lies in.

    Args:
        folder: Of the code that runs.
        is_project: The folder is that of the MLflow project; otherwise the nearest one above it.

    Returns:
        The state; None outside of a repository, before its first commit, and without git.
    """
    found = (_git(folder, "rev-parse", "--show-toplevel", "HEAD") or "").splitlines()
    status = _git(folder, "status", "--porcelain", "-z", "--untracked-files=normal", "--no-renames")
    if len(found) != 2 or status is None:  # noqa: PLR2004 - top level and commit
        return None
    root, commit = Path(found[0]).resolve(), found[1]
    changed = tuple(line[3:] for line in status.split("\0") if line)
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        _LOG.warning(
            "%s%s differ from commit %s: commit or ignore them before you train what is to go "
            "above candidate",
            ", ".join(changed[:_SHOWN]),
            more,
            commit[:12],
        )
    url = (_git(folder, "config", "--get", "remote.origin.url") or "").strip()
    project = folder.resolve() if is_project else _nearest_project(folder.resolve(), root)
    return SourceState(
        commit,
        url or None,
        changed,
        project.relative_to(root).as_posix() if project else None,
        read_lock(project, root) if project else None,
    )


def _nearest_project(folder: Path, root: Path) -> Path | None:
    for place in (folder, *folder.parents):
        if (place / MLPROJECT).is_file():
            return place
        if place == root:
            break
    return None
