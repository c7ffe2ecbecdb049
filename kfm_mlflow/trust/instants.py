"""Instants in signed documents: aware UTC, RFC 3339, ending in ``Z``.

Clocks of two honest machines differ; :data:`CLOCK_SKEW_S` is how much of the future is believed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kfm_mlflow.errors import EvidenceError, InputError

CLOCK_SKEW_S = 60.0


def require_aware(instant: datetime, *, where: str) -> datetime:
    """Return an instant in UTC.

    Raises:
        InputError: It has no time zone, so it names no instant.
    """
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InputError("instant has no time zone", where=where, remedy="use datetime.now(UTC)")
    return instant.astimezone(UTC)


def format_instant(instant: datetime, *, where: str = "instant") -> str:
    """Return ``2026-01-31T12:00:00.000000Z``, always with microseconds, so text sorts by time.

    Raises:
        InputError: The instant has no time zone.
    """
    return f"{require_aware(instant, where=where).isoformat(timespec='microseconds')[:-6]}Z"


def parse_instant(text: Any, *, where: str) -> datetime:
    """Read an RFC 3339 instant.

    Raises:
        EvidenceError: Not text, not RFC 3339, or without a time zone.
    """
    try:
        instant = datetime.fromisoformat(text)
        utc = instant.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as exc:
        raise EvidenceError(f"{str(text)[:40]!r} is not an instant", where=where) from exc
    if instant.tzinfo is None:
        raise EvidenceError(f"{text!r} has no time zone", where=where)
    return utc


def is_future(instant: datetime, now: datetime) -> bool:
    """Return whether an instant lies further ahead than two clocks may differ."""
    return instant > now + timedelta(seconds=CLOCK_SKEW_S)
