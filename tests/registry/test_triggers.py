"""The last line: the database refuses whoever does not come through the governed store."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import psycopg
import pytest
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from registry.world import BOTH, NAME, query, stranger, uri_of

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.migrations import prepare
from kfm_mlflow.registry.triggers import (
    TRIGGERS,
    Trigger,
    install_triggers,
    missing_triggers,
    open_permit_count,
)

pytestmark = pytest.mark.parametrize("database_kind", BOTH)

_OF = f"name = '{NAME}' AND version ="
_VERSION_COLUMNS = "model_versions (workspace, name, version, current_stage)"
_LEDGER = "INSERT INTO kfm_ledger VALUES (99, '', 'moved', 'm', 1, '', '', '')"
ATTACKS = {
    "model_versions_update_stage": f"UPDATE model_versions SET current_stage = 'Production' WHERE {_OF} 3",
    "model_versions_insert": f"INSERT INTO {_VERSION_COLUMNS} VALUES ('default', '{NAME}', 9, 'staging')",
    "model_versions_update_location": f"UPDATE model_versions SET storage_location = NULL WHERE {_OF} 3",
    "model_versions_update_identity": f"UPDATE model_versions SET version = 33 WHERE {_OF} 2",
    "model_versions_insert_again": f"INSERT INTO {_VERSION_COLUMNS} VALUES ('default', '{NAME}', 1, 'None') ON CONFLICT DO NOTHING",
    "model_versions_delete": f"DELETE FROM model_versions WHERE {_OF} 1",
    "registered_model_aliases_insert": f"INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES ('default', '{NAME}', 'Champion', 3)",
    "registered_model_aliases_update": "UPDATE registered_model_aliases SET version = 3 WHERE alias = 'champion'",
    "registered_model_aliases_delete": "DELETE FROM registered_model_aliases WHERE alias = 'canary'",
    "registered_model_tags_insert": f"INSERT INTO registered_model_tags (workspace, name, key, value) VALUES ('default', '{NAME}', '{IS_PROMPT_TAG_KEY}', 'true')",
    "registered_model_tags_update": f"UPDATE registered_model_tags SET key = '{IS_PROMPT_TAG_KEY}', value = 'true' WHERE name = '{NAME}'",
    "registered_model_tags_delete": f"DELETE FROM registered_model_tags WHERE key = '{IS_PROMPT_TAG_KEY}'",
    "registered_models_update": f"UPDATE registered_models SET name = 'other' WHERE name = '{NAME}'",
    "registered_models_update_workspace": "UPDATE registered_models SET workspace = 'other' WHERE name = 'free'",
    "registered_models_delete": f"DELETE FROM registered_models WHERE name = '{NAME}'",
    "kfm_ledger_insert": _LEDGER,
    "kfm_outbox_insert": "INSERT INTO kfm_outbox VALUES (99, '', 'moved', 'm', 1, 'canary')",
    "kfm_release_insert": "INSERT INTO kfm_release VALUES ('m', 1, '', '', '', '')",
    "kfm_model_insert": "INSERT INTO kfm_model VALUES ('m', 'baseline')",
    "kfm_model_update": "UPDATE kfm_model SET family = 'baseline'",
    "kfm_model_delete": "DELETE FROM kfm_model",
    "kfm_registration_insert": "INSERT INTO kfm_registration VALUES ('m', 1, 'me', '')",
    "kfm_registration_update": "UPDATE kfm_registration SET actor = 'me'",
    "kfm_registration_delete": "DELETE FROM kfm_registration",
    "kfm_attestation_insert": "INSERT INTO kfm_attestation SELECT * FROM kfm_attestation WHERE true ON CONFLICT DO NOTHING",
    **{
        f"{table}_{verb}": sql
        for table in ("kfm_ledger", "kfm_outbox", "kfm_release", "kfm_attestation")
        for verb, sql in (
            (
                "update",
                f"UPDATE {table} SET {'kind' if table == 'kfm_attestation' else 'version'} = '7'",
            ),
            ("delete", f"DELETE FROM {table}"),
            ("truncate", f"TRUNCATE {table}"),
        )
    },
    **{
        f"{table}_truncate": f"TRUNCATE {table} CASCADE"
        for table in (
            *("registered_models", "model_versions", "registered_model_aliases"),
            *("kfm_model", "kfm_registration"),
        )
    },
}
"""What each trigger alone refuses, by its name without ``kfm_guard_``."""


def attempt(connection: Any, *statements: str) -> str:
    """Run statements in a transaction that is rolled back, and return what the database said."""
    if isinstance(connection, sqlite3.Connection):
        connection.isolation_level = None
    connection.execute("BEGIN")
    try:
        for statement in statements:
            connection.execute(statement)
    except (sqlite3.Error, psycopg.Error) as exc:
        return str(exc)
    finally:
        connection.rollback()
    return ""


def dropping(trigger: Trigger) -> str:
    return f"DROP TRIGGER {trigger.name} ON {trigger.table}"


@pytest.fixture
def three(two, world):
    """Return v1 at Production, v2 a canary, and v3 that was never released."""
    two.register(world.releases[2])
    return two


# -- who is refused --------------------------------------------------------------------------------


def test_each_trigger_refuses_its_attack_and_nothing_else_would(three, database_kind):
    triggers = {trigger.name.removeprefix("kfm_guard_"): trigger for trigger in TRIGGERS}
    assert set(triggers) == set(ATTACKS)
    three.store.create_registered_model("free")
    three.store.set_registered_model_tag(NAME, RegisteredModelTag("note", "mine"))
    three.store.create_registered_model("ask", [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")])
    before = three.state()
    with stranger(three.database) as connection:
        for name, trigger in triggers.items():
            if database_kind == "sqlite" and trigger.event == "TRUNCATE":
                continue
            attack = ATTACKS[name]
            drop = dropping(trigger)
            if database_kind == "sqlite":
                drop = drop.partition(" ON ")[0]
            assert trigger.message in attempt(connection, attack), name
            assert "go through the governed server" in trigger.message
            assert trigger.message not in attempt(connection, drop, attack), name
            permit = "INSERT INTO kfm_permit VALUES ('mine')"
            with_permit = attempt(connection, permit, attack)
            assert (trigger.message in with_permit) is not trigger.permit, name
    assert three.state() == before


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.transition_model_version_stage(
            NAME, 3, "Production", archive_existing_versions=False
        ),
        lambda store: store.transition_model_version_stage(
            NAME, 3, "Staging", archive_existing_versions=False
        ),
        lambda store: store.transition_model_version_stage(
            NAME, 1, "Archived", archive_existing_versions=False
        ),
        lambda store: store.set_registered_model_alias(NAME, "champion", "3"),
        lambda store: store.set_registered_model_alias(NAME, "Canary", "3"),
        lambda store: store.delete_registered_model_alias(NAME, "production"),
        lambda store: store.delete_model_version(NAME, 1),
        lambda store: store.delete_registered_model(NAME),
        lambda store: store.rename_registered_model(NAME, "other"),
    ],
    ids=[
        "promote",
        "stage",
        "archive",
        "champion",
        "Canary",
        "unalias",
        "delete version",
        "delete",
        "rename",
    ],
)
def test_a_plain_mlflow_store_on_the_same_database_is_refused_with_400(three, ask):
    plain, before = SqlAlchemyStore(uri_of(three.database)), three.state()
    with pytest.raises(
        MlflowException, match=r"KFM refused to .*go through the governed"
    ) as caught:
        ask(plain)
    assert caught.value.get_http_status_code() == 400
    assert three.state() == before


def test_a_released_version_taken_down_is_still_not_deleted_by_a_plain_store(two):
    two.store.move(NAME, 2, Level.STAGING)
    two.store.move(NAME, 2, Level.CANDIDATE)
    plain, before = SqlAlchemyStore(uri_of(two.database)), two.state()
    with pytest.raises(MlflowException, match="delete a version that was released"):
        plain.delete_model_version(NAME, 2)
    assert two.state() == before


def test_what_is_not_governed_stays_open_to_a_plain_store(three):
    plain = SqlAlchemyStore(uri_of(three.database))
    plain.update_model_version(NAME, 1, "described")
    plain.update_registered_model(NAME, "described")
    plain.set_model_version_tag(NAME, 1, ModelVersionTag("k", "v"))
    plain.set_registered_model_tag(NAME, RegisteredModelTag("k", "v"))
    plain.set_registered_model_alias(NAME, "mine", "3")
    plain.delete_registered_model_alias(NAME, "mine")
    plain.transition_model_version_stage(NAME, 3, "Archived", archive_existing_versions=False)
    made = plain.create_model_version(NAME, "s3://somewhere/model")
    plain.delete_model_version(NAME, made.version)
    plain.create_registered_model("free")
    plain.rename_registered_model("free", "freer")
    plain.delete_registered_model("freer")
    assert [three.level(v) for v in (1, 2, 3)] == ["production", "canary", "candidate"]


def test_sqlite_replaces_no_row_behind_a_triggers_back(three, database_kind):
    if database_kind != "sqlite":
        with pytest.raises(psycopg.errors.SyntaxError):
            query(three.database, "INSERT OR REPLACE INTO kfm_ledger VALUES (1)")
        return
    attacks = (
        f"INSERT OR REPLACE INTO {_VERSION_COLUMNS} VALUES ('default', '{NAME}', 1, 'None')",
        f"UPDATE OR REPLACE model_versions SET version = 1 WHERE {_OF} 3",
        f"UPDATE OR IGNORE model_versions SET current_stage = 'Production' WHERE {_OF} 3",
        "UPDATE OR REPLACE registered_model_aliases SET alias = 'champion' WHERE alias = 'canary'",
        "INSERT OR REPLACE INTO kfm_attestation SELECT digest, '', '', '', '' FROM kfm_attestation",
        "REPLACE INTO kfm_ledger SELECT seq, at, kind, model, 7, body, '', hash FROM kfm_ledger",
    )
    with stranger(three.database) as connection:
        for attack in attacks:
            assert "KFM refused" in attempt(connection, attack), attack


def test_a_role_without_rights_on_our_tables_is_refused_in_the_same_words(three, database_kind):
    if database_kind == "sqlite":
        assert missing_triggers_of(three) == []  # SQLite has no roles.
        return
    promote = ATTACKS["model_versions_update_stage"]
    with stranger(three.database) as connection:
        said = attempt(
            connection,
            "CREATE ROLE clerk",
            "GRANT SELECT, UPDATE ON model_versions TO clerk",
            "SET LOCAL ROLE clerk",
            f"UPDATE model_versions SET description = 'mine' WHERE {_OF} 3",
            promote,
        )
        assert "KFM refused to change a governed stage" in said
        said = attempt(
            connection,
            "CREATE ROLE clerk",
            "GRANT SELECT, UPDATE ON model_versions TO clerk",
            "SET LOCAL ROLE clerk",
            # A table of the same name that the clerk may write is not the one that counts.
            "CREATE TEMPORARY TABLE kfm_permit (token text)",
            "INSERT INTO kfm_permit VALUES ('mine')",
            promote,
        )
        assert "KFM refused to change a governed stage" in said


# -- who passes --------------------------------------------------------------------------------------


def test_nobody_else_ever_sees_the_permit_of_a_unit_of_work(two):
    with two.store.unit_of_work(f"model:{NAME}") as session:
        assert open_permit_count(session.connection()) == 1
        assert query(two.database, "SELECT * FROM kfm_permit") == []
        with two.store.unit_of_work("ledger") as inner:
            assert open_permit_count(inner.connection()) == 1
    assert query(two.database, "SELECT * FROM kfm_permit") == []


def prompt_life(store: Any) -> list[Any]:
    """Do with a prompt what can be done with one, and return what is seen of it."""
    seen: list[Any] = []
    prompt, text = IS_PROMPT_TAG_KEY, "mlflow.prompt.text"

    # Plain MLflow cannot archive with psycopg 3 when a version is text.
    def see(name: str) -> None:
        model = store.get_registered_model(name)
        versions = store.search_model_versions(f"name = '{name}' and tags.`{prompt}` = 'true'")
        seen.append(
            (
                dict(model.aliases),
                model.tags,
                sorted((v.version, v.current_stage, sorted(v.aliases), v.tags) for v in versions),
            )
        )

    store.create_registered_model("greeting", [RegisteredModelTag(prompt, "true")])
    for words in ("hello", "hi"):
        tags = [ModelVersionTag(prompt, "true"), ModelVersionTag(text, words)]
        store.create_model_version("greeting", "prompt-template", tags=tags)
    store.set_registered_model_alias("greeting", "production", "1")
    store.set_registered_model_alias("greeting", "Champion", "1")
    store.set_registered_model_alias("greeting", "mine", "1")
    see("greeting")
    store.set_registered_model_alias("greeting", "production", "2")
    store.delete_registered_model_alias("greeting", "Champion")
    store.delete_registered_model_alias("greeting", "canary")
    see("greeting")
    store.transition_model_version_stage(
        "greeting", 1, "Production", archive_existing_versions=False
    )
    store.transition_model_version_stage(
        "greeting", 2, "Production", archive_existing_versions=True
    )
    see("greeting")
    store.rename_registered_model("greeting", "salutation")
    store.delete_model_version("salutation", "2")
    see("salutation")
    store.delete_registered_model("salutation")
    seen.append([model.name for model in store.search_registered_models()])
    return seen


def test_prompts_live_as_in_a_plain_registry(registry, database_kind):
    ours = prompt_life(registry.store)
    with stranger(registry.database) as connection:
        for trigger in TRIGGERS:
            if database_kind == "sqlite":
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger.name}")
            else:
                connection.execute(dropping(trigger))
        connection.commit()
    assert prompt_life(SqlAlchemyStore(uri_of(registry.database))) == ours
    assert ours[1][0] == {"production": 2, "mine": 1}


# -- verified at every start -------------------------------------------------------------------------

_STAGE = next(t for t in TRIGGERS if t.name.endswith("_update_stage"))
_WEAKER = (
    f"CREATE TRIGGER {_STAGE.name} BEFORE UPDATE ON model_versions FOR EACH ROW WHEN false"
    f" BEGIN SELECT RAISE(ABORT, '{_STAGE.message}'); END"
)
_EMPTY = (
    f"CREATE OR REPLACE FUNCTION {_STAGE.name}() RETURNS trigger LANGUAGE plpgsql"
    " SECURITY DEFINER SET search_path = public AS 'BEGIN RETURN NEW; END'"
)
_CALLED = f"FOR EACH ROW EXECUTE FUNCTION {_STAGE.name}()"
_NEVER = f"FOR EACH ROW WHEN (false) EXECUTE FUNCTION {_STAGE.name}()"
TAMPERED = {
    "sqlite": {
        "dropped": (f"DROP TRIGGER {_STAGE.name}",),
        "weaker": (f"DROP TRIGGER {_STAGE.name}", _WEAKER),
    },
    "postgresql": {
        "dropped": (dropping(_STAGE),),
        "weaker": (_EMPTY,),
        "disabled": (f"ALTER TABLE model_versions DISABLE TRIGGER {_STAGE.name}",),
        "narrowed": (
            dropping(_STAGE),
            f"CREATE TRIGGER {_STAGE.name} BEFORE UPDATE ON model_versions {_NEVER}",
        ),
        "elsewhere": (
            dropping(_STAGE),
            f"CREATE TRIGGER {_STAGE.name} BEFORE UPDATE OF run_link ON model_versions {_CALLED}",
        ),
        "function dropped": (f"DROP FUNCTION {_STAGE.name}() CASCADE",),
    },
}


def missing_triggers_of(registry: Any) -> list[str]:
    with registry.store.engine.connect() as connection:
        return missing_triggers(connection)


def test_a_trigger_that_was_lost_or_altered_is_named_and_installed_again_at_the_next_start(
    three, database_kind, caplog
):
    promote = ATTACKS["model_versions_update_stage"]
    for how, statements in TAMPERED[database_kind].items():
        caplog.clear()
        with stranger(three.database) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
            assert "KFM refused" not in attempt(connection, promote), how
        assert missing_triggers_of(three) == [_STAGE.name], how
        with caplog.at_level(logging.WARNING, "kfm_mlflow"):
            prepare(three.store.engine)
        assert f"installed again: {_STAGE.name}" in caplog.text, how
        assert missing_triggers_of(three) == []
        with stranger(three.database) as connection:
            assert "KFM refused" in attempt(connection, promote), how


def test_a_start_that_finds_everything_in_place_says_and_changes_nothing(three, caplog):
    before = three.state()
    with caplog.at_level(logging.WARNING, "kfm_mlflow"):
        three.open()
    assert caplog.text == ""
    assert three.state() == before


def test_triggers_survive_that_mlflow_rebuilds_its_tables(three, database_kind):
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from sqlalchemy import String

    rebuilt = ("model_versions", "registered_model_aliases")
    with three.store.engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for table in rebuilt:
            with operations.batch_alter_table(table) as batch:
                batch.alter_column("name", type_=String(300), existing_nullable=False)
    lost = missing_triggers_of(three)
    on_rebuilt = [t.name for t in TRIGGERS if t.table in rebuilt and t.event != "TRUNCATE"]
    assert sorted(lost) == (sorted(on_rebuilt) if database_kind == "sqlite" else [])
    prepare(three.store.engine)
    assert missing_triggers_of(three) == []
    assert three.level(1) == "production"


def test_a_permit_that_somebody_left_behind_is_taken_away_at_the_next_start(three, caplog):
    with stranger(three.database) as connection:
        connection.execute("INSERT INTO kfm_permit VALUES ('left')")
        connection.commit()
    with three.store.engine.connect() as connection:
        assert open_permit_count(connection) == 1
    with caplog.at_level(logging.WARNING, "kfm_mlflow"):
        prepare(three.store.engine)
    assert "somebody left a row in kfm_permit" in caplog.text
    assert query(three.database, "SELECT * FROM kfm_permit") == []


def test_installing_twice_changes_nothing(three):
    with three.store.engine.begin() as connection:
        install_triggers(connection)
        install_triggers(connection)
        assert missing_triggers(connection) == []
