"""How good input is broken: bytes for every parser, and values for those that read JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

# What parsers of JSON, instants, digests, names and pickles have stumbled over elsewhere.
_TOKENS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b'"',
    b"{",
    b"]",
    b"[" * 200,
    b'{"a":' * 100,
    b"null",
    b"NaN",
    b"-0",
    b"1e999",
    b"9" * 400,
    b'"__proto__"',
    b"0001-01-01T00:00:00+23:59",
    b"9999-12-31T23:59:59-23:59",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**53,
    10**400,
    1e308,
    5e-324,
    float("inf"),
    "",
    "\x00",
    "\ud800",
    "a" * 300,
    "a:b",
    "_:b",
    ":",
    "%",
    "../../etc/passwd",
    "http://[",
    "sha256:",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-02-30",
    [],
    [None],
    [[]],
    [[[]]],
    {},
    {"": ""},
    {"$": "x", "type": "y"},
    {"$": [], "type": 5},
)


@st.composite
def broken_bytes(draw: Any, good: bytes) -> bytes:
    """Draw some bytes that differ from good ones in up to four places."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 16))
        how = draw(st.sampled_from(("flip", "token", "cut", "end", "repeat")))
        if how == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif how == "token":
            data[place : place + length] = draw(st.sampled_from(_TOKENS))
        elif how == "cut":
            del data[place : place + length]
        elif how == "end":
            del data[place:]
        else:
            data[place:place] = data[place : place + 4 * length]
    return bytes(data)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    return found


@st.composite
def broken_value(draw: Any, good: bytes) -> Any:
    """Draw a JSON value that differs from a good one in up to three places."""
    value = json.loads(good)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        if not places:
            return draw(st.sampled_from(_VALUES))
        node, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(("replace", "replace", "remove", "rename", "swap", "wrap")))
        if how == "replace":
            node[key] = json.loads(json.dumps(draw(st.sampled_from(_VALUES))))
        elif how == "remove":
            del node[key]
        elif how == "rename" and isinstance(node, dict):
            node[draw(st.sampled_from(("", "x", "prov:type", "_:b", "\ud800")))] = node.pop(key)
        elif how == "swap":
            other, theirs = draw(st.sampled_from(places))
            node[key] = json.loads(json.dumps(other[theirs]))
        else:
            node[key] = [node[key]]
    return value
