"""The MLflow server with our pages and API on it, and a guard before the frozen area.

MLflow starts this as ``mlflow server --app-name kfm``. Under uvicorn artifact uploads never reach
Flask, so the guard is an ASGI middleware; under gunicorn the same rule is a Flask hook.
"""

from __future__ import annotations

import json
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
FROZEN_REFUSAL = "KFM refused to change a frozen release; releases are immutable"


def touches_frozen(method: str, path: str) -> bool:
    """Return whether a request would change the frozen area.

    Args:
        method: HTTP method.
        path: Request path; decoded here as often as it still changes, so that no spelling of it
            slips by.
    """
    if method.upper() in _READS:
        return False
    for _ in range(4):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    return FROZEN_PREFIX in path.lower().replace("\\", "/").split("/")


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

    from kfm_mlflow.registry.api import api
    from kfm_mlflow.registry.pages import pages

    if "kfm_api" not in flask_app.blueprints:
        flask_app.register_blueprint(api)
        flask_app.register_blueprint(pages)

        @flask_app.before_request
        def _guard() -> Any:
            if touches_frozen(request.method, request.path):
                return jsonify({"error_code": "PERMISSION_DENIED", "message": FROZEN_REFUSAL}), 403
            return None

    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    application = create_fastapi_app(flask_app)
    application.add_middleware(FrozenGuard)
    return application
