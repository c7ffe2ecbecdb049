"""What a pickle would run when it is opened, read without opening it.

A pickle is walked opcode by opcode, as the unpickler walks it, and never executed. It may only
name the constructors that ``torch.load(weights_only=True)`` allows for tensors and plain
containers, and only in the open: a name that is computed, or taken from a registry of numbers, is
refused whatever it may turn out to be. What stands before the place where a pickle breaks counts,
for it has run by then.

Arguments are measured and not decoded: where :func:`pickletools.genops` stops because a number or
a name reads oddly, the unpickler goes on.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field

MAX_PICKLE_BYTES = 64 * 2**20
_NEWEST_PROTOCOL = 5
_MAX_DEPTH = 3
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
_NAMING = frozenset({"GLOBAL", "INST"})
# torch.save writes protocol 2, which names everything in the open.
_COMPUTED = frozenset({"STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLING = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
_LENGTH_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}


class _BrokenError(ValueError):
    """The unpickler would stop here."""


@dataclass
class _Stack:
    """How many objects lie on the unpickler's stack, and where its marks are."""

    depth: int = 0
    marks: list[int] = field(default_factory=list)

    def apply(self, opcode: pickletools.OpcodeInfo) -> None:
        """Do to the stack what an opcode does to it."""
        before, after = opcode.stack_before, opcode.stack_after
        if opcode.name == "MARK":
            self.marks.append(self.depth)
            return
        if pickletools.markobject in before:
            place = before.index(pickletools.markobject)
            inside = [o for o in before[place + 1 :] if o is not pickletools.stackslice]
            if not self.marks or self.depth - self.marks[-1] < len(inside):
                raise _BrokenError("the stack holds too little")
            self.depth, needed = self.marks.pop(), place
        elif opcode.name == "POP" and self.marks and self.marks[-1] == self.depth:
            self.marks.pop()
            return
        else:
            needed = len(before)
        if self.depth - needed < (self.marks[-1] if self.marks else 0):
            raise _BrokenError("the stack holds too little")
        self.depth += len(after) - needed


@dataclass
class _Reading:
    """What was seen of one pickle.

    Attributes:
        foreign: Names it imports that are not plain, or how it computes one.
        nested: The same of pickles that it carries as bytes or text.
        is_calling: Whether something is called.
        end: Where it ends; None when it breaks before.
        broken: Why it breaks; empty when it does not.
        is_cut: Whether it breaks because the bytes end.
    """

    foreign: set[str] = field(default_factory=set)
    nested: set[str] = field(default_factory=set)
    is_calling: bool = False
    end: int | None = None
    broken: str = ""
    is_cut: bool = False


class _CutError(_BrokenError):
    """The bytes end before the pickle does."""


def _opcode(data: bytes, place: int) -> pickletools.OpcodeInfo:
    if place >= len(data):
        raise _CutError("no end")
    opcode = _OPCODES.get(data[place])
    if opcode is None:
        raise _BrokenError(f"{data[place : place + 1]!r} is no opcode")
    return opcode


def _argument(data: bytes, place: int, opcode: pickletools.OpcodeInfo) -> tuple[int, int]:
    """Return where the argument of an opcode begins, without its length, and where it ends."""
    kind = opcode.arg.n if opcode.arg else 0
    if kind == pickletools.UP_TO_NEWLINE:
        end = place
        for _ in range(2 if opcode.name in _NAMING else 1):
            end = data.find(b"\n", end) + 1
            if not end:
                raise _CutError("a line without end")
        return place, end
    width = _LENGTH_WIDTHS.get(kind, 0)
    length = int.from_bytes(data[place : place + width], "little") if width else kind
    if kind == pickletools.TAKEN_FROM_ARGUMENT4 and length >= 2**31:
        raise _BrokenError("a negative length")
    end = place + width + length
    if end > len(data):
        raise _CutError("an argument beyond the end")
    return place + width, end


def looks_pickled(data: bytes) -> bool:
    """Say whether bytes begin as pickles of protocol 2 and later do."""
    return data[:1] == b"\x80" and data[1:2] <= bytes([_NEWEST_PROTOCOL]) and len(data) > 1


def _look(found: _Reading, name: str, argument: bytes, depth: int) -> None:
    if name in _NAMING:
        called = ".".join(argument.decode("utf-8", "replace").split("\n")[:2])
        found.foreign |= {called} - _PLAIN
    elif name in _COMPUTED:
        found.foreign.add(f"a name that {name} computes")
    found.is_calling = found.is_calling or name in _CALLING
    if looks_pickled(argument):
        if depth == _MAX_DEPTH:
            found.nested.add("what lies too many pickles within")
        else:
            within = _read(argument, 0, depth + 1)
            found.nested |= within.foreign | within.nested


def _read(data: bytes, start: int = 0, depth: int = 0) -> _Reading:
    found, stack, place = _Reading(), _Stack(), start
    try:
        while True:
            opcode = _opcode(data, place)
            begin, place = _argument(data, place + 1, opcode)
            stack.apply(opcode)
            if opcode.name == "STOP":
                found.end = place
                return found
            _look(found, opcode.name, data[begin:place], depth)
    except _BrokenError as exc:
        found.broken, found.is_cut = f"{exc}, byte {place}", isinstance(exc, _CutError)
    return found


def _sentences(found: _Reading) -> list[str]:
    return [
        *(f"would call {name} when opened" for name in sorted(found.foreign)),
        *(f"holds a pickle that would call {name}" for name in sorted(found.nested)),
    ]


def scan_pickle(data: bytes) -> list[str]:
    """Return why bytes that must be one pickle are not plain tensors; empty when they are.

    Args:
        data: The whole pickle.
    """
    found = _read(data)
    problems = _sentences(found)
    if found.end is None:
        problems.append(f"is no whole pickle ({found.broken})")
    elif found.end != len(data):
        problems.append("goes on after its end")
    return problems


def scan_unnamed(data: bytes) -> list[str]:
    """Return why bytes that no name calls a pickle would run code as one; empty when not.

    Protocols 0 and 1 have no mark, and text can read like the beginning of one; of these, only
    what imports and then calls or ends is a pickle. Several pickles in a row are all read.

    Args:
        data: The bytes, from their beginning.
    """
    problems: dict[str, None] = {}
    place: int | None = 0
    while place is not None and place < len(data):
        found = _read(data, place)
        is_pickle = looks_pickled(data[place : place + 2]) or found.end is not None
        if is_pickle or found.is_calling:
            problems.update(dict.fromkeys(_sentences(found)))
        place = found.end
    return list(problems)


def may_be_pickle(head: bytes) -> bool:
    """Say whether a file with this beginning has to be read further to know that it is none."""
    found = _read(head)
    return found.end is not None or found.is_cut or bool(found.foreign)
