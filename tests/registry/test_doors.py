"""Every door of the store: named, guarded, and prompts left alone."""

from __future__ import annotations

import inspect

import pytest
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from registry.world import NAME, told

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import store as store_module
from kfm_mlflow.registry.doors import STORE_DOORS
from kfm_mlflow.registry.plugin import plain_uri
from kfm_mlflow.registry.store import KfmStore

PROMPT_TAG = "mlflow.prompt.is_prompt"


def public_methods(kind: type) -> set[str]:
    return {
        name
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }


def test_every_public_method_of_mlflows_store_is_a_door_and_every_door_is_one() -> None:
    constants = {name for name in public_methods(SqlAlchemyStore) if name.isupper()}
    assert public_methods(SqlAlchemyStore) - constants == set(STORE_DOORS)


def test_a_method_that_no_row_names_is_refused(registry) -> None:
    closed = store_module._closed("transmogrify_model")
    with told(403, "KFM refused transmogrify_model", "does not know this door"):
        closed(registry.store, NAME, version=1)


# -- names and versions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", ["01", "-1", "x", "", "1.0", "0", " 1", "٣", "99999999999", None]
)
def test_a_malformed_version_is_bad_input_at_every_door_that_moves(registry, world, version):
    registry.register(world.releases[0])
    before = registry.state()
    for ask in (
        lambda: registry.store.transition_model_version_stage(
            NAME, version, "Staging", archive_existing_versions=False
        ),
        lambda: registry.store.set_registered_model_alias(NAME, "staging", version),
        lambda: registry.store.delete_model_version(NAME, version),
    ):
        with told(400):
            ask()
    assert registry.state() == before


@pytest.mark.parametrize("version", [0, -1, 2**31, 2**63, 10**30])
def test_a_number_that_is_no_version_is_bad_input_to_a_move_and_a_check(registry, version):
    registry.store.create_registered_model(NAME)
    with told(400, "no model version"):
        registry.store.move(NAME, version, Level.STAGING)
    with told(400, "no model version"):
        registry.store.check(NAME, version, Level.STAGING)


@pytest.mark.parametrize("stage", ["Live", "", "production;", "Canary"])
def test_an_unknown_stage_is_bad_input(registry, world, stage):
    registry.register(world.releases[0])
    before = registry.state()
    with told(400):
        registry.store.transition_model_version_stage(
            NAME, "1", stage, archive_existing_versions=False
        )
    assert registry.state() == before


@pytest.mark.parametrize(("name", "version"), [("climate-none", 1), (NAME, 7)])
def test_what_is_not_there_is_not_found(registry, world, name, version):
    registry.register(world.releases[0])
    with told(404):
        registry.store.move(name, version, Level.STAGING)
    with told(404):
        registry.store.transition_model_version_stage(
            name, str(version), "Staging", archive_existing_versions=False
        )


@pytest.mark.parametrize("alias", ["Champion", "PRODUCTION", "Canary", "sTaging"])
def test_another_spelling_of_a_level_is_no_way_around_it(registry, world, alias):
    registry.register(world.releases[0])
    before = registry.state()
    with told(400, f"write '{alias.lower()}'"):
        registry.store.set_registered_model_alias(NAME, alias, "1")
    assert registry.state() == before


def test_other_aliases_and_the_stages_of_a_candidate_work_as_in_plain_mlflow(registry, world):
    registry.register(world.releases[0])
    store = registry.store
    store.set_registered_model_alias(NAME, "favourite", "1")
    assert store.get_model_version_by_alias(NAME, "favourite").version == 1
    store.delete_registered_model_alias(NAME, "favourite")
    assert store.get_model_version(NAME, "1").aliases == []
    for stage in ("Archived", "None"):
        moved = store.transition_model_version_stage(
            NAME, "1", stage, archive_existing_versions=False
        )
        assert moved.current_stage == stage
    assert registry.query("SELECT COUNT(*) FROM kfm_ledger") == [(0,)]


def test_deleting_a_level_alias_that_nobody_holds_is_no_error(registry, world):
    registry.register(world.releases[0])
    before = registry.state()
    for alias in ("staging", "canary", "production", "champion"):
        registry.store.delete_registered_model_alias(NAME, alias)
    assert registry.state() == before


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["kfm.level", "KFM.release_id", "kfm."])
def test_our_tags_are_not_written_by_clients(registry, world, key):
    registry.register(world.releases[0])
    before, store = registry.state(), registry.store
    for ask in (
        lambda: store.set_model_version_tag(NAME, "1", ModelVersionTag(key, "x")),
        lambda: store.delete_model_version_tag(NAME, "1", key),
        lambda: store.set_registered_model_tag(NAME, RegisteredModelTag(key, "x")),
        lambda: store.delete_registered_model_tag(NAME, key),
        lambda: store.create_model_version(NAME, "/tmp/x", "run", tags=[ModelVersionTag(key, "x")]),
        lambda: store.create_registered_model("climate-new", [RegisteredModelTag(key, "x")]),
    ):
        with told(403, "kfm.* tags are the registry's own"):
            ask()
    assert registry.state() == before


def test_other_tags_work_as_in_plain_mlflow(registry, world):
    registry.register(world.releases[0])
    registry.store.set_model_version_tag(NAME, "1", ModelVersionTag("note", "x"))
    registry.store.set_registered_model_tag(NAME, RegisteredModelTag("note", "y"))
    assert registry.store.get_model_version(NAME, "1").tags == {"note": "x"}
    registry.store.delete_model_version_tag(NAME, "1", "note")
    registry.store.delete_registered_model_tag(NAME, "note")


