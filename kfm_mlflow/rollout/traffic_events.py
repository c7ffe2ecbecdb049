"""What was done to traffic in a rollout, kept in the journal until it is signed. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the journal reads the types at run time
from typing import Literal

MAX_EVENTS = 64
"""The newest that are kept; a rollout that goes well has about one per step of its plan."""


@dataclass(frozen=True)
class TrafficEvent:
    """A release that was served, or a split that all routers applied.

    Attributes:
        at: When it was done, by the controller's clock.
        kind: ``deploy`` or ``split``.
        version: That was deployed; None for a split.
        stable: Of a split, like the next four: who answers the rest.
        canary: Under test.
        canary_ratio: Its share, 0..1.
        mirror_ratio: Share that is copied to it, 0..1.
        generation: Of the split.
    """

    at: datetime
    kind: Literal["deploy", "split"]
    version: int | None = None
    stable: int | None = None
    canary: int | None = None
    canary_ratio: float = 0.0
    mirror_ratio: float = 0.0
    generation: int = 0
