"""The rollout's lease and journal in a governed registry. See :class:`RemoteRegistry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.rollout.ports import Lease
from kfm_mlflow.rollout.remote_votes import RemoteVotes

if TYPE_CHECKING:
    from collections.abc import Mapping


class RemoteLease(RemoteVotes):
    """Who leads a model's rollouts, and what the leader has written."""

    def hold_lease(self, model_name: str, holder: str, ttl_s: float) -> Lease:
        """Take or renew the lease on a model's rollouts, unless another controller holds it."""
        body = {"holder": holder, "ttl_s": ttl_s}
        return _lease(self._call("POST", self._path(model_name, tail="/rollout/lease"), json=body))

    def release_lease(self, model_name: str, holder: str) -> None:
        """Give the lease back; nothing changes where another controller holds it."""
        path = self._path(model_name, tail="/rollout/lease")
        self._call("DELETE", path, json={"holder": holder})

    def lease(self, model_name: str) -> Lease:
        """Return who leads a model's rollouts."""
        return _lease(self._call("GET", self._path(model_name, tail="/rollout/lease")))

    def load_journal(self, model_name: str) -> dict[str, Any] | None:
        """Return the rollout's last saved state."""
        state: dict[str, Any] | None = self._call("GET", self._path(model_name, tail="/rollout"))[
            "state"
        ]
        return state

    def save_journal(
        self, model_name: str, state: Mapping[str, Any], *, expect_generation: int, token: int
    ) -> None:
        """Write the rollout's state by compare-and-set on its generation, as the newest leader."""
        body = {"expected": expect_generation, "state": dict(state), "token": token}
        self._call("PUT", self._path(model_name, tail="/rollout"), json=body)


def _lease(found: Mapping[str, Any]) -> Lease:
    return Lease(found["leader"], found["token"], found["holder"], found["expires_in_s"])
