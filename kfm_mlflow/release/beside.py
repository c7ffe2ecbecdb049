"""Which evidence a frozen release gains, and under which names; nothing frozen is ever lost.

What is said about a release grows after it was frozen: renewed validations, other parties'
attestations. Additions are planned by content, so that adding twice is once.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from kfm_mlflow.canonical import digest_stream
from kfm_mlflow.errors import EvidenceError, ManifestError
from kfm_mlflow.release.bundle import (
    ENVELOPE_SUFFIX,
    EVIDENCE_SUFFIX,
    MAX_ENVELOPE_COUNT,
    SIGNATURE_FILE,
)
from kfm_mlflow.release.manifest import FileEntry, check_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NOFOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_DIGEST_AT = len("sha256:")


def open_plain(path: Path, name: str) -> BinaryIO:
    """Open a regular file for reading; never through a link, never waiting for a pipe.

    Args:
        path: Where it lies.
        name: What to call it in an error: its path inside the release.

    Raises:
        ManifestError: It is missing, unreadable, a link or no regular file.
    """
    try:
        handle = os.open(path, _NOFOLLOW)
    except OSError as exc:
        problem = "is a symbolic link" if path.is_symlink() else f"cannot be read ({exc.strerror})"
        raise ManifestError(
            problem, where=name, remedy="the release changed while it was copied; try again"
        ) from exc
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ManifestError("is not a regular file", where=name, remedy="remove it")
    return os.fdopen(handle, "rb")


def evidence_entries(folder: Path) -> dict[str, FileEntry]:
    """Return every file beside a release by name; empty when there is no such folder.

    Raises:
        ManifestError: Something in it is no regular file, or has a name no system may be trusted
            with; the error names it.
    """
    if not folder.is_dir():
        return {}
    if folder.is_symlink():
        raise ManifestError("is a symbolic link", where=folder.name, remedy="remove it")
    found = {}
    for path in sorted(folder.iterdir()):
        shown = f"release{EVIDENCE_SUFFIX}/{path.name}"
        if problem := check_path(path.name):
            raise ManifestError(problem, where=shown, remedy="remove or rename it")
        with open_plain(path, shown) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            found[path.name] = FileEntry(shown, size_bytes, digest_stream(stream))  # type: ignore[arg-type]  # a BufferedReader
    return found


def _kind(name: str) -> str:
    if name == SIGNATURE_FILE:
        return SIGNATURE_FILE
    return ENVELOPE_SUFFIX if name.endswith(ENVELOPE_SUFFIX) else ""


def plan_additions(new: Mapping[str, str], frozen: Mapping[str, str]) -> dict[str, str]:
    """Return which files to add to the evidence of a frozen release, and as what.

    Args:
        new: File name -> ``sha256:<hex>`` beside the release that is frozen (again).
        frozen: The same of what is frozen already.

    Returns:
        Name in ``new`` -> name to write. Nothing frozen is written over, but for the signature:
        the gates have just verified the new one, so it replaces one no longer taken.

    Raises:
        EvidenceError: There would be more attestations than are ever read.
    """
    known = {(_kind(name), digest) for name, digest in frozen.items()}
    names = set(frozen)
    plan = {}
    for name, digest in sorted(new.items()):
        if (_kind(name), digest) in known:
            continue
        target = name
        if name in names and name != SIGNATURE_FILE:
            content = digest[_DIGEST_AT:]
            target = f"{content[:12]}-{name}"
            target = f"{content}-{name}" if target in names else target
        names.add(target)
        plan[name] = target
    if plan and sum(_kind(name) == ENVELOPE_SUFFIX for name in names) > MAX_ENVELOPE_COUNT:
        raise EvidenceError(
            f"would have more than {MAX_ENVELOPE_COUNT} attestations",
            where="the frozen release",
            remedy="leave out what is superseded",
        )
    return plan
