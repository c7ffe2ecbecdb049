"""Prompts share the registry's tables, and work on a governed server as on a plain one."""

from __future__ import annotations

import re
import threading

import mlflow
import pytest
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.exceptions import MlflowException
from registry.door_world import Ask
from registry.world import NAME

pytestmark = pytest.mark.server
LEVEL_ALIASES = ("production", "champion", "canary", "staging", "Production", "favourite")


@pytest.fixture
def genai(door_server, monkeypatch):
    """Return mlflow.genai, pointed at the server as a user's environment does."""
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door_server.server.url)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", door_server.server.url)
    before = door_server.governed()
    yield mlflow.genai
    # Whatever is done with prompts, nothing that is governed changes.
    assert door_server.governed() == before


@pytest.fixture
def greeting(genai, request):
    """Return the name of a prompt with two versions, of the test's own."""
    name = re.sub(r"\W+", "-", f"greeting-{request.node.name}")[:120]
    genai.register_prompt(name, "Hello {{name}}", tags={"language": "en"})
    genai.register_prompt(name, "Good morning {{name}}", commit_message="politer")
    # MLflow tells the prompt of its experiment from threads that it does not wait for.
    for thread in threading.enumerate():
        if thread.name.startswith("link_prompt"):
            thread.join()
    return name


def test_a_prompt_has_versions_and_is_loaded_by_each(genai, greeting):
    first, second = (genai.load_prompt(f"prompts:/{greeting}/{n}") for n in (1, 2))
    assert (first.format(name="Ann"), second.format(name="Ann")) == (
        "Hello Ann",
        "Good morning Ann",
    )
    assert second.commit_message == "politer"
    assert greeting in [found.name for found in genai.search_prompts()]


def test_a_prompts_alias_may_be_called_as_a_level_is(genai, greeting):
    for alias in LEVEL_ALIASES:
        for version in (1, 2):
            genai.set_prompt_alias(greeting, alias, version)
            assert genai.load_prompt(f"prompts:/{greeting}@{alias}").version == version
        genai.delete_prompt_alias(greeting, alias)
        with pytest.raises(MlflowException, match=r"(?i)alias"):
            genai.load_prompt(f"prompts:/{greeting}@{alias}", cache_ttl_seconds=0)


def test_a_prompt_and_its_versions_are_tagged(genai, greeting):
    genai.set_prompt_tag(greeting, "owner", "ann")
    assert genai.get_prompt_tags(greeting)["owner"] == "ann"
    genai.delete_prompt_tag(greeting, "owner")
    assert "owner" not in genai.get_prompt_tags(greeting)
    genai.set_prompt_version_tag(greeting, 1, "note", "first")
    assert genai.load_prompt(f"prompts:/{greeting}/1", cache_ttl_seconds=0).tags["note"] == "first"
    genai.delete_prompt_version_tag(greeting, 1, "note")
    assert "note" not in genai.load_prompt(f"prompts:/{greeting}/1", cache_ttl_seconds=0).tags


def test_a_prompt_and_its_versions_are_deleted(genai, greeting, door_server):
    client = door_server.server.client()
    genai.set_prompt_alias(greeting, "production", 2)
    for version in ("1", "2"):
        client.delete_prompt_version(greeting, version)
    client.delete_prompt(greeting)
    assert client.get_prompt(greeting) is None


def test_a_prompts_stage_over_rest_is_mlflows_own_and_no_move(genai, greeting, door_server):
    body = {
        "name": greeting,
        "version": "1",
        "stage": "Production",
        "archive_existing_versions": True,
    }
    ask = Ask("POST 2.0/mlflow/model-versions/transition-stage", 200, body)
    for answer in door_server.send(ask):
        assert answer.status_code == 200, answer.text


TURNS = (
    # A model that would call itself a prompt, to get past the gates.
    Ask("POST 2.0/mlflow/registered-models/set-tag", 403, {"name": NAME, "key": IS_PROMPT_TAG_KEY, "value": "true"}),
    # A governed version that would be hidden from every search for models, and lose its badge.
    Ask("POST 2.0/mlflow/model-versions/set-tag", 403, {"name": NAME, "version": "1", "key": IS_PROMPT_TAG_KEY, "value": "true"}),
    Ask("POST 2.0/mlflow/model-versions/create", 403, {"name": NAME, "source": "dummy-source", "tags": [{"key": IS_PROMPT_TAG_KEY, "value": "true"}, {"key": "mlflow.prompt.text", "value": "x"}]}),
    # A prompt that would be a model.
    Ask("DELETE 2.0/mlflow/model-versions/delete-tag", 403, {"name": "{prompt}", "version": "1", "key": IS_PROMPT_TAG_KEY}),
    Ask("DELETE 2.0/mlflow/registered-models/delete-tag", 403, {"name": "{prompt}", "key": IS_PROMPT_TAG_KEY}),
    Ask("POST 2.0/mlflow/registered-models/set-tag", 403, {"name": "{prompt}", "key": IS_PROMPT_TAG_KEY, "value": "false"}),
    # A model among a prompt's versions, whose aliases nobody guards.
    Ask("POST 2.0/mlflow/model-versions/create", 403, {"name": "{prompt}", "source": "s3://bucket/model"}),
    Ask("POST 2.0/mlflow/model-versions/create", 403, {"name": "{prompt}", "source": "s3://bucket/model", "tags": [{"key": IS_PROMPT_TAG_KEY, "value": "false"}]}),
    Ask("POST 2.0/mlflow/model-versions/create", 403, {"name": "{prompt}", "source": f"models:/{NAME}/1"}),
    # One whose source is a model, though it says that it is a prompt.
    Ask("POST 2.0/mlflow/model-versions/create", 400, {"name": "{prompt}", "source": "s3://bucket/model", "tags": [{"key": IS_PROMPT_TAG_KEY, "value": "true"}]}),
    Ask("POST 2.0/mlflow/model-versions/create", 400, {"name": "{prompt}", "source": f"models:/{NAME}/1", "tags": [{"key": IS_PROMPT_TAG_KEY, "value": "TRUE"}]}),
)  # fmt: skip


@pytest.mark.parametrize("ask", TURNS, ids=str)
def test_a_model_is_no_prompt_and_a_prompt_is_no_model(genai, greeting, door_server, ask):
    door_server.names["prompt"] = greeting
    before = door_server.state()
    for answer in door_server.send(ask):
        assert answer.status_code == ask.status, answer.text
    assert door_server.state() == before
