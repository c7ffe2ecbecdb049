"""Reading and writing MLflow's rows about levels, one narrow statement at a time.

MLflow's own methods load a version with its model, tags and aliases, several queries each, and
look at every version of a model. What a move must know is little and stands at known keys, so
that a move takes as long among 100,000 versions as among 100. Only a stage is not a key: the
index :data:`STAGE_INDEX` makes it one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from sqlalchemy import Table, delete, func, insert, or_, select, update

from kfm_mlflow.policy.levels import ALIASES, STAGES, Level, level_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

_VERSIONS: Table = SqlModelVersion.__table__
_MODELS: Table = SqlRegisteredModel.__table__
_ALIASES: Table = SqlRegisteredModelAlias.__table__
_TAGS: Table = SqlRegisteredModelTag.__table__
_GOVERNED_STAGES = tuple(sorted(set(STAGES.values())))
_LEVEL_ALIASES = tuple(sorted(name for names in ALIASES.values() for name in names))

STAGE_INDEX = "kfm_versions_by_governed_stage"
STAGE_INDEX_SQL = (
    f"CREATE INDEX IF NOT EXISTS {STAGE_INDEX} ON model_versions (workspace, name, current_stage)"
    f" WHERE current_stage IN ('{_GOVERNED_STAGES[0]}', '{_GOVERNED_STAGES[1]}')"
)
"""An index on MLflow's table, which MLflow's own migrations may drop: it is made at every start."""


def _of(table: Table, workspace: str, name: str) -> ColumnElement[bool]:
    return (table.c.workspace == workspace) & (table.c.name == name)


def is_prompt(session: Session, workspace: str, name: str) -> bool | None:
    """Return whether a registered model is a prompt, or None when there is no such model.

    MLflow tells the two apart by a tag.
    """
    found = session.execute(
        select(_MODELS.c.name, _TAGS.c.value)
        .select_from(
            _MODELS.outerjoin(
                _TAGS,
                (_TAGS.c.workspace == _MODELS.c.workspace)
                & (_TAGS.c.name == _MODELS.c.name)
                & (_TAGS.c.key == IS_PROMPT_TAG_KEY),
            )
        )
        .where(_of(_MODELS, workspace, name))
    ).first()
    return None if found is None else str(found.value).lower() == "true"


def levels(session: Session, workspace: str, name: str) -> dict[int, Level]:
    """Return version -> level of every version of a model that is above candidate."""
    stages = {
        int(row.version): str(row.current_stage)
        for row in session.execute(
            select(_VERSIONS.c.version, _VERSIONS.c.current_stage).where(
                _of(_VERSIONS, workspace, name),
                # Literally as the partial index says it, or no database would use that.
                or_(*(_VERSIONS.c.current_stage == _literal(stage) for stage in _GOVERNED_STAGES)),
            )
        )
    }
    aliases: dict[int, list[str]] = {}
    for row in session.execute(
        select(_ALIASES.c.version, _ALIASES.c.alias).where(_of(_ALIASES, workspace, name))
    ):
        aliases.setdefault(int(row.version), []).append(str(row.alias))
    found = {v: level_of(stages.get(v), aliases.get(v, ())) for v in {*stages, *aliases}}
    return {version: level for version, level in found.items() if level is not Level.CANDIDATE}


def _literal(text: str) -> Any:
    from sqlalchemy import literal_column

    return literal_column(f"'{text}'")


def source_of(session: Session, workspace: str, name: str, version: int) -> str | None:
    """Return where a version's artifacts are read from; None when there is no such version."""
    row = session.execute(
        select(_VERSIONS.c.source, _VERSIONS.c.storage_location, _VERSIONS.c.current_stage).where(
            _of(_VERSIONS, workspace, name), _VERSIONS.c.version == version
        )
    ).first()
    if row is None or row.current_stage == "Deleted_Internal":
        return None
    return str(row.storage_location or row.source)


def write_level(
    session: Session,
    workspace: str,
    name: str,
    version: int,
    level: Level,
    *,
    stage: str,
    frozen_uri: str,
    at_ms: int,
) -> None:
    """Write a level: stage, aliases, storage location, and the former Production to Archived.

    Args:
        session: Open unit of work.
        workspace: MLflow workspace.
        name: Registered model.
        version: Model version, which there is.
        level: Its new level.
        stage: MLflow stage when the level has none of its own.
        frozen_uri: Where the frozen release lies; empty leaves the location alone.
        at_ms: Milliseconds since 1970.
    """
    mine = (_of(_VERSIONS, workspace, name), _VERSIONS.c.version == version)
    if level is Level.PRODUCTION:
        session.execute(
            update(_VERSIONS)
            .where(
                _of(_VERSIONS, workspace, name),
                _VERSIONS.c.version != version,
                _VERSIONS.c.current_stage == _literal(STAGES[Level.PRODUCTION]),
            )
            .values(current_stage="Archived", last_updated_time=at_ms)
        )
    values: dict[str, Any] = {
        "current_stage": STAGES.get(level, stage),
        "last_updated_time": at_ms,
    }
    if frozen_uri:
        values["storage_location"] = frozen_uri
    session.execute(update(_VERSIONS).where(*mine).values(**values))
    session.execute(
        update(_MODELS).where(_of(_MODELS, workspace, name)).values(last_updated_time=at_ms)
    )
    session.execute(
        delete(_ALIASES).where(
            _of(_ALIASES, workspace, name),
            or_(
                _ALIASES.c.alias.in_(ALIASES[level]),
                (_ALIASES.c.version == version) & func.lower(_ALIASES.c.alias).in_(_LEVEL_ALIASES),
            ),
        )
    )
    if ALIASES[level]:
        session.execute(
            insert(_ALIASES),
            [
                {"workspace": workspace, "name": name, "alias": alias, "version": version}
                for alias in ALIASES[level]
            ],
        )