# -- rename and delete -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["staging", "candidate"])
def test_what_was_ever_released_is_neither_renamed_nor_deleted(registry, world, level):
    registry.register(world.releases[0])
    registry.store.move(NAME, 1, Level.STAGING)
    if level == "candidate":
        registry.store.move(NAME, 1, Level.CANDIDATE)
    before = registry.state()
    for ask in (
        lambda: registry.store.rename_registered_model(NAME, "climate-renamed"),
        lambda: registry.store.delete_registered_model(NAME),
        lambda: registry.store.delete_model_version(NAME, "1"),
    ):
        with told(403, f"v1 ({level}) is in the ledger and is kept", "see /kfm/models/"):
            ask()
    assert registry.state() == before


def test_what_was_never_released_is_renamed_and_deleted_as_in_plain_mlflow(registry, world):
    registry.register(world.releases[0])
    registry.register(world.releases[1])
    registry.store.delete_model_version(NAME, "2")
    registry.store.rename_registered_model(NAME, "climate-renamed")
    assert registry.query("SELECT name, family FROM kfm_model") == [("climate-renamed", "climate")]
    registry.store.delete_registered_model("climate-renamed")
    assert registry.query("SELECT * FROM kfm_model") == []
    assert registry.query("SELECT * FROM registered_models") == []


def test_a_version_beside_a_released_one_can_still_be_deleted(registry, world):
    registry.register(world.releases[0])
    registry.register(world.releases[1])
    registry.store.move(NAME, 1, Level.STAGING)
    registry.store.delete_model_version(NAME, "2")
    with told(404):
        registry.store.get_model_version(NAME, "2")


# -- families ----------------------------------------------------------------------------------------


def test_a_family_is_fixed_when_a_model_is_created(registry):
    store = registry.store
    store.create_registered_model("anything", [RegisteredModelTag("kfm.family", "climate")])
    store.create_registered_model("other")
    families = dict(registry.query("SELECT name, family FROM kfm_model"))
    assert families == {"anything": "climate", "other": "baseline"}
    with told(400, "belongs to family 'climate' by its name"):
        store.create_registered_model("climate-x", [RegisteredModelTag("kfm.family", "baseline")])
    with told(400, "no policy for family"):
        store.create_registered_model("thing", [RegisteredModelTag("kfm.family", "none")])


def test_a_model_is_not_renamed_into_a_family_whose_gates_it_was_not_made_for(registry):
    registry.store.create_registered_model("easy")
    before = registry.state()
    with told(400, "belongs to family 'climate' by its name"):
        registry.store.rename_registered_model("easy", "climate-easy")
    assert registry.state() == before


def test_a_name_that_is_taken_gets_mlflows_own_answer(registry):
    registry.store.create_registered_model(NAME)
    before = registry.state()
    with told(400, "already exists"):
        registry.store.create_registered_model(NAME)
    assert registry.state() == before


# -- prompts -----------------------------------------------------------------------------------------


@pytest.fixture
def prompt(registry):
    registry.store.create_prompt("greeting")
    for text in ("Hello", "Good morning"):
        registry.store.create_prompt_version("greeting", text)
    return registry


def test_prompts_take_any_alias_stage_tag_and_leave_as_in_plain_mlflow(prompt):
    store = prompt.store
    for alias in ("production", "champion", "canary", "staging", "Production"):
        store.set_prompt_alias("greeting", alias, "2")
    assert store.get_prompt_version_by_alias("greeting", "production").version == 2
    store.set_prompt_tag("greeting", "note", "x")
    store.delete_prompt_alias("greeting", "production")
    store.transition_model_version_stage(
        "greeting", "1", "Production", archive_existing_versions=True
    )
    assert prompt.query("SELECT COUNT(*) FROM kfm_ledger") == [(0,)]
    store.delete_prompt_version("greeting", "2")
    store.rename_registered_model("greeting", "climate-greeting")
    store.delete_prompt("climate-greeting")
    assert prompt.query("SELECT * FROM registered_models") == []


def test_a_model_does_not_become_a_prompt_to_get_past_the_gates(registry, world):
    registry.register(world.releases[0])
    before = registry.state()
    with told(403, PROMPT_TAG):
        registry.store.set_registered_model_tag(NAME, RegisteredModelTag(PROMPT_TAG, "true"))
    assert registry.state() == before


def test_a_prompt_does_not_become_a_model_and_holds_no_model(prompt):
    before = prompt.state()
    with told(403, PROMPT_TAG):
        prompt.store.delete_registered_model_tag("greeting", PROMPT_TAG)
    for tags in ([], [ModelVersionTag(PROMPT_TAG, "false")]):
        with told(403, "it is a prompt"):
            prompt.store.create_model_version("greeting", "s3://b/model", "run", tags)
    assert prompt.state() == before


def test_a_prompt_reaches_no_level_by_our_own_door(prompt):
    with told(403, "KFM refused"):
        prompt.store.move("greeting", 1, Level.STAGING)


# -- building ----------------------------------------------------------------------------------------


def test_a_store_is_not_built_without_a_key(monkeypatch):
    from kfm_mlflow.errors import InputError

    monkeypatch.delenv("KFM_REGISTRY_KEY", raising=False)
    with pytest.raises(InputError, match="no key to sign its decisions"):
        KfmStore("sqlite:///nothing.db")


def test_a_uri_without_our_prefix_is_refused():
    from kfm_mlflow.errors import InputError

    assert plain_uri("kfm+postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"
    with pytest.raises(InputError, match="does not start with kfm"):
        plain_uri("sqlite:///x.db")
