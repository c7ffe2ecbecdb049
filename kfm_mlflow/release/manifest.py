"""The manifest of a release directory, and the release id that it gives.

Invariants:

1. Every regular file counts, by path, size and SHA-256; nothing is ignored.
2. Nothing else may be there: a symbolic link, a device, a path that two systems read
   differently, or git's own files make the whole directory no release.
3. The release id is the SHA-256 of the manifest in RFC 8785 form. Names are part of it, so a
   renamed file is another release (unlike the OMS root digest).
4. Each file is read once, and not again while the kernel says that nobody wrote to it
   (see :class:`DigestMemory`; docs/adr/0007).
"""

from __future__ import annotations

import os
import re
import stat
import time
import unicodedata
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes, digest_json, digest_stream, parse_digest
from kfm_mlflow.errors import EvidenceError, ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader
    from pathlib import Path

SCHEMA_VERSION = "1"
MAX_FILE_COUNT = 100_000
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_THREADS = min(8, os.cpu_count() or 1)
_WORTH_A_THREAD_BYTES = 2**20
_SETTLED_NS = 2 * 10**9
"""How long a file must have been left alone before its digest is remembered: two writes within
one tick of a file system's clock look like one."""
_REMEMBERED_COUNT = 100_000


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file: POSIX path relative to the release, size in bytes, ``sha256:<hex>``."""

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """All files of a release, sorted by path."""

    files: tuple[FileEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form whose digest is the release id."""
        return {
            "schema_version": SCHEMA_VERSION,
            "files": [
                {"path": f.path, "size": f.size_bytes, "sha256": f.digest.removeprefix("sha256:")}
                for f in self.files
            ],
        }

    @cached_property
    def release_id(self) -> str:
        """``sha256:<hex>`` of the canonical manifest."""
        return digest_json(self.to_dict())

    @cached_property
    def digests(self) -> dict[str, str]:
        """Path -> ``sha256:<hex>``."""
        return {entry.path: entry.digest for entry in self.files}

    @property
    def size_bytes(self) -> int:
        """Sum of all file sizes."""
        return sum(entry.size_bytes for entry in self.files)


