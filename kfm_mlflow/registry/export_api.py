"""What an export asks of a server under ``/kfm/api/v1``: regions to tell, and a signature.

Nothing is written. Who may read a version may have its index signed; the registry signs what it
could have listed itself (``export_index.py``), so the list is its own word.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, InputError, IntegrityError
from kfm_mlflow.gates.evidence import policy_regions, trusted_signers
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import tables
from kfm_mlflow.registry.api import answers, api, body_object, registry
from kfm_mlflow.registry.export_index import Known, index_faults, index_statement
from kfm_mlflow.registry.export_keys import index_keys, signer_of
from kfm_mlflow.registry.export_parts import fixed_parts, public_regions
from kfm_mlflow.registry.history import History, read_entry
from kfm_mlflow.registry.prov_api import deployed_of
from kfm_mlflow.registry.settings import area_from
from kfm_mlflow.release.beside import evidence_entries
from kfm_mlflow.release.export import DEPLOYED_FILE, export_facts, release_path
from kfm_mlflow.release.opened import local_bundle
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.ledger_head import LedgerHead, parse_head
from kfm_mlflow.trust.signing import verify_release
from kfm_mlflow.trust.statement import sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from kfm_mlflow.care.rules import Rule
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.registry.store import KfmStore
    from kfm_mlflow.trust.keys import PublicKey

_SHOWN = 3


def _regions(family: str) -> dict[str, Any]:
    admission = registry().admission
    policy, now = admission.policy(family), admission.clock()
    rules = tuple(region.rule_at(now) for region in policy_regions(policy).regions)
    return _regions_under(policy.digest, family, rules)


@lru_cache(maxsize=16)
def _regions_under(policy_digest: str, family: str, rules: tuple[Rule, ...]) -> dict[str, Any]:
    # Covering large regions takes a while, and equal policies have equal regions under equal rules.
    del policy_digest, rules
    admission = registry().admission
    return public_regions(admission.policy(family), admission.clock())


@api.get("/policies/<family>/regions")
@answers
def regions(family: str) -> Any:
    """Return what may be told to everybody of the regions that a policy screens with."""
    return _regions(family)


@api.post("/models/<name>/versions/<version>/export")
@answers
def sign_export(name: str, version: int) -> Any:
    """Sign the index of an export, if it is what the registry itself would list."""
    index, store = body_object(), registry()
    snapshot = store.snapshot(name, version)
    if snapshot.release is None:
        raise InputError(
            "was never frozen", where=f"models:/{name}/{version}", remedy="move it to Staging first"
        )
    try:
        known = _known(store, snapshot, index)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise InputError(f"is no index of an export ({type(exc).__name__})", where="index") from exc
    if faults := index_faults(index, known):
        raise InputError(
            f"is not signed: {'; '.join(faults[:_SHOWN])}",
            where="index",
            remedy="export again, with the kfm-mlflow that the server runs",
        )
    statement = index_statement(index, store.admission.clock())
    return json.loads(sign_statement(statement, store.admission.signer))


def _known(store: KfmStore, snapshot: Snapshot, index: Mapping[str, Any]) -> Known:
    """Return what the registry knows about a version, its evidence and the ledger up to a row."""
    row = snapshot.release
    if row is None:
        raise EvidenceError("was never frozen")
    policy = store.admission.policy(snapshot.family)
    head = parse_head(index["ledger_head"], where="ledger_head")
    with store.ManagedSessionMaker(read_only=True) as session:
        keys = _registry_keys(session, store, index)
        told = _told(session, snapshot, head)
    with local_bundle(area_from(store.admission.environ).resolve(row.frozen_uri)) as bundle:
        beside = {e: entry.digest for e, entry in evidence_entries(bundle.evidence_dir).items()}
        signer = _signer(store, snapshot, policy, index, bundle.signature_path)
    facts = export_facts(
        model_name=snapshot.model_name,
        version=snapshot.version,
        family=snapshot.family,
        release_version=row.release_version,
        release_id=row.release_id,
        policy_digest=policy.digest,
    )
    return Known(
        {**facts, **told, "signer": signer, "keys": index_keys(policy.trust, keys)},
        {
            path: digest_bytes(data)
            for path, data in fixed_parts(policy, keys, _regions(policy.family)).items()
        }
        | _lineage(store, snapshot),
        beside,
        frozenset(digest_bytes(envelope) for envelope in snapshot.envelopes),
    )


def _lineage(store: KfmStore, snapshot: Snapshot) -> dict[str, str]:
    """Return the digest of the lineage up to now; nothing where there is none to extend."""
    try:
        return {DEPLOYED_FILE: digest_bytes(deployed_of(store, snapshot).document)}
    except (InputError, EvidenceError):
        return {}


def _signer(
    store: KfmStore, snapshot: Snapshot, policy: Policy, index: Mapping[str, Any], signature: Path
) -> dict[str, str]:
    """Return who signed the release; the digests count only if they give the release id."""
    row = snapshot.release
    start = f"{release_path(snapshot.family, row.release_version if row else '')}/"
    digests = {
        str(item["path"]).removeprefix(start): f"sha256:{item['sha256']}"
        for item in index["files"]
        if str(item["path"]).startswith(start)
    }
    found = verify_release(
        signature.parent,
        signature,
        trusted_signers(policy.trust),
        store.admission.clock(),
        digests=digests,
    )
    if not found.ok:
        raise IntegrityError("; ".join(found.problems[:_SHOWN]), where="release")
    return signer_of(policy.trust, found.signer)


def _told(session: Session, snapshot: Snapshot, head: LedgerHead) -> dict[str, Any]:
    """Return what the ledger says of a version up to a row."""
    last = session.execute(select(tables.ledger).where(tables.ledger.c.seq == head.seq)).first()
    if last is None:
        raise InputError(f"there is no row {head.seq}", where="ledger_head")
    query = (
        select(tables.ledger)
        .where(tables.ledger.c.model == snapshot.model_name, tables.ledger.c.seq <= head.seq)
        .order_by(tables.ledger.c.seq)
    )
    history, mine = History(snapshot.model_name), []
    for row in session.execute(query).mappings():
        history.add(read_entry(dict(row)))
        mine += [row["seq"]] if row["version"] == snapshot.version else []
    return {
        "ledger_head": LedgerHead(int(last.seq), str(last.hash), str(last.at)).to_dict(),
        "ledger_rows": mine,
        "level": str(history.levels().get(snapshot.version, Level.CANDIDATE)),
    }


def _registry_keys(
    session: Session, store: KfmStore, index: Mapping[str, Any]
) -> tuple[PublicKey, ...]:
    """Return the registry's keys that an index names: its own, and former ones that signed rows."""
    own = store.admission.signer.public_key
    named = [
        parse_public_key(str(key["public_key"]), where="keys")
        for key in index["keys"]
        if key["duty"] == "registry"
    ]
    if own.key_id not in {key.key_id for key in named}:
        raise InputError("does not name the registry's key", where="keys", remedy="name it, too")
    for key in named:
        if key.key_id != own.key_id and not _signed_a_row(session, key):
            raise InputError(f"no row is signed by key {key.key_id[:16]}", where="keys")
    return tuple(named)


def _signed_a_row(session: Session, key: PublicKey) -> bool:
    found = session.execute(
        select(tables.ledger.c.body).where(tables.ledger.c.body.contains(key.key_id)).limit(1)
    ).scalar()
    if found is None:
        return False
    envelope = parse_envelope(json.loads(found), where="row")
    return any(
        item.key_id == key.key_id and key.verifies(item.signature, envelope.pae)
        for item in envelope.signatures
    )
