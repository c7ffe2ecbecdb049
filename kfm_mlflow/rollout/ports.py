"""What the controller needs besides a traffic plane: a registry and a clock.

The registry side is implemented where MLflow is known; the tests implement both in memory.
Whatever a port raises on purpose is a :class:`~kfm_mlflow.errors.KfmError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from threading import Event

    from kfm_mlflow.gates.cause import Cause
    from kfm_mlflow.rollout.inputs import Levels, Orders, Standing
    from kfm_mlflow.rollout.plane import Deployable


@dataclass(frozen=True)
class Lease:
    """Who carries a model's rollouts now.

    Attributes:
        leader: Whether who asked holds it.
        token: Grows with every new holder; the journal takes the newest only.
        holder: Who holds it; empty when nobody does.
        expires_in_s: For how long, by the registry's clock.
    """

    leader: bool
    token: int
    holder: str
    expires_in_s: float


class RegistryPort(Protocol):
    """One governed registry, as the rollout controller uses it.

    Any method may raise :class:`~kfm_mlflow.errors.StorageError` when the registry can not be
    reached; the controller then keeps watching the traffic and can still take it back.
    """

    def levels(self, model_name: str) -> Levels:
        """Return which versions stand at production and at canary."""

    def orders(self, model_name: str, version: int | None) -> Orders:
        """Return a model's last order, and the veto against a version; None asks for none."""

    def standing(self, model_name: str, others: Sequence[int]) -> Standing:
        """Return which of a model's versions may no longer be served.

        Args:
            model_name: Registered model.
            others: Versions to judge besides those at canary and Production.
        """

    def fetch(self, model_name: str, version: int) -> Deployable:
        """Return a verified copy of the frozen release on local disk.

        Raises:
            IntegrityError: Its bytes are not those that were signed and recorded.
        """

    def admits(self, model_name: str, version: int, level: str) -> tuple[bool, str]:
        """Say whether a move would be allowed now, and in one sentence why not; writes nothing."""

    def admits_restore(self, model_name: str, version: int) -> tuple[bool, str]:
        """Say whether a former Production version would be restored now, and if not, why not.

        The registry verifies its bytes, signature and documents for that; it writes nothing.
        """

    def move(
        self,
        model_name: str,
        version: int,
        to_level: str,
        *,
        expect_production: int | None,
        expect_canary: int | None,
        reason: str,
        cause: Cause | None = None,
    ) -> None:
        """Move a version to a level, if the levels still are what was read.

        ``cause`` says in fixed words why a version goes; it is kept where the reason is.

        Raises:
            ConflictError: They are not.
            RefusedError: The gates refuse.
        """

    def publish_verdict(self, model_name: str, version: int, analysis: Mapping[str, Any]) -> None:
        """Sign a canary verdict and post it as evidence; posting it again changes nothing."""

    def publish_reports(
        self, model_name: str, version: int, documents: Mapping[str, dict[str, Any]]
    ) -> None:
        """Store the reports of a rollback (file name -> JSON value); again replaces them."""

    def hold_lease(self, model_name: str, holder: str, ttl_s: float) -> Lease:
        """Take or renew the lease on a model's rollouts, unless another controller holds it.

        The lease ends by itself ``ttl_s`` after it was last renewed, by the registry's clock.
        """

    def release_lease(self, model_name: str, holder: str) -> None:
        """Give the lease back; nothing changes where another controller holds it."""

    def load_journal(self, model_name: str) -> dict[str, Any] | None:
        """Return the last saved state; None before the first."""

    def save_journal(
        self, model_name: str, state: dict[str, Any], *, expect_generation: int, token: int
    ) -> None:
        """Save a state, if the stored one still has this ``generation`` (0: none is stored).

        Raises:
            ConflictError: Another controller has written, or was given the lease since ``token``.
        """


class Clock(Protocol):
    """Time, as a parameter."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Return seconds since some instant, on a clock that nobody sets."""

    def sleep(self, duration_s: float) -> None:
        """Wait."""

    def wait(self, event: Event, at_most_s: float) -> bool:
        """Wait for an event; False when the time was up first."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        from datetime import UTC, datetime

        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds since some instant; where the system can, those asleep are counted."""
        import time

        # Named by number: not every system has the clock that goes on while it sleeps.
        clock = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if clock is None else time.clock_gettime(clock)

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        import time

        time.sleep(duration_s)

    def wait(self, event: Event, at_most_s: float) -> bool:
        """Wait for an event; False when the time was up first."""
        return event.wait(at_most_s)
