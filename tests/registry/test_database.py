"""Our tables have a history of their own, beside MLflow's, and both databases know it."""

from __future__ import annotations

import gc
import shutil
import threading
import warnings

import postgres
import pytest
from click.testing import CliRunner
from mlflow.store.db import utils as mlflow_db
from registry.world import BOTH, NAME, query, stranger, uri_of
from sqlalchemy import create_engine, event, inspect

from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import migrations, tables, triggers
from kfm_mlflow.registry.migrations import HEAD, VERSION_TABLE, alembic_config, is_ours, prepare
from kfm_mlflow.registry.plugin import READ_REPLICA_VARIABLE, build_store

RELEASE_0_1_0 = """
CREATE TABLE kfm_lock (name VARCHAR(300) NOT NULL, taken_count INTEGER NOT NULL, PRIMARY KEY (name));
CREATE TABLE kfm_model (name VARCHAR(256) NOT NULL, family VARCHAR(64) NOT NULL, PRIMARY KEY (name));
CREATE TABLE kfm_release (
  model VARCHAR(256) NOT NULL, version INTEGER NOT NULL, release_id VARCHAR(71) NOT NULL,
  release_version VARCHAR(64) NOT NULL, frozen_uri TEXT NOT NULL, frozen_at VARCHAR(32) NOT NULL,
  PRIMARY KEY (model, version),
  CONSTRAINT kfm_release_version_once UNIQUE (model, release_version));
CREATE TABLE kfm_ledger (
  seq INTEGER NOT NULL, at VARCHAR(32) NOT NULL, kind VARCHAR(32) NOT NULL,
  model VARCHAR(256) NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
  prev_hash VARCHAR(71) NOT NULL, hash VARCHAR(71) NOT NULL, PRIMARY KEY (seq), UNIQUE (hash));
CREATE INDEX kfm_ledger_by_version ON kfm_ledger (model, version);
CREATE TABLE kfm_outbox (
  seq INTEGER NOT NULL, at VARCHAR(32) NOT NULL, event VARCHAR(32) NOT NULL,
  model VARCHAR(256) NOT NULL, version INTEGER NOT NULL, level VARCHAR(16) NOT NULL,
  PRIMARY KEY (seq));
CREATE TABLE kfm_attestation (
  digest VARCHAR(71) NOT NULL, release_id VARCHAR(71) NOT NULL, kind VARCHAR(32) NOT NULL,
  received_at VARCHAR(32) NOT NULL, envelope TEXT NOT NULL, PRIMARY KEY (digest));
CREATE INDEX ix_kfm_attestation_release_id ON kfm_attestation (release_id);
CREATE TABLE kfm_journal (
  model VARCHAR(256) NOT NULL, generation INTEGER NOT NULL, updated_at VARCHAR(32) NOT NULL,
  state TEXT NOT NULL, PRIMARY KEY (model));
"""
"""As that release's ``create_all`` wrote it, on both databases."""

MLFLOW_WITH_WORKSPACES = "1b5f0d9ad7c1"
"""MLflow's revision that made its tables what they are; later ones rebuild others."""

pytestmark = pytest.mark.parametrize("database_kind", BOTH)


@pytest.fixture
def engine(registry):
    """Return an engine of its own on an empty registry, which nobody else is connected to."""
    registry.store._dispose_engine()
    made = create_engine(uri_of(registry.database))
    yield made
    made.dispose()


def forget_ours(engine) -> None:
    """Take everything of ours away, so that only MLflow's tables are left."""
    with engine.begin() as connection:
        for table in (*(t.name for t in tables.metadata.sorted_tables), VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        for trigger in triggers.TRIGGERS:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger.name}")
            else:
                connection.exec_driver_sql(f"DROP FUNCTION {trigger.name}() CASCADE")


def shape(engine) -> dict[str, object]:
    """Return columns, keys and indexes of our tables."""
    seen = inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(table)],
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted(map(repr, seen.get_indexes(table))),
            sorted(tuple(u["column_names"]) for u in seen.get_unique_constraints(table)),
        )
        for table in seen.get_table_names()
        if is_ours(table) and table != VERSION_TABLE
    }


