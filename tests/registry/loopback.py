"""A registry of this process behind real HTTP on loopback, for clients that use ``requests``."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import Flask
from mlflow.server import handlers
from werkzeug.serving import make_server

from kfm_mlflow.registry import (  # noqa: F401 - they put routes on the API
    export_api,
    ledger_api,
    policy_api,
    prov_api,
)
from kfm_mlflow.registry.api import api

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from registry.world import Registry


@contextmanager
def listening(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a registry's API, and give its URL."""
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    app = Flask("loopback")
    app.register_blueprint(api)
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
