"""Frozen releases on a local disk: written aside, flushed, read back, then renamed into place.

Invariants:

1. ``<key>`` appears by one rename, after every byte and name below it was flushed to the disk and
   read back: what is there is whole, whenever the process was killed.
2. What is copied is what the manifest names, by plain files only.
3. A frozen release is not written to again; evidence is added beside it, each file by a rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.beside import evidence_entries, open_plain, plan_additions
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.claim import fsync_folder, working_folder
from kfm_mlflow.release.manifest import (
    DigestMemory,
    FileEntry,
    Manifest,
    build_manifest,
    compare_manifests,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.release.progress import Meter

CHUNK_BYTES = 2**20
_THREADS = 4
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def disk_error(error: OSError, uri: str, size_bytes: int) -> StorageError:
    """Return what a caller is told when the disk fails; paths of the server stay in its log."""
    remedy = "look at the server's log, and try again"
    if error.errno in _FULL:
        remedy = f"make room for {size_bytes} bytes, and try again"
    elif error.errno in _FORBIDDEN:
        remedy = "let the server's user write to the artifact root"
    return StorageError(f"cannot be written ({error.strerror})", where=uri, remedy=remedy)


def _copy_file(source: Path, target: Path, name: str, count: Callable[[int], None]) -> None:
    with open_plain(source, name) as stream, target.open("xb") as copy:
        while chunk := stream.read(CHUNK_BYTES):
            copy.write(chunk)
            count(len(chunk))
        copy.flush()
        os.fchmod(copy.fileno(), 0o444)
        os.fsync(copy.fileno())


def differences(root: Path, manifest: Manifest, count: Callable[[int], None]) -> list[str]:
    """Read a copy and return every difference from its manifest; empty when it is equal.

    Args:
        root: The copy.
        manifest: What it must be.
        count: Told of every chunk that was read.
    """

    def found(entry: FileEntry) -> FileEntry | None:
        try:
            with open_plain(root / entry.path, entry.path) as stream:
                return _entry(stream, entry.path, count)
        except ManifestError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        entries = tuple(entry for entry in pool.map(found, manifest.files) if entry is not None)
    known = manifest.digests
    there = (
        Path(folder, name)
        for folder, folders, files in os.walk(root)
        for name in (*files, *(f for f in folders if Path(folder, f).is_symlink()))
    )
    paths = sorted(path.relative_to(root).as_posix() for path in there)
    added = [f"{path}: added" for path in paths if path not in known]
    return compare_manifests(manifest, Manifest(entries)) + added


def _entry(stream: BinaryIO, path: str, count: Callable[[int], None]) -> FileEntry:
    running, size_bytes = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        running.update(chunk)
        size_bytes += len(chunk)
        count(len(chunk))
    return FileEntry(path, size_bytes, f"sha256:{running.hexdigest()}")


def _seal(root: Path) -> None:
    """Take away write permission from every folder, and flush their names, deepest first."""
    for folder, _, _ in os.walk(root, topdown=False):
        Path(folder).chmod(0o555)
        fsync_folder(Path(folder))


def _copy_release(bundle: Bundle, manifest: Manifest, folder: Path, meter: Meter) -> None:
    copy = bundle_at(folder / "release")
    meter.begin("copying")
    for entry in manifest.files:
        target = copy.release_dir / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(bundle.release_dir / entry.path, target, entry.path, meter.add)
    meter.end()
    evidence = evidence_entries(bundle.evidence_dir)
    if evidence:
        copy.evidence_dir.mkdir()
    for name, entry in evidence.items():
        target = copy.evidence_dir / name
        _copy_file(bundle.evidence_dir / name, target, entry.path, lambda _: None)
        _must_be(target, entry)
    meter.begin("reading back")
    problems = differences(copy.release_dir, manifest, meter.add)
    meter.end()
    if problems:
        raise ManifestError(
            "changed while it was copied",
            where=problems[0].split(":", 1)[0],
            remedy="try the move again",
        )


def _must_be(path: Path, entry: FileEntry) -> None:
    if digest_file(path) != entry.digest:
        raise ManifestError(
            "changed while it was copied", where=entry.path, remedy="try the move again"
        )


def _check_frozen(
    final: Path, manifest: Manifest, uri: str, meter: Meter, memory: DigestMemory | None
) -> None:
    if memory is not None:
        # What is wrong is named below.
        with suppress(ManifestError):
            if build_manifest(final / "release", memory).release_id == manifest.release_id:
                return
    meter.begin("reading back")
    problems = differences(final / "release", manifest, meter.add)
    meter.end()
    if problems:
        raise changed_since(problems, uri)


def changed_since(problems: list[str], uri: str) -> ManifestError:
    """Return the error for a frozen copy that is no longer what its release id says."""
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return ManifestError(
        f"no longer has its release id ({problems[0].split(':', 1)[0]}{more} changed)",
        where=uri,
        remedy="somebody wrote to the frozen area; see docs/freezing.md",
    )


def _add_evidence(bundle: Bundle, final: Path) -> None:
    """Add what is said about a frozen release since; what was said before stays."""
    new = evidence_entries(bundle.evidence_dir)
    beside = bundle_at(final / "release").evidence_dir
    digests = {name: entry.digest for name, entry in new.items()}

    def plan() -> dict[str, str]:
        known = evidence_entries(beside)
        return plan_additions(digests, {name: entry.digest for name, entry in known.items()})

    if not plan():
        return
    with working_folder(final.parent, final.name) as folder:
        additions = plan()
        for name in additions:
            _copy_file(bundle.evidence_dir / name, folder / name, new[name].path, lambda _: None)
            _must_be(folder / name, new[name])
        final.chmod(0o755)
        try:
            beside.mkdir(exist_ok=True)
            beside.chmod(0o755)
            for name, target in additions.items():
                (folder / name).replace(beside / target)
            fsync_folder(beside)
        finally:
            if beside.is_dir():
                beside.chmod(0o555)
            final.chmod(0o555)
            fsync_folder(final)


def freeze_on_disk(
    bundle: Bundle,
    manifest: Manifest,
    frozen: Path,
    *,
    uri: str,
    meter: Meter,
    memory: DigestMemory | None = None,
) -> None:
    """Copy a release below a folder of frozen releases, or check the copy that is there.

    Args:
        bundle: The release.
        manifest: What the gates judged.
        frozen: The folder of frozen releases; made when there is none.
        uri: What errors call the copy.
        meter: Told of every byte.
        memory: Digests of files read before; a copy that was just made is read all the same.

    Raises:
        ManifestError: The source changed, or the frozen copy has been; nothing was written.
        OSError: The disk failed; nothing was left.
    """
    final = frozen / manifest.release_id.removeprefix("sha256:")
    if not frozen.is_dir():
        frozen.mkdir(parents=True, exist_ok=True)
        fsync_folder(frozen.parent)
    if not final.is_dir():
        free_bytes = shutil.disk_usage(frozen).free
        if free_bytes < manifest.size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with working_folder(frozen, final.name) as folder:
            if not final.is_dir():
                _copy_release(bundle, manifest, folder, meter)
                _seal(folder)
                folder.rename(final)
                fsync_folder(frozen)
                return
    # It was there, or somebody else froze the same bytes first.
    if final.is_symlink() or (final / "release").is_symlink():
        raise changed_since(["release: is a link"], uri)
    _check_frozen(final, manifest, uri, meter, memory)
    _add_evidence(bundle, final)
