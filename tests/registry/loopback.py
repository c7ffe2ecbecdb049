"""A registry of this process behind real HTTP on loopback, for clients that use ``requests``."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import Flask
from mlflow.server import handlers
from werkzeug.serving import make_server

from kfm_mlflow.registry import (  # noqa: F401 - they put routes on the API
    authority_api,
    checkpoint_api,
    export_api,
    lease_api,
    ledger_api,
    openapi,
    policy_api,
    prov_api,
    rollout_orders_api,
)
from kfm_mlflow.registry.api import api

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from registry.world import Registry


@contextmanager
def serving(app: Flask, *, threaded: bool = False) -> Iterator[str]:
    """Serve an application on a free port of loopback, and give its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=threaded)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def listening(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, *, with_mlflow: bool = False
) -> Iterator[str]:
    """Serve a registry's API, and MLflow's own if it is asked for, and give its URL."""
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    app = Flask("loopback")
    app.register_blueprint(api)
    for path, view, methods in handlers.get_endpoints() if with_mlflow else ():
        app.add_url_rule(path, view.__name__, view, methods=methods)
    with serving(app) as url:
        yield url
