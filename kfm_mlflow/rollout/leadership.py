"""One leader: the lease that a controller holds while it carries a model's rollouts.

The registry's clock says how long a lease lasts. Here its end is kept on a clock that nobody sets,
counted from before the registry was asked, so that this side never believes in a lease for longer
than the registry does. Whatever gets past that is stopped by the lease's token, of which the
registry's journal takes only the newest.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kfm_mlflow.errors import ConflictError, KfmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kfm_mlflow.rollout.ports import Clock, Lease, RegistryPort

LEASE_S = 15.0
"""How long the others wait for a leader that died, unless somebody says otherwise."""

_RENEWALS_PER_LEASE = 3
_JOIN_S = 1.0
_log = logging.getLogger(__name__)


def name_process() -> str:
    """Return a name for this process that no other has, and that people can find it by."""
    return f"{socket.gethostname()[:64]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Leadership:
    """What one controller knows of the lease on its model."""

    def __init__(
        self, registry: RegistryPort, clock: Clock, model_name: str, *, holder: str, lease_s: float
    ) -> None:
        """Make it; nothing is asked of the registry yet.

        Args:
            registry: Where the lease is.
            clock: Time.
            model_name: Registered model.
            holder: This controller's name, which no other has.
            lease_s: How long each renewal lasts.
        """
        self._registry = registry
        self._clock = clock
        self._model_name = model_name
        self._holder = holder
        self._lease_s = lease_s
        self._held: tuple[int, float] | None = None
        self._waits_for: str | None = None

    @property
    def token(self) -> int:
        """What the journal is written with; 0 before the lease was ever held."""
        return 0 if self._held is None else self._held[0]

    def take(self) -> bool:
        """Take or renew the lease.

        Returns:
            Whether this controller leads now. The first time that another does, it is logged.

        Raises:
            StorageError: The registry can not be reached; what was held runs on to its end.
        """
        lease = self._ask()
        if lease.leader:
            if self._waits_for is not None:
                _log.info("rollout of %s: leading", self._model_name)
            self._waits_for = None
            return True
        if self._waits_for != lease.holder:
            _log.info(
                "rollout of %s: standing by; %s leads until its lease ends (renewed, or in %.1f s)",
                self._model_name,
                lease.holder or "nobody",
                lease.expires_in_s,
            )
        self._waits_for = lease.holder
        return False

    def require(self) -> None:
        """Make sure that the lease still holds, before something is done under it.

        Raises:
            ConflictError: It ran out, or was lost, since it was last renewed.
        """
        if self._held is None or self._clock.monotonic_s() >= self._held[1]:
            raise ConflictError(
                "the lease ended in the middle of a pass", where=f"rollout of {self._model_name}"
            )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew in the background what a pass may outlast, and give it back in the end."""
        done = threading.Event()
        renewing = threading.Thread(target=self._renew_until, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            # A registry that does not answer must not keep a controller from stopping.
            renewing.join(_JOIN_S)
            self._give_back()

    def _give_back(self) -> None:
        if self._held is None:
            return
        self._held = None
        try:
            self._registry.release_lease(self._model_name, self._holder)
        except KfmError as error:
            _log.warning("rollout of %s: the lease runs on: %s", self._model_name, error)

    def _ask(self) -> Lease:
        asked_at_s = self._clock.monotonic_s()
        lease = self._registry.hold_lease(self._model_name, self._holder, self._lease_s)
        self._held = (lease.token, asked_at_s + lease.expires_in_s) if lease.leader else None
        return lease

    def _renew_until(self, done: threading.Event) -> None:
        while not self._clock.wait(done, self._lease_s / _RENEWALS_PER_LEASE):
            if self._held is None:
                continue
            try:
                self._ask()
            except KfmError as error:
                _log.warning("rollout of %s: lease not renewed: %s", self._model_name, error)
