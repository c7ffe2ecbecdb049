"""The OpenAPI document: the whole API, valid, and true of real answers."""

from __future__ import annotations

import re
from contextlib import contextmanager

import openapi_spec_validator
import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from mlflow.server import handlers
from registry.world import COUNCIL, NAME

from kfm_mlflow.registry import (  # noqa: F401 - routes of the API
    authority_api,
    checkpoint_api,
    export_api,
    lease_api,
    ledger_api,
    policy_api,
    rollout_orders_api,
)
from kfm_mlflow.registry.api import api
from kfm_mlflow.registry.openapi import OPERATIONS, PREFIX, build_openapi
from kfm_mlflow.registry.pages import pages

V2 = f"/models/{NAME}/versions/2"


def the_app():
    app = Flask("openapi")
    app.register_blueprint(api)
    app.register_blueprint(pages)
    return app


@contextmanager
def asking(registry, monkeypatch):
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    with the_app().test_client() as client:
        yield client


def test_the_document_names_every_route_of_the_api_and_no_other():
    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in the_app().url_map.iter_rules()
        if rule.rule.startswith(PREFIX)
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    described = {(operation.method, PREFIX + operation.path) for operation in OPERATIONS}
    assert described == routes


def test_the_document_is_valid_openapi_and_every_reference_leads_somewhere():
    document = build_openapi()
    assert document["openapi"].startswith("3.1.")
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    for target in re.findall(r"'\$ref': '([^']+)'", repr(document)):
        assert target.removeprefix("#/components/schemas/") in schemas
    ids = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(set(ids)) == len(ids)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            placed = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert placed == set(re.findall(r"\{(\w+)\}", path))
            assert operation["responses"]["200"]


def test_the_official_schema_of_openapi_accepts_the_document():
    openapi_spec_validator.validate(build_openapi())


def described(name):
    """Return a validator of one schema of the document."""
    schemas = build_openapi()["components"]["schemas"]
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    )


REAL = [
    ("get", f"/models/{NAME}", None),
    ("get", V2, None),
    ("get", f"/models/{NAME}/versions/1", None),
    ("get", f"{V2}/check?to=production", None),
    ("get", f"{V2}/check?to=staging", None),
    ("get", f"{V2}/proposal?to=production", None),
    ("get", f"{V2}/prov", None),
    ("post", f"{V2}/moves", {"to": "canary"}),
    ("post", f"{V2}/moves", {"to": "production"}),
    ("get", f"/models/{NAME}/rollout", None),
    ("put", f"/models/{NAME}/rollout", {"expected": 0, "state": {"phase": "steady"}}),
    ("get", f"/models/{NAME}/rollout/lease", None),
    ("post", f"/models/{NAME}/rollout/lease", {"holder": "one", "ttl_s": 15}),
    ("delete", f"/models/{NAME}/rollout/lease", {"holder": "one"}),
    ("get", f"/models/{NAME}/rollout/orders", None),
    ("post", f"/models/{NAME}/rollout/orders", {"order": "pause", "reason": "x"}),
    ("get", "/ledger", None),
    ("get", "/ledger?limit=1", None),
    ("get", "/ledger/head", None),
    ("get", "/ledger/key", None),
    ("get", "/recheck", None),
    ("get", "/policies/climate", None),
    ("get", "/policies/climate/exemptions", None),
    ("get", "/policies/climate/regions", None),
    ("get", "/openapi.json", None),
]


def operation_of(method, path):
    def matches(operation):
        pattern = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        return operation.method == method and re.fullmatch(pattern, path.partition("?")[0])

    return next(operation for operation in OPERATIONS if matches(operation))


@pytest.mark.parametrize(("method", "path", "body"), REAL, ids=lambda v: str(v)[:60])
def test_real_answers_are_as_the_document_says(two, monkeypatch, method, path, body):
    operation = operation_of(method, path)
    if body is not None:
        described(operation.body).validate(body)
    with asking(two, monkeypatch) as client:
        answer = client.open(PREFIX + path, method=method.upper(), json=body)
    assert answer.status_code == 200, answer.text
    described(operation.answer).validate(answer.json)


@pytest.mark.parametrize(
    "case",
    [
        ("get", "/models/none", None, 404),
        ("get", f"/models/{NAME}/versions/x", None, 400),
        ("get", f"/models/{NAME}/versions/99", None, 404),
        ("get", f"{V2}/check?to=live", None, 400),
        ("get", f"/models/{NAME}/versions/1/check?to=canary", None, 409),
        ("post", f"{V2}/moves", {"to": "live"}, 400),
        ("post", f"{V2}/moves", {"to": "candidate", "expect": {"production": 9}}, 409),
        ("post", f"{V2}/attestations", {"payload": ""}, 400),
        ("post", "/votes", {"model_name": NAME}, 400),
        ("put", f"/models/{NAME}/rollout", {"expected": 5, "state": {}}, 409),
        ("put", f"/models/{NAME}/rollout", {"expected": 0, "state": {}, "token": 1}, 409),
        ("post", f"/models/{NAME}/rollout/lease", {"holder": "", "ttl_s": 15}, 400),
        ("post", f"/models/{NAME}/rollout/lease", {"holder": "one", "ttl_s": 1e6}, 400),
        ("post", "/models/none/rollout/lease", {"holder": "one", "ttl_s": 15}, 400),
        ("delete", f"/models/{NAME}/rollout/lease", {}, 400),
        ("post", f"/models/{NAME}/rollout/orders", {"order": "pause"}, 400),
        ("post", f"/models/{NAME}/rollout/orders", {"order": "rollback", "reason": "x"}, 409),
        ("get", f"{V2}/check?to=production&restores=true", None, 400),
        ("get", "/ledger?version=x", None, 400),
        ("get", "/policies/none", None, 400),
    ],
)
def test_real_errors_are_among_those_that_the_document_names(two, monkeypatch, case):
    method, path, body, status = case
    with asking(two, monkeypatch) as client:
        answer = client.open(PREFIX + path, method=method.upper(), json=body)
    assert answer.status_code == status, answer.text
    assert answer.status_code in operation_of(method, path).errors
    described("Problem").validate(answer.json)


def test_a_vote_that_is_sent_is_as_the_document_says(canary, monkeypatch):
    canary.vote(1, COUNCIL[0])
    import json

    ((envelope,),) = canary.query("SELECT envelope FROM kfm_attestation WHERE kind = 'vote'")
    body = {"model_name": NAME, "version": 1, "envelope": json.loads(envelope)}
    described("Vote").validate(body)
    described("Envelope").validate(body["envelope"])
    with asking(canary, monkeypatch) as client:
        for path, sent in (
            ("/votes", body),
            (f"/models/{NAME}/versions/1/attestations", body["envelope"]),
        ):
            answer = client.post(PREFIX + path, json=sent)
            assert answer.status_code == 200, answer.text
            described("Kept").validate(answer.json)
