"""Canonical JSON, digests and careful reading: what every other floor writes and reads with.

Rules kept here:

1. What we write is RFC 8785 canonical JSON: one value, one byte string.
2. Digests are written ``sha256:<hex>``; bare hex and ``sha256-<hex>`` are accepted on input.
3. JSON from outside is read strictly: UTF-8, no duplicate keys, no NaN, no number beyond what a
   double holds, bounded size and depth.
4. A file appears whole or not at all.

It does not know what any document means.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rfc8785

from kfm_mlflow.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import BufferedIOBase

NAMESPACE = "https://kfm-mlflow.github.io/"
"""Prefix of our identifiers (predicate types, STAC extension, PROV namespace). The schemas ship
in the package; nothing is ever fetched from here."""

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 64
_MAX_INTEGER_DIGITS = 300
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-fA-F]{64})")


def canonical_bytes(value: Any) -> bytes:
    """Write a JSON value in its one canonical form (RFC 8785).

    Args:
        value: A value of dicts, lists, strings, finite numbers, booleans and None.

    Returns:
        UTF-8 bytes; equal values give equal bytes.

    Raises:
        InputError: The value holds NaN, an infinity, an integer beyond 2^53, or a foreign type.
    """
    quick = _quick_bytes(value)
    if quick is not None:
        return quick
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError, TypeError, RecursionError) as exc:
        raise InputError(
            f"not representable as canonical JSON: {exc}",
            remedy="use finite numbers and plain JSON types",
        ) from exc


_MAX_INTEGER = 2**53 - 1
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")
_WRITER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def _small_integer(digits: str) -> int:
    number = int(digits)
    if abs(number) > _MAX_INTEGER:
        raise ValueError(digits)
    return number


def _no_float(digits: str) -> Any:
    raise ValueError(digits)


_READER = json.JSONDecoder(parse_float=_no_float, parse_int=_small_integer)


def _quick_bytes(value: Any) -> bytes | None:
    """Return the canonical form by the C encoder where it agrees with RFC 8785, else None.

    It differs in floats, in keys beyond the Basic Multilingual Plane (sorted by code point, not
    by UTF-16 unit), and in what it makes strings of silently; reading back finds all of them.
    """
    try:
        text = _WRITER.encode(value)
        if not text.isascii() and _BEYOND_BMP.search(text):
            return None
        return text.encode("utf-8") if _READER.decode(text) == value else None
    except (ValueError, TypeError, RecursionError):
        return None


def digest_bytes(data: bytes) -> str:
    """Return ``sha256:<hex>`` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_json(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical form of a JSON value."""
    return digest_bytes(canonical_bytes(value))


def digest_stream(stream: BufferedIOBase) -> str:
    """Return ``sha256:<hex>`` of an open binary file, read once from where it stands."""
    return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def digest_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def digest_path(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file's bytes, or of a directory.

    A directory's digest is over one line per file, sorted by path: the SHA-256 of its bytes in
    hex, two spaces, its path with forward slashes, a newline (what ``sha256sum`` prints).
    """
    if path.is_file():
        return digest_file(path)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    hexes = {name: digest_file(path / name).removeprefix("sha256:") for name in names}
    return digest_bytes("".join(f"{hexes[name]}  {name}\n" for name in names).encode())


def parse_digest(text: str, *, where: str = "digest") -> str:
    """Read any of the three digest notations and return ``sha256:<hex>``.

    Args:
        text: ``sha256:<hex>``, ``sha256-<hex>`` or 64 bare hex digits.
        where: What to name in an error.

    Raises:
        InputError: The text is none of these.
    """
    match = _DIGEST.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InputError(
            f"{text!r} is not a SHA-256 digest", where=where, remedy="write sha256:<64 hex digits>"
        )
    return f"sha256:{match.group(1).lower()}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is beyond a double")
    return number


def _finite_integer(digits: str) -> int:
    if len(digits) > _MAX_INTEGER_DIGITS:
        raise ValueError(f"{digits[:20]}… is beyond a double")
    return int(digits)


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        children: Iterable[Any] = ()
        if isinstance(node, dict):
            children = node.values()
        elif isinstance(node, list):
            children = node
        stack.extend((child, depth + 1) for child in children)
    return deepest


def parse_json(data: bytes, *, where: str) -> Any:
    """Read JSON that somebody else wrote, strictly.

    Args:
        data: At most 16 MiB of UTF-8.
        where: The file or URI to name in an error.

    Raises:
        EvidenceError: Too large, not UTF-8, not JSON, a key twice, NaN, a number that no double
            holds, or nested beyond 64.
    """
    if len(data) > MAX_JSON_BYTES:
        raise EvidenceError(f"{len(data)} bytes is more than {MAX_JSON_BYTES}", where=where)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_finite_integer,
        )
    except (ValueError, RecursionError) as exc:
        raise EvidenceError(f"not valid JSON ({exc})", where=where) from exc
    # Fewer brackets than levels allowed cannot be too deep: most documents need no walk.
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        raise EvidenceError(f"nested deeper than {MAX_JSON_DEPTH}", where=where)
    return value


def load_json(path: Path, *, where: str = "") -> Any:
    """Read a JSON file strictly; see :func:`parse_json`.

    Raises:
        EvidenceError: The file is missing, unreadable, or not strict JSON.
    """
    name = where or path.name
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except OSError as exc:
        raise EvidenceError(f"cannot be read ({exc.strerror})", where=name) from exc
    return parse_json(data, where=name)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it appears whole or not at all (temporary file, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> str:
    """Write a value as canonical JSON and return its digest."""
    data = canonical_bytes(value)
    write_bytes(path, data)
    return digest_bytes(data)
