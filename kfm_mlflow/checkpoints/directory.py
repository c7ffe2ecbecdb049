"""Reading a directory of checkpoints for judgement: nothing is loaded, each file is hashed once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_file, parse_json
from kfm_mlflow.checkpoints.records import CERTIFICATE, DOCUMENTS, SUFFIX
from kfm_mlflow.checkpoints.verify import Held, judge_checkpoints
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.release.scan import scan_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kfm_mlflow.checkpoints.verify import Certified, VerifiedCheckpoints

THREAD_COUNT = min(4, os.cpu_count() or 1)
"""Files that are hashed at the same time."""


def verify_directory(
    root: Path,
    *,
    other_manifests: Sequence[Path] = (),
    planned_epochs: int | None = None,
    certified: Certified | None = None,
) -> VerifiedCheckpoints:
    """Read a directory and judge it; see :func:`judge_checkpoints`.

    Args:
        root: Directory with the checkpoints and their documents.
        other_manifests: Manifests elsewhere that must say the same of the same checkpoints; those
            beside the first one are found.
        planned_epochs: See :func:`judge_checkpoints`.
        certified: The same.
    """
    return judge_checkpoints(
        read_held(root, other_manifests), planned_epochs=planned_epochs, certified=certified
    )


def read_held(root: Path, other_manifests: Sequence[Path] = ()) -> Held:
    """Read the documents of a directory, and hash and scan its checkpoints."""
    if not root.is_dir():
        return Held({})
    documents: dict[str, Any] = {}
    problems: dict[str, str] = {}
    beside = {root / name for name in (*DOCUMENTS, CERTIFICATE)} | set(root.glob("*manifest*.json"))
    for path in (*sorted(beside), *other_manifests):
        name = path.name if path.parent == root else str(path)
        if not path.is_file() and path.parent == root:
            continue
        try:
            documents[name] = parse_json(path.read_bytes(), where=path.name)
        except OSError as exc:
            problems[name] = f"cannot be read ({exc.strerror})"
        except EvidenceError as exc:
            problems[name] = str(exc).removeprefix(f"{path.name}: ")
    names = sorted(path.name for path in root.iterdir() if path.name.endswith(SUFFIX))
    with ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix="kfm-hash") as threads:
        judged = list(threads.map(lambda name: _read_file(root, name), names))
    return Held(
        documents,
        problems,
        {name: digest for name, (digest, _) in zip(names, judged, strict=True)},
        {name: wrong for name, (_, wrong) in zip(names, judged, strict=True) if wrong},
    )


def _read_file(root: Path, name: str) -> tuple[str | None, tuple[str, ...]]:
    if (root / name).is_symlink():
        return None, ("is a link",)
    try:
        report = scan_file(root, name, {})
        digest = digest_file(root / name)
    except OSError as exc:
        return None, (f"cannot be read ({exc.strerror})",)
    wrong = (*report.pickles, *report.formats)
    return digest, tuple(problem.removeprefix(f"{name}: ") for problem in wrong)
