"""A request to break the glass: findings passed over in an emergency, on somebody's own word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.access import MAX_BREAK_GLASS_HOURS

_MAX_REASON, _MAX_TICKET = 1000, 200


@dataclass(frozen=True)
class BreakGlass:
    """A request to pass over findings in an emergency.

    Attributes:
        reason: Why.
        ticket: Where the emergency is written down.
        hours: For how long; afterwards the version is to be recalled.
    """

    reason: str
    ticket: str
    hours: float

    def __post_init__(self) -> None:
        """Refuse what says nothing.

        Raises:
            InputError: No reason, no ticket, or a number of hours that no policy can allow.
        """
        if not self.reason.strip() or not self.ticket.strip():
            raise InputError("needs a reason and a ticket", where="break-glass", remedy="say both")
        if not math.isfinite(self.hours) or self.hours <= 0:
            raise InputError(
                f"{self.hours} is no length of time", where="break-glass hours", remedy="use 4"
            )
        if self.hours > MAX_BREAK_GLASS_HOURS:
            raise InputError(
                f"{self.hours:g} is more than any policy allows",
                where="break-glass hours",
                remedy=f"at most {MAX_BREAK_GLASS_HOURS:g}",
            )


def parse_break_glass(value: Any) -> BreakGlass | None:
    """Read ``{"reason", "ticket", "hours"}``, all of them and nothing else; null is none.

    Raises:
        InputError: It is something else, or says nothing.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"reason", "ticket", "hours"}:
        raise InputError("needs reason, ticket and hours", where="break_glass")
    hours = value["hours"]
    if isinstance(hours, bool) or not isinstance(hours, int | float):
        raise InputError("must be a number", where="break_glass.hours")
    if not isinstance(value["reason"], str) or not isinstance(value["ticket"], str):
        raise InputError("must be text", where="break_glass.reason and ticket")
    return BreakGlass(value["reason"][:_MAX_REASON], value["ticket"][:_MAX_TICKET], float(hours))
