"""JSON about certificates of checkpoints under ``/kfm/api/v1``, on the registry's API blueprint."""

from __future__ import annotations

from typing import Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.api import answers, api, body_object, registry
from kfm_mlflow.registry.checkpoint_certificates import record_certificate


@api.post("/checkpoints/certificates")
@answers
def post_certificate() -> Any:
    """Keep a council's certificate of a checkpoint: ``{"model_name", "certificate"}``."""
    body = body_object()
    name, certificate = body.get("model_name"), body.get("certificate")
    if not isinstance(name, str) or not isinstance(certificate, dict):
        raise InputError("needs model_name and certificate", where="request")
    return record_certificate(registry(), name, certificate)
