"""The last line: database triggers that refuse what did not come through the governed store.

A plain MLflow server on the same database, MLflow's client with a database URI, psql: none of
them asks any gate. So the database itself refuses a change of level, alias, storage location or
ledger, unless the transaction holds a permit: a row in ``kfm_permit`` that a unit of work inserts
first and deletes last, so that no other connection ever sees it. What is append-only is so for
everybody, permit or not.

Whoever may insert a permit, or drop a trigger, gets past: this guards against software that does
not know better, and on PostgreSQL against every role that has no rights on ``kfm_permit``.
MLflow's own migrations rebuild tables on SQLite and lose the triggers with them; hence they are
verified at every start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from sqlalchemy import delete, func, select, text

from kfm_mlflow.policy.levels import ALIASES, STAGES
from kfm_mlflow.registry import tables
from kfm_mlflow.release.area import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from sqlalchemy import Connection

_STAGES = ", ".join(sorted(f"'{stage.lower()}'" for stage in set(STAGES.values())))
_ALIASES = ", ".join(sorted(f"'{alias}'" for names in ALIASES.values() for alias in names))
_NO_PERMIT = "NOT EXISTS (SELECT 1 FROM kfm_permit)"


@dataclass(frozen=True)
class Trigger:
    """One thing that is refused.

    Attributes:
        table: Table that it guards.
        event: ``INSERT``, ``UPDATE``, ``DELETE``, or ``TRUNCATE``, which SQLite has not.
        what: What is refused, as in "KFM refused to …".
        condition: SQL over OLD and NEW, in words that both databases know; empty is always.
            ``<column>`` is whether a column changes, to or from NULL included.
        permit: Whether our own writes pass.
        suffix: Tells apart triggers of one table and event.
    """

    table: str
    event: str
    what: str
    condition: str = ""
    permit: bool = True
    suffix: str = ""

    @property
    def name(self) -> str:
        """Its name in the database."""
        return f"kfm_guard_{self.table}_{self.event.lower()}{self.suffix}"

    @property
    def message(self) -> str:
        """What whoever is refused is told."""
        return f"KFM refused to {self.what}; go through the governed server (kfm server)"


def _key(row: str) -> str:
    """Return ``trust/model_key.py`` in SQL."""
    return (
        f"(CASE WHEN {row}.workspace = '{DEFAULT_WORKSPACE}' THEN {row}.name"
        f" ELSE {row}.workspace || '/' || {row}.name END)"
    )


def _any_released(row: str, also: str = "") -> str:
    return f"EXISTS (SELECT 1 FROM kfm_release r WHERE r.model = {_key(row)}{also})"  # noqa: S608 - constants


def _released(row: str) -> str:
    return _any_released(row, f" AND r.version = {row}.version")


def _governed_stage(row: str) -> str:
    return f"coalesce(lower({row}.current_stage), '') IN ({_STAGES})"


def _level_alias(row: str) -> str:
    return f"lower({row}.alias) IN ({_ALIASES})"


_MODELS, _VERSIONS, _ALIAS_ROWS = "registered_models", "model_versions", "registered_model_aliases"
_MODEL_TAGS = "registered_model_tags"


def _kind(row: str) -> str:
    # No look at MLflow's other tables: its migrations rename them, which SQLite then refuses.
    return f"{row}.key = '{IS_PROMPT_TAG_KEY}'"


_LEVELS = (
    Trigger(
        _VERSIONS,
        "UPDATE",
        "change a governed stage",
        f"<current_stage> AND ({_governed_stage('OLD')} OR {_governed_stage('NEW')})",
        suffix="_stage",
    ),
    Trigger(_VERSIONS, "INSERT", "insert a version at a governed stage", _governed_stage("NEW")),
    Trigger(_ALIAS_ROWS, "INSERT", "set an alias that names a level", _level_alias("NEW")),
    Trigger(
        _ALIAS_ROWS,
        "UPDATE",
        "change an alias that names a level",
        f"{_level_alias('OLD')} OR {_level_alias('NEW')}",
    ),
    Trigger(_ALIAS_ROWS, "DELETE", "delete an alias that names a level", _level_alias("OLD")),
    # Prompts are not governed, so a model that became one would be free of every gate.
    *(
        Trigger(_MODEL_TAGS, event, "say what is a prompt and what a model", which)
        for event, which in (
            ("INSERT", _kind("NEW")),
            ("UPDATE", f"{_kind('OLD')} OR {_kind('NEW')}"),
            ("DELETE", _kind("OLD")),
        )
    ),
)
_RELEASED = (
    Trigger(
        _VERSIONS,
        "UPDATE",
        "change where a version is read from",
        "<storage_location>",
        suffix="_location",
    ),
    Trigger(
        _VERSIONS,
        "UPDATE",
        "rename or delete a version that was released",
        "(<workspace> OR <name> OR <version>"
        " OR (<current_stage> AND NEW.current_stage = 'Deleted_Internal'))"
        f" AND ({_released('OLD')} OR {_released('NEW')})",
        suffix="_identity",
    ),
    Trigger(
        _VERSIONS,
        "INSERT",
        "replace a version that was released",
        _released("NEW"),
        suffix="_again",
    ),
    Trigger(_VERSIONS, "DELETE", "delete a version that was released", _released("OLD")),
    Trigger(
        _MODELS,
        "UPDATE",
        "rename a model that was released",
        f"<name> AND ({_any_released('OLD')} OR {_any_released('NEW')})",
    ),
    # Family and registrations are kept under the model's key, and nobody moves those.
    Trigger(
        _MODELS, "UPDATE", "move a model to another workspace", "<workspace>", suffix="_workspace"
    ),
    Trigger(_MODELS, "DELETE", "delete a model that was released", _any_released("OLD")),
)
_APPENDED = ("kfm_ledger", "kfm_outbox", "kfm_release", "kfm_attestation")
_RECORDS = (
    *(Trigger(table, "INSERT", f"write {table}") for table in _APPENDED[:3]),
    *(
        Trigger(table, event, f"write {table}")
        for table in ("kfm_model", "kfm_registration")
        for event in ("INSERT", "UPDATE", "DELETE")
    ),
    *(
        Trigger(table, event, f"change {table}; it is append-only", permit=False)
        for table in _APPENDED
        for event in ("UPDATE", "DELETE", "TRUNCATE")
    ),
    # INSERT OR REPLACE deletes, and SQLite tells no trigger of that.
    Trigger(
        "kfm_attestation",
        "INSERT",
        "change kfm_attestation; it is append-only",
        "EXISTS (SELECT 1 FROM kfm_attestation a WHERE a.digest = NEW.digest)",
        permit=False,
    ),
    *(
        Trigger(table, "TRUNCATE", f"empty {table}", permit=False)
        for table in (_MODELS, _VERSIONS, _ALIAS_ROWS, "kfm_model", "kfm_registration")
    ),
)
TRIGGERS = (*_LEVELS, *_RELEASED, *_RECORDS)
"""Everything that is refused; TRUNCATE on PostgreSQL only."""


def _condition(trigger: Trigger, differs: str) -> str:
    """Return a trigger's condition, in which ``<column>`` says that the column changes."""
    spelt = re.sub(r"<(\w+)>", rf"(OLD.\1 {differs} NEW.\1)", trigger.condition)
    parts = [f"({spelt})"] if spelt else []
    return " AND ".join([*parts, _NO_PERMIT] if trigger.permit else parts)


