"""Alembic's environment for our tables: the caller's connection, our version table, our names."""

from __future__ import annotations

from typing import Any

from alembic import context

from kfm_mlflow.registry.migrations import VERSION_TABLE, is_ours
from kfm_mlflow.registry.tables import metadata


def _include(item: Any, name: str | None, kind: str, *_: Any) -> bool:
    return is_ours(name if kind == "table" else item.table.name)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_object=_include,
)
with context.begin_transaction():
    context.run_migrations()
