"""Parts of an export that follow from policy and package: known to who exports and who signs."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.registry.export_keys import anchors, index_keys
from kfm_mlflow.release.export import POLICY_FILE, REGIONS_FILE, SCHEMAS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from importlib.resources.abc import Traversable

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.trust.keys import PublicKey


def public_regions(policy: Policy, now: datetime) -> dict[str, Any]:
    """Return what may be told of the regions that a policy screens with.

    Args:
        policy: Resolved.
        now: When it is told (aware).

    Raises:
        DataError: Its file is missing, or has changed.
    """
    from kfm_mlflow.care.published import published_regions
    from kfm_mlflow.care.regions import load_regions

    regions = load_regions(policy.regions_path, digest=policy.regions_digest)
    return published_regions(regions, now)


def fixed_parts(
    policy: Policy, registry: Sequence[PublicKey], regions: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return path -> bytes of the policy, its regions, keys and the schemas.

    Args:
        policy: Resolved. The SHA-256 of its file is its digest.
        registry: The registry's keys.
        regions: Of :func:`public_regions`.
    """
    found = {
        POLICY_FILE: canonical_bytes(policy.model_dump(mode="json")),
        REGIONS_FILE: canonical_bytes(dict(regions)),
    }
    found |= {key["path"]: key["public_key"].encode() for key in index_keys(policy.trust, registry)}
    return {**found, **dict(anchors(policy.trust).values()), **schemas()}


def schemas() -> dict[str, bytes]:
    """Return path -> bytes of every JSON Schema by which documents of a release are judged."""
    found: dict[str, bytes] = {}
    _collect(files("kfm_mlflow.metadata").joinpath("schemas"), SCHEMAS_FOLDER, found)
    return found


def _collect(folder: Traversable, path: str, found: dict[str, bytes]) -> None:
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        here = f"{path}/{entry.name}"
        if entry.is_dir():
            _collect(entry, here, found)
        elif entry.name.endswith(".json"):
            found[here] = entry.read_bytes()