def missing_triggers(connection: Connection) -> list[str]:
    """Return the names of triggers that are missing, disabled or not as this release makes them.

    Args:
        connection: To a database that has MLflow's tables and ours.
    """
    return [trigger.name for trigger in _missing(connection)]


def install_triggers(connection: Connection) -> None:
    """Install every trigger that :func:`missing_triggers` names; the caller commits."""
    dialect = connection.dialect.name
    for trigger in _missing(connection):
        statements = (
            _postgresql_statements(trigger, _schema(connection))
            if dialect == "postgresql"
            else (f"DROP TRIGGER IF EXISTS {trigger.name}", _sqlite_statement(trigger))
        )
        for statement in statements:
            connection.exec_driver_sql(statement)


def open_permit_count(connection: Connection) -> int:
    """Return how many permits this connection sees; every one opens all triggers.

    Units of work show theirs to nobody, so outside of one this is 0.
    """
    return int(connection.execute(select(func.count()).select_from(tables.permit)).scalar() or 0)


def withdraw_permits(connection: Connection) -> int:
    """Delete permits that somebody committed, and return how many there were."""
    return connection.execute(delete(tables.permit)).rowcount


def _missing(connection: Connection) -> list[Trigger]:
    if connection.dialect.name == "postgresql":
        found = _postgresql_found(connection)
        return [t for t in TRIGGERS if found.get((t.table, t.name)) != _postgresql_expected(t)]
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    texts = {str(row[0]): row[1] for row in rows}
    wanted = [trigger for trigger in TRIGGERS if trigger.event != "TRUNCATE"]
    return [t for t in wanted if texts.get(t.name) != _sqlite_statement(t)]


