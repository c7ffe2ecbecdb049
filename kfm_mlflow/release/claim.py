"""Who works in a frozen area on disk: locks that die with their owner, and what crashes leave.

A freeze works in a folder whose name starts with a dot, and holds a lock on ``<folder>.lock``
for as long as it lives. The kernel lets go of the lock when the process ends, however it ends,
so a folder whose lock can be had belongs to nobody and is removed. Process ids say nothing
across containers and hosts, and ages nothing about a slow copy; locks do not have to guess.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AREA_LOCK = ".lock"
_SUFFIX = ".lock"


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def area_lock(frozen: Path) -> Iterator[None]:
    """Hold the lock of a frozen area, for short work; never while copying."""
    handle = os.open(frozen / _AREA_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_tree(root: Path) -> None:
    """Remove a folder, write-protected or not."""
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)
    shutil.rmtree(root)


def _remove_leftovers(frozen: Path) -> None:
    """Remove what killed processes left; the caller holds the area's lock."""
    held = set()
    for lock in sorted(frozen.glob(f".*{_SUFFIX}")):
        if lock.name == _AREA_LOCK:
            continue
        folder = lock.with_name(lock.name.removesuffix(_SUFFIX))
        try:
            handle = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue  # Its owner has just finished, and removes the folder first.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.add(folder)
        else:
            if folder.is_dir():
                remove_tree(folder)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)
    for folder in frozen.glob(".*"):
        if folder.is_dir() and folder not in held:
            remove_tree(folder)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _claim(frozen: Path, lock: Path) -> int:
    """Wait until nobody else has a lock file, and return the handle that holds it."""
    while True:
        with area_lock(frozen):
            _remove_leftovers(frozen)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(lock, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # Whoever had it before has removed it.


@contextmanager
def working_folder(frozen: Path, name: str) -> Iterator[Path]:
    """Give an empty folder in the area that nobody else touches, and remove it afterwards.

    Who asks for the same name meanwhile waits: a client that gave up and asks again does not
    make a second copy of a large release.

    Args:
        frozen: The frozen area; it exists.
        name: What is worked on.
    """
    folder = frozen / f".{name}"
    lock = folder.with_name(folder.name + _SUFFIX)
    handle = _claim(frozen, lock)
    try:
        if folder.is_dir():
            remove_tree(folder)
        folder.mkdir(0o755)
        yield folder
    finally:
        try:
            if folder.is_dir():
                remove_tree(folder)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)
