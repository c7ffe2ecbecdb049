"""What a torch checkpoint would run when it is opened, read without opening it.

A ``.pt`` file is a zip whose ``data.pkl`` may only name the constructors that
``torch.load(weights_only=True)`` allows for tensors and plain containers. The pickle is read
opcode by opcode with the standard library and never executed.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_PICKLE_BYTES = 64 * 2**20
_PLAIN = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch.Size",
        *(
            f"torch.{kind}Storage"
            for kind in (
                "Float",
                "Double",
                "Half",
                "BFloat16",
                "Long",
                "Int",
                "Short",
                "Char",
                "Byte",
                "Bool",
            )
        ),
    }
)


def _named(data: bytes) -> set[str]:
    found: set[str] = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in {"GLOBAL", "INST"}:
            found.add(str(argument).replace(" ", "."))
        elif opcode.name in {"STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}:
            # torch.save writes protocol 2, which names everything in the open.
            found.add(f"a name that {opcode.name} computes")
    return found


def scan_checkpoint(path: Path) -> list[str]:
    """Return why a ``.pt`` file is not plain tensors; empty when it is.

    Args:
        path: A file written by ``torch.save``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [item for item in archive.infolist() if item.filename.endswith(".pkl")]
            if not pickles:
                return ["holds no data.pkl, so it is no torch.save file"]
            problems = []
            for item in pickles:
                if item.file_size > MAX_PICKLE_BYTES:
                    return [f"{item.filename} is larger than {MAX_PICKLE_BYTES} bytes"]
                foreign = sorted(_named(archive.read(item)) - _PLAIN)
                problems += [f"would call {name} when opened" for name in foreign]
            return problems
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as exc:
        return [f"cannot be scanned ({exc})"]
