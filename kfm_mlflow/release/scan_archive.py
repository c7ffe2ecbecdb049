"""What bytes of any kind would run, told by what they are and not by their name.

Zip archives (checkpoints, ``.npz``, Keras), pickles, compressed pickles, NumPy and HDF5 files and
programs are known by their first bytes. An archive that two readers read differently is refused:
bytes before its first member or after its directory, one name twice, names that leave the folder.
So is one that unpacks to far more than it is. Members are read to a bound, never trusted for their
stated size.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

from kfm_mlflow.release.pickle_scan import (
    MAX_PICKLE_BYTES,
    may_be_pickle,
    scan_pickle,
    scan_unnamed,
)
from kfm_mlflow.release.scan_layers import (
    HDF5_MAGIC,
    NUMPY_MAGIC,
    scan_hdf5,
    scan_keras_config,
    scan_numpy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_MEMBER_COUNT = 100_000
_MAX_RATIO = 200
_FREE_BYTES = 64 * 2**20
"""What any archive may unpack to, however small it is."""
_MAX_DEPTH = 3
_HEAD_BYTES = 64 * 2**10
_UNPACKED_BYTES = 2**20
_OVERLAP_BYTES = 256
_LOCAL_HEADER = b"PK\x03\x04"
_STORAGE = re.compile(r"(?:[^/]+/)?data/\d+")
_NOT_READABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    IndexError,
    OverflowError,
)
"""What the standard library raises over archives that are none."""


def _unzlib(data: bytes) -> bytes:
    return zlib.decompressobj(47).decompress(data, _UNPACKED_BYTES)


def _unbz2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, _UNPACKED_BYTES)


def _unlzma(data: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=2**28).decompress(data, _UNPACKED_BYTES)


_PACKERS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _unzlib),
    (b"x\x01", _unzlib),
    (b"x\x5e", _unzlib),
    (b"x\x9c", _unzlib),
    (b"x\xda", _unzlib),
    (b"BZh", _unbz2),
    (b"\xfd7zXZ\x00", _unlzma),
    (b"]\x00\x00", _unlzma),
)

_KNOWN: tuple[tuple[bytes, Callable[[bytes], list[str]]], ...] = (
    (NUMPY_MAGIC, scan_numpy),
    (HDF5_MAGIC, scan_hdf5),
    (b"\x7fELF", lambda _: ["is a program"]),
    # joblib opens it, and the standard library does not.
    (b"\x04\x22\x4d\x18", lambda _: ["is packed with LZ4 and cannot be scanned"]),
)


def _packed(head: bytes, depth: int) -> list[str]:
    """Return what the beginning of a compressed file would run: joblib opens such by itself."""
    for magic, unpack in _PACKERS:
        if head.startswith(magic):
            try:
                return scan_bytes(unpack(head), depth + 1)
            except _NOT_READABLE:
                return []  # it begins so by chance
    return []


def scan_bytes(data: bytes, depth: int = 0) -> list[str]:
    """Return what bytes would run when a loader that knows them opens them; empty when nothing.

    Args:
        data: The whole, or as much of its beginning as is looked at.
        depth: How many archives they lie in.
    """
    if depth > _MAX_DEPTH:
        return ["lies too many archives deep to be scanned"]
    if data.startswith(_LOCAL_HEADER):
        return scan_archive(io.BytesIO(data), len(data), depth)
    for magic, scan in _KNOWN:
        if data.startswith(magic):
            return scan(data)
    return [*scan_unnamed(data), *_packed(data, depth)]


def scan_stream(stream: BinaryIO, size_bytes: int) -> list[str]:
    """Return what a file would run; most are known by their first 64 KiB.

    Args:
        stream: The file, at its beginning.
        size_bytes: Its length.
    """
    head = stream.read(_HEAD_BYTES)
    if head.startswith(_LOCAL_HEADER) or zipfile.is_zipfile(stream):
        return scan_archive(stream, size_bytes)
    if head.startswith(HDF5_MAGIC):
        return _scan_all(head, stream)
    if len(head) == _HEAD_BYTES and may_be_pickle(head):
        stream.seek(len(head))
        head += stream.read(MAX_PICKLE_BYTES - len(head))
    return scan_bytes(head)


def _scan_all(head: bytes, stream: BinaryIO) -> list[str]:
    """Look for Keras layers of code all through an HDF5 file, across the bounds of what is read."""
    stream.seek(len(head))
    found, before = set(scan_hdf5(head)), head[-_OVERLAP_BYTES:]
    while part := stream.read(2**20):
        found.update(scan_hdf5(before + part))
        before = part[-_OVERLAP_BYTES:]
    return sorted(found)


def _outer_problems(archive: zipfile.ZipFile, size_bytes: int) -> list[str]:
    items = archive.infolist()
    names = [item.filename for item in items]
    if len(items) > _MAX_MEMBER_COUNT:
        return [f"holds more than {_MAX_MEMBER_COUNT} members"]
    problems = []
    if len(set(names)) != len(names):
        problems.append("names a member twice, so two readers see two archives")
    if any(n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n) for n in names):
        problems.append("names a member outside of its folder")
    unpacked = sum(item.file_size for item in items)
    if unpacked > max(_FREE_BYTES, _MAX_RATIO * size_bytes):
        problems.append(f"unpacks to {unpacked} bytes from {size_bytes}")
    return problems


def _frame_problems(archive: zipfile.ZipFile, stream: BinaryIO) -> list[str]:
    """Return why an archive is not alone in its file: torch finds its directory another way."""
    stream.seek(0)
    first = min((item.header_offset for item in archive.infolist()), default=0)
    if stream.read(4) != _LOCAL_HEADER or first != 0:
        return ["has bytes before its first member"]
    return ["carries a comment after its directory"] if archive.comment else []


def scan_checkpoint(stream: BinaryIO, size_bytes: int) -> list[str]:
    """Return why a ``.pt`` file is not plain tensors; empty when it is.

    Args:
        stream: A file that ``torch.save`` is said to have written.
        size_bytes: Its length.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            names = [item.filename for item in archive.infolist()]
            if sum(name.rpartition("/")[2] == "data.pkl" for name in names) != 1:
                return ["does not hold one data.pkl, so it is no torch.save file"]
            problems = [*_outer_problems(archive, size_bytes), *_frame_problems(archive, stream)]
            return problems or _member_problems(archive, 0)
    except _NOT_READABLE as exc:
        return [f"cannot be scanned ({exc})"]


