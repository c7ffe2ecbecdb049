"""Reading and writing MLflow's rows about levels, one narrow statement at a time.

MLflow's own methods load a version with its model, tags and aliases, several queries each, and
look at every version of a model. What a move must know is little and stands at known keys, so
that a move takes as long among 100,000 versions as among 100. Only a stage is not a key: the
index :data:`STAGE_INDEX` makes it one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from sqlalchemy import (
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from kfm_mlflow.errors import ConflictError
from kfm_mlflow.policy.levels import ALIASES, STAGES, Level, level_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

_VERSIONS: Table = SqlModelVersion.__table__
_MODELS: Table = SqlRegisteredModel.__table__
_ALIASES: Table = SqlRegisteredModelAlias.__table__
_TAGS: Table = SqlRegisteredModelTag.__table__
_VERSION_TAGS: Table = SqlModelVersionTag.__table__
_GOVERNED_STAGES = tuple(sorted(set(STAGES.values())))
_LEVEL_ALIASES = tuple(sorted(name for names in ALIASES.values() for name in names))

STAGE_INDEX = "kfm_versions_by_governed_stage"
STAGE_INDEX_SQL = (
    f"CREATE INDEX IF NOT EXISTS {STAGE_INDEX} ON model_versions (workspace, name, current_stage)"
    f" WHERE current_stage IN ('{_GOVERNED_STAGES[0]}', '{_GOVERNED_STAGES[1]}')"
)
"""An index on MLflow's table, which MLflow's own migrations may drop: it is made at every start."""


# Statements are built once: putting one together costs as much as running it.
def _here(table: Table) -> ColumnElement[bool]:
    return (table.c.workspace == bindparam("in_workspace")) & (table.c.name == bindparam("named"))


def _stage(text: str) -> ColumnElement[bool]:
    # Literally as the partial index says it, or no database would use that.
    return _VERSIONS.c.current_stage == literal_column(f"'{text}'")


_IS_PROMPT = (
    select(_MODELS.c.name, _TAGS.c.value)
    .select_from(
        _MODELS.outerjoin(
            _TAGS,
            (_TAGS.c.workspace == _MODELS.c.workspace)
            & (_TAGS.c.name == _MODELS.c.name)
            & (_TAGS.c.key == IS_PROMPT_TAG_KEY),
        )
    )
    .where(_here(_MODELS))
)
_STAGES_OF = select(_VERSIONS.c.version, _VERSIONS.c.current_stage).where(
    _here(_VERSIONS), or_(*(_stage(stage) for stage in _GOVERNED_STAGES))
)
_ALIASES_OF = select(_ALIASES.c.version, _ALIASES.c.alias).where(_here(_ALIASES))
_SOURCE = select(_VERSIONS.c.source, _VERSIONS.c.storage_location, _VERSIONS.c.current_stage).where(
    _here(_VERSIONS), _VERSIONS.c.version == bindparam("numbered")
)
_VERSION = select(_VERSIONS).where(
    _here(_VERSIONS),
    _VERSIONS.c.version == bindparam("numbered"),
    _VERSIONS.c.current_stage != STAGE_DELETED_INTERNAL,
)
_VERSION_TAGS_OF = select(_VERSION_TAGS).where(
    _here(_VERSION_TAGS), _VERSION_TAGS.c.version == bindparam("numbered")
)
_ARCHIVE_OTHERS = (
    update(_VERSIONS)
    .where(
        _here(_VERSIONS),
        _VERSIONS.c.version != bindparam("numbered"),
        _stage(STAGES[Level.PRODUCTION]),
    )
    .values(current_stage="Archived", last_updated_time=bindparam("at_ms"))
)
_SET_STAGE = (
    update(_VERSIONS)
    .where(
        _here(_VERSIONS),
        _VERSIONS.c.version == bindparam("numbered"),
        _VERSIONS.c.current_stage != STAGE_DELETED_INTERNAL,
    )
    .values(
        current_stage=bindparam("stage"),
        last_updated_time=bindparam("at_ms"),
        storage_location=func.coalesce(bindparam("frozen_uri"), _VERSIONS.c.storage_location),
    )
)
_TOUCH_MODEL = update(_MODELS).where(_here(_MODELS)).values(last_updated_time=bindparam("at_ms"))
_DROP_ALIASES = delete(_ALIASES).where(
    _here(_ALIASES),
    or_(
        _ALIASES.c.alias.in_(bindparam("taken", expanding=True)),
        (_ALIASES.c.version == bindparam("numbered"))
        & func.lower(_ALIASES.c.alias).in_(_LEVEL_ALIASES),
    ),
)
_ADD_ALIAS = insert(_ALIASES)


def is_prompt(session: Session, workspace: str, name: str) -> bool | None:
    """Return whether a registered model is a prompt, or None when there is no such model.

    MLflow tells the two apart by a tag.
    """
    found = session.execute(_IS_PROMPT, {"in_workspace": workspace, "named": name}).first()
    return None if found is None else str(found.value).lower() == "true"


def levels(session: Session, workspace: str, name: str) -> dict[int, Level]:
    """Return version -> level of every version of a model that is above candidate."""
    where = {"in_workspace": workspace, "named": name}
    stages = {int(v): str(stage) for v, stage in session.execute(_STAGES_OF, where)}
    aliases: dict[int, list[str]] = {}
    for version, alias in session.execute(_ALIASES_OF, where):
        aliases.setdefault(int(version), []).append(str(alias))
    found = {v: level_of(stages.get(v), aliases.get(v, ())) for v in {*stages, *aliases}}
    return {version: level for version, level in found.items() if level is not Level.CANDIDATE}


def source_of(session: Session, workspace: str, name: str, version: int) -> str | None:
    """Return where a version's artifacts are read from; None when there is no such version."""
    where = {"in_workspace": workspace, "named": name, "numbered": version}
    row = session.execute(_SOURCE, where).first()
    if row is None or row.current_stage == STAGE_DELETED_INTERNAL:
        return None
    return str(row.storage_location or row.source)


