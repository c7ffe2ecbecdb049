"""Reading and writing our rows: ledger, outbox, releases, families, attestations, journal.

Every function takes an open session; none decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import bindparam, delete, func, insert, select, update

from kfm_mlflow.canonical import digest_bytes, digest_json
from kfm_mlflow.errors import ConflictError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.transaction import take_lock
from kfm_mlflow.trust.ledger import GENESIS, MOVED, row_hash

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy.orm import Session

_RANKS = {str(level): level.rank for level in Level}

# What every move asks, built once: putting a statement together costs as much as running it.
_HEAD = (
    select(tables.ledger.c.seq, tables.ledger.c.hash).order_by(tables.ledger.c.seq.desc()).limit(1)
)
_ADD_ROW, _ADD_EVENT = insert(tables.ledger), insert(tables.outbox)
_FAMILY = select(tables.model.c.family).where(tables.model.c.name == bindparam("named"))
_RELEASES = select(tables.release).where(
    tables.release.c.model == bindparam("named"),
    tables.release.c.version.in_(bindparam("numbered", expanding=True)),
)
_ENVELOPES = (
    select(tables.attestation.c.envelope)
    .where(tables.attestation.c.release_id.in_(bindparam("of", expanding=True)))
    .order_by(tables.attestation.c.digest)
)
_JOURNEY = (
    select(tables.outbox.c.level)
    .where(
        tables.outbox.c.model == bindparam("named"),
        tables.outbox.c.version == bindparam("numbered"),
    )
    .order_by(tables.outbox.c.seq)
)


@dataclass(frozen=True)
class ReleaseRow:
    """What was frozen for a version."""

    version: int
    release_id: str
    release_version: str
    frozen_uri: str


@dataclass(frozen=True)
class LedgerRow:
    """One row of the ledger."""

    seq: int
    at: str
    kind: str
    model: str
    version: int
    body: str
    prev_hash: str
    hash: str

    @property
    def fields(self) -> dict[str, Any]:
        """What the hash covers besides the previous hash."""
        return {
            "seq": self.seq,
            "at": self.at,
            "kind": self.kind,
            "model": self.model,
            "version": self.version,
            "body": self.body,
        }


def instant(now: datetime) -> str:
    """Write an aware UTC instant with milliseconds, as it is stored and hashed."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


def append_ledger(
    session: Session,
    *,
    kind: str,
    model: str,
    version: int,
    body: str,
    now: datetime,
    level: str = "",
) -> int:
    """Append a row to the ledger, and to the outbox when a level changed.

    Returns:
        The row's number; numbers are contiguous from 1.
    """
    take_lock(session, "ledger")
    last = session.execute(_HEAD).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    row = LedgerRow(seq, instant(now), kind, model, version, body, previous, "")
    hashed = {"prev_hash": previous, "hash": row_hash(previous, row.fields)}
    session.execute(_ADD_ROW, {**row.fields, **hashed})
    if kind == MOVED:
        event = {"seq": seq, "at": row.at, "event": kind, "model": model, "version": version}
        session.execute(_ADD_EVENT, {**event, "level": level})
    return seq