def scan_archive(stream: BinaryIO, size_bytes: int, depth: int = 0) -> list[str]:
    """Return what in a zip archive of any kind would run; empty when nothing does.

    Args:
        stream: The archive.
        size_bytes: Its length.
        depth: How many archives it lies in.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            return _outer_problems(archive, size_bytes) or _member_problems(archive, depth)
    except _NOT_READABLE as exc:
        return [f"cannot be scanned ({exc})"]


def _member_problems(archive: zipfile.ZipFile, depth: int) -> list[str]:
    problems: list[str] = []
    if any(item.filename.rpartition("/")[2] == "constants.pkl" for item in archive.infolist()):
        problems.append("is TorchScript, which is a program")
    for item in archive.infolist():
        name = item.filename
        # Of a checkpoint, data/0 and so on are the numbers of tensors; any bytes are numbers.
        if not item.is_dir() and not _STORAGE.fullmatch(name):
            problems += [f"{name} {problem}" for problem in _scan_member(archive, item, depth)]
    return problems


def _scan_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo, depth: int) -> list[str]:
    name = item.filename
    with archive.open(item) as member:
        data = member.read(_HEAD_BYTES)
        if len(data) == _HEAD_BYTES and (
            name.endswith((".pkl", ".json"))
            or data.startswith(_LOCAL_HEADER)
            or may_be_pickle(data)
        ):
            data += member.read(MAX_PICKLE_BYTES + 1 - len(data))
    if len(data) > MAX_PICKLE_BYTES:
        return [f"is larger than {MAX_PICKLE_BYTES} bytes and cannot be scanned"]
    if name.endswith(".pkl"):
        return scan_pickle(data)
    if name.rpartition("/")[2] == "config.json":
        return scan_keras_config(data)
    return scan_bytes(data, depth + 1)
