"""The MLflow server with our pages and API on it, and a guard before its doors.

MLflow starts this as ``mlflow server --app-name kfm``.
"""

from __future__ import annotations

import os
from typing import Any

from kfm_mlflow.errors import InputError, KfmError
from kfm_mlflow.registry.guard import OUR_PREFIX, DoorGuard, log_refusal, refusal_of

_JSON = "application/json"


def _static_prefix() -> str:
    from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR

    return os.environ.get(STATIC_PREFIX_ENV_VAR, "").rstrip("/")


def _require_place_of_our_own() -> None:
    prefix = f"{_static_prefix()}/"
    if prefix.startswith(OUR_PREFIX):
        raise InputError(
            f"{prefix.rstrip('/')!r} is where our own pages lie, past the guard",
            where="--static-prefix",
            remedy="take another prefix",
        )


def _require_no_foreign_code() -> None:
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS

    if MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS.get():
        raise InputError(
            "runs code that clients send beside the registry's database and key",
            where=MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS.name,
            remedy="start a governed server without it",
        )


def register_pages(flask_app: Any) -> None:
    """Put our pages, our API and the guard on MLflow's Flask application; twice is once.

    Args:
        flask_app: ``mlflow.server.app``, before an authentication puts its hooks on it, so that
            those cover our routes, too.

    Raises:
        InputError: MLflow is set to run code that clients send, or to serve where our pages lie.
    """
    from flask import jsonify, request
    from mlflow.exceptions import MlflowException
    from mlflow.utils.workspace_utils import WORKSPACE_HEADER_NAME

    # These put their routes on the blueprint.
    from kfm_mlflow.registry import (  # noqa: F401
        authority_api,
        checkpoint_api,
        export_api,
        lease_api,
        ledger_api,
        policy_api,
        prov_api,
        rollout_orders_api,
    )
    from kfm_mlflow.registry.api import api
    from kfm_mlflow.registry.pages import pages
    from kfm_mlflow.registry.stac_api import stac
    from kfm_mlflow.registry.translate import answer_to
    from kfm_mlflow.registry.workspaces import PARAMETER, enter_asked

    _require_no_foreign_code()
    _require_place_of_our_own()
    if "kfm_api" in flask_app.blueprints:
        return
    flask_app.register_blueprint(api)
    flask_app.register_blueprint(pages)
    flask_app.register_blueprint(stac)
    prefix = _static_prefix()

    @flask_app.before_request
    def _enter() -> Any:
        if not request.path.startswith(OUR_PREFIX):
            return None
        try:
            enter_asked(request.args.getlist(PARAMETER), request.headers.get(WORKSPACE_HEADER_NAME))
        except (KfmError, MlflowException) as exc:
            told = answer_to(exc)
            return told.serialize_as_json(), told.get_http_status_code(), {"Content-Type": _JSON}
        return None

    @flask_app.before_request
    def _guard() -> Any:
        refusal = refusal_of(
            request.method,
            request.path,
            request.query_string.decode("latin-1"),
            static_prefix=prefix,
            # As MLflow reads it, whatever the request says that it is.
            read_body=lambda: request.get_json(force=True, silent=True),
        )
        if refusal is None:
            return None
        log_refusal(refusal)
        return jsonify(refusal.body()), refusal.reason.status


def guarded(application: Any) -> Any:
    """Put the guard before a FastAPI application; a Flask one has it from :func:`register_pages`.

    Args:
        application: What ``create_fastapi_app`` or MLflow's basic-auth returned.
    """
    from fastapi import FastAPI

    if isinstance(application, FastAPI):
        application.add_middleware(DoorGuard, static_prefix=_static_prefix())
    return application


def create_app() -> Any:
    """Return MLflow's application with ours on it (FastAPI under uvicorn, else Flask)."""
    from mlflow.environment_variables import _MLFLOW_SGI_NAME
    from mlflow.server import app as flask_app

    register_pages(flask_app)
    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    return guarded(create_fastapi_app(flask_app))
