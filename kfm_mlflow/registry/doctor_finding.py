"""What the doctor says: one finding per thing looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Status = Literal["ok", "warning", "problem", "skipped"]
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at, in a word or two; the same in every release.
        status: ``ok``, ``problem``; ``warning`` for what is allowed and worth knowing; ``skipped``
            for what cannot be seen from here.
        detail: What is so, in one sentence.
        remedy: How to mend it; empty when there is nothing to mend.
    """

    check: str
    status: Status
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def listed(names: Sequence[str]) -> str:
    """Return some of many names, and how many there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def judged(check: str, bad: Sequence[str], problem: str, remedy: str, fine: str) -> Finding:
    """Return a problem that lists what is bad, or that all is fine."""
    if bad:
        return Finding(check, "problem", f"{problem}: {listed(bad)}", remedy)
    return Finding(check, "ok", fine)
