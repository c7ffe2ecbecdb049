"""Who leads the rollouts of a model: rows of leases, and which token the journal takes.

Rules kept here:

1. One holder at a time. A lease ends by itself, by the registry's clock; no caller's clock counts.
2. Every new holder gets a token greater than any before. The journal takes the newest only, so that
   a controller that lost its lease without noticing can write nothing.
3. A registry's clock that was set back makes no lease longer than was asked for.

Every function takes an open session, under the lock of the model's journal where it writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from kfm_mlflow.errors import ConflictError
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.records import instant

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class RolloutLease:
    """The lease on a model's rollouts.

    Attributes:
        holder: Name of the controller that has, or last had it; empty when it was given back, or
            never taken.
        token: Number of holders so far; 0 before the first.
        ttl_ms: How long it lasts from each renewal.
        expires_at: When it ends, by the registry's clock; None before the first.
    """

    holder: str = ""
    token: int = 0
    ttl_ms: int = 0
    expires_at: datetime | None = None

    def left_s(self, now: datetime) -> float:
        """Return how long it still holds, in seconds; 0 when it has ended."""
        if self.expires_at is None or not self.holder:
            return 0.0
        left_s = (self.expires_at - now).total_seconds()
        return max(0.0, min(left_s, self.ttl_ms / 1e3))

    def to_dict(self, now: datetime, *, asker: str = "") -> dict[str, Any]:
        """Return what a caller is told.

        Args:
            now: The registry's clock.
            asker: Name of the controller that asks; empty for a reader.
        """
        left_s = self.left_s(now)
        return {
            "leader": bool(left_s) and self.holder == asker,
            "holder": self.holder if left_s else "",
            "token": self.token,
            "expires_in_s": left_s,
        }


def read_lease(session: Session, model: str) -> RolloutLease:
    """Return a model's lease, whether it still holds or not."""
    table = tables.rollout_lease
    row = session.execute(select(table).where(table.c.model == model)).first()
    if row is None:
        return RolloutLease()
    return RolloutLease(row.holder, row.token, row.ttl_ms, datetime.fromisoformat(row.expires_at))


def take_lease(
    session: Session, model: str, *, holder: str, ttl_s: float, now: datetime
) -> RolloutLease:
    """Take or renew a model's lease, unless another holds it.

    Returns:
        The lease as it then stands: the asker's, or the other's.
    """
    found = read_lease(session, model)
    ttl_ms = round(ttl_s * 1e3)
    if found.holder == holder:
        kept = replace(found, ttl_ms=ttl_ms, expires_at=_after(now, ttl_ms))
    elif found.left_s(now):
        # A clock that was set back must not keep the others waiting until it has caught up.
        latest = _after(now, found.ttl_ms)
        if found.expires_at is None or found.expires_at <= latest:
            return found
        kept = replace(found, expires_at=latest)
    else:
        kept = RolloutLease(holder, found.token + 1, ttl_ms, _after(now, ttl_ms))
    _write(session, model, kept)
    return kept


def give_back_lease(session: Session, model: str, *, holder: str, now: datetime) -> RolloutLease:
    """End a model's lease if this holder has it; the next controller need not wait.

    Returns:
        The lease as it then stands.
    """
    found = read_lease(session, model)
    if found.holder != holder:
        return found
    ended = replace(found, holder="", expires_at=now)
    _write(session, model, ended)
    return ended


def require_token(session: Session, model: str, token: int) -> None:
    """Refuse a writer who is not the newest holder.

    Args:
        session: Open session.
        model: Key of the registered model.
        token: What the writer was given with the lease; 0 without one.

    Raises:
        ConflictError: Somebody else was given the lease since.
    """
    newest = read_lease(session, model)
    if newest.token != token:
        raise ConflictError(
            f"the rollout of {model} was taken over (lease {newest.token}, not {token})",
            remedy="ask for the lease, and write only while you hold it",
        )


def _after(now: datetime, duration_ms: int) -> datetime:
    return now + timedelta(milliseconds=duration_ms)


def _write(session: Session, model: str, lease: RolloutLease) -> None:
    table = tables.rollout_lease
    assert lease.expires_at is not None
    values = {
        "holder": lease.holder,
        "token": lease.token,
        "ttl_ms": lease.ttl_ms,
        "expires_at": instant(lease.expires_at),
    }
    changed = session.execute(update(table).where(table.c.model == model).values(**values))
    if not changed.rowcount:  # type: ignore[attr-defined]
        session.execute(insert(table).values(model=model, **values))
