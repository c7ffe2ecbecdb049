"""The history of our tables: brought up to date, and verified, at every start of a registry.

Invariants:

1. Our revision stands in ``kfm_alembic_version``, MLflow's in ``alembic_version``; neither history
   touches the other's tables.
2. One process upgrades and the others wait: an advisory lock on PostgreSQL, ``BEGIN IMMEDIATE`` on
   SQLite, where a process that dies half-way leaves nothing.
3. Tables of release 0.1.0, which had no history, are adopted: the first revision creates what is
   not there.
4. Tables of a release that this one does not know are refused.

It needs MLflow's tables to be there. There is no way back: a ledger is never taken down.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry import triggers
from kfm_mlflow.registry.reading import STAGE_INDEX, STAGE_INDEX_SQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

VERSION_TABLE = "kfm_alembic_version"
HEAD = "r3"
"""The revision of this release's tables; asked first, so that a start need not load alembic."""

_ADVISORY_LOCK = 7265616
_PATIENCE_MS = 60_000
_log = logging.getLogger(__name__)


def is_ours(name: str | None) -> bool:
    """Return whether a table is ours, and no business of MLflow's history."""
    return (name or "").startswith("kfm_")


def current_revision(connection: Connection) -> str | None:
    """Return the revision of our tables; None when there are none, or those of release 0.1.0."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def prepare(engine: Engine) -> None:
    """Bring tables, index and triggers up to date; safe when several workers start at once.

    Triggers that were lost or altered since the last start are installed again, and a permit that
    somebody left behind is taken away; both are logged as warnings.

    Raises:
        InputError: The tables are of a newer release.
    """
    with engine.connect() as connection:
        if _is_ready(connection):
            return
    with _alone(engine) as connection:
        before = current_revision(connection)
        if before != HEAD:
            _upgrade(connection, before)
        connection.exec_driver_sql(STAGE_INDEX_SQL)
        lost = triggers.missing_triggers(connection)
        triggers.install_triggers(connection)
        if lost and before == HEAD:
            _log.warning(
                "the registry's triggers were lost or altered and are installed again: %s",
                ", ".join(lost),
            )
        if triggers.withdraw_permits(connection):
            _log.warning(
                "somebody left a row in kfm_permit, so that the registry's triggers refused "
                "nothing; it is taken away; compare levels and ledger with `kfm doctor`"
            )


def _is_ready(connection: Connection) -> bool:
    return (
        current_revision(connection) == HEAD
        and not triggers.missing_triggers(connection)
        and not triggers.open_permit_count(connection)
        and any(i["name"] == STAGE_INDEX for i in inspect(connection).get_indexes("model_versions"))
    )


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that no other process prepares the same database in."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        else:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.commit()


def alembic_config(connection: Connection | None = None) -> Config:
    """Return alembic's settings for our history.

    Args:
        connection: Where revisions run; None to look at the history only.
    """
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, current: str | None) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise InputError(
            f"the tables are of a newer release of kfm-mlflow (revision {current})",
            where=connection.engine.url.render_as_string(hide_password=True),
            remedy="start that release, or restore a copy of the database from before it",
        )
    command.upgrade(config, "head")
