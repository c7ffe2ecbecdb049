"""Pass after pass of a reconcile loop: the lease kept, errors outlived, waits that back off."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kfm_mlflow.rollout.leadership import Leadership, name_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.rollout.ports import Clock, RegistryPort

_log = logging.getLogger(__name__)
MAX_ROUNDS = 24
"""How often a pass steps at most: each round may lead to the next."""
MAX_BACKOFF_S = 30.0
PRODUCTION = "production"
DEMOTED = "candidate"
"""Where a candidate goes that was taken back: no alias points there, so nobody else is moved."""


class Reconciler(ABC):
    """Carries one registered model, as long as it leads.

    Attributes:
        last_error: What ended the last pass of :meth:`run`; None after a clean one.
    """

    def __init__(
        self,
        registry: RegistryPort,
        clock: Clock,
        model_name: str,
        *,
        holder: str | None,
        lease_s: float,
    ) -> None:
        """Make it; it does nothing before the first pass.

        Args:
            registry: Where levels, lease and journal are.
            clock: Time.
            model_name: Registered model.
            holder: Name under which it holds the lease, which no other has; None makes one.
            lease_s: How long another waits when this one dies.
        """
        self.last_error: Exception | None = None
        self._registry = registry
        self._clock = clock
        self._model_name = model_name
        self._leadership = Leadership(
            registry, clock, model_name, holder=holder or name_process(), lease_s=lease_s
        )

    @abstractmethod
    def reconcile_once(self) -> object:
        """Make one pass; returns None while another leads."""

    def run(self, stop: Callable[[], bool], interval_s: float) -> None:
        """Reconcile until told to stop; a failed pass is logged, kept, and retried with backoff.

        In the end the lease is given back, so that another controller can go on at once.

        Args:
            stop: Asked before every pass.
            interval_s: Wait between passes; doubled with each failure in a row, up to 30 s.
        """
        wait_s = interval_s
        with self._leadership.kept():
            while not stop():
                wait_s = self._pass(interval_s, wait_s)
                self._clock.sleep(wait_s)

    def _pass(self, interval_s: float, waited_s: float) -> float:
        """Reconcile once, and say how long to wait until the next time."""
        try:
            self.reconcile_once()
        except Exception as error:  # noqa: BLE001 - the loop outlives any one bad pass
            self.last_error = error
            _log.exception("rollout of %s: pass failed", self._model_name)
            return max(interval_s, min(MAX_BACKOFF_S, waited_s * 2))
        self.last_error = None
        return interval_s
