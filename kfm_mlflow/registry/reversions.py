"""What was taken back of a model last: which version went, which came back, by which row.

It follows from the outbox, whose rows have the numbers of the ledger's and its levels: nothing is
stored. A version that goes to Production from elsewhere than canary comes back there, for the way
into Production leads through canary, and nothing passes over the way. What was taken back is told
until the next release is promoted, which is a decision of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import select

from kfm_mlflow.policy.levels import Level, parse_level
from kfm_mlflow.registry import listing, tables
from kfm_mlflow.registry.history import read_entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from kfm_mlflow.registry.store import KfmStore

_EVENT = tables.outbox.c


@dataclass(frozen=True)
class Reversion:
    """A version that was taken back.

    Attributes:
        row: The ledger's row that did it; of a restore, the one that brought the other back.
        rollback_of: The version that went.
        restored: The version that came back; None where none did, as for a canary.
        at: When, as it stands in the row.
        cause: Why, in fixed words, as the row says; None where it does not.
    """

    row: int
    rollback_of: int
    restored: int | None
    at: str
    cause: Mapping[str, Any] | None = None


def with_cause(session: Session, reversion: Reversion | None) -> Reversion | None:
    """Return a reversion with the cause that its row states."""
    row = None if reversion is None else listing.ledger_row(session, reversion.row)
    if reversion is None or row is None:
        return reversion
    return replace(reversion, cause=read_entry(asdict(row)).cause)


@dataclass
class Reverting:
    """Follows the moves of one model; feed it every one, in order."""

    reversion: Reversion | None = None
    last_row: int = 0
    _levels: dict[int, Level] = field(default_factory=dict)

    def add(self, row: int, version: int, level: Level, at: str) -> None:
        """Take in the next move.

        Args:
            row: Number of the ledger's row.
            version: Model version.
            level: Level that it was given.
            at: When.
        """
        before = self._levels.get(version, Level.CANDIDATE)
        self._levels[version], self.last_row = level, row
        if level is Level.PRODUCTION:
            for other, held in self._levels.items():
                if held is Level.PRODUCTION and other != version:
                    self._levels[other] = Level.CANDIDATE
            if before is Level.CANARY:
                self.reversion = None
            elif self.reversion is not None:
                self.reversion = replace(self.reversion, row=row, restored=version, at=at)
        elif before in {Level.CANARY, Level.PRODUCTION} and level.rank < before.rank:
            self.reversion = Reversion(row, version, None, at)


class _Memory:
    """What is known of one registry's models, up to a row."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._models: dict[str, Reverting] = {}

    def follow(self, session: Session, key: str, head: int) -> Reversion | None:
        with self._lock:
            known = self._models.get(key)
            if known is None or known.last_row > head:  # another database
                known = self._models[key] = Reverting()
            new = (
                select(_EVENT.seq, _EVENT.version, _EVENT.level, _EVENT.at)
                .where(_EVENT.model == key, _EVENT.seq > known.last_row, _EVENT.seq <= head)
                .order_by(_EVENT.seq)
            )
            before = known.reversion
            for event in session.execute(new):
                level = parse_level(str(event.level))
                known.add(int(event.seq), int(event.version), level, str(event.at))
            if known.reversion != before:
                known.reversion = with_cause(session, known.reversion)
            return known.reversion


_of_store: WeakKeyDictionary[KfmStore, _Memory] = WeakKeyDictionary()
_of_store_lock = Lock()


def last_reversion(store: KfmStore, session: Session, key: str, head: int) -> Reversion | None:
    """Return what was taken back of a model last; None once another release was promoted.

    Only what is new since the last question is read.

    Args:
        store: The registry; always the same for a database.
        session: Open session.
        key: The model's key.
        head: Row of the ledger up to which to look.
    """
    with _of_store_lock:
        memory = _of_store.setdefault(store, _Memory())
    return memory.follow(session, key, head)
