"""What differs between two directories of one release, file by file and field by field.

Pure apart from reading the files. A JSON file is compared as a value and its fields are named by
JSON Pointer (RFC 6901); of any other text the first line that differs is named; of anything else
size and digest. Documents of a release repeat the digests and sizes of other files, so one changed
weight shows in five of them: where a value differs only by naming a file that differs itself, it is
said to follow from that file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.release.texts import is_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        path: The file.
        field: JSON Pointer of the field, ``line N`` of a text; empty for a whole file.
        recorded: What the first has there, as text.
        rebuilt: What the second has there.
        follows: File from whose change this one follows; empty when it stands for itself.
    """

    path: str
    field: str
    recorded: str
    rebuilt: str
    follows: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the JSON form."""
        return {
            "path": self.path,
            "field": self.field,
            "recorded": self.recorded,
            "rebuilt": self.rebuilt,
            "follows": self.follows,
        }


@dataclass(frozen=True)
class _Changed:
    """How a file that differs is named in documents: sizes and digests, recorded and rebuilt."""

    path: str
    sizes_bytes: tuple[int, int]
    hexes: tuple[tuple[str, str], ...]


def compare_releases(recorded: Path, rebuilt: Path) -> tuple[Difference, ...]:
    """Return everything that differs between two release directories.

    Args:
        recorded: The first.
        rebuilt: The second.

    Returns:
        In order of paths, what stands for itself before what follows from it; empty exactly when
        both have the same release id.

    Raises:
        ManifestError: One of them is no release directory.
    """
    first, second = build_manifest(recorded).digests, build_manifest(rebuilt).digests
    found = [
        Difference(path, "", first.get(path, _ABSENT), second.get(path, _ABSENT))
        for path in sorted(first.keys() ^ second.keys())
    ]
    both = sorted(path for path in first.keys() & second.keys() if first[path] != second[path])
    changed = [_changed(recorded / path, rebuilt / path, path) for path in both]
    for path, change in zip(both, changed, strict=True):
        fields = list(_fields(recorded / path, rebuilt / path, path))
        if not fields:
            size, other = change.sizes_bytes
            whole = (f"{first[path]} ({size} bytes)", f"{second[path]} ({other} bytes)")
            found.append(Difference(path, "", *whole))
        others = [one for one in changed if one.path != path]
        found += [
            Difference(path, field, _shown(a), _shown(b), _cause(a, b, others))
            for field, a, b in fields
        ]
    return tuple(sorted(found, key=lambda one: (bool(one.follows), one.path)))


def _changed(recorded: Path, rebuilt: Path, path: str) -> _Changed:
    hexes, sizes = [], []
    for file in (recorded, rebuilt):
        data = file.read_bytes()
        sizes.append(len(data))
        sha1 = hashlib.sha1(data, usedforsecurity=False)
        hexes.append((hashlib.sha256(data).hexdigest(), sha1.hexdigest()))
    first, second = hexes
    return _Changed(path, (sizes[0], sizes[1]), tuple(zip(first, second, strict=True)))


def _cause(recorded: Any, rebuilt: Any, changed: Sequence[_Changed]) -> str:
    """Return the file whose digest or size is all that differs between two values."""
    if type(recorded) is type(rebuilt) is int:
        sizes = (recorded, rebuilt)
        return next((file.path for file in changed if file.sizes_bytes == sizes), "")
    if not isinstance(recorded, str) or not isinstance(rebuilt, str):
        return ""
    causes, text = [], recorded
    for file in changed:
        for old, new in file.hexes:
            if old in text:
                causes.append(file.path)
                text = text.replace(old, new)
    return causes[0] if text == rebuilt else ""


def _fields(recorded: Path, rebuilt: Path, path: str) -> list[tuple[str, Any, Any]]:
    """Return (field, recorded, rebuilt) of what differs in a text; empty if it is none."""
    if path.endswith(".json"):
        try:
            return list(_walk("", load_json(recorded), load_json(rebuilt)))
        except EvidenceError:
            return []
    if not is_text(path):
        return []
    try:
        lines = [file.read_text(encoding="utf-8").splitlines() for file in (recorded, rebuilt)]
    except UnicodeDecodeError:
        return []
    longest = max(map(len, lines))
    first, second = ([*part, *[_ABSENT] * (longest - len(part))] for part in lines)
    return [
        (f"line {number}", a, b)
        for number, (a, b) in enumerate(zip(first, second, strict=True), 1)
        if a != b
    ]


def _walk(pointer: str, recorded: Any, rebuilt: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(recorded, dict) and isinstance(rebuilt, dict):
        for key in sorted(recorded.keys() | rebuilt.keys()):
            step = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            yield from _walk(step, recorded.get(key, _Nothing), rebuilt.get(key, _Nothing))
    elif isinstance(recorded, list) and isinstance(rebuilt, list):
        for index in range(max(len(recorded), len(rebuilt))):
            a, b = (part[index] if index < len(part) else _Nothing for part in (recorded, rebuilt))
            yield from _walk(f"{pointer}/{index}", a, b)
    elif type(recorded) is not type(rebuilt) or recorded != rebuilt:
        yield pointer, recorded, rebuilt


class _Nothing:
    """Stands where one of two documents has no such field."""


def _shown(value: Any) -> str:
    if value is _Nothing:
        return _ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
