"""The MLflow server with our pages and API on it, and a guard before the frozen area.

MLflow starts this as ``mlflow server --app-name kfm``. Under uvicorn artifact uploads never reach
Flask, so the guard is an ASGI middleware; under gunicorn the same rule is a Flask hook.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kfm_mlflow.release.freeze import FROZEN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PROXY = re.compile(r"/mlflow-artifacts/artifacts(?:/(?P<path>.*))?$", re.DOTALL)
_NEW_EXPERIMENT = "/mlflow/experiments/create"
FROZEN_REFUSAL = "KFM refused to change a frozen release; releases are immutable"


def _decoded(text: str) -> str:
    while (decoded := unquote(text)) != text:
        text = decoded
    return text


def names_frozen(text: str) -> bool:
    """Return whether a path or URI, however it is spelt, may lead into the frozen area.

    MLflow decodes up to ten times, drops control characters and understands ``file:``; so
    everything but letters, digits and slashes is left out before comparing. A name that merely
    looks alike is refused, too.
    """
    plain = re.sub(r"[^a-z0-9/]", "", _decoded(text).lower().replace("\\", "/"))
    return FROZEN_PREFIX.replace("-", "") in plain


def touches_frozen(method: str, path: str) -> bool:
    """Return whether a request would change the frozen area, or the whole artifact root.

    Args:
        method: HTTP method.
        path: Request path, decoded or not.
    """
    if method.upper() in _READS:
        return False
    proxied = _PROXY.search(_decoded(path))
    if proxied is not None and not re.search(r"[^./\\\s\x00-\x1f?#;]", _without_scheme(proxied)):
        return True
    return names_frozen(path)


def _without_scheme(proxied: re.Match[str]) -> str:
    return (proxied["path"] or "").strip().lower().removeprefix("file:")


class FrozenGuard:
    """ASGI middleware that refuses writes below the frozen area with 403."""

    def __init__(self, app: AsgiApp) -> None:
        """Stand before an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on."""
        if scope["type"] == "http" and touches_frozen(scope["method"], scope["path"]):
            body = json.dumps(
                {"error_code": "PERMISSION_DENIED", "message": FROZEN_REFUSAL}
            ).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)


def create_app() -> Any:
    """Return MLflow's application with ours on it (FastAPI under uvicorn, else Flask)."""
    from flask import jsonify, request
    from mlflow.environment_variables import _MLFLOW_SGI_NAME
    from mlflow.server import app as flask_app

    # These two put their routes on the blueprint.
    from kfm_mlflow.registry import ledger_api, policy_api  # noqa: F401
    from kfm_mlflow.registry.api import api
    from kfm_mlflow.registry.pages import pages

    if "kfm_api" not in flask_app.blueprints:
        flask_app.register_blueprint(api)
        flask_app.register_blueprint(pages)

        @flask_app.before_request
        def _guard() -> Any:
            body = request.get_json(silent=True) if request.path.endswith(_NEW_EXPERIMENT) else None
            location = body.get("artifact_location") if isinstance(body, dict) else None
            if touches_frozen(request.method, request.path) or names_frozen(str(location or "")):
                return jsonify({"error_code": "PERMISSION_DENIED", "message": FROZEN_REFUSAL}), 403
            return None

    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    application = create_fastapi_app(flask_app)
    application.add_middleware(FrozenGuard)
    return application
