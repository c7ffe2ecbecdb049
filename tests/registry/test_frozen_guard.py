"""The guard before MLflow's routes: the frozen area, and both ways of standing before a server."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import validate_path_is_safe

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.app import guarded, register_pages
from kfm_mlflow.registry.doors import Reason
from kfm_mlflow.registry.guard import DoorGuard, touches_frozen

API = "/api/2.0/mlflow-artifacts/artifacts"
TARGETS = (
    "kfm-frozen/ab/release/MLmodel",
    "x/kfm-frozen/ab",
    "./kfm-frozen/ab",
    "KFM-Frozen/ab",
    "file:kfm-frozen/ab",
    "kfm-frozen?",
    "kfm-frozen;x/ab",
    "kfm-\tfrozen/ab",
    "kfm-\nfrozen",
    "",
    ".",
    "./",
    "file:",
    "file:.",
    "/",
)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH", "delete", "MKCOL"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_of_the_frozen_area_or_the_root_is_written(method, target):
    path = f"{API}/{target}"
    for _ in range(11):
        assert touches_frozen(method, path), path
        path = f"{API}/{quote(path.removeprefix(API + '/'), safe='')}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_everything_may_be_read(method):
    assert not touches_frozen(method, f"{API}/kfm-frozen/ab/release/MLmodel")


@pytest.mark.parametrize(
    "path",
    [
        f"{API}/1/run/artifacts/release/MLmodel",
        f"{API}/1",
        "/api/2.0/mlflow/registered-models/alias",
        "/kfm/api/v1/models/climate-tiny/versions/1/moves",
    ],
)
def test_other_writes_pass(path):
    assert not touches_frozen("PUT", path)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "kfm-frozen",
                "kfm",
                "-frozen",
                "/",
                "file:",
                ".",
                "%",
                "2",
                "5",
                "\t",
                "\n",
                "?",
                ";",
                "a",
            ]
        ),
        max_size=8,
    ).map("".join),
    st.integers(0, 9),
)
def test_what_mlflow_makes_of_a_path_is_never_frozen_when_the_guard_lets_it_pass(text, times):
    for _ in range(times):
        text = quote(text, safe="")
    if touches_frozen("PUT", f"{API}/{text}"):
        return
    try:
        seen = validate_path_is_safe(text)
    except (MlflowException, ValueError):
        return
    parts = [part for part in seen.lower().split("/") if part not in ("", ".")]
    assert parts
    assert "kfm-frozen" not in parts


# -- before a server ----------------------------------------------------------------------------------

ALIAS = "/api/2.0/mlflow/registered-models/alias"
CREATE = "/api/2.0/mlflow/experiments/create"
ASSISTANT = "/ajax-api/3.0/mlflow/assistant/message"


def sent(scope, **how):
    """Return what an application behind the guard got, and what was answered."""
    reached, answered = [], []

    async def behind(scope, receive, send):
        reached.append(scope)

    async def send(message):
        answered.append(message)

    asyncio.run(DoorGuard(behind, **how)(scope, None, send))
    return reached, answered


def http(method, path, **more):
    return {"type": "http", "method": method, "path": path, "query_string": b"", **more}


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (http("PUT", f"{API}/kfm-frozen/x"), Reason.FROZEN_AREA),
        (
            http(
                "POST",
                "/ajax-api/2.0/mlflow/upload-artifact",
                query_string=b"run_uuid=r&path=..%2Fkfm-frozen",
            ),
            Reason.FROZEN_AREA,
        ),
        (http("POST", ASSISTANT), Reason.DOOR_CLOSED),
        (http("POST", f"/mnt{ASSISTANT}", root_path="/mnt"), Reason.DOOR_CLOSED),
        (http("POST", "/api/9.0/mlflow/new"), Reason.DOOR_UNKNOWN),
    ],
)
def test_under_uvicorn_a_refused_request_reaches_nobody(scope, reason):
    reached, (start, body) = sent(scope)
    assert reached == []
    assert start["status"] == 403
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    told = json.loads(body["body"])
    assert (told["error_code"], told["reason_code"]) == ("PERMISSION_DENIED", reason)
    assert told["message"].startswith("KFM refused")


@pytest.mark.parametrize(
    "scope",
    [
        http("POST", ALIAS),
        http("POST", f"/mnt{ALIAS}", root_path="/mnt"),
        http("GET", ASSISTANT),
        http("POST", "/kfm/api/v1/votes"),
        {"type": "lifespan"},
    ],
)
def test_under_uvicorn_other_requests_pass(scope):
    assert sent(scope) == ([scope], [])


def test_under_uvicorn_a_static_prefix_is_known():
    scope = http("POST", f"/tribe{ALIAS}")
    assert sent(scope, static_prefix="/tribe") == ([scope], [])
    assert sent(scope)[0] == []


def test_under_uvicorn_a_web_socket_is_closed():
    assert sent({"type": "websocket", "path": "/x"}) == (
        [],
        [{"type": "websocket.close", "code": 1008}],
    )


@pytest.fixture
def flask_client(monkeypatch):
    """Return a client of a Flask application that says yes to everything, with our guard."""
    from flask import Flask

    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/tribe")
    app = Flask("yes")
    app.add_url_rule(
        "/<path:path>", "yes", lambda path: path and "yes", methods=["GET", "POST", "PUT", "DELETE"]
    )
    register_pages(app)
    register_pages(app)
    assert guarded(app) is app
    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "reason"),
    [
        ("PUT", f"{API}/kfm-frozen/x", {"data": b"x"}, Reason.FROZEN_AREA),
        ("POST", CREATE, {"json": {"artifactLocation": "a:/kfm-frozen"}}, Reason.FROZEN_AREA),
        ("POST", CREATE, {"data": b'{"x": "kfm\\u002dfrozen"}'}, Reason.FROZEN_AREA),
        ("POST", ASSISTANT, {}, Reason.DOOR_CLOSED),
        ("POST", f"/tribe{ASSISTANT}", {}, Reason.DOOR_CLOSED),
        ("POST", "/api/9.0/mlflow/new", {}, Reason.DOOR_UNKNOWN),
        ("GET", ASSISTANT, {}, None),
        ("POST", ALIAS, {"json": {"alias": "kfm-frozen"}}, None),
        ("POST", f"/tribe{ALIAS}", {}, None),
        ("POST", CREATE, {"data": b"\xff{"}, None),
    ],
)
def test_under_gunicorn_the_same_rules_hold(flask_client, method, path, kwargs, reason):
    answer = flask_client.open(path, method=method, **kwargs)
    if reason is None:
        assert answer.text == "yes"
    else:
        assert answer.status_code == 403
        assert answer.json["reason_code"] == reason


def test_a_server_that_runs_code_of_its_clients_does_not_start(monkeypatch):
    from flask import Flask

    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS", "true")
    with pytest.raises(InputError, match="MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS: runs code"):
        register_pages(Flask("yes"))


@pytest.mark.parametrize("prefix", ["/kfm", "/kfm/", "/kfm/behind"])
def test_a_server_whose_doors_would_lie_below_our_pages_does_not_start(monkeypatch, prefix):
    """The guard lets pass what is ours, and would take those doors for ours."""
    from flask import Flask

    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", prefix)
    with pytest.raises(InputError, match="--static-prefix: '/kfm"):
        register_pages(Flask("yes"))
