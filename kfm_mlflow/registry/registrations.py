"""Who registered a version: whoever did does not approve it.

Rows belong to a version of this very model: they go when the model is renamed or deleted, which is
possible only as long as nothing of it was released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from kfm_mlflow.registry import tables
from kfm_mlflow.registry.actor import UNAUTHENTICATED
from kfm_mlflow.registry.records import instant

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from kfm_mlflow.registry.actor import Actor

_ROWS = tables.registration


def record_registration(
    session: Session, model: str, version: int, actor: Actor, now: datetime
) -> None:
    """Keep who registered a version.

    A user may be called ``unauthenticated``; their versions then count as nobody's, which is the
    stricter reading.
    """
    # What plain MLflow deleted on this database may have left its row.
    session.execute(delete(_ROWS).where(_ROWS.c.model == model, _ROWS.c.version == version))
    session.execute(
        insert(_ROWS).values(
            model=model,
            version=version,
            actor=actor.name if actor.authenticated else UNAUTHENTICATED,
            at=instant(now),
        )
    )


def registrar(session: Session, model: str, version: int) -> str | None:
    """Return the user who registered a version; None when nobody was logged in, or nobody knows."""
    found = session.execute(
        select(_ROWS.c.actor).where(_ROWS.c.model == model, _ROWS.c.version == version)
    ).scalar()
    return None if found in (None, UNAUTHENTICATED) else str(found)


def rename_registrations(session: Session, model: str, new_name: str) -> None:
    """Carry a model's registrations over to its new name."""
    session.execute(update(_ROWS).where(_ROWS.c.model == model).values(model=new_name))


def forget_registrations(session: Session, model: str) -> None:
    """Forget who registered the versions of a model that was deleted."""
    session.execute(delete(_ROWS).where(_ROWS.c.model == model))
