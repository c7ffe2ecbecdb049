"""What authorities must say of a version, what they said, and what one of them signs. Reads only.

Regions are called as findings call them; of an authority there is its name and the ids of its keys,
never how to reach it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.authority import needs_of, region_digest
from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.authority import needs_authority
from kfm_mlflow.gates.evidence import region_keys
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.ruling import ruling_of
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.trust.instants import format_instant

if TYPE_CHECKING:
    from kfm_mlflow.care.authority import Ignored, Statement
    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.registry.store import KfmStore


def authorities_of(store: KfmStore, snapshot: Snapshot) -> dict[str, Any]:
    """Return what the authorities of all regions say of a version, by the regions of today.

    Args:
        store: The registry.
        snapshot: The version.

    Raises:
        InputError: Its bytes are no release.
        DataError: The regions can not be read.
    """
    policy = current_policy(store.admission.policy(snapshot.family))
    move = Move(
        snapshot.model_name,
        snapshot.version,
        Level.CANDIDATE,
        Level.STAGING,
        snapshot.epoch,
        snapshot.production,
        store.admission.clock(),
    )
    return store.admission.examine(snapshot, policy, lambda evidence: _told(evidence, policy, move))


def _told(evidence: Evidence, policy: Policy, move: Move) -> dict[str, Any]:
    regions = evidence.regions
    if regions is None:
        raise InputError(
            evidence.manifest_problem or "is no release",
            where=f"models:/{move.model_name}/{move.version}",
        )
    ruling, asked = ruling_of(evidence, move), needs_authority(evidence, policy, move)
    needs, unmet = needs_of(asked, ()), needs_of(asked, ruling.approved)
    keys = region_keys(regions)
    return {
        "schema_version": "1",
        "model_name": move.model_name,
        "version": move.version,
        "release_id": evidence.release_id,
        "release_version": evidence.release_version,
        "policy_digest": policy.digest,
        "regions_digest": regions.digest,
        "regions": [
            {
                "region": (name := regions.shown(region.id)),
                "authority": None if region.authority is None else regions.shown(region.authority),
                "region_digest": region_digest(region),
                "key_ids": sorted(keys[region.id]),
                "asked": needs.get(name, []),
                "missing": unmet.get(name, []),
                "approval": _said(ruling.approved.get(name), regions),
                "veto": _said(ruling.vetoed.get(name), regions),
            }
            for region in regions.regions
        ],
        "unknown_vetoes": [
            {"region": name, **(_said(said, regions) or {})}
            for name, said in ruling.vetoed.items()
            if name not in {regions.shown(region.id) for region in regions.regions}
        ],
        "ignored": [_ignored(item) for item in ruling.ignored],
    }


def _said(said: Statement | None, regions: RegionSet) -> dict[str, Any] | None:
    if said is None:
        return None
    return {
        "digest": said.digest,
        "issued_at": format_instant(said.issued_at),
        "expires_at": said.expires_at and format_instant(said.expires_at),
        "scope": str(said.scope),
        "reason": regions.shown(said.reason),
        "key_ids": sorted(said.key_ids),
    }


def _ignored(item: Ignored) -> dict[str, Any]:
    said = item.statement
    return {
        "region": said.region,
        "choice": said.choice,
        "code": item.code,
        "why": item.why,
        "digest": said.digest,
        "issued_at": format_instant(said.issued_at),
    }
