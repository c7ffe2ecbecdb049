"""Pickles that would leave a mark if anybody opened them, written by hand or by ``pickle``."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path


class Marker:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def short(text: str) -> bytes:
    """Return SHORT_BINUNICODE."""
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


def system(path: Path) -> str:
    return f"touch {path}"


def tricks(path: Path) -> dict[str, bytes]:
    """Return pickles by the name of the trick; each would touch the path if it were opened."""
    argument = short(system(path))
    plain = {f"protocol {n}": pickle.dumps({"a": Marker(path)}, n) for n in range(6)}
    tail = b"\x85R."
    return {
        **plain,
        "a name computed on the stack": b"\x80\x04"
        + short("os")
        + short("system")
        + b"\x93"
        + argument
        + tail,
        "a name put together from the memo": b"\x80\x04"
        + short("system")
        + b"\x940"
        + short("os")
        + b"h\x00\x93"
        + argument
        + tail,
        "INST": f"(S'{system(path)}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{system(path)}'\no.".encode(),
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n"
        + argument.replace(b"\x8c", b"U", 1)
        + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + argument + b"\x85}\x92.",
        "an extension code": b"\x80\x02\x82\x01" + argument + tail,
        "a wide extension code": b"\x80\x02\x84" + struct.pack("<i", 7) + argument + tail,
        "BUILD": b"\x80\x02cos\nenviron\n}b.",
        "broken after the call": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R\xff\xff",
        "cut after the call": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R",
        "a number that only the unpickler reads": b"I0x10\n0cos\nsystem\nS'true'\n\x85R.",
        "a name beyond ASCII before the call": "cos\ncaf\u00e9\n0cos\nsystem\nS'true'\n\x85R.".encode(
            "latin-1"
        ),
        "a second pickle behind a plain one": pickle.dumps([1, 2]) + pickle.dumps(Marker(path)),
        "a pickle in a pickle": pickle.dumps({"state": pickle.dumps(Marker(path))}),
        "a pickle in a pickle in a pickle": pickle.dumps(
            [pickle.dumps([pickle.dumps(Marker(path))])]
        ),
        "Python 2's name of eval": b"c__builtin__\neval\nS'1'\n\x85R.",
        "a plain name that leads on": b"\x80\x04ctorch\nSize.__init__.__globals__\n(tR.",
    }
