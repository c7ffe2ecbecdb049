"""Whether what is at canary and Production may still be served, and is still as good as admitted.

A policy is read when the server starts, but consent may be withdrawn and labels may change at any
time, and nobody's restart may be waited for. Moves keep to the policy in force, and are refused
while its regions file is another; what is served is judged by the file as it is now.

A validator may measure again what is served. What a newer validation then finds below the policy's
limits has regressed: it gives way to a former version, if there is one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.regression import KIND, find_regression
from kfm_mlflow.gates.ruling import standing_of
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.history import read_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.gates.findings import Finding
    from kfm_mlflow.gates.regression import Regression
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
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


def standing(store: KfmStore, name: str, others: Sequence[int] = ()) -> dict[str, Any]:
    """Return whether what a model serves may still be served, and what else it may go back to.

    Args:
        store: The registry.
        name: Registered model.
        others: Versions to judge besides, at most five: a rollback target may have traffic before
            it has its level back.

    Returns:
        ``production`` and ``canary`` with their standing, null where nothing is, ``others`` with
        theirs, and ``fallback``: the former Production version that may be restored; null when
        nothing asked for wants one, or there is none.

    Raises:
        InputError: More were asked for.
    """
    if len(others) > _MOST_TRIED:
        raise InputError(f"at most {_MOST_TRIED} can be asked for", where="version")
    levels = store.levels(name)
    found: dict[str, Any] = {"schema_version": "1", "model_name": store.key_of(name)}
    for level in _SERVED:
        version = next((v for v, held in levels.items() if held is level), None)
        found[level.value] = None if version is None else _judged(store, name, version)
    production = found[Level.PRODUCTION.value]
    found["others"] = [_judged(store, name, version) for version in others]
    found["fallback"] = None
    judged = [production, *found["others"]]
    if production is not None and any(item["standing"] != "ok" for item in judged):
        found["fallback"] = _fallback(store, name, production["version"])
    return found


def _judged(store: KfmStore, name: str, version: int) -> dict[str, Any]:
    snapshot = store.snapshot(name, version)
    against = store.admission.against_serving(snapshot)
    regression = None if against else _regression(store, snapshot)
    if regression is not None:
        return {
            "version": version,
            "standing": "regressed",
            "findings": [_told(gate, finding) for gate, finding in regression.findings],
            "statement": regression.statement,
        }
    return {
        "version": version,
        "standing": standing_of(against),
        "findings": [_told(gate, finding) for gate, finding in against],
    }


def _regression(store: KfmStore, snapshot: Snapshot) -> Regression | None:
    """Return what a validation that came after the version's admission found bad."""
    admission = store.admission
    policy, now = admission.policy(snapshot.family), admission.clock()
    # What lies beside a frozen release was there at its admission; only what was sent is newer.
    if not any(read_attestation(e, policy.trust, now).kind == KIND for e in snapshot.envelopes):
        return None
    move = Move(
        model_name=snapshot.model_name,
        version=snapshot.version,
        from_level=Level.CANARY,
        to_level=Level.PRODUCTION,
        epoch=snapshot.epoch,
        production=None,
        now=now,
    )
    read_before = _read_before(store, snapshot)
    try:
        today = current_policy(policy)
        return admission.examine(
            snapshot, today, lambda evidence: find_regression(evidence, today, move, read_before)
        )
    except DataError:
        return None  # Regions that can not be read are a matter of what may be served.


def _read_before(store: KfmStore, snapshot: Snapshot) -> frozenset[str]:
    """Return the statements that the decisions had read which moved the version up.

    A restore asks no gate about validations, so what it read counts as unread.
    """
    from kfm_mlflow.registry import listing

    with store.ManagedSessionMaker(read_only=True) as session:
        rows = listing.moves_of(session, snapshot.model_name, snapshot.version)
    entries = (read_entry(asdict(row)) for row in rows)
    return frozenset(d for entry in entries if not entry.restores for d in entry.evidence)


def _told(gate: str, finding: Finding) -> dict[str, str]:
    return {
        "gate": gate,
        "code": finding.code,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }


def _fallback(store: KfmStore, name: str, production: int) -> int | None:
    """Return the newest former Production version that may be served now and has not regressed."""
    for version in _former(store, name):
        if version != production and _judged(store, name, version)["standing"] == "ok":
            return version
    return None


def _former(store: KfmStore, name: str) -> Sequence[int]:
    """Return the versions that were Production, the last first."""
    from kfm_mlflow.registry import listing

    with store.ManagedSessionMaker(read_only=True) as session:
        return listing.former_production(session, store.key_of(name), limit=_MOST_TRIED)