def version_entity(session: Session, workspace: str, name: str, version: int) -> Any:
    """Return a version that there is, as ``SqlAlchemyStore.get_model_version`` does."""
    where = {"in_workspace": workspace, "named": name, "numbered": version}
    row = session.execute(_VERSION, where).mappings().one()
    tags = session.execute(_VERSION_TAGS_OF, where).mappings()
    found = SqlModelVersion(
        **row, model_version_tags=[SqlModelVersionTag(**tag) for tag in tags]
    ).to_mlflow_entity()
    aliases = session.execute(_ALIASES_OF, where)
    found.aliases = [str(alias) for holder, alias in aliases if int(holder) == version]
    return found


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

    Raises:
        ConflictError: Somebody who is not governed deleted the version.
    """
    model = {"in_workspace": workspace, "named": name}
    this = {**model, "numbered": version}
    if level is Level.PRODUCTION:
        session.execute(_ARCHIVE_OTHERS, {**this, "at_ms": at_ms})
    values = {"stage": STAGES.get(level, stage), "frozen_uri": frozen_uri or None}
    if not session.execute(_SET_STAGE, {**this, **values, "at_ms": at_ms}).rowcount:  # type: ignore[attr-defined]
        raise ConflictError(f"v{version} of {name} was deleted", remedy="read the versions again")
    session.execute(_TOUCH_MODEL, {**model, "at_ms": at_ms})
    session.execute(_DROP_ALIASES, {**this, "taken": ALIASES[level]})
    if ALIASES[level]:
        session.execute(
            _ADD_ALIAS,
            [
                {"workspace": workspace, "name": name, "alias": alias, "version": version}
                for alias in ALIASES[level]
            ],
        )
