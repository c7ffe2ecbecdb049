"""The governed server behind MLflow's basic-auth (``--app-name kfm-auth``).

MLflow's authentication stands before every one of our routes, reads included, as it stands before
MLflow's own; its per-model permissions hold for ours, too (``permissions.py``). Behind it stands
who may download weights (``weights.py``): a policy's roles hold for administrators, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.app import guarded, register_pages
from kfm_mlflow.registry.guard import routed_path
from kfm_mlflow.registry.permissions import asks_for_frozen, is_ours, permits, permits_frozen
from kfm_mlflow.registry.weights import Asked, weights_asked_for, weights_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flask import Flask, Request
    from mlflow.exceptions import MlflowException
    from starlette.requests import Request as AsgiRequest

    from kfm_mlflow.registry.guard import AsgiApp, Receive, Scope, Send

    Validator = Callable[[], bool]
    AsgiValidator = Callable[[str, AsgiRequest], Awaitable[bool]]

_NATIVE = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
"""Below these MLflow's FastAPI application serves downloads without Flask."""


def create_auth_app() -> Any:
    """Return MLflow's application with logins and ours on it (FastAPI under uvicorn, else Flask).

    Raises:
        MlflowException: The session key or the first administrator's password is not configured;
            ``kfm server`` sees to both.
    """
    from mlflow.server import app as flask_app
    from mlflow.server import auth

    # First ours: the authentication's hook then covers them.
    register_pages(flask_app)
    auth._find_validator = _flask_validators(auth._find_validator)  # noqa: SLF001 - MLflow has no
    auth._find_fastapi_validator = _fastapi_validators(  # noqa: SLF001 - public place for a
        auth._find_fastapi_validator  # noqa: SLF001 - plug-in's routes; tests hold the contract
    )
    application = auth.create_app(flask_app)
    _keep_weights(flask_app, application)
    return guarded(application)


def _keep_weights(flask_app: Flask, application: Any) -> None:
    """Ask about weights after the authentication has said who asks.

    Args:
        flask_app: Serves what MLflow's FastAPI application does not serve itself.
        application: What the authentication returned.
    """
    from fastapi import FastAPI
    from starlette.middleware import Middleware

    @flask_app.before_request
    def _weights() -> Any:
        from flask import g, request

        asked = weights_asked_for(
            request.method,
            request.path,
            request.args.getlist,
            lambda: request.get_json(force=True, silent=True),
        )
        refused = asked and _refusal(g.get("mlflow_authenticated_user"), asked)
        return _answer(refused) if refused else None

    if isinstance(application, FastAPI):
        # The last one is the innermost: it runs once the request has a user.
        application.user_middleware.append(Middleware(WeightsGuard))


def _refusal(user: str | None, asked: Asked) -> MlflowException | None:
    from kfm_mlflow.registry.api import registry
    from kfm_mlflow.registry.translate import answer_to

    try:
        return weights_refusal(registry(), user or "", asked)
    except Exception as exc:  # noqa: BLE001 - no registry to ask is a refusal, too
        return answer_to(exc)


def _answer(refused: MlflowException) -> tuple[str, int, dict[str, str]]:
    status = refused.get_http_status_code()
    return refused.serialize_as_json(), status, {"Content-Type": "application/json"}


class WeightsGuard:
    """ASGI middleware on the downloads that MLflow's FastAPI application serves itself."""

    def __init__(self, app: AsgiApp) -> None:
        """Stand before an application, behind its authentication."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on."""
        from starlette.responses import Response

        application: Any = self.app
        path = routed_path(scope) if scope["type"] == "http" else ""
        if path.startswith(_NATIVE):
            asked = weights_asked_for(scope["method"], path, lambda _: (), lambda: None)
            user = scope.get("state", {}).get("username")
            if asked and (refused := await asyncio.to_thread(_refusal, user, asked)):
                application = Response(*_answer(refused))
        await application(scope, receive, send)


def _flask_validators(
    theirs: Callable[[Request], Validator | None],
) -> Callable[[Request], Validator | None]:
    def find_validator(request: Request) -> Validator | None:
        if is_ours(request.path):
            return lambda: permits(request)
        asked = request.args.getlist("path")
        if asks_for_frozen(request.path, asked):
            from flask import g

            return lambda: permits_frozen(g.mlflow_authenticated_user, request.path, asked)
        return theirs(request)

    return find_validator


def _fastapi_validators(
    theirs: Callable[[str, str], AsgiValidator | None],
) -> Callable[[str, str], AsgiValidator | None]:
    def find_validator(path: str, method: str) -> AsgiValidator | None:
        found = theirs(path, method)
        if found is None:
            return None  # Flask's own, which asks the other finder.

        async def validator(user: str, request: AsgiRequest) -> bool:
            asked = request.query_params.getlist("path")
            if asks_for_frozen(path, asked):
                return await asyncio.to_thread(permits_frozen, user, path, asked)
            return await found(user, request)

        return validator

    return find_validator
