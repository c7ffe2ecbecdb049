"""Frozen copies: a release where nobody can write, and the way back to a local directory.

A frozen release is content-addressed: ``<area>/<hex of release id>/release`` with its evidence
beside it. It is copied, read back and compared with the release id before anybody points to it,
and a copy that was not finished never counts. Freezing what is already frozen is a check, not a
copy. Local disks and S3 are supported, for those are what this is tested on; another store is
refused rather than trusted to behave like them. See docs/freezing.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kfm_mlflow.release.area import FROZEN_PREFIX, ArtifactArea, local_path
from kfm_mlflow.release.frozen_disk import disk_error, freeze_on_disk
from kfm_mlflow.release.frozen_s3 import freeze_on_s3
from kfm_mlflow.release.opened import local_bundle
from kfm_mlflow.release.progress import Meter, Progress
from kfm_mlflow.release.s3 import S3Folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.release.manifest import DigestMemory, Manifest

__all__ = [
    "FROZEN_PREFIX",
    "ArtifactArea",
    "Progress",
    "freeze",
    "local_bundle",
    "local_path",
]

_log = logging.getLogger(__name__)


def freeze(
    bundle: Bundle,
    manifest: Manifest,
    area: ArtifactArea,
    progress: Callable[[Progress], None] | None = None,
    memory: DigestMemory | None = None,
) -> str:
    """Copy a release and its evidence to the frozen area and verify the copy.

    Memory does not grow with the size of the release, and it can be called for the same release
    by any number of processes at once.

    Args:
        bundle: The release, readable locally.
        manifest: What the gates judged; the copy must have the same release id.
        area: The server's artifact root.
        progress: Told of the bytes copied and read back, every few seconds and at the end of each
            phase; perhaps from another thread. The log is told the same.
        memory: Digests of files on this machine that were read before; None reads a copy that was
            there already once more.

    Returns:
        The URI at which clients read the frozen release.

    Raises:
        ManifestError: The source or the frozen copy does not agree with the manifest; the error
            names the file. Nothing new counts as frozen.
        StorageError: The area cannot be read or written. Nothing new counts as frozen.
    """
    uri = area.frozen_uri(manifest.release_id)
    meter = Meter(manifest.release_id, manifest.size_bytes, progress)
    root = local_path(area.destination)
    if root is None:
        key = manifest.release_id.removeprefix("sha256:")
        folder = S3Folder(
            f"{area.destination.rstrip('/')}/{area.frozen_prefix}/{key}",
            shown=uri.rpartition("/")[0],
        )
        freeze_on_s3(bundle, manifest, folder, uri=uri, meter=meter)
        return uri
    try:
        freeze_on_disk(
            bundle, manifest, root / area.frozen_prefix, uri=uri, meter=meter, memory=memory
        )
    except OSError as exc:
        _log.warning("%s: %s", uri, exc)
        raise disk_error(exc, uri, manifest.size_bytes) from exc
    return uri
