"""The door table against MLflow itself: every route and method named once, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry.server import environment

from kfm_mlflow.registry.doors import REGISTRY_DOORS, Door, Guard, Reason
from kfm_mlflow.registry.guard import body_names_frozen, refusal_of
from kfm_mlflow.registry.route_doors import DOORS, door_of, served

DOCS = Path(__file__).resolve().parents[2] / "docs" / "doors.md"

# In a process of its own: MLflow decides at import what it is, and its basic-auth stays on the
# application for ever. Prints "METHOD path" for every route that is not a plain read.
_LIST = """
import json, os, warnings
warnings.simplefilter("ignore")
from mlflow.server import app, auth
from mlflow.server.fastapi_app import create_fastapi_app
from starlette.routing import Mount
READS = {"GET", "HEAD", "OPTIONS"}
auth.create_app(app)
found = {f"{m} {rule.rule}" for rule in app.url_map.iter_rules() for m in rule.methods - READS}
unknown = []
def walk(routes):
    for route in routes:
        if hasattr(route, "effective_candidates"):  # FastAPI keeps an included router as one
            walk(route.effective_candidates())
        elif isinstance(route, Mount) and type(route.app).__name__ == "_EfficientWSGIMiddleware":
            pass  # the Flask application, listed above
        elif getattr(route, "methods", None) and getattr(route, "path", None):
            found.update(f"{method} {route.path}" for method in set(route.methods) - READS)
        else:
            unknown.append(repr(route))
