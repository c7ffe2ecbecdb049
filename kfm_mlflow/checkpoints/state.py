"""The state of a training as bytes: read without running anything, equal for equal states."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "kfm-checkpoint-1"
_PLAIN = (bool, int, float, str, type(None))


def checkpoint_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state as the bytes of a checkpoint; equal states give equal bytes.

    Args:
        state: Dicts, lists and tuples of tensors and plain values.

    Raises:
        InputError: Something in it could only be read by running code.
    """
    import torch

    _require_plain(state, "state")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def _require_plain(value: Any, where: str) -> None:
    import torch

    if isinstance(value, (*_PLAIN, torch.Tensor)):
        return
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str | int):
                raise InputError(f"has a key of type {type(key).__name__}", where=where)
            _require_plain(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _require_plain(part, f"{where}.{place}")
    else:
        raise InputError(
            f"is a {type(value).__name__}, which a reader would have to run code for",
            where=where,
            remedy="give tensors, numbers, texts, lists and dicts",
        )


def copied(value: Any) -> Any:
    """Return a state whose tensors are copies on the CPU, so that training may go on."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return value


def load_checkpoint(path: Path, digest: str) -> dict[str, Any]:
    """Read a checkpoint that a manifest lists, without running anything in it.

    Args:
        path: The file.
        digest: ``sha256:<hex>`` that it must have.

    Raises:
        EvidenceError: It is missing, has other bytes, or is no checkpoint.
    """
    import torch

    try:
        data = path.read_bytes()
    except OSError as exc:
        raise EvidenceError(f"cannot be read ({exc.strerror})", where=path.name) from exc
    if digest_bytes(data) != digest:
        raise EvidenceError(
            f"has {digest_bytes(data)}, the manifest says {digest}",
            where=path.name,
            remedy="restore the file, or remove its row and resume from the one before",
        )
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as exc:
        # Torch raises whatever its reader meets in foreign bytes.
        raise EvidenceError(
            f"is no checkpoint ({type(exc).__name__})", where=path.name, remedy="restore the file"
        ) from exc
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise EvidenceError(f"is no {FORMAT}", where=path.name)
    return state
