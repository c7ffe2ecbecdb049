"""The OpenAPI 3.1 document of everything under ``/kfm/api/v1``.

One row per operation, beside the schemas in ``openapi_schemas.py``. A test compares the rows with
the server's routes, validates the document, and validates real answers with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from kfm_mlflow.registry.api import answers, api
from kfm_mlflow.registry.openapi_schemas import SCHEMAS, ref

PREFIX = "/kfm/api/v1"
_JSON = "application/json"


@dataclass(frozen=True)
class Operation:
    """One operation of the API.

    Attributes:
        method: HTTP method, lower case.
        path: Below the prefix, parameters in braces.
        summary: What it does.
        answer: Name of the schema of its answer.
        query: Names of its query parameters; ``!`` at the end is required.
        body: Name of the schema of its body; empty for none.
        errors: Statuses that it may answer besides 200.
        views: Media types of its answer besides JSON.
    """

    method: str
    path: str
    summary: str
    answer: str
    query: tuple[str, ...] = ()
    body: str = ""
    errors: tuple[int, ...] = (400,)
    views: tuple[str, ...] = ()


_MODEL = "/models/{name}"
_VERSION = "/models/{name}/versions/{version}"
_GLASS = ("ticket", "hours", "reason")

OPERATIONS = (
    Operation("get", "/openapi.json", "This document.", "OpenApi", errors=()),
    Operation(
        "get",
        _MODEL,
        "Levels, family and rollout plan of a registered model.",
        "Model",
        errors=(400, 403, 404),
    ),
    Operation(
        "get",
        _VERSION,
        "What is recorded about a version.",
        "ModelVersion",
        errors=(400, 403, 404),
    ),
    Operation(
        "get",
        f"{_MODEL}/standing",
        "Whether what is at canary and production may still be served, by the regions of today.",
        "ModelStanding",
        query=("version",),
        errors=(400, 403, 404),
    ),
    Operation(
        "get",
        f"{_VERSION}/authority",
        "What authorities of regions must say of a version, said of it, and what one signs.",
        "Authorities",
        errors=(400, 403, 404),
    ),
    Operation(
        "get",
        f"{_VERSION}/check",
        "Evaluate a move exactly as it would be, and write nothing.",
        "Check",
        query=("to!", "restores", *_GLASS),
        errors=(400, 403, 404, 409),
    ),
    Operation(
        "get",
        f"{_VERSION}/proposal",
        "What a council member signs to vote on a move.",
        "Proposed",
        query=("to!",),
        errors=(400, 403, 404),
    ),
    Operation(
        "get",
        f"{_VERSION}/prov",
        "The lineage of a version from data to deployment, by format or by Accept.",
        "Prov",
        query=("format",),
        errors=(400, 403, 404),
        views=("text/provenance-notation", "text/turtle", "application/vnd.dsse.envelope.v1+json"),
    ),
    Operation(
        "post",
        f"{_VERSION}/attestations",
        "Keep a signed statement about a frozen release.",
        "Kept",
        body="Envelope",
        errors=(400, 403, 404),
    ),
    Operation(
        "post",
        f"{_VERSION}/export",
        "Sign the index of an export, if it is what the registry itself would list.",
        "Envelope",
        body="ExportIndex",
        errors=(400, 403, 404),
    ),
    Operation(
        "post",
        f"{_VERSION}/moves",
        "Move a version to a level, or refuse; either way the ledger has a row.",
        "Moved",
        body="Move",
        errors=(400, 403, 404, 409),
    ),
    Operation("post", "/votes", "Keep a vote.", "Kept", body="Vote", errors=(400, 403, 404)),
    Operation(
        "post",
        "/checkpoints/certificates",
        "Count a council's certificate of a checkpoint again, and keep it in the ledger.",
        "CertificateKept",
        body="CertificateSent",
        errors=(400, 403, 409),
    ),
    Operation(
        "get", f"{_MODEL}/rollout", "The rollout controller's journal of a model.", "Journal"
    ),
    Operation(
        "put",
        f"{_MODEL}/rollout",
        "Write the journal by compare-and-set.",
        "Generation",
        body="JournalUpdate",
        errors=(400, 403, 409),
    ),
    Operation(
        "get",
        f"{_MODEL}/rollout/orders",
        "The last orders of operators, the newest first.",
        "RolloutOrders",
        query=("after",),
    ),
    Operation(
        "post",
        f"{_MODEL}/rollout/orders",
        "Order a rollout to pause, resume, promote or abort, or Production to roll back.",
        "RolloutOrder",
        body="RolloutOrderRequest",
        errors=(400, 403, 409),
    ),
    Operation("get", f"{_MODEL}/rollout/lease", "Who leads a model's rollouts.", "RolloutLease"),
    Operation(
        "post",
        f"{_MODEL}/rollout/lease",
        "Take or renew the lease on a model's rollouts, unless another controller holds it.",
        "RolloutLease",
        body="LeaseRequest",
        errors=(400, 403, 409),
    ),
    Operation(
        "delete",
        f"{_MODEL}/rollout/lease",
        "Give the lease back, so that the next controller need not wait for its end.",
        "RolloutLease",
        body="LeaseHolder",
        errors=(400, 403, 409),
    ),
    Operation(
        "get",
        "/ledger",
        "Ledger rows, oldest first, in pages.",
        "Ledger",
        query=("model", "version", "after", "limit"),
    ),
    Operation(
        "get", "/ledger/head", "The head of the ledger, signed by the registry.", "LedgerHead"
    ),
    Operation("get", "/ledger/key", "The public key that the registry signs with.", "LedgerKey"),
    Operation(
        "get",
        "/recheck",
        "Judge again everything that is promoted now; nothing is written.",
        "Recheck",
        query=("family", "model"),
        errors=(400, 404),
    ),
    Operation(
        "get",
        "/policies/{family}",
        "A family's resolved policy and its digest.",
        "ResolvedPolicy",
    ),
    Operation(
        "get",
        "/policies/{family}/exemptions",
        "A family's exemptions, and whether each holds now.",
        "Exemptions",
    ),
    Operation(
        "get",
        "/policies/{family}/regions",
        "What may be told to everybody of a family's sovereign regions.",
        "PublicRegions",
    ),
)

_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "name": ("Registered model.", {"type": "string"}),
    "family": ("Family of models.", {"type": "string"}),
    "model": ("Only of this registered model.", {"type": "string"}),
    "version": ("Model version.", ref("Version")),
    "format": (
        "Format of the lineage; intoto is the signed statement.",
        {"type": "string", "enum": ["json", "provn", "ttl", "intoto"]},
    ),
    "to": ("Level asked for.", ref("Level")),
    "restores": (
        "Whether a former Production version comes back, on a rollback.",
        {"type": "boolean"},
    ),
    "ticket": ("Break-glass: where the emergency is written down.", {"type": "string"}),
    "hours": ("Break-glass: for how long.", {"type": "number", "exclusiveMinimum": 0}),
    "reason": ("Break-glass: why.", {"type": "string"}),
    "after": ("Row that the last page ended with.", {"type": "integer", "minimum": 0}),
    "limit": ("Most rows to return.", {"type": "integer", "minimum": 1}),
}
_ERRORS = {
    400: "The request is wrong, or names what there is not.",
    403: "Refused; nothing changed but the ledger.",
    404: "There is no such model or version.",
    409: "Something else changed or holds first; read again.",
}


def _parameter(name: str, place: str) -> dict[str, Any]:
    required = place == "path" or name.endswith("!")
    plain = name.removesuffix("!")
    description, schema = _PARAMETERS[plain]
    return {
        "name": plain,
        "in": place,
        "required": required,
        "description": description,
        "schema": schema,
    }


def _described(operation: Operation) -> dict[str, Any]:
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    written: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path}".translate(
            str.maketrans("/.", "__", "{}")
        ),
        "parameters": [
            *(_parameter(name, "path") for name in in_path),
            *(_parameter(name, "query") for name in operation.query),
        ],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {
                    _JSON: {"schema": ref(operation.answer)},
                    **{media: {"schema": {"type": "string"}} for media in operation.views},
                },
            },
            **{
                str(status): {
                    "description": _ERRORS[status],
                    "content": {_JSON: {"schema": ref("Problem")}},
                }
                for status in operation.errors
            },
        },
    }
    if operation.body:
        written["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": ref(operation.body)}},
        }
    return written


@lru_cache(maxsize=1)
def build_openapi() -> dict[str, Any]:
    """Return the document."""
    from pydantic.json_schema import models_json_schema

    from kfm_mlflow.policy.models import Policy

    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = paths.setdefault(f"{PREFIX}{operation.path}", {})
        path[operation.method] = _described(operation)
    _, policy = models_json_schema(
        [(Policy, "serialization")], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KFM releases",
            "version": version("kfm-mlflow"),
            "description": "Levels, gates, evidence, votes and ledger of governed MLflow models. "
            "On a server with workspaces a model is looked for in the one that the header "
            "X-MLFLOW-WORKSPACE or, in any address, ?workspace= names, else in the default one.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": {**policy["$defs"], **SCHEMAS}},
    }


@api.get("/openapi.json")
@answers
def openapi() -> Any:
    """Return the OpenAPI document of this API."""
    return build_openapi()
