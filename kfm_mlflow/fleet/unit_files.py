"""The files of a unit, read with care: every bad one is an error that names file and field.

Nothing is unpickled, and no file is read that is larger than a unit's files may be.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError, EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

UNIT_FILE = "unit.json"
MAX_ARRAYS_BYTES = 2**30
"""Of all arrays of one file, unpacked."""
_REMEDY = "ask the provider for the artifact again"


def shown(path: Path) -> str:
    """Return what to call a file of a unit in a message: its folder and its name."""
    return f"{path.parent.name}/{path.name}"


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: The file is missing, or holds none.
    """
    try:
        value = load_json(path, where=shown(path))
    except EvidenceError as exc:
        raise DataError(str(exc), remedy=_REMEDY) from exc
    if not isinstance(value, dict):
        raise DataError("is no JSON object", where=shown(path), remedy=_REMEDY)
    return value


def read_count(value: Mapping[str, Any], name: str, path: Path, *, most: int) -> int:
    """Return a whole number of at least 1 from an object that was read from a file.

    Raises:
        InputError: It is missing, none, or more than ``most``.
    """
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= most:
        raise InputError(
            f"must be a whole number, 1 to {most}", where=f"{shown(path)}: {name}", remedy=_REMEDY
        )
    return found


def read_texts(value: Mapping[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """Return a list of strings from an object that was read from a file; empty when left out.

    Raises:
        InputError: It is no such list.
    """
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InputError("must be a list of texts", where=f"{shown(path)}: {name}", remedy=_REMEDY)
    return tuple(found)


def read_npz(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` file, without pickle.

    Args:
        path: The file.
        shapes: Which arrays there have to be, no others, and of which shape.

    Raises:
        DataError: The file is missing, no ``.npz``, too large, holds Python objects, or an array is
            missing, of another shape, or not of finite numbers.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAYS_BYTES:
                raise DataError(f"unpacks to more than {MAX_ARRAYS_BYTES} bytes", where=shown(path))
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as exc:
        raise _unreadable(path, exc) from exc
    return _checked(found, shapes, path)


def read_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.safetensors`` file.

    Args:
        path: The file.
        shapes: Which arrays there have to be, no others, and of which shape.

    Raises:
        DataError: As for :func:`read_npz`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        if path.stat().st_size > MAX_ARRAYS_BYTES:
            raise DataError(f"is larger than {MAX_ARRAYS_BYTES} bytes", where=shown(path))
        found = load(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
        raise _unreadable(path, exc) from exc
    return _checked(found, shapes, path)


def _unreadable(path: Path, exc: Exception) -> DataError:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return DataError(
        f"cannot be read ({' '.join(str(reason).split())[:160]})",
        where=shown(path),
        remedy=_REMEDY,
    )


def _checked(
    found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, np.ndarray]:
    import numpy as np

    for name in sorted({*found, *shapes}):
        array, shape = found.get(name), shapes.get(name)
        problem = ""
        if array is None:
            problem = "is missing"
        elif shape is None:
            problem = f"is no array of this file, which holds {', '.join(shapes)}"
        elif array.dtype.kind != "f":
            problem = f"holds {array.dtype}, not floating-point numbers"
        elif array.shape != shape:
            problem = f"has shape {list(array.shape)}, not {list(shape)}"
        elif not np.isfinite(array).all():
            problem = "holds a number that is not finite"
        if problem:
            raise DataError(problem, where=f"{shown(path)}: {name[:120]}", remedy=_REMEDY)
    return dict(found)
