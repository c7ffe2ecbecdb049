"""Regions that name keys, and a registry that screens with them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from registry.world import NAME

from kfm_mlflow.care.authority import Scope, build_claims
from kfm_mlflow.policy.load import PolicySet
from kfm_mlflow.registry.authorities import authorities_of
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from pathlib import Path

    from registry.world import Registry

SECRET = "Quiet Heron Spring"
NORTH, SOUTH = "council-ann", "council-bea"
"""Keys of the session that here speak for the authorities of two regions."""


def box(west: float, south: float, side: float = 0.1) -> dict[str, Any]:
    east, north = west + side, south + side
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def regions_of(registry: Registry, **changed: dict[str, Any]) -> dict[str, Any]:
    """Return a regions file of two regions in Kansas; ``north`` and ``south`` change them."""
    features = []
    for name, key, west in (("north", NORTH, -97.0), ("south", SOUTH, -99.0)):
        properties = {
            "id": name,
            "authority": {
                "name": f"Council of the {name}",
                "contact": "by post",
                "keys": [registry.world.signer(key).public_key.pem],
            },
            "consent": {"status": "granted"},
            "restricted_names": [SECRET],
            **changed.get(name, {}),
        }
        features.append({"type": "Feature", "properties": properties, "geometry": box(west, 38.5)})
    return {"type": "FeatureCollection", "features": features}


def write_regions(registry: Registry, **changed: dict[str, Any]) -> Path:
    """Write the regions file, as somebody would while the server runs."""
    path = registry.area.parent / "regions.geojson"
    path.write_text(json.dumps(regions_of(registry, **changed)))
    return path


def with_regions(registry: Registry, **changed: dict[str, Any]) -> None:
    """Write the regions file, and put the policy in force that names it, as a restart does."""
    path = write_regions(registry, **changed)
    policies = registry.store.admission.policies.policies
    named = policies["climate"].with_regions(path)
    registry.store.admission.policies = PolicySet({**policies, "climate": named})


ASKED = {"consent": {"status": "granted", "scope": "public-stream"}}
"""What makes a release of the session need a region's authority: consent covers another scope."""


def statement(
    registry: Registry, version: int, choice: str, *, region: str = "north", **said: Any
) -> bytes:
    """Sign what an authority says of a version."""
    found = authorities_of(registry.store, registry.store.snapshot(NAME, version))
    about = next((item for item in found["regions"] if item["region"] == region), {})
    claims = build_claims(
        choice,
        region=region,
        region_digest=said.get("region_digest", about.get("region_digest", "")),
        regions_digest=found["regions_digest"],
        scope=said.get("scope", Scope()),
        reason=said.get("reason", "because"),
    )
    binding = Binding(
        NAME,
        found["release_version"],
        said.get("release_id", found["release_id"]),
        found["policy_digest"],
        version,
    )
    key = said.get("key", NORTH if region == "north" else SOUTH)
    expires_at = said.get("expires_at", registry.now + timedelta(days=30))
    made = build_statement(
        "care-authority", binding, claims, said.get("at", registry.now), expires_at
    )
    return sign_statement(made, registry.world.signer(key))


def say(registry: Registry, version: int, choice: str, **said: Any) -> str:
    """Have an authority say something of a version, and send it."""
    return registry.store.add_attestation(
        NAME, version, statement(registry, version, choice, **said)
    )
