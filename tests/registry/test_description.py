"""The generated block of a version's description: shown to the UI, never stored."""

from __future__ import annotations

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from registry.world import NAME

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.description import build_block, with_block, without_block

texts = st.text(max_size=200).filter(lambda text: "kfm" not in text)
levels = st.sampled_from(list(Level))
names = st.text(min_size=1, max_size=40).filter(lambda text: "/" not in text and ":" not in text)


@given(texts, names, st.integers(1, 10**6), levels)
def test_taking_the_block_out_gives_the_text_back(text, name, version, level):
    assert without_block(with_block(text, name, version, level)) == text


@given(texts, names, st.integers(1, 99), levels, levels)
def test_there_is_one_block_however_often_it_is_put_before(text, name, version, one, other):
    twice = with_block(with_block(text, name, version, one), name, version, other)
    assert twice == with_block(text, name, version, other)


@given(st.text(alphabet="kfm[]/(:)#! \n*é", max_size=80))
def test_taking_out_twice_is_taking_out_once(text):
    once = without_block(text)
    assert without_block(once) == once


@given(texts, names, st.data())
def test_no_edited_block_leaves_a_badge_behind(text, name, data):
    whole = with_block(text, name, 3, Level.CANARY)
    lines = whole.split("\n")
    del lines[data.draw(st.integers(0, len(build_block(name, 3, Level.CANARY).split("\n")) - 3))]
    assert "/kfm/badge/" not in without_block("\n".join(lines))


def test_a_forged_badge_of_a_better_level_is_taken_out():
    forged = with_block("Trust me.", NAME, 7, Level.PRODUCTION)
    shown = with_block(forged, NAME, 7, Level.CANDIDATE)
    assert "production" not in shown
    assert shown.endswith("Trust me.")


def test_names_cannot_leave_the_link_that_they_stand_in():
    block = build_block("a) ![x](//evil", 1, Level.STAGING)
    assert "//evil" not in block
    assert block.count("](") == 3


@pytest.fixture
def ui():
    """Return what makes this thread serve a request of MLflow's UI."""
    return lambda path="/ajax-api/2.0/mlflow/model-versions/get": Flask("ui").test_request_context(
        path
    )


def stored(registry):
    return registry.query("SELECT description FROM model_versions WHERE version = 1")[0][0]


def test_the_ui_sees_the_block_and_a_client_what_it_wrote(canary, ui):
    store = canary.store
    store.update_model_version(NAME, 1, "Mine.")
    assert store.get_model_version(NAME, 1).description == "Mine."
    with ui():
        seen = store.get_model_version(NAME, 1).description
    assert seen == with_block("Mine.", NAME, 1, Level.CANARY)
    with ui("/api/2.0/mlflow/model-versions/get"):
        assert store.get_model_version(NAME, 1).description == "Mine."


def test_what_the_ui_sends_back_is_stored_without_the_block(canary, ui):
    store = canary.store
    store.update_model_version(NAME, 1, "Mine.")
    with ui():
        seen = store.get_model_version(NAME, 1).description
        answered = store.update_model_version(NAME, 1, f"{seen} And more.")
    assert stored(canary) == "Mine. And more."
    assert answered.description == with_block("Mine. And more.", NAME, 1, Level.CANARY)
    store.update_model_version(NAME, 1, None)
    assert stored(canary) is None


def test_lists_show_plain_text_and_so_have_no_block(canary, ui):
    canary.store.update_model_version(NAME, 1, "Mine.")
    with ui():
        (found,) = canary.store.search_model_versions(f"name = '{NAME}'")
        assert found.description == "Mine."


def test_a_prompt_has_no_block(registry, ui):
    tag = [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")]
    registry.store.create_registered_model("climate-greeting", tag)
    registry.store.create_model_version(
        "climate-greeting", "dummy-source", tags=[ModelVersionTag(IS_PROMPT_TAG_KEY, "true")]
    )
    with ui():
        assert not registry.store.get_model_version("climate-greeting", 1).description