def read_ledger(
    session: Session, *, model: str | None = None, version: int | None = None
) -> list[LedgerRow]:
    """Return ledger rows in order, all of them or those of a model or version."""
    query = select(tables.ledger).order_by(tables.ledger.c.seq)
    if model is not None:
        query = query.where(tables.ledger.c.model == model)
    if version is not None:
        query = query.where(tables.ledger.c.version == version)
    return [LedgerRow(**row._mapping) for row in session.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name


def ledger_head(session: Session) -> int:
    """Return the number of the last ledger row; 0 when there is none."""
    return int(session.execute(select(func.max(tables.ledger.c.seq))).scalar() or 0)


def family(session: Session, model: str) -> str | None:
    """Return the family recorded for a model."""
    found = session.execute(_FAMILY, {"named": model}).scalar()
    return None if found is None else str(found)


def set_family(session: Session, model: str, name: str) -> None:
    """Record the family of a new model."""
    session.execute(insert(tables.model).values(name=model, family=name))


def releases_of(session: Session, model: str, versions: Iterable[int]) -> dict[int, ReleaseRow]:
    """Return version -> what was frozen for it, of those versions that were."""
    rows = session.execute(_RELEASES, {"named": model, "numbered": sorted(set(versions))})
    return {
        int(row.version): ReleaseRow(
            row.version, row.release_id, row.release_version, row.frozen_uri
        )
        for row in rows
    }


def release_version_holder(session: Session, model: str, release_version: str) -> int | None:
    """Return the version of a model that a release version was frozen for."""
    found = session.execute(
        select(tables.release.c.version).where(
            tables.release.c.model == model, tables.release.c.release_version == release_version
        )
    ).scalar()
    return None if found is None else int(found)


def release_version_taken(model: str, release_version: str, holder: int) -> ConflictError:
    """Return the error that says whose a release version is."""
    return ConflictError(
        f"release version {release_version} of {model} is taken by v{holder}",
        remedy="a release version is unique for ever; release again under the next one",
    )


def add_release(session: Session, model: str, row: ReleaseRow, now: datetime) -> None:
    """Record what was frozen for a version.

    Raises:
        ConflictError: The release version was used before by another version of this model.
    """
    taken = release_version_holder(session, model, row.release_version)
    if taken is not None:
        raise release_version_taken(model, row.release_version, taken)
    session.execute(
        insert(tables.release).values(
            model=model,
            version=row.version,
            release_id=row.release_id,
            release_version=row.release_version,
            frozen_uri=row.frozen_uri,
            frozen_at=instant(now),
        )
    )


def subject_of(model: str, version: int | None = None) -> str:
    """Return what stands for a version, or a whole model, where else a release id stands.

    What an authority says may come before the release is frozen, or be about all of a model.
    """
    return digest_json({"model": model, "version": version})


def attestations(session: Session, *subjects: str) -> tuple[bytes, ...]:
    """Return every envelope about some releases, versions or models, in a fixed order."""
    found = session.execute(_ENVELOPES, {"of": subjects})
    return tuple(str(text).encode() for text in found.scalars())


def add_attestation(
    session: Session, *, release_id: str, kind: str, envelope: bytes, now: datetime
) -> str:
    """Keep an envelope about a release; keeping it twice is once.

    Returns:
        Its digest.
    """
    digest = digest_bytes(envelope)
    known = session.execute(
        select(tables.attestation.c.digest).where(tables.attestation.c.digest == digest)
    ).scalar()
    if known is None:
        session.execute(
            insert(tables.attestation).values(
                digest=digest,
                release_id=release_id,
                kind=kind,
                received_at=instant(now),
                envelope=envelope.decode("utf-8"),
            )
        )
    return digest


def read_journal(session: Session, model: str) -> tuple[int, str] | None:
    """Return (generation, state) of a model's rollout."""
    row = session.execute(select(tables.journal).where(tables.journal.c.model == model)).first()
    return None if row is None else (int(row.generation), str(row.state))


def write_journal(session: Session, model: str, state: str, *, expected: int, now: datetime) -> int:
    """Write a rollout's state if its generation is still the expected one.

    Args:
        session: Open session.
        model: Registered model.
        state: JSON text.
        expected: Generation that was read; 0 when there was none.
        now: Time of writing.

    Returns:
        The new generation.

    Raises:
        ConflictError: Somebody else wrote in between.
    """
    found = read_journal(session, model)
    if (found[0] if found else 0) != expected:
        raise ConflictError(
            f"the rollout of {model} is at generation {found[0] if found else 0}, not {expected}",
            remedy="only one controller may run; read the journal again",
        )
    values = {"generation": expected + 1, "updated_at": instant(now), "state": state}
    if found is None:
        session.execute(insert(tables.journal).values(model=model, **values))
    else:
        session.execute(
            update(tables.journal).where(tables.journal.c.model == model).values(**values)
        )
    return expected + 1


def epoch(session: Session, model: str, version: int) -> int:
    """Return how many journeys of a version are over; votes of an earlier one are void.

    A journey ends when the version is taken down, be it from canary to staging, and when it
    reaches Production, where the votes are spent: a successor may archive it without a row.
    """
    found = session.execute(_JOURNEY, {"named": model, "numbered": version})
    ranks = [_RANKS[text] for text in found.scalars()]
    return sum(
        rank == Level.PRODUCTION.rank or rank < before
        for before, rank in zip([Level.CANDIDATE.rank, *ranks], ranks, strict=False)
    )


def left_production(
    session: Session, model: str, version: int
) -> Literal["never", "replaced", "taken down"]:
    """Return how a version left Production when it was last there.

    A successor that takes its place leaves no row of it, so that its next one, if any, says that it
    came to staging. One that was taken down, as a rollback does, has a row that says so.

    Returns:
        ``never`` when it was not there at all; ``replaced`` also while it is there.
    """
    found = session.execute(_JOURNEY, {"named": model, "numbered": version})
    levels = [str(level) for level in found.scalars()]
    if Level.PRODUCTION not in levels:
        return "never"
    last = max(at for at, level in enumerate(levels) if level == Level.PRODUCTION)
    return "taken down" if levels[last + 1 : last + 2] == [Level.CANDIDATE] else "replaced"


def released_versions(session: Session, model: str) -> list[int]:
    """Return every version of a model that was ever frozen."""
    query = select(tables.release.c.version).where(tables.release.c.model == model)
    return [
        int(version)
        for version in session.execute(query.order_by(tables.release.c.version)).scalars()
    ]


def rename_family(session: Session, model: str, new_name: str) -> None:
    """Carry a model's family over to its new name."""
    session.execute(update(tables.model).where(tables.model.c.name == model).values(name=new_name))


def forget_family(session: Session, model: str) -> None:
    """Forget the family of a model that was deleted before anything was released."""
    session.execute(delete(tables.model).where(tables.model.c.name == model))