def parse_manifest(value: Any, *, where: str = "manifest") -> Manifest:
    """Read a manifest from its JSON form.

    Raises:
        EvidenceError: A field is missing, of the wrong type, or paths are not sorted and unique.
    """
    try:
        if value["schema_version"] != SCHEMA_VERSION:
            raise EvidenceError(
                f"schema_version {value['schema_version']!r} is unknown", where=where
            )
        files = tuple(
            FileEntry(
                str(item["path"]), int(item["size"]), parse_digest(item["sha256"], where=where)
            )
            for item in value["files"]
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise EvidenceError(f"not a manifest ({type(exc).__name__}: {exc})", where=where) from exc
    paths = [entry.path for entry in files]
    if paths != sorted(set(paths)):
        raise EvidenceError("paths are not sorted and unique", where=where)
    return Manifest(files)


def check_path(path: str) -> str | None:
    """Return why a relative POSIX path may not be part of a release; None when it may."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        return "is not a plain relative path"
    if _UNSAFE.search(path) or any(part != part.strip() for part in parts):
        return "has characters that some systems cannot keep"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode normal form C"
    if any(part.lower().startswith(".git") for part in parts):
        return "is one of git's own files, which signing tools ignore"
    return None


def _walk(root: Path) -> list[tuple[str, str]]:
    """Return (path relative to the root, path to open) of every file, sorted."""
    # Strings, not Path objects: of a release of many small files, those would cost the most.
    found: list[tuple[str, str]] = []
    stack = [("", str(root))]
    while stack:
        inside, folder = stack.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                relative = f"{inside}{entry.name}"
                problem = check_path(relative)
                if entry.is_symlink():
                    problem = "is a symbolic link"
                elif not (entry.is_dir(follow_symlinks=False) or entry.is_file()):
                    problem = "is neither a file nor a directory"
                if problem:
                    raise ManifestError(
                        problem, where=relative, remedy="remove or rename it, then sign again"
                    )
                if entry.is_dir(follow_symlinks=False):
                    stack.append((f"{relative}/", entry.path))
                else:
                    found.append((relative, entry.path))
                if len(found) > MAX_FILE_COUNT:
                    raise ManifestError(f"more than {MAX_FILE_COUNT} files", where=str(root))
    return sorted(found)


class DigestMemory:
    """Remembers digests of files that nobody wrote to since; safe between threads.

    A file is the same while device, inode, size, modification and change time are. The kernel
    sets the change time itself at every write, rename and chmod; only who can set the clock or
    write to the disk's blocks gets around it, and neither is kept out by hashing once more.
    """

    def __init__(self, size: int = _REMEMBERED_COUNT) -> None:
        """Remember at most ``size`` files, the least recently used forgotten first."""
        self._size = size
        self._known: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._lock = Lock()

    @staticmethod
    def _key(state: os.stat_result) -> tuple[int, ...]:
        return (
            state.st_dev,
            state.st_ino,
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )

    def recall(self, state: os.stat_result) -> str | None:
        """Return the digest of a file in this state; None when it must be read."""
        key = self._key(state)
        with self._lock:
            digest = self._known.get(key)
            if digest is not None:
                self._known.move_to_end(key)
            return digest

    def keep(self, state: os.stat_result, digest: str, read_at_ns: int) -> None:
        """Remember a digest, unless the file was written to just before it was read.

        Args:
            state: State of the file, the same before and after it was read.
            digest: ``sha256:<hex>`` of its bytes.
            read_at_ns: When reading began, in nanoseconds since 1970.
        """
        if max(state.st_mtime_ns, state.st_ctime_ns) > read_at_ns - _SETTLED_NS:
            return
        with self._lock:
            self._known[self._key(state)] = digest
            while len(self._known) > self._size:
                self._known.popitem(last=False)


def _read(stream: BufferedReader, size_bytes: int) -> tuple[str, int]:
    """Return the digest of an open file and how many bytes were read."""
    if size_bytes < _WORTH_A_THREAD_BYTES:
        data = stream.read(size_bytes + 1)
        return digest_bytes(data), len(data)
    digest = digest_stream(stream)
    return digest, stream.tell()


def _entry(relative: str, path: str, memory: DigestMemory | None) -> FileEntry:
    # O_NOFOLLOW: a file swapped for a link after the walk is refused, not followed.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with open(handle, "rb") as stream:  # noqa: PTH123 - of a handle, not of a path
        before, read_at_ns = os.fstat(handle), time.time_ns()
        digest, read_bytes = _read(stream, before.st_size)
        after = os.fstat(handle)
    if read_bytes != before.st_size or after.st_size != before.st_size:
        raise ManifestError("changed while it was read", where=relative)
    unwritten = (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    if memory is not None and unwritten:
        memory.keep(after, digest, read_at_ns)
    return FileEntry(relative, before.st_size, digest)


def _entries(
    items: list[tuple[str, str]], memory: DigestMemory | None, written: Mapping[str, str]
) -> tuple[FileEntry, ...]:
    known: dict[str, FileEntry] = {}
    big: list[tuple[str, str]] = []
    small: list[tuple[str, str]] = []
    for relative, path in items:
        state = os.lstat(path)
        digest = written.get(relative)
        if digest is None and memory and stat.S_ISREG(state.st_mode):
            digest = memory.recall(state)
        if digest is not None:
            known[relative] = FileEntry(relative, state.st_size, digest)
        else:
            (big if state.st_size >= _WORTH_A_THREAD_BYTES else small).append((relative, path))
    # Threads win where hashing, which leaves the interpreter's lock, is most of the work.
    with ThreadPoolExecutor(_THREADS) if len(big) > 1 else nullcontext() as pool:
        map_big = pool.map if pool else map
        read = map_big(lambda item: _entry(item[0], item[1], memory), big)
        known.update((relative, _entry(relative, path, memory)) for relative, path in small)
        known.update((entry.path, entry) for entry in read)
    return tuple(known[relative] for relative, _ in items)


def build_manifest(
    root: Path,
    memory: DigestMemory | None = None,
    *,
    written: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Read a directory and describe every file in it.

    Args:
        root: The release directory.
        memory: Digests of files read before; None reads every byte.
        written: Path -> ``sha256:<hex>`` of files that the caller has written itself and read
            since; they are not read again.

    Returns:
        The manifest; equal directories give equal manifests on every system.

    Raises:
        ManifestError: The directory is missing or empty, or holds what no release may hold; the
            error names the file.
    """
    if not root.is_dir() or root.is_symlink():
        raise ManifestError("is not a directory", where=str(root))
    items = _walk(root)
    if not items:
        raise ManifestError("holds no files", where=str(root))
    folded: dict[str, str] = {}
    for relative, _ in items:
        twin = folded.setdefault(relative.casefold(), relative)
        if twin != relative:
            raise ManifestError(f"differs from {twin!r} only by case", where=relative)
    try:
        return Manifest(_entries(items, memory, written))
    except OSError as exc:
        raise ManifestError(f"cannot be read ({exc.strerror})", where=str(exc.filename)) from exc


def compare_manifests(expected: Manifest, found: Manifest) -> list[str]:
    """Return every difference as a sentence that names the file; empty when they are equal."""
    want, have = expected.digests, found.digests
    problems = [f"{path}: missing" for path in sorted(want.keys() - have.keys())]
    problems += [f"{path}: added" for path in sorted(have.keys() - want.keys())]
    problems += [
        f"{path}: expected {want[path]}, found {have[path]}"
        for path in sorted(want.keys() & have.keys())
        if want[path] != have[path]
    ]
    return problems
