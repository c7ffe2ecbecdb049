"""Where an ONNX file points out of itself: other files, and operators that only a library knows.

ONNX describes arithmetic, and runs no code of its own. Two things lead out of it: tensors that lie
in another file, by a path that the model chooses, and operators of a domain that ONNX does not
define, for which a runtime must load somebody's library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.release.manifest import check_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})


def _messages(root: Any) -> Iterator[Any]:
    """Yield a protobuf message and every message within, in whatever field it is."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _text(value: str | bytes) -> str:
    """Return a string field; what is not UTF-8 comes from protobuf as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _location_problems(tensor: Any, folder: str, sizes_bytes: Mapping[str, int]) -> list[str]:
    entries = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    name = repr(_text(tensor.name)[:80])
    location = entries.get("location", "")
    problem = check_path(location)
    if problem:
        return [f"tensor {name} lies in {location[:120]!r}, which {problem}"]
    size_bytes = sizes_bytes.get(f"{folder}{location}")
    if size_bytes is None:
        return [f"tensor {name} lies in {location[:120]!r}, which is not in the release"]
    try:
        offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
    except ValueError:
        return [f"tensor {name} lies at no number of bytes"]
    if offset < 0 or length < 0 or offset + length > size_bytes:
        return [f"tensor {name} lies beyond the end of {location[:120]!r}"]
    return []


def scan_onnx(data: bytes, path: str, sizes_bytes: Mapping[str, int]) -> list[str]:
    """Return why an ONNX file may not be opened; empty when it may.

    Args:
        data: The file.
        path: Its path in the release.
        sizes_bytes: Path -> size in bytes of every file of the release.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return ["is not ONNX"]
    if not model.HasField("graph"):
        return ["holds no graph"]
    known = {(function.domain, function.name) for function in model.functions}
    folder = path[: path.rfind("/") + 1]
    found: dict[str, None] = {}
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "NodeProto":
            if message.domain not in _DOMAINS and (message.domain, message.op_type) not in known:
                named = f"{_text(message.domain)}:{_text(message.op_type)}"
                found[f"needs a library for operator {named[:160]}"] = None
        elif kind == "TensorProto" and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            found.update(dict.fromkeys(_location_problems(message, folder, sizes_bytes)))
    return sorted(found)
