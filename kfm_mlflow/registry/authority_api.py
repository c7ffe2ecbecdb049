"""JSON about the authorities of regions under ``/kfm/api/v1``, on the registry's API blueprint."""

from __future__ import annotations

from typing import Any

from flask import request

from kfm_mlflow.registry.api import answers, api, registry
from kfm_mlflow.registry.authorities import authorities_of
from kfm_mlflow.registry.moves import parse_version
from kfm_mlflow.registry.standing import standing


@api.get("/models/<name>/standing")
@answers
def model_standing(name: str) -> Any:
    """Return whether what is at canary and Production may still be served; nothing is written.

    ``?version=``, as often as need be, asks about other versions besides.
    """
    others = sorted({parse_version(asked) for asked in request.args.getlist("version")})
    return standing(registry(), name, others)


@api.get("/models/<name>/versions/<version>/authority")
@answers
def authority(name: str, version: int) -> Any:
    """Return what authorities must say of a version, said of it, and what one of them signs."""
    store = registry()
    return authorities_of(store, store.snapshot(name, version))
