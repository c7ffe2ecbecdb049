"""The lineage of a version from data to deployment, under ``/kfm/api/v1``; read-only.

Put together anew for every answer from the frozen document, the ledger and the statements, so
that it always tells of the last decision. PROV-JSON is what the registry signs; PROV-N and Turtle
are views made from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, request
from sqlalchemy import select

from kfm_mlflow.errors import InputError, IntegrityError
from kfm_mlflow.metadata.prov import prov_views
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records, tables
from kfm_mlflow.registry.api import answers, api, registry
from kfm_mlflow.registry.deployed_prov import DeployedProv, build_deployed, sign_deployed
from kfm_mlflow.registry.history import read_entry
from kfm_mlflow.registry.page_documents import Remembered, beside_frozen
from kfm_mlflow.registry.settings import area_from
from kfm_mlflow.release.freeze import local_bundle
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.ledger import MOVED

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from kfm_mlflow.registry.admission import Admission, Snapshot
    from kfm_mlflow.registry.history import Entry
    from kfm_mlflow.registry.page_documents import Beside
    from kfm_mlflow.registry.records import ReleaseRow
    from kfm_mlflow.registry.store import KfmStore

FORMATS = {
    "json": "application/json",
    "provn": "text/provenance-notation",
    "ttl": "text/turtle",
    "intoto": "application/vnd.dsse.envelope.v1+json",
}
"""Name of a format -> its media type; the first is the one that nobody asked for."""
_PATH = "provenance/provenance.json"
_released: Remembered[bytes] = Remembered()


def _entries(session: Session, snapshot: Snapshot) -> list[Entry]:
    """Return the version's moves, and rows of others that may belong to its story, in order."""
    key, version, ledger = snapshot.model_name, snapshot.version, tables.ledger
    own = records.read_ledger(session, model=key, version=version)
    mine = {row.seq for row in own}
    rows = {
        row.seq: read_entry({**row.fields, "hash": row.hash})
        for row in own
        if row.fields["kind"] == MOVED
    }
    moves = list(rows.values())
    at_production = [e for e in moves if Level.PRODUCTION in (e.from_level, e.to_level)]
    near = {seq for e in at_production for seq in (e.seq - 1, e.seq + 1)} - mine
    for entry in at_production:
        if entry.to_level == Level.PRODUCTION and not _is_held(entry, moves, snapshot):
            taken = session.execute(
                select(ledger.c.seq)
                .join(tables.outbox, tables.outbox.c.seq == ledger.c.seq)
                .where(
                    ledger.c.model == key,
                    ledger.c.version != version,
                    ledger.c.seq > entry.seq,
                    tables.outbox.c.level == str(Level.PRODUCTION),
                )
                .order_by(ledger.c.seq)
                .limit(1)
            ).scalar()
            near |= set() if taken is None else {int(taken)}
    found = session.execute(
        select(ledger).where(ledger.c.model == key, ledger.c.seq.in_(sorted(near)))
    ).mappings()
    rows.update({row["seq"]: read_entry(dict(row)) for row in found})
    return [rows[seq] for seq in sorted(rows)]


def _is_held(entry: Entry, moves: list[Entry], snapshot: Snapshot) -> bool:
    """Return whether the version is Production now by this very row: nobody took its place."""
    return snapshot.level is Level.PRODUCTION and entry is moves[-1]


def _document(admission: Admission, row: ReleaseRow, path: str) -> bytes:
    """Return the document as it was released: the whole release is proven first, once."""

    def read() -> bytes:
        uri = area_from(admission.environ).resolve(row.frozen_uri)
        with local_bundle(uri) as bundle:
            manifest = build_manifest(bundle.release_dir, admission.reader.digests)
            if manifest.release_id != row.release_id:
                raise IntegrityError(
                    f"has release id {manifest.release_id}, admitted was {row.release_id}",
                    where="frozen release",
                )
            content = admission.reader.memory.read(bundle.release_dir, manifest)
        if path not in content.texts:
            raise InputError("the release holds no such lineage", where=path)
        return content.texts[path].encode("utf-8")

    return _released.get((row.release_id, path), read)


def deployed_of(store: KfmStore, snapshot: Snapshot, beside: Beside | None = None) -> DeployedProv:
    """Return the lineage of a version up to the last decision about it.

    Args:
        store: The registry.
        snapshot: The version.
        beside: What lies beside the frozen release, if it was read just now.

    Raises:
        InputError: Nothing was frozen for it, or the release holds no lineage.
        IntegrityError: The frozen release is no longer what was admitted.
        EvidenceError: The lineage is none that can be extended.
        StorageError: The frozen release cannot be read.
    """
    row = snapshot.release
    if row is None:
        raise InputError(
            f"v{snapshot.version} is not frozen yet", where="lineage", remedy="move it to Staging"
        )
    policy = store.admission.policy(snapshot.family)
    released = _document(
        store.admission, row, policy.gates.prov.path if policy.gates.prov else _PATH
    )
    with store.ManagedSessionMaker(read_only=False) as session:
        entries = _entries(session, snapshot)
    if beside is None:
        beside = beside_frozen(store.admission, row)
    return build_deployed(
        released,
        entries,
        version=snapshot.version,
        trust=policy.trust,
        envelopes=[*snapshot.envelopes, *(data for _, data in beside.envelopes)],
    )


def _asked_format() -> str:
    asked = request.args.get("format")
    if asked is None:
        wanted = request.accept_mimetypes.best_match(list(FORMATS.values()))
        return next((name for name, media in FORMATS.items() if media == wanted), "json")
    if asked not in FORMATS:
        raise InputError(
            f"{asked[:40]!r} is no format", where="format", remedy=f"use {', '.join(FORMATS)}"
        )
    return asked


@api.get("/models/<name>/versions/<version>/prov")
@answers
def prov(name: str, version: int) -> Any:
    """Return the lineage of a version from data to deployment.

    ``?format=json``, ``provn``, ``ttl``, or ``intoto`` for what the registry signs; without it,
    by ``Accept``.
    """
    chosen, store = _asked_format(), registry()
    found = deployed_of(store, store.snapshot(name, version))
    body = found.document
    if chosen == "intoto":
        admission = store.admission
        body = sign_deployed(found, admission.signer, admission.clock())
    elif chosen != "json":
        body = prov_views(found.document)[chosen].encode("utf-8")
    media = FORMATS[chosen]
    text = f"{media}; charset=utf-8" if media.startswith("text/") else media
    return Response(body, content_type=text, headers={"Vary": "Accept"})
