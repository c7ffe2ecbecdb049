"""What the pages list, one page at a time: every query walks a key from where the last one ended.

Nothing here counts or sorts a whole table, so that a page costs the same among 100,000 versions
as among ten. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)
from sqlalchemy import Table, exists, func, select

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.records import LedgerRow
from kfm_mlflow.trust.ledger import MOVED
from kfm_mlflow.trust.model_key import model_key

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_MODELS: Table = SqlRegisteredModel.__table__
_VERSIONS: Table = SqlModelVersion.__table__
_TAGS: Table = SqlRegisteredModelTag.__table__
_DELETED = "Deleted_Internal"


@dataclass(frozen=True)
class VersionLine:
    """One version in a model's list.

    Attributes:
        version: Model version.
        created_ms: Milliseconds since 1970.
        release_version: Human tag; empty when nothing was frozen.
        release_id: ``sha256:<hex>``; empty when nothing was frozen.
        frozen_at: RFC 3339 instant; empty when nothing was frozen.
    """

    version: int
    created_ms: int
    release_version: str
    release_id: str
    frozen_at: str


def model_names(
    session: Session, workspace: str, *, after: str = "", matching: str = "", limit: int
) -> list[str]:
    """Return names of registered models, no prompts, in order.

    Args:
        session: Open session.
        workspace: MLflow workspace.
        after: Name that the last page ended with; empty begins.
        matching: Part of the name, in any case; empty takes all.
        limit: Most names to return.
    """
    prompt = exists().where(
        _TAGS.c.workspace == _MODELS.c.workspace,
        _TAGS.c.name == _MODELS.c.name,
        _TAGS.c.key == IS_PROMPT_TAG_KEY,
        func.lower(_TAGS.c.value) == "true",
    )
    query = select(_MODELS.c.name).where(_MODELS.c.workspace == workspace, ~prompt)
    if after:
        query = query.where(_MODELS.c.name > after)
    if matching:
        query = query.where(func.lower(_MODELS.c.name).contains(matching.lower(), autoescape=True))
    return [
        str(name) for name in session.execute(query.order_by(_MODELS.c.name).limit(limit)).scalars()
    ]


def newest_version(session: Session, workspace: str, name: str) -> int | None:
    """Return the highest version of a model; None when it has none."""
    found = session.execute(
        select(_VERSIONS.c.version)
        .where(
            _VERSIONS.c.workspace == workspace,
            _VERSIONS.c.name == name,
            _VERSIONS.c.current_stage != _DELETED,
        )
        .order_by(_VERSIONS.c.version.desc())
        .limit(1)
    ).scalar()
    return None if found is None else int(found)


def version_lines(
    session: Session, workspace: str, name: str, *, before: int | None = None, limit: int
) -> list[VersionLine]:
    """Return versions of a model, newest first.

    Args:
        session: Open session.
        workspace: MLflow workspace.
        name: Registered model.
        before: Version that the last page ended with; None begins.
        limit: Most versions to return.
    """
    frozen = tables.release
    query = (
        select(
            _VERSIONS.c.version,
            _VERSIONS.c.creation_time,
            frozen.c.release_version,
            frozen.c.release_id,
            frozen.c.frozen_at,
        )
        .select_from(
            _VERSIONS.outerjoin(
                frozen,
                (frozen.c.model == model_key(workspace, name))
                & (frozen.c.version == _VERSIONS.c.version),
            )
        )
        .where(
            _VERSIONS.c.workspace == workspace,
            _VERSIONS.c.name == name,
            _VERSIONS.c.current_stage != _DELETED,
        )
    )
    if before is not None:
        query = query.where(_VERSIONS.c.version < before)
    return [
        VersionLine(
            int(row.version),
            int(row.creation_time or 0),
            str(row.release_version or ""),
            str(row.release_id or ""),
            str(row.frozen_at or ""),
        )
        for row in session.execute(query.order_by(_VERSIONS.c.version.desc()).limit(limit))
    ]


def ledger_rows(
    session: Session,
    *,
    model: str | None = None,
    version: int | None = None,
    before: int | None = None,
    limit: int,
) -> list[LedgerRow]:
    """Return ledger rows, newest first.

    Args:
        session: Open session.
        model: Of this model only.
        version: Of this version only.
        before: Row that the last page ended with; None begins.
        limit: Most rows to return.
    """
    query = select(tables.ledger)
    if model is not None:
        query = query.where(tables.ledger.c.model == model)
    if version is not None:
        query = query.where(tables.ledger.c.version == version)
    if before is not None:
        query = query.where(tables.ledger.c.seq < before)
    query = query.order_by(tables.ledger.c.seq.desc()).limit(limit)
    return [_row(row) for row in session.execute(query)]


def ledger_row(session: Session, seq: int) -> LedgerRow | None:
    """Return one row of the ledger."""
    row = session.execute(select(tables.ledger).where(tables.ledger.c.seq == seq)).first()
    return None if row is None else _row(row)


def last_move(session: Session, model: str, version: int) -> LedgerRow | None:
    """Return the row that gave a version the level that the ledger last knew it at."""
    row = session.execute(
        select(tables.ledger)
        .where(
            tables.ledger.c.model == model,
            tables.ledger.c.version == version,
            tables.ledger.c.kind == MOVED,
        )
        .order_by(tables.ledger.c.seq.desc())
        .limit(1)
    ).first()
    return None if row is None else _row(row)


def moves_of(session: Session, model: str, version: int) -> list[LedgerRow]:
    """Return the rows that moved a version, in order."""
    query = select(tables.ledger).where(
        tables.ledger.c.model == model,
        tables.ledger.c.version == version,
        tables.ledger.c.kind == MOVED,
    )
    return [_row(row) for row in session.execute(query.order_by(tables.ledger.c.seq))]


def former_production(session: Session, model: str, *, limit: int) -> list[int]:
    """Return the versions that a successor took the place of at Production, the last first.

    One that was taken down from there, as a rollback does, is none of them.

    Args:
        session: Open session.
        model: The model's key.
        limit: Most versions to return; the one at Production now is among them.
    """
    moves = session.execute(
        select(tables.outbox.c.version, tables.outbox.c.level)
        .where(tables.outbox.c.model == model)
        .order_by(tables.outbox.c.seq.desc())
    )
    last: dict[int, str] = {}
    for version, level in moves:
        last.setdefault(int(version), str(level))
    return [version for version, level in last.items() if level == Level.PRODUCTION][:limit]


def _row(row: Any) -> LedgerRow:
    names = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")
    return LedgerRow(**{name: row._mapping[name] for name in names})  # noqa: SLF001 - SQLAlchemy's public name


def frozen_at(session: Session, model: str, version: int) -> str:
    """Return when a version's release was frozen; empty when it was not."""
    found = session.execute(
        select(tables.release.c.frozen_at).where(
            tables.release.c.model == model, tables.release.c.version == version
        )
    ).scalar()
    return str(found or "")
