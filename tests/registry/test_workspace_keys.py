"""How a model of a workspace is named: keys, URIs, folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry.world import NAME

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.area import ArtifactArea
from kfm_mlflow.rollout.model_uri import parse_model_uri, parse_registered_model
from kfm_mlflow.trust.model_key import model_key, signed_name, split_key

OURS, THEIRS = "team-a", "team-b"
KEY = f"{OURS}/{NAME}"
HEADER = "X-MLFLOW-WORKSPACE"

_WORKSPACES = st.from_regex(r"[a-z0-9][-a-z0-9]{0,20}[a-z0-9]", fullmatch=True)
_NAMES = st.text(min_size=1, max_size=60).filter(lambda text: not set(text) & set("/:"))


@given(_WORKSPACES, _NAMES, _WORKSPACES, _NAMES)
def test_two_models_never_have_one_key(workspace, name, other_workspace, other_name):
    same = (workspace, name) == (other_workspace, other_name)
    assert (model_key(workspace, name) == model_key(other_workspace, other_name)) is same
    found, own = split_key(model_key(workspace, name))
    assert (found or "default", own) == (workspace, name)


def test_a_key_holds_one_slash_and_fits_its_column():
    assert model_key("default", NAME) == model_key("", NAME) == NAME
    assert model_key(OURS, "policy:climate") == "policy:climate"
    for workspace, name in (("", "a/b"), (OURS, "a/b"), (OURS, "x" * 250)):
        with pytest.raises(InputError):
            model_key(workspace, name)


def test_votes_name_the_workspace_and_what_trainers_sign_does_not():
    assert signed_name("vote", KEY) == signed_name("canary-verdict", KEY) == KEY
    assert signed_name("validation", KEY) == signed_name("slsa-provenance", KEY) == NAME


def test_a_uri_names_a_workspace_or_takes_that_of_mlflows_variable(monkeypatch):
    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)
    assert parse_model_uri(f"models:/{NAME}/3") == (NAME, 3)
    assert parse_model_uri(f"models:/{OURS}/7/3") == (f"{OURS}/7", 3)
    assert parse_registered_model(f"models:/{KEY}") == KEY
    monkeypatch.setenv("MLFLOW_WORKSPACE", OURS)
    assert parse_model_uri(f"models:/{NAME}/3") == (KEY, 3)
    assert parse_model_uri(f"models:/default/{NAME}/3") == (NAME, 3)
    assert parse_registered_model(f"models:/{THEIRS}/{NAME}") == f"{THEIRS}/{NAME}"


@pytest.mark.parametrize("root", ["{tmp}/artifacts", "s3://bucket/artifacts"])
def test_an_area_knows_whose_folder_a_place_is_in(root, tmp_path):
    root = root.format(tmp=tmp_path)
    area = ArtifactArea(root, proxied=True, workspace=OURS)
    assert area.resolve("mlflow-artifacts:/1/r") == f"{root}/workspaces/{OURS}/1/r"
    assert area.resolve(area.frozen_uri("sha256:" + "0" * 64)).startswith(
        f"{root}/workspaces/{OURS}/kfm-frozen/0"
    )
    assert area.workspace_of(f"{root}/workspaces/{OURS}/1") == OURS
    assert area.workspace_of(f"{root}/workspaces/default/1") == area.workspace_of(f"{root}/1") == ""
    assert area.workspace_of(f"{root}-else/workspaces/{OURS}") is None
