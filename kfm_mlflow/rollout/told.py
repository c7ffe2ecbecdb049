"""The part of a narrative that differs from phase to phase, and the words that the phases share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.rollout.state import RolloutState

_FOREVER_S = 1e9


@dataclass(frozen=True)
class Told:
    """The part of a narrative that differs from phase to phase."""

    happening: str
    reason: str
    next: str
    next_at: datetime | None = None
    deadline_at: datetime | None = None
    on_deadline: str = ""
    is_loud: bool = False
    to_do: str = ""


def named(version: int | None) -> str:
    """Return how a version is called."""
    return "no version" if version is None else f"v{version}"


def command(state: RolloutState, word: str) -> str:
    """Return what an operator types to order something of the rollout."""
    return f"kfm rollout {word} {state.model_name} --reason WHY"


def after(instant: datetime, seconds: float) -> datetime:
    """Return the instant so many seconds later."""
    # A policy may ask for more than a calendar holds.
    return instant + timedelta(seconds=min(seconds, _FOREVER_S))
