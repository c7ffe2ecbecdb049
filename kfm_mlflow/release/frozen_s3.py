"""Frozen releases in a bucket, where nothing can be renamed: complete is what has its manifest.

``<key>/frozen.json`` is the canonical manifest of the release, so its SHA-256 is the key. It is
written last, after every object was read back; a prefix without it is an unfinished copy that the
next freeze of the same bytes resumes.

Invariants:

1. No object is written below ``<key>/release/`` but with the bytes that the key names; so any
   number of freezers of one release can only write the same bytes.
2. The registry points to a prefix only after its ``frozen.json`` was written.
3. Freezing what has its ``frozen.json`` reads and compares; it writes nothing but new evidence.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import canonical_bytes, digest_bytes
from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.beside import evidence_entries, plan_additions
from kfm_mlflow.release.bundle import EVIDENCE_SUFFIX, SIGNATURE_FILE
from kfm_mlflow.release.frozen_disk import changed_since
from kfm_mlflow.release.manifest import FileEntry, Manifest, compare_manifests

if TYPE_CHECKING:
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.release.progress import Meter
    from kfm_mlflow.release.s3 import S3Folder

MARKER = "frozen.json"
_RELEASE = "release"
_EVIDENCE = f"release{EVIDENCE_SUFFIX}"
_MAX_MARKER_BYTES = 64 * 2**20
_THREADS = 4
_TRIES = 3


def _upload(bundle: Bundle, manifest: Manifest, folder: S3Folder, meter: Meter) -> None:
    present = folder.sizes(_RELEASE)
    if foreign := sorted(present.keys() - manifest.digests.keys()):
        raise ManifestError(
            "lies in the frozen area and is no part of the release",
            where=f"{folder.shown}/{_RELEASE}/{foreign[0]}",
            remedy="find out who wrote it, remove it, and try again",
        )

    def put(entry: FileEntry) -> None:
        if present.get(entry.path) == entry.size_bytes:
            meter.add(entry.size_bytes)
            return
        source = bundle.release_dir / entry.path
        folder.put(f"{_RELEASE}/{entry.path}", source, entry, meter.add)

    meter.begin("copying")
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(put, manifest.files))
    meter.end()


def _check(manifest: Manifest, folder: S3Folder, uri: str, meter: Meter) -> None:
    sizes = folder.sizes(_RELEASE)

    def found(item: tuple[str, int]) -> FileEntry:
        path, size_bytes = item
        return FileEntry(path, size_bytes, folder.digest(f"{_RELEASE}/{path}", meter.add))

    meter.begin("reading back")
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = tuple(pool.map(found, sorted(sizes.items())))
    meter.end()
    copy = Manifest(entries)
    if copy.release_id != manifest.release_id:
        raise changed_since(compare_manifests(manifest, copy) or ["order: differs"], uri)


def _add_evidence(bundle: Bundle, folder: S3Folder) -> None:
    """Add what is said about the release; what was said before stays, whoever adds meanwhile."""
    new = evidence_entries(bundle.evidence_dir)
    digests = {name: entry.digest for name, entry in new.items()}
    for _ in range(_TRIES if new else 0):
        frozen = {name: folder.digest(f"{_EVIDENCE}/{name}") for name in folder.sizes(_EVIDENCE)}
        written = [
            folder.put(
                f"{_EVIDENCE}/{target}",
                bundle.evidence_dir / name,
                new[name],
                only_new=name != SIGNATURE_FILE,
            )
            for name, target in plan_additions(digests, frozen).items()
        ]
        if all(written):
            return
    if new:
        raise StorageError(
            "others keep adding evidence", where=folder.shown, remedy="try the move again"
        )


def freeze_on_s3(
    bundle: Bundle, manifest: Manifest, folder: S3Folder, *, uri: str, meter: Meter
) -> None:
    """Copy a release below a prefix, or check the copy that is there.

    Args:
        bundle: The release.
        manifest: What the gates judged.
        folder: The prefix of this release id.
        uri: What errors call the copy.
        meter: Told of every byte.

    Raises:
        ManifestError: The source changed, or the frozen copy has been.
        StorageError: The object store failed. What was written counts for nothing, and the next
            freeze goes on from there.
    """
    marker = folder.read_small(MARKER, _MAX_MARKER_BYTES)
    if marker is not None:
        if digest_bytes(marker) != manifest.release_id:
            raise changed_since([f"{MARKER}: differs"], uri)
        _check(manifest, folder, uri, meter)
        _add_evidence(bundle, folder)
        return
    _upload(bundle, manifest, folder, meter)
    _check(manifest, folder, uri, meter)
    _add_evidence(bundle, folder)
    folder.put_bytes(MARKER, canonical_bytes(manifest.to_dict()))
