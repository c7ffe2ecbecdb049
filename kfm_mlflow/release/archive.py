"""An export as one file: written so that equal directories are equal archives, and read with care.

Rules kept here:

1. An archive holds plain files below one folder, and nothing else: no links, devices, sparse files,
   directories of their own, names that leave the folder, that two systems read differently, or that
   stand there twice.
2. It is not compressed, so what it unpacks to is no larger than itself.
3. What was unpacked is packed again and compared with the archive, byte by byte: padding, owners,
   instants and whatever lies behind the end can not change unseen.
4. Nothing is written but into the folder that the caller gives, and nothing there is written over.
"""

from __future__ import annotations

import os
import tarfile
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING, Any, Self

from kfm_mlflow.errors import IntegrityError
from kfm_mlflow.release.manifest import MAX_FILE_COUNT, build_manifest, check_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAR_SUFFIX = ".tar"
_MAX_HEADER_BYTES = 2**16
"""Of one extended header; tarfile reads those into memory."""
_EXTENDED = frozenset(b"xgXLKVN")
_REMEDY = "ask for it again"


def write_tar(root: Path, target: Path, folder: str) -> None:
    """Write a directory as a tar: sorted names, no owners, no instants, no modes of its own.

    Args:
        root: The directory.
        target: The archive.
        folder: What it unpacks to.
    """
    with target.open("wb") as sink:
        _pack(root, sink, folder)


def _pack(root: Path, sink: Any, folder: str) -> None:
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in build_manifest(root).files:
            member = tarfile.TarInfo(f"{folder}/{entry.path}")
            member.size, member.mode, member.mtime = entry.size_bytes, 0o644, 0
            with (root / entry.path).open("rb") as stream:
                archive.addfile(member, stream)


class _Header(tarfile.TarInfo):
    """A member's header, refused before a large extension of it is read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type[:1] and found.type[0] in _EXTENDED and found.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {found.size} bytes")
        return found


class _Compared:
    """A sink that compares what is written to it with a file."""

    def __init__(self, original: IO[bytes]) -> None:
        self._original, self._count = original, 0
        self.equal = True

    def write(self, data: bytes) -> int:
        self.equal = self.equal and self._original.read(len(data)) == data
        self._count += len(data)
        return len(data)

    def tell(self) -> int:
        return self._count


def unpack_tar(path: Path, folder: Path) -> Path:
    """Unpack an archive that :func:`write_tar` wrote.

    Args:
        path: The archive; what it holds is not believed.
        folder: An empty folder of the caller's own, for instance a temporary one.

    Returns:
        The one directory that it unpacks to.

    Raises:
        IntegrityError: It is no such archive; names the archive, the member and the reason.
    """
    where = path.name
    try:
        top = ""
        with tarfile.open(path, "r:", tarinfo=_Header, errorlevel=2) as archive:
            for parts, member in _members(archive, where):
                top = parts[0]
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                if source is None:  # pragma: no cover - a plain file has bytes
                    raise IntegrityError("has no bytes", where=f"{where}: {member.name[:200]}")
                with target.open("xb") as copy:
                    copyfileobj(source, copy)
                if target.stat().st_size != member.size:
                    raise IntegrityError("is cut off", where=f"{where}: {member.name[:200]}")
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise IntegrityError(
            f"cannot be read as an archive ({str(reason)[:200]})", where=where, remedy=_REMEDY
        ) from exc
    if not top:
        raise IntegrityError("holds no files", where=where, remedy=_REMEDY)
    _compare(path, folder / top)
    return folder / top


def _members(
    archive: tarfile.TarFile, where: str
) -> Iterator[tuple[tuple[str, ...], tarfile.TarInfo]]:
    """Return every member that may be unpacked, with the parts of its path."""
    seen: dict[str, str] = {}
    top = ""
    for count, member in enumerate(archive, 1):
        shown = f"{where}: {member.name[:200]}"
        problem = check_path(member.name)
        parts = tuple(member.name.split("/"))
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            problem = "is not a plain file"
        elif problem is None and len(parts) == 1:
            problem = "lies in no folder"
        elif problem is None and top not in ("", parts[0]):
            problem = f"lies in another folder than {top}"
        elif count > MAX_FILE_COUNT:
            problem = f"is one of more than {MAX_FILE_COUNT} files"
        elif seen.setdefault(member.name.casefold(), member.name) and len(seen) != count:
            problem = "is there twice"
        if problem is not None:
            raise IntegrityError(problem, where=shown, remedy="nothing of it was kept")
        top = parts[0]
        yield parts, member


def _compare(path: Path, root: Path) -> None:
    """Pack again what was unpacked, and compare."""
    with path.open("rb") as original:
        sink = _Compared(original)
        _pack(root, sink, root.name)
        if not sink.equal or original.read(1):
            raise IntegrityError(
                "is not, byte by byte, how its files are packed",
                where=path.name,
                remedy="`tar xf` it and verify the folder, if you packed it yourself",
            )


def is_archive(path: Path) -> bool:
    """Return whether something is to be read as an archive: a file that is called so."""
    return path.suffix == TAR_SUFFIX and path.is_file() and os.access(path, os.R_OK)
