"""JSON about the ledger under ``/kfm/api/v1``; registered on :data:`kfm_mlflow.registry.api.api`.

Rows come in pages, oldest first: a ledger of any length is read without holding it in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import request
from sqlalchemy import select

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.api import answers, api, registry
from kfm_mlflow.registry.moves import MAX_VERSION, parse_version
from kfm_mlflow.trust.ledger_head import LedgerHead, signed_head

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

PAGE_ROWS = 500
MAX_PAGE_ROWS = 1000


def row_number(name: str, default: int, largest: int) -> int:
    """Return a number of the query.

    Raises:
        InputError: It is none, or too large to be written so.
    """
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(largest))):
        raise InputError(f"{text[:40]!r} is no number", where=name, remedy=f"use 0 to {largest}")
    return min(int(text), largest)


@api.get("/ledger")
@answers
def ledger() -> Any:
    """Return ledger rows, oldest first: ``?model=&version=&after=&limit=``.

    A model is of the workspace that the request is in; without one, rows are of all workspaces.

    ``next_after`` is what to ask for next; null when there was no further row.
    """
    text = request.args.get("version")
    version = None if text is None else parse_version(text)
    after = row_number("after", 0, MAX_VERSION)
    limit = max(1, row_number("limit", PAGE_ROWS, MAX_PAGE_ROWS))
    query = select(tables.ledger).where(tables.ledger.c.seq > after)
    if (model := request.args.get("model")) is not None:
        query = query.where(tables.ledger.c.model == registry().key_of(model))
    if version is not None:
        query = query.where(tables.ledger.c.version == version)
    with registry().ManagedSessionMaker(read_only=True) as session:
        found = session.execute(query.order_by(tables.ledger.c.seq).limit(limit + 1))
        rows = [dict(row) for row in found.mappings()]
    more = len(rows) > limit
    return {"rows": rows[:limit], "next_after": rows[limit - 1]["seq"] if more else None}


def head_of(session: Session) -> LedgerHead:
    """Return the last row's number, hash and instant."""
    row = session.execute(
        select(tables.ledger.c.seq, tables.ledger.c.hash, tables.ledger.c.at)
        .order_by(tables.ledger.c.seq.desc())
        .limit(1)
    ).first()
    return LedgerHead() if row is None else LedgerHead(int(row.seq), str(row.hash), str(row.at))


@api.get("/ledger/head")
@answers
def ledger_head() -> Any:
    """Return the head of the ledger, signed by the registry: keep it where the ledger is not."""
    store = registry()
    with store.ManagedSessionMaker(read_only=True) as session:
        head = head_of(session)
    return signed_head(head, store.admission.signer)


@api.get("/ledger/key")
@answers
def ledger_key() -> Any:
    """Return the public key that the registry signs its decisions with."""
    key = registry().admission.signer.public_key
    return {"key_id": key.key_id, "public_key": key.pem}
