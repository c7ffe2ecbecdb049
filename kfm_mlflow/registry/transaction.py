"""One transaction for level, aliases, decision, ledger and outbox.

MLflow's store methods open a session each. Inside a unit of work they join the one that is open,
so that what they write and what we write commit together or not at all. The first statement of a
unit of work updates a lock row: SQLite takes its RESERVED lock, PostgreSQL a row lock, and
everything read afterwards is what will be written against. Nothing slow may happen inside.

A unit of work holds a permit: a row that it takes away again before it commits, so that no other
connection ever sees one. The triggers of ``triggers.py`` refuse who has none.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kfm_mlflow.errors import KfmError
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.migrations import prepare
from kfm_mlflow.registry.translate import to_mlflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

_open: ContextVar[Session | None] = ContextVar("kfm_open_session", default=None)
_TAKEN_COUNT = select(tables.lock.c.taken_count).where(tables.lock.c.name == bindparam("named"))
_GIVE_PERMIT = insert(tables.permit)
_TAKE_PERMIT = delete(tables.permit).where(tables.permit.c.token == bindparam("given"))


class TransactionalStore(SqlAlchemyStore):  # type: ignore[misc]
    """MLflow's SQL store whose methods can share one session."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        """Connect as MLflow does, then prepare our own tables and triggers beside its own."""
        super().__init__(db_uri, read_db_uri=read_db_uri)
        self._own_sessions: Callable[..., Any] = self.__dict__["ManagedSessionMaker"]
        self.ManagedSessionMaker = self._joined
        prepare(self.engine)

    @contextmanager
    def _joined(self, read_only: bool = True) -> Iterator[Session]:  # noqa: FBT001, FBT002 - MLflow's signature
        session = _open.get()
        if session is not None:
            yield session
            session.flush()
            return
        with self._own_sessions(read_only=read_only) as own, _kept_as_ours():
            yield own

    @contextmanager
    def unit_of_work(self, name: str) -> Iterator[Session]:
        """Open the transaction that everything inside shares.

        Args:
            name: What to lock, for example ``model:climate-downscaler``. Entered again inside
                itself, the open transaction goes on.
        """
        outer = _open.get()
        if outer is not None:
            take_lock(outer, name)
            yield outer
            return
        with self._own_sessions(read_only=False) as session, _kept_as_ours():
            take_lock(session, name)
            token = _open.set(session)
            try:
                with _permitted(session):
                    yield session
            finally:
                _open.reset(token)

    @contextmanager
    def on_primary(self) -> Iterator[Session]:
        """Open a session without a lock, so that reads inside see what was just written.

        Outside, MLflow's methods read from a replica where there is one.
        """
        outer = _open.get()
        if outer is not None:
            yield outer
            return
        with self._own_sessions(read_only=False) as session, _kept_as_ours():
            token = _open.set(session)
            try:
                yield session
            finally:
                _open.reset(token)


@contextmanager
def _permitted(session: Session) -> Iterator[None]:
    """Let what is written inside pass the triggers; a rollback takes the permit, too."""
    given = str(uuid4())
    session.execute(_GIVE_PERMIT, {"token": given})
    yield
    session.flush()
    session.execute(_TAKE_PERMIT, {"given": given})


@contextmanager
def _kept_as_ours() -> Iterator[None]:
    """Translate our errors before MLflow's session sees them and makes a retried 500 of them."""
    try:
        yield
    except KfmError as exc:
        raise to_mlflow(exc) from exc


def taken_count(session: Session, name: str) -> int:
    """Return how often a lock was taken by transactions that committed, and by this one."""
    return int(session.execute(_TAKEN_COUNT, {"named": name}).scalar() or 0)


def take_lock(session: Session, name: str) -> None:
    """Lock a named row until the transaction ends, creating it when it is not there."""
    statement = (
        update(tables.lock)
        .where(tables.lock.c.name == name)
        .values(taken_count=tables.lock.c.taken_count + 1)
    )
    if session.execute(statement).rowcount:  # type: ignore[attr-defined]
        return
    try:
        with session.begin_nested():
            session.execute(insert(tables.lock).values(name=name, taken_count=1))
    except IntegrityError:
        # Another transaction created it in between; now it can be waited for.
        session.execute(statement)
