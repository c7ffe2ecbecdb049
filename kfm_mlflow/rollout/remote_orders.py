"""Levels, admission and operators' orders of a governed registry. See :class:`RemoteRegistry`.

An order is a row of the ledger, and whoever reads the levels is told the ledger's head with them.
As long as that is the same there is no newer order, so a controller that looks twice a second asks
for orders only when something happened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kfm_mlflow.rollout.inputs import Levels, Orders
from kfm_mlflow.rollout.remote_lease import RemoteLease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.rollout.inputs import OperatorOrder

PRODUCTION = "production"
_SIGNED_BEFORE_IT = "rollback_approval"
"""The gate whose evidence the controller gives right before it moves."""


class RemoteOrders(RemoteLease):
    """What a registry says of a model's levels and moves, and what operators ordered.

    Attributes:
        heads: Model -> ledger's head when its levels were last read.
        orders_seen: Model -> head when its orders were last read, and the last of them.
    """

    heads: dict[str, int]
    orders_seen: dict[str, tuple[int, Orders]]

    def model(self, name: str) -> dict[str, Any]:
        """Return family, levels and rollout plan of a model."""
        found: dict[str, Any] = self._call("GET", self._path(name))
        return found

    def levels(self, model_name: str) -> Levels:
        """Return who is at production and canary now."""
        found = self.model(model_name)
        self.heads[model_name] = int(found["head"])
        return Levels(found["production"], found["canary"], found["head"])

    def check(
        self,
        name: str,
        version: int,
        level: str,
        *,
        restores: bool = False,
        break_glass: Mapping[str, str | float] | None = None,
    ) -> dict[str, Any]:
        """Return the report on a move that is not made.

        Args:
            name: Registered model.
            version: Model version.
            level: Level asked for.
            restores: Whether a former Production version comes back, on a rollback.
            break_glass: The emergency, if one is declared.
        """
        asked = {"to": level, **({"restores": "true"} if restores else {}), **(break_glass or {})}
        path = self._path(name, version, "/check")
        found: dict[str, Any] = self._call("GET", path, params=asked)
        return found

    def admits(self, model_name: str, version: int, level: str) -> tuple[bool, str]:
        """Return whether the registry would admit a version to a level, and its sentence if not."""
        found = self.check(model_name, version, level)
        return found["verdict"] == "PASS", str(found["sentence"])

    def admits_restore(self, model_name: str, version: int) -> tuple[bool, str]:
        """Return whether a former Production version would be restored, and if not, why not.

        A signature that the controller gives with the move itself is not missed.
        """
        found = self.check(model_name, version, PRODUCTION, restores=True)
        wrong = [
            gate
            for gate in found["report"]["gates"]
            if gate["mode"] == "enforce" and gate["verdict"] != "PASS"
        ]
        return all(gate["gate"] == _SIGNED_BEFORE_IT for gate in wrong), str(found["sentence"])

    def orders(self, model_name: str, version: int | None) -> Orders:
        """Return a model's last operator's order, and a standing veto against a version.

        Args:
            model_name: Registered model.
            version: Version whose veto counts; None asks for none.
        """
        order = self._last_order(model_name)
        if version is None:
            return order
        votes = self.check(model_name, version, PRODUCTION)["report"]["votes"]
        if votes.get("outcome") == "vetoed":
            return replace(order, veto=f"vetoed by {', '.join(votes['vetoing'])}")
        return order

    def _last_order(self, model_name: str) -> Orders:
        head = self.heads.get(model_name)
        seen, order = self.orders_seen.get(model_name, (0, Orders()))
        if head is not None and head == seen:
            return order
        after = seen if head is None or seen < head else 0
        path = self._path(model_name, tail="/rollout/orders")
        found = self._call("GET", path, params={"after": after})["orders"]
        if found:
            order = _read(found[0])
        elif not after:
            order = Orders()
        self.orders_seen[model_name] = (after if head is None else head, order)
        return order

    def give_order(
        self,
        name: str,
        order: OperatorOrder,
        *,
        reason: str,
        version: int | None = None,
        to_version: int | None = None,
    ) -> dict[str, Any]:
        """Order a rollout to do something; the registry refuses what nothing could obey.

        Args:
            name: Registered model.
            order: What is ordered.
            reason: Why.
            version: Version that it is about; None takes the one under way, or at Production.
            to_version: Of a rollback, the version that comes back; None takes the one before.

        Returns:
            The order as the ledger has it, ``docs/formats/rollout_order.md``.
        """
        body = {"order": order, "reason": reason, "version": version, "to_version": to_version}
        path = self._path(name, tail="/rollout/orders")
        done: dict[str, Any] = self._call("POST", path, json=body)
        return done


def _read(found: Mapping[str, Any]) -> Orders:
    return Orders(
        operator=found["order"],
        order_id=found["order_id"],
        operator_name=found["actor"],
        operator_reason=found["reason"],
        version=found["version"],
        to_version=found["to_version"],
    )
