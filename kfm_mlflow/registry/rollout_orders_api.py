"""JSON about operators' orders under ``/kfm/api/v1``, on the registry's API blueprint."""

from __future__ import annotations

from typing import Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.api import answers, api, body_object, optional_version, registry
from kfm_mlflow.registry.ledger_api import row_number
from kfm_mlflow.registry.moves import MAX_VERSION
from kfm_mlflow.registry.rollout_orders import give_order, orders_of

_FIELDS = frozenset({"order", "reason", "version", "to_version"})


@api.get("/models/<name>/rollout/orders")
@answers
def read_orders(name: str) -> Any:
    """Return the last orders, the newest first; ``?after=`` leaves out what was seen."""
    found = orders_of(registry(), name, after=row_number("after", 0, MAX_VERSION))
    return {"orders": [order.to_dict() for order in found]}


@api.post("/models/<name>/rollout/orders")
@answers
def post_order(name: str) -> Any:
    """Give an order: ``{"order", "reason", "version"?, "to_version"?}``."""
    body = body_object()
    unknown = sorted(body.keys() - _FIELDS)
    if unknown:
        raise InputError(
            f"{unknown[0][:40]!r} is no field of an order",
            where="request",
            remedy=f"use {', '.join(sorted(_FIELDS))}",
        )
    for field in ("order", "reason"):
        if not isinstance(body.get(field), str):
            raise InputError("is needed, as text", where=field)
    given = give_order(
        registry(),
        name,
        body["order"],
        reason=body["reason"],
        version=optional_version(body.get("version"), where="version"),
        to_version=optional_version(body.get("to_version"), where="to_version"),
    )
    return given.to_dict()
