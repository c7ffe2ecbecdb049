"""Our pages and API on a server whose registry is not governed: a clear 400, never a 500."""

from __future__ import annotations

import warnings

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore


@pytest.fixture
def plain(empty_database, monkeypatch):
    with warnings.catch_warnings():
        # MLflow's server imports deprecate each other's dependencies.
        warnings.simplefilter("ignore")
        from mlflow.server import handlers

        from kfm_mlflow.registry.app import create_app

        monkeypatch.delenv("_MLFLOW_SGI_NAME", raising=False)
        application = create_app()
    store = SqlAlchemyStore(f"sqlite:///{empty_database}")
    monkeypatch.setattr(handlers, "_get_model_registry_store", lambda *_: store)
    yield application.test_client()
    store._dispose_engine()


@pytest.mark.parametrize(
    "path", ["/kfm/api/v1/ledger", "/kfm/api/v1/models/m", "/kfm/", "/kfm/models/m/1"]
)
def test_a_plain_registry_is_named_as_what_is_wrong(plain, path):
    answer = plain.get(path, headers={"Host": "127.0.0.1"})
    assert answer.status_code == 400
    assert "this server's registry is not governed" in answer.text
    assert "start it with `kfm server`" in answer.text


def test_the_guard_stands_before_flask_too(plain):
    answer = plain.put(
        "/api/2.0/mlflow-artifacts/artifacts/kfm-frozen/x", headers={"Host": "127.0.0.1"}
    )
    assert answer.status_code == 403
    assert "releases are immutable" in answer.text
