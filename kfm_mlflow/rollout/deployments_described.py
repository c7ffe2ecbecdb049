"""A deployment as MLflow shows it: levels, shares, phase and verdict of a model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.rollout.deployments_asked import FLAVOR

if TYPE_CHECKING:
    from collections.abc import Mapping


def describe(
    name: str,
    model: Mapping[str, Any],
    versions: Mapping[int, Mapping[str, Any]],
    journal: Mapping[str, Any] | None,
    endpoint: str | None,
) -> dict[str, Any]:
    """Return what MLflow prints of a deployment.

    Args:
        name: Its name.
        model: What the registry says of the registered model.
        versions: What it says of the versions at production and canary.
        journal: The rollout's journal; None before a controller served the model.
        endpoint: Where it is served, as far as is known.

    Returns:
        ``production`` and ``canary`` with the share of requests that the routers were last told
        (``share_ratio``, None without a controller), and where the last rollout stands.
    """
    arms = {
        level: None
        if model[level] is None
        else {
            "version": model[level],
            **_release(versions[model[level]]),
            "share_ratio": _share_ratio(journal, model[level]),
        }
        for level in ("production", "canary")
    }
    return {
        "name": name,
        "flavor": FLAVOR,
        "family": model["family"],
        **arms,
        **_rollout(journal),
        "endpoint": endpoint,
    }


def _release(version: Mapping[str, Any]) -> dict[str, Any]:
    release = version["release"] or {}
    return {"release_version": release.get("version"), "release_id": release.get("id")}


def _share_ratio(journal: Mapping[str, Any] | None, version: int) -> float | None:
    if journal is None:
        return None
    split = journal["split"]
    if split["stable"] == version:
        return float(1.0 - split["ratio"])
    return float(split["ratio"]) if split["canary"] == version else 0.0


def _rollout(journal: Mapping[str, Any] | None) -> dict[str, Any]:
    if journal is None:
        return {"phase": None, "reason": "no controller has served this model yet"}
    analysis = journal["analysis"]
    return {
        "phase": journal["phase"],
        "since": journal["entered_at"],
        "candidate": journal["candidate"],
        "verdict": None if analysis is None else analysis["verdict"],
        "reason": journal["reason"],
    }