def difference(engine) -> list[object]:
    """Return what alembic would still change in our tables."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def include(item, name, kind, *_) -> bool:
        return is_ours(name if kind == "table" else item.table.name)

    with engine.connect() as connection:
        options = {"include_object": include, "version_table": VERSION_TABLE, "compare_type": True}
        return compare_metadata(
            MigrationContext.configure(connection, opts=options), tables.metadata
        )


def is_whole(engine) -> bool:
    with engine.connect() as connection:
        return (
            migrations.current_revision(connection) == HEAD
            and triggers.missing_triggers(connection) == []
            and difference(engine) == []
        )


# -- what revisions make ---------------------------------------------------------------------------


def test_the_revisions_make_exactly_the_tables_that_the_code_knows(engine):
    assert difference(engine) == []
    assert is_whole(engine)


def test_the_newest_revision_is_the_one_that_a_start_asks_for(engine):
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_the_first_revision_makes_exactly_the_tables_of_release_0_1_0(engine):
    from alembic import command

    forget_ours(engine)
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "r1")
    by_revision = shape(engine)
    with engine.begin() as connection:
        for table in by_revision:
            connection.exec_driver_sql(f"DROP TABLE {table}")
        for statement in filter(str.strip, RELEASE_0_1_0.split(";")):
            connection.exec_driver_sql(statement)
    assert shape(engine) == by_revision


# -- databases that were there before ----------------------------------------------------------------


def test_a_database_of_release_0_1_0_is_adopted_with_its_rows(engine):
    forget_ours(engine)
    row = (1, "2026-01-01T00:00:00.000Z", "moved", "m", 1, "{}", "sha256:0", "sha256:1")
    with engine.begin() as connection:
        for statement in filter(str.strip, RELEASE_0_1_0.split(";")):
            connection.exec_driver_sql(statement)
        connection.execute(tables.ledger.insert().values(row))
    prepare(engine)
    assert is_whole(engine)
    with engine.connect() as connection:
        assert [tuple(r) for r in connection.execute(tables.ledger.select())] == [row]


def test_a_database_whose_making_was_interrupted_is_completed(engine):
    forget_ours(engine)
    with engine.begin() as connection:
        for statement in RELEASE_0_1_0.split(";")[:4]:
            connection.exec_driver_sql(statement)
    prepare(engine)
    assert is_whole(engine)


def test_a_database_of_a_newer_release_is_refused_and_left_alone(registry, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = 'r999'")
    before = shape(engine)
    with pytest.raises(InputError, match=r"newer release of kfm-mlflow \(revision r999\)"):
        registry.open()
    assert shape(engine) == before
    with engine.connect() as connection:
        assert migrations.current_revision(connection) == "r999"


def test_an_upgrade_that_fails_half_way_leaves_nothing_and_the_next_one_succeeds(
    engine, monkeypatch
):
    forget_ours(engine)

    def fails(_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(triggers, "install_triggers", fails)
        with pytest.raises(RuntimeError, match="killed"):
            prepare(engine)
    assert shape(engine) == {}
    assert not inspect(engine).has_table(VERSION_TABLE)
    prepare(engine)
    assert is_whole(engine)


def test_several_workers_may_start_at_once(engine):
    forget_ours(engine)
    barrier, errors = threading.Barrier(4), []

    def start() -> None:
        own = create_engine(engine.url)
        barrier.wait()
        try:
            prepare(own)
        except Exception as exc:  # noqa: BLE001 - shown by the assertion below
            errors.append(exc)
        finally:
            own.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_whole(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT count(*) FROM {VERSION_TABLE}").scalar()
    assert rows == 1


# -- beside MLflow -----------------------------------------------------------------------------------


def test_mlflow_db_upgrade_keeps_our_tables_rows_and_triggers(database_kind, tmp_path):
    from alembic import command
    from mlflow.db import commands

    if database_kind == "sqlite":
        uri = f"sqlite:///{tmp_path / 'old.db'}"
    else:
        cluster = postgres.start()
        uri = cluster.url(cluster.create("before-mlflow-db-upgrade"))
    old = create_engine(uri)
    mlflow_db.InitialBase.metadata.create_all(old)
    with old.begin() as connection:
        config = mlflow_db._get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, MLFLOW_WITH_WORKSPACES)
    prepare(old)
    row = (1, "2026-01-01T00:00:00.000Z", "moved", "m", 1, "{}", "sha256:0", "sha256:1")
    with old.begin() as connection:
        connection.execute(tables.permit.insert().values(token="t"))
        connection.execute(tables.ledger.insert().values(row))
        connection.execute(tables.permit.delete())
    with warnings.catch_warnings():
        # The command never closes its connection.
        warnings.simplefilter("ignore", ResourceWarning)
        upgraded = CliRunner().invoke(commands, ["upgrade", uri])
        gc.collect()
    assert upgraded.exit_code == 0, upgraded.output
    mlflow_db._verify_schema(old)
    assert mlflow_db._all_tables_exist(old)
    prepare(old)
    assert is_whole(old)
    with old.connect() as connection:
        assert [tuple(r) for r in connection.execute(tables.ledger.select())] == [row]
    old.dispose()


# -- indexes ---------------------------------------------------------------------------------------


def test_no_statement_of_a_move_reads_a_whole_table(registry, world, database_kind):
    if database_kind != "sqlite":
        # With as few rows as a test has, PostgreSQL rightly reads whole tables.
        assert {i["name"] for i in inspect(registry.store.engine).get_indexes("kfm_outbox")} == {
            "kfm_outbox_by_version"
        }
        return
    asked: dict[str, object] = {}

    def note(_conn, _cursor, statement, parameters, _context, many) -> None:
        asked[statement] = parameters[0] if many else parameters

    event.listen(registry.store.engine, "before_cursor_execute", note)
    registry.register(world.releases[0])
    registry.to_production(1)
    plans = {}
    with stranger(registry.database) as connection:
        for statement, parameters in asked.items():
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
                plans[statement] = [row[3] for row in rows]
    scans = {
        statement.partition("FROM")[2].strip()
        for statement, plan in plans.items()
        if any(step.startswith("SCAN") and "kfm_permit" not in step for step in plan)
    }
    assert len(plans) > 20
    # The last row of the ledger: one step backwards along its key.
    assert scans == {"kfm_ledger ORDER BY kfm_ledger.seq DESC\n LIMIT ? OFFSET ?"}


# -- read replica ----------------------------------------------------------------------------------


def test_with_a_read_replica_plain_reads_go_there_and_decisions_to_the_primary(
    two, database_kind, tmp_path, monkeypatch
):
    if database_kind == "sqlite":
        replica = uri_of(shutil.copy(two.database, tmp_path / "replica.db"))
    else:
        cluster, name = postgres.start(), two.database.rpartition("/")[2]
        two.store._dispose_engine()
        replica = cluster.url(cluster.create(f"{name}-replica", name))
    for variable, value in {
        "KFM_REGISTRY_KEY": two.world.key("registry"),
        "KFM_POLICY_DIR": two.world.policies,
        "KFM_ARTIFACTS_DESTINATION": two.area,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        READ_REPLICA_VARIABLE: replica,
    }.items():
        monkeypatch.setenv(variable, str(value))
    store = build_store(f"kfm+{uri_of(two.database)}")
    # The replica lags: it will never hear of this.
    answer = store.transition_model_version_stage(
        NAME, "2", "Production", archive_existing_versions=True
    )
    assert answer.current_stage == "Production"
    assert store.get_model_version(NAME, "2").current_stage == "Staging"
    assert store.snapshot(NAME, 2).level is Level.PRODUCTION
    assert store.move(NAME, 2, Level.PRODUCTION).seq == 0
    with store.on_primary():
        assert store.get_model_version(NAME, "2").current_stage == "Production"
    moved = "SELECT count(*) FROM kfm_ledger WHERE kind = 'moved'"
    assert query(two.database, moved) == [(6,)]
    for engine in (store.engine, store.read_engine):
        engine.dispose()


def test_the_variable_of_the_read_replica_is_mlflows(database_kind):
    with warnings.catch_warnings():
        # MLflow's server imports deprecate each other's dependencies.
        warnings.simplefilter("ignore")
        from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
    assert READ_REPLICA_VARIABLE == READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
