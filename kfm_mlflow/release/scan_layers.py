"""NumPy headers and Keras configurations: formats that name what a loader would make of them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

NUMPY_MAGIC = b"\x93NUMPY"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_CODE_LAYER = re.compile(r"(?:TFOp|SlicingOp)?Lambda|__lambda__|function")
_CODE_IN_BYTES = re.compile(rb'"class_name"\s*:\s*"((?:TFOp|SlicingOp)?Lambda|__lambda__)"')
_KERAS = re.compile(r"keras(?:\..*)?")


def scan_numpy(head: bytes) -> list[str]:
    """Return why an ``.npy`` file is not plain numbers; empty when it is.

    Args:
        head: The file from its beginning, at least its whole header.
    """
    import numpy as np

    start = 12 if head[6:7] > b"\x01" else 10
    length = int.from_bytes(head[8:start], "little")
    if not 0 < length <= len(head) - start:
        return ["has a broken NumPy header"]
    try:
        header = ast.literal_eval(head[start : start + length].decode("utf-8").strip())
        has_objects = np.lib.format.descr_to_dtype(header["descr"]).hasobject
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError, MemoryError):
        return ["has a broken NumPy header"]
    return ["holds Python objects, which NumPy keeps as a pickle"] if has_objects else []


def scan_keras_config(data: bytes) -> list[str]:
    """Return which layers of a Keras ``config.json`` run code that they carry or name.

    Args:
        data: The document.
    """
    try:
        waiting = [json.loads(data)]
    except (ValueError, RecursionError):
        return ["is not JSON"]
    found: set[str] = set()
    while waiting:
        node: Any = waiting.pop()
        if isinstance(node, dict):
            named, module = str(node.get("class_name", "")), node.get("module")
            if _CODE_LAYER.fullmatch(named):
                found.add(f"holds a Keras {named}, which is code")
            if isinstance(module, str) and not _KERAS.fullmatch(module):
                found.add(f"would import {module[:80]} for a Keras layer")
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return sorted(found)


def scan_hdf5(data: bytes) -> list[str]:
    """Return which layers of code an HDF5 file of Keras names in a part of its bytes."""
    names = {match.group(1).decode() for match in _CODE_IN_BYTES.finditer(data)}
    return [f"holds a Keras {name}, which is code" for name in sorted(names)]
