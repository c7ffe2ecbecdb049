"""The governed server behind MLflow's basic-auth (``--app-name kfm-auth``).

MLflow's authentication stands before every one of our routes, reads included, as it stands before
MLflow's own; its per-model permissions hold for ours, too (``permissions.py``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.app import guarded, register_pages
from kfm_mlflow.registry.permissions import asks_for_frozen, is_ours, permits, permits_frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flask import Request
    from starlette.requests import Request as AsgiRequest

    Validator = Callable[[], bool]
    AsgiValidator = Callable[[str, AsgiRequest], Awaitable[bool]]


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
    return guarded(auth.create_app(flask_app))


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