# -- SQLite ----------------------------------------------------------------------------------------


def _sqlite_statement(trigger: Trigger) -> str:
    condition = _condition(trigger, "IS NOT")
    when = f" WHEN {condition}" if condition else ""
    return (
        f"CREATE TRIGGER {trigger.name} BEFORE {trigger.event} ON {trigger.table}"
        f" FOR EACH ROW{when} BEGIN SELECT RAISE(ABORT, '{trigger.message}'); END"
    )


# -- PostgreSQL ------------------------------------------------------------------------------------

_EVENT_BIT = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
_ROW, _BEFORE = 1, 2
_FOUND = """
SELECT c.relname, t.tgname, t.tgtype, p.prosrc, p.prosecdef AND p.proconfig IS NOT NULL
  AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND t.tgattr = ''
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('kfm_permit'))
"""


def _schema(connection: Connection) -> str:
    query = text("""SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n
        ON n.oid = c.relnamespace WHERE c.oid = to_regclass('kfm_permit')""")
    return str(connection.execute(query).scalar_one())


def _postgresql_found(
    connection: Connection,
) -> dict[tuple[str, str], tuple[int, str, bool]]:
    rows = connection.exec_driver_sql(_FOUND)
    return {(str(r[0]), str(r[1])): (int(r[2]), str(r[3]), bool(r[4])) for r in rows}


def _postgresql_expected(trigger: Trigger) -> tuple[int, str, bool]:
    row = 0 if trigger.event == "TRUNCATE" else _ROW
    return (_BEFORE | row | _EVENT_BIT[trigger.event], _postgresql_body(trigger), True)


def _postgresql_body(trigger: Trigger) -> str:
    refuse = f"RAISE EXCEPTION USING MESSAGE = '{trigger.message}';"
    condition = _condition(trigger, "IS DISTINCT FROM")
    if not condition:
        return f"BEGIN {refuse} END"
    # The row as it is to be written; OLD where nothing is.
    row = "OLD" if trigger.event == "DELETE" else "NEW"
    return f"BEGIN IF {condition} THEN {refuse} END IF; RETURN {row}; END"


def _postgresql_statements(trigger: Trigger, schema: str) -> tuple[str, ...]:
    """Return what installs a trigger.

    Its function sees permits and releases with the rights of who installed it, so that a role
    without any rights on our tables is refused in the same words.
    """
    table, name = f"{schema}.{trigger.table}", f"{schema}.{trigger.name}"
    each = "STATEMENT" if trigger.event == "TRUNCATE" else "ROW"
    function = (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = {schema}, pg_temp AS $kfm${_postgresql_body(trigger)}$kfm$"
    )
    made = (
        f"CREATE TRIGGER {trigger.name} BEFORE {trigger.event} ON {table}"
        f" FOR EACH {each} EXECUTE FUNCTION {name}()"
    )
    return (function, f"DROP TRIGGER IF EXISTS {trigger.name} ON {table}", made)
