"""The verdict algebra: four outcomes in one order, and a whole is its worst part.

``PASS`` < ``INCONCLUSIVE`` < ``ERROR`` < ``FAIL``. No evidence is never ``PASS``: the worst of
nothing is ``INCONCLUSIVE``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(StrEnum):
    """What a gate, an analysis or a whole report concludes."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    FAIL = "FAIL"

    @property
    def severity(self) -> int:
        """Place in the order; larger is worse."""
        return _ORDER.index(self)


_ORDER = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; of none at all, ``INCONCLUSIVE``.

    Args:
        verdicts: In any order; the result does not depend on it.
    """
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.INCONCLUSIVE)
