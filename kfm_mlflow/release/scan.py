"""What the files of a release would run when they are opened, read without opening them.

Each file is judged by the loader that its name calls, and any other by its bytes. Nothing is
unpickled, imported or unpacked to disk. What cannot be read to its end is a problem.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from kfm_mlflow.release.scan_archive import scan_checkpoint, scan_stream
from kfm_mlflow.release.scan_mlmodel import REQUIREMENT_FILES, scan_mlmodel, scan_requirements
from kfm_mlflow.release.scan_onnx import scan_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CHECKPOINTS = (".pt", ".pth", ".ckpt")
_MAX_ONNX_BYTES = 2**31
_MAX_TEXT_BYTES = 2**20


@dataclass(frozen=True)
class ScanReport:
    """What was found, as sentences that begin with the file.

    Attributes:
        pickles: What unpickling would run, by whatever name and packing.
        formats: What a model or requirements file would import, load or install.
    """

    pickles: tuple[str, ...]
    formats: tuple[str, ...]


def scan_file(root: Path, path: str, sizes_bytes: Mapping[str, int]) -> ScanReport:
    """Say what one file would run.

    Args:
        root: The release directory.
        path: POSIX path relative to it.
        sizes_bytes: Path -> size in bytes of every file of the release.
    """
    pickles: list[str] = []
    formats: list[str] = []
    try:
        # O_NOFOLLOW: a file that became a link since the manifest was made is refused.
        handle = os.open(root / path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as stream:
            if path.lower().endswith(_CHECKPOINTS):
                pickles = scan_checkpoint(stream, os.fstat(handle).st_size)
            else:
                formats = _scan_format(stream, path, sizes_bytes)
                stream.seek(0)
                if not path.lower().endswith(".onnx"):
                    pickles = scan_stream(stream, os.fstat(handle).st_size)
    except OSError as exc:
        formats = [f"cannot be scanned ({exc.strerror})"]
    except Exception as exc:  # noqa: BLE001 - a scan that trips over a file has refused it
        formats = [f"cannot be scanned ({type(exc).__name__}: {exc})"]
    return ScanReport(
        tuple(f"{path}: {problem}" for problem in pickles),
        tuple(f"{path}: {problem}" for problem in formats),
    )


def _scan_format(stream: BinaryIO, path: str, sizes_bytes: Mapping[str, int]) -> list[str]:
    name = path.rpartition("/")[2]
    if path.lower().endswith(".onnx"):
        data = stream.read(_MAX_ONNX_BYTES)
        return (
            scan_onnx(data, path, sizes_bytes)
            if len(data) < _MAX_ONNX_BYTES
            else ["is larger than protobuf allows"]
        )
    if name == "saved_model.pb":
        return ["is a TensorFlow graph, which may read and write files"]
    if name == "MLmodel" or name in REQUIREMENT_FILES:
        data = stream.read(_MAX_TEXT_BYTES + 1)
        if len(data) > _MAX_TEXT_BYTES:
            return [f"is larger than {_MAX_TEXT_BYTES} bytes"]
        return scan_mlmodel(data, sizes_bytes) if name == "MLmodel" else scan_requirements(data)
    return []


def scan_release(root: Path, sizes_bytes: Mapping[str, int]) -> ScanReport:
    """Say what every file of a release would run.

    Args:
        root: The release directory.
        sizes_bytes: Path -> size in bytes of every file, from its manifest.
    """
    found = [scan_file(root, path, sizes_bytes) for path in sorted(sizes_bytes)]
    return ScanReport(
        tuple(sentence for report in found for sentence in report.pickles),
        tuple(sentence for report in found for sentence in report.formats),
    )
