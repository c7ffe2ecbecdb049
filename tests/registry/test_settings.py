"""Where releases are frozen: one answer, or no server."""

from __future__ import annotations

import pytest

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.settings import area_from, check_destination, settings_from

OWN, SERVER = "KFM_ARTIFACTS_DESTINATION", "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
SERVES = {"_MLFLOW_SERVER_SERVE_ARTIFACTS": "true"}


@pytest.mark.parametrize(
    ("own", "server"),
    [("/data", "/data"), ("/data/", "/data"), ("file:///data", "/data"), ("s3://b/x/", "s3://b/x")],
)
def test_saying_the_same_twice_is_no_conflict(own, server):
    area = area_from({OWN: own, SERVER: server, **SERVES})
    assert area.destination == own.removeprefix("file://").rstrip("/")
    assert area.proxied


@pytest.mark.parametrize(
    ("own", "server"), [("/a", "/b"), ("s3://b/x", "/b"), ("s3://b/x", "s3://b/y"), ("a", "./b")]
)
def test_two_roots_are_refused_before_anything_is_frozen(own, server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    environ = {OWN: own, SERVER: server, **SERVES}
    with pytest.raises(InputError, match=f"{OWN}: says {own}, but the server serves"):
        area_from(environ)
    with pytest.raises(InputError, match="unset the variable"):
        settings_from({**environ, "KFM_REGISTRY_KEY": "key.pem"})
    with pytest.raises(InputError, match="unset the variable"):
        check_destination({OWN: own}, server)
    check_destination({}, server)


def test_a_relative_root_does_not_depend_on_where_it_is_asked_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    area = area_from({SERVER: "./mlartifacts", **SERVES})
    assert area.destination == str(tmp_path / "mlartifacts")


def test_without_a_proxy_the_variable_is_the_only_word():
    # MLflow tells its workers ./mlartifacts even when it serves nothing from there.
    area = area_from({OWN: "s3://b/x", SERVER: "./mlartifacts"})
    assert area.destination == "s3://b/x"
    assert area.frozen_uri("sha256:ab") == "s3://b/x/kfm-frozen/ab/release"


@pytest.mark.parametrize("root", ["gs://b/x", "wasbs://c@a/x", "http://h/x", "s3:///x", "dbfs:/x"])
def test_a_store_that_freezing_is_not_tested_on_is_refused_at_start(root):
    with pytest.raises(InputError, match="neither a folder nor s3://bucket/prefix"):
        settings_from({SERVER: root, **SERVES, "KFM_REGISTRY_KEY": "key.pem"})
    with pytest.raises(InputError, match="neither a folder nor s3://bucket/prefix"):
        check_destination({}, root)


def test_no_root_at_all_is_said_with_what_to_do():
    with pytest.raises(InputError, match="--artifacts-destination, or set the variable"):
        area_from({})
