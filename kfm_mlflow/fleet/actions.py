"""What a step of a fleet's rollout may ask for. Values only; the loop carries them out in order.

Every action may be carried out twice: a loop that was killed asks for it again. What concerns the
registry and the papers is the same as in a rollout of one model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.rollout.actions import Demote, Promote, PublishVerdict, Restore, WriteReports

if TYPE_CHECKING:
    from kfm_mlflow.fleet.plane import RouteTable


@dataclass(frozen=True)
class Fetch:
    """Fetch a release from the registry and verify it; its release id goes into the record."""

    version: int


@dataclass(frozen=True)
class Start:
    """Ask for an instance; the release is verified in this process before."""

    agent: str
    version: int


@dataclass(frozen=True)
class Stop:
    """Take an instance down that gets no tasks any more, or is of no use."""

    agent: str
    version: int


@dataclass(frozen=True)
class SetRoutes:
    """Apply a route table on every dispatcher."""

    table: RouteTable


Action = (
    Fetch | Start | Stop | SetRoutes | PublishVerdict | Promote | Restore | Demote | WriteReports
)
