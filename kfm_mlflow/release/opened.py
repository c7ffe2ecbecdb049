"""A release as local directories, wherever it lies."""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.area import local_path
from kfm_mlflow.release.bundle import Bundle, bundle_at, evidence_uri
from kfm_mlflow.release.manifest import MAX_FILE_COUNT, check_path
from kfm_mlflow.release.s3 import S3Folder, is_s3

if TYPE_CHECKING:
    from collections.abc import Iterator


def _download_s3(uri: str, target: Path) -> None:
    """Download a folder of a bucket; a key that no release may have is refused by its name."""
    folder = S3Folder(uri)
    paths = sorted(folder.sizes(""))
    if len(paths) > MAX_FILE_COUNT:
        raise ManifestError(f"more than {MAX_FILE_COUNT} files", where=uri)
    for path in paths:
        if problem := check_path(path):
            raise ManifestError(problem, where=path, remedy="remove or rename it, then sign again")
    for path in paths:
        local = target / path
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("xb") as copy:
            for chunk in folder.read(path):
                copy.write(chunk)


def _download(uri: str, target: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    target.mkdir(parents=True)
    try:
        if is_s3(uri):
            _download_s3(uri, target)
        else:
            get_artifact_repository(uri).download_artifacts("", dst_path=str(target))
    except MlflowException as exc:
        raise StorageError(f"cannot be read ({exc})", where=uri) from exc
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"cannot be read ({exc.strerror or exc})",
            where=uri,
            remedy="make room in the server's folder of temporary files (TMPDIR)" if full else "",
        ) from exc


@contextmanager
def local_bundle(uri: str) -> Iterator[Bundle]:
    """Give a release and its evidence as local directories, for as long as the block runs.

    Args:
        uri: Where the release lies, as this process reaches it. A local directory is used in
            place; anything else is downloaded to a temporary folder.

    Raises:
        StorageError: It cannot be read.
        ManifestError: An object has a name that no file of a release may have.
    """
    path = local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise StorageError("no such directory", where=str(path))
        yield bundle_at(path)
        return
    with tempfile.TemporaryDirectory(prefix="kfm-release-") as folder:
        bundle = bundle_at(Path(folder) / "release")
        _download(uri, bundle.release_dir)
        if next(bundle.release_dir.iterdir(), None) is None:
            raise StorageError("nothing is there", where=uri)
        try:
            _download(evidence_uri(uri), bundle.evidence_dir)
        except StorageError:
            # Evidence may not exist yet; the gates say what is missing.
            shutil.rmtree(bundle.evidence_dir, ignore_errors=True)
        yield bundle
