"""Whether what is at canary and Production may still be served, by the regions file of today.

A policy is read when the server starts, but consent may be withdrawn and labels may change at any
time, and nobody's restart may be waited for. Moves keep to the policy in force, and are refused
while its regions file is another; what is served is judged by the file as it is now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError
from kfm_mlflow.gates.ruling import standing_of
from kfm_mlflow.policy.levels import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.gates.findings import Finding
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.store import KfmStore

_SERVED = (Level.PRODUCTION, Level.CANARY)
_MOST_TRIED = 5
"""Former Production versions that are judged before there is said to be none."""


def current_policy(policy: Policy) -> Policy:
    """Return a policy with its regions file as it is now; it has another digest if that changed.

    Raises:
        DataError: The file can not be read.
    """
    path = policy.regions_path
    if path is None:
        return policy
    try:
        return policy.with_regions(path)
    except OSError as exc:
        raise DataError(
            f"cannot be read ({exc.strerror})",
            where=path.name,
            remedy="put the regions file back, or correct regions_file in the policy",
        ) from exc


def standing(store: KfmStore, name: str) -> dict[str, Any]:
    """Return whether what a model serves may still be served, and what else it may go back to.

    Args:
        store: The registry.
        name: Registered model.

    Returns:
        ``production`` and ``canary`` with their standing, null where nothing is, and ``fallback``:
        the former Production version that may be restored; null unless it is asked for, or there
        is none.
    """
    levels = store.levels(name)
    found: dict[str, Any] = {"schema_version": "1", "model_name": store.key_of(name)}
    for level in _SERVED:
        version = next((v for v, held in levels.items() if held is level), None)
        found[level.value] = None if version is None else _judged(store, name, version)
    production = found[Level.PRODUCTION.value]
    found["fallback"] = None
    if production is not None and production["standing"] != "ok":
        found["fallback"] = _fallback(store, name, production["version"])
    return found


def _judged(store: KfmStore, name: str, version: int) -> dict[str, Any]:
    against = store.admission.against_serving(store.snapshot(name, version))
    return {
        "version": version,
        "standing": standing_of(against),
        "findings": [_told(gate, finding) for gate, finding in against],
    }


def _told(gate: str, finding: Finding) -> dict[str, str]:
    return {
        "gate": gate,
        "code": finding.code,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }


def _fallback(store: KfmStore, name: str, production: int) -> int | None:
    """Return the newest former Production version that may be served now."""
    for version in _former(store, name):
        if version != production and not store.admission.against_serving(
            store.snapshot(name, version)
        ):
            return version
    return None


def _former(store: KfmStore, name: str) -> Sequence[int]:
    """Return the versions that were Production, the last first."""
    from kfm_mlflow.registry import listing

    with store.ManagedSessionMaker(read_only=True) as session:
        return listing.former_production(session, store.key_of(name), limit=_MOST_TRIED)
