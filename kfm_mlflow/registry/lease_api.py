"""``/kfm/api/v1/models/NAME/rollout/lease``: which rollout controller leads a model."""

from __future__ import annotations

from typing import Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.api import answers, api, body_object, registry
from kfm_mlflow.registry.journal import give_back_lease, hold_lease, read_lease


@api.get("/models/<name>/rollout/lease")
@answers
def leading(name: str) -> Any:
    """Return who leads a model's rollouts."""
    return read_lease(registry(), name)


@api.post("/models/<name>/rollout/lease")
@answers
def lead(name: str) -> Any:
    """Take or renew the lease: ``{"holder", "ttl_s"}``."""
    body = body_object()
    ttl_s = body.get("ttl_s")
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool):
        raise InputError("must be a number of seconds", where="ttl_s")
    return hold_lease(registry(), name, holder=_holder(body), ttl_s=float(ttl_s))


@api.delete("/models/<name>/rollout/lease")
@answers
def stop_leading(name: str) -> Any:
    """Give the lease back: ``{"holder"}``."""
    return give_back_lease(registry(), name, holder=_holder(body_object()))


def _holder(body: dict[str, Any]) -> str:
    holder = body.get("holder")
    if not isinstance(holder, str):
        raise InputError("must be the controller's name", where="holder")
    return holder