native = create_fastapi_app(app)
walk(native.routes)
from mlflow.server.graphql.graphql_schema_extensions import schema
print(json.dumps({
    "routes": sorted(found),
    "unknown": unknown,
    "mutations": sorted(schema.graphql_schema.mutation_type.fields),
}))
"""


def blank(route: str) -> str:
    """Return a route with the names of its parameters left out, in one notation."""
    route = re.sub(r"<path:\w+>", "{:path}", route)
    route = re.sub(r"<(?:\w+:)?\w+>", "{}", route)
    return re.sub(r"\{\w+(:path)?\}", r"{\1}", route)


@pytest.fixture(scope="module")
def mlflow_has(tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("routes")
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\nadmin_password = only-in-this-test\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", _LIST],
        cwd=folder,
        env={
            **environment(folder),
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "test",
            "_MLFLOW_SGI_NAME": "gunicorn",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def named() -> list[str]:
    return [
        f"{method} {path}"
        for row in DOORS
        for route in row.routes
        for method, path in served(route)
    ]


# -- the table is MLflow's --------------------------------------------------------------------------


def test_every_route_of_mlflow_that_changes_something_is_named_and_none_is_named_that_it_has_not(
    mlflow_has,
):
    theirs, ours = {blank(r) for r in mlflow_has["routes"]}, {blank(r) for r in named()}
    assert mlflow_has["unknown"] == []
    assert sorted(theirs - ours) == []
    assert sorted(ours - theirs) == []


def test_nothing_is_named_twice():
    routes = Counter(blank(route) for route in named())
    methods = Counter(method for row in REGISTRY_DOORS for method in row.methods)
    assert [name for name, count in (routes + methods).items() if count > 1] == []
    assert len({row.name for row in DOORS}) == len(DOORS)


def test_no_mutation_of_mlflows_graphql_writes(mlflow_has):
    # Both search; the third echoes its input (mlflow/server/graphql).
    assert mlflow_has["mutations"] == ["mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"]


@pytest.mark.parametrize("row", DOORS, ids=lambda row: row.name)
def test_a_row_says_who_guards_and_why_and_refuses_with_no_code_that_is_retried(row: Door):
    assert row.methods or row.routes
    assert row.why
    assert row.name[0].islower()
    assert bool(row.reasons) is (row.guard not in (Guard.READ, Guard.PLAIN))
    assert {reason.status for reason in row.reasons} <= {400, 403, 409}


# -- which row a request belongs to ---------------------------------------------------------------------


@pytest.mark.parametrize("row", DOORS, ids=lambda row: row.name)
def test_a_request_to_a_route_finds_its_row(row: Door):
    for route in row.routes:
        for method, path in served(route):
            asked = re.sub(r"\{\w+:path\}", "some/where", path)
            asked = re.sub(r"\{\w+\}", "some-thing", asked)
            assert door_of(method, asked) is not None
            # Two rows may share a shape only where neither is closed.
            assert (door_of(method, asked).guard is Guard.CLOSED) is (row.guard is Guard.CLOSED)
            refused = refusal_of(method, asked)
            assert (refused is None) is (row.guard is not Guard.CLOSED)
            assert refusal_of("GET", asked) is None


NOWHERE = (
    "/api/4.0/mlflow/model-versions/promote",
    "/api/2.0/mlflow/model-versions/transition-stage/",
    "/api/2.0/mlflow/model-versions//transition-stage",
    "//api/2.0/mlflow/model-versions/transition-stage",
    "/API/2.0/mlflow/model-versions/transition-stage",
    "/api/2.0/mlflow/model-versions/transition-stage\n",
    "/ajax-api/3.0/mlflow/assistant/shell",
    "/v2/traces",
    "/kfm",
    "/kfmx/api",
    "/",
    "",
    "*",
)


@pytest.mark.parametrize("path", NOWHERE)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "MKCOL", "post"])
def test_a_request_that_no_row_names_is_refused(method, path):
    refused = refusal_of(method, path)
    assert refused is not None
    assert refused.reason is Reason.DOOR_UNKNOWN
    assert "does not know this door" in refused.sentence
    assert len(refused.sentence) < 300


def test_another_method_at_a_known_path_is_another_door():
    assert refusal_of("POST", "/api/2.0/mlflow/registered-models/alias") is None
    assert refusal_of("PUT", "/api/2.0/mlflow/registered-models/alias") is not None


def test_a_static_prefix_is_left_out_before_looking():
    path = "/tribe/ajax-api/3.0/mlflow/assistant/message"
    assert refusal_of("POST", path).reason is Reason.DOOR_UNKNOWN
    assert refusal_of("POST", path, static_prefix="/tribe").reason is Reason.DOOR_CLOSED
    alias = "/tribe/api/2.0/mlflow/registered-models/alias"
    assert refusal_of("POST", alias, static_prefix="/tribe") is None
    assert refusal_of("POST", alias, static_prefix="/tri") is not None


@given(st.text(max_size=60), st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]))
def test_whatever_is_asked_of_the_guard_it_answers_with_one_line_that_is_not_retried(text, method):
    for path in (text, f"/api/2.0/mlflow/{text}", f"/ajax-api/3.0/mlflow/assistant/{text}"):
        refused = refusal_of(method, path)
        if refused is not None:
            assert refused.reason.status == 403
            assert len(refused.sentence) < 300


# -- bodies ---------------------------------------------------------------------------------------------

CREATE = "/api/2.0/mlflow/experiments/create"
SNEAKY = (
    {"artifact_location": "mlflow-artifacts:/kfm-frozen/x"},
    {"artifactLocation": "mlflow-artifacts:/kfm-frozen/x"},
    '{"artifact_location": "mlflow-artifacts:/\\u006bfm-frozen"}',
    {"artifact_location": "s3://bucket/%6bfm%2Dfrozen"},
    {"tags": [{"key": "x", "value": ["file:///srv/kfm-frozen"]}]},
    {"KFM-frozen": None},
    ["kfm-frozen"],
    "kfm-frozen",
)


@pytest.mark.parametrize("body", SNEAKY, ids=repr)
def test_no_spelling_of_a_body_names_the_frozen_area(body):
    assert body_names_frozen(body)
    assert refusal_of("POST", CREATE, read_body=lambda: body).reason is Reason.FROZEN_AREA


@pytest.mark.parametrize("body", [None, {}, [], "", 1, {"name": "x", "n": [1, None, {"y": 2.0}]}])
def test_other_bodies_pass(body):
    assert not body_names_frozen(body)
    assert refusal_of("POST", CREATE, read_body=lambda: body) is None


def test_a_body_is_read_only_where_a_row_says_so():
    def read():
        raise AssertionError("an upload of gigabytes was read")

    assert refusal_of("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/r/m.pt", read_body=read) is None
    assert refusal_of("POST", "/api/2.0/mlflow/runs/log-batch", read_body=read) is None


# -- the page -------------------------------------------------------------------------------------------


def page() -> str:
    """Return docs/doors.md's table as the code has it."""
    lines = [
        "| door | guard | why | store methods and routes | refuses with |",
        "|---|---|---|---|---|",
    ]
    for row in DOORS:
        ways = ", ".join(f"`{way}`" for way in (*row.methods, *row.routes))
        reasons = ", ".join(f"{reason.status} `{reason}`" for reason in row.reasons) or "-"
        lines.append(f"| {row.name} | {row.guard} | {row.why} | {ways} | {reasons} |")
    return "\n".join(lines) + "\n"


def test_the_page_for_people_has_the_table_of_the_code():
    text = DOCS.read_text(encoding="utf-8")
    head = text[: text.index("| door |")]
    if os.environ.get("KFM_WRITE_DOCS"):
        DOCS.write_text(text := head + page(), encoding="utf-8")
    assert text == head + page(), "run this test once with KFM_WRITE_DOCS=1"
