"""Deployments and changed weights of a rollout, as PROV: what a controller signed of them. Pure.

A verdict tells of everything since its rollout began, so the same event may be told more than once;
it is one activity all the same, named by its digest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import KfmError
from kfm_mlflow.registry.deployed_records import party
from kfm_mlflow.trust.instants import parse_instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.registry.deployed_records import Records

_NAME_LENGTH = 32
_KINDS = {"deploy": "kfm:ServingStart", "split": "kfm:WeightChange"}


@dataclass(frozen=True)
class TrafficEvent:
    """One of them.

    Attributes:
        name: Of its activity.
        kind: ``deploy`` or ``split``.
        at: When it was done.
        attributes: Whole numbers and texts about it.
    """

    name: str
    kind: str
    at: datetime
    attributes: Mapping[str, int | str]

    @property
    def label(self) -> str:
        """Say it in a few words."""
        said = self.attributes
        if self.kind == "deploy":
            return f"v{said.get('model_version', '?')} served"
        parts = [f"stable v{said['stable_version']}"] if "stable_version" in said else []
        if "canary_version" in said:
            mirror = "mirror_pct" in said
            share = said["mirror_pct"] if mirror else said.get("canary_pct", "0")
            parts.append(f"v{said['canary_version']} {share} %{' copied' if mirror else ''}")
        return ", ".join(parts) or "no traffic"


def read_traffic(claims: Mapping[str, Any]) -> list[TrafficEvent]:
    """Return what a verdict tells of traffic, oldest first; what can not be read is left out."""
    listed = claims.get("traffic")
    found = [event for item in listed if (event := _read(item))] if isinstance(listed, list) else []
    return sorted(found, key=lambda event: (event.at, event.name))


def _read(item: Any) -> TrafficEvent | None:
    if not isinstance(item, dict) or item.get("kind") not in _KINDS:
        return None
    try:
        at = parse_instant(item["at"], where="traffic")
    except (KfmError, KeyError, TypeError):
        return None
    numbers = {
        "model_version": item.get("version"),
        "stable_version": item.get("stable"),
        "canary_version": item.get("canary"),
        "generation": item.get("generation"),
    }
    whole = {
        name: value
        for name, value in numbers.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
    }
    shares = {
        name: f"{100 * float(value):g}"
        for name, value in (
            ("canary_pct", item.get("canary_ratio")),
            ("mirror_pct", item.get("mirror_ratio")),
        )
        if isinstance(value, int | float) and math.isfinite(value) and 0 < value <= 1
    }
    kind = str(item["kind"])
    digest = digest_json([kind, str(item["at"]), whole, shares]).removeprefix("sha256:")
    return TrafficEvent(f"traffic:{digest[:_NAME_LENGTH]}", kind, at, {**whole, **shares})


def tell_traffic(
    records: Records,
    event: TrafficEvent,
    signers: Sequence[str],
    held: Sequence[tuple[datetime, str]],
) -> None:
    """Add an event, who carried it out, and on what.

    Args:
        records: What is told so far.
        event: The event.
        signers: Controllers that signed it.
        held: Since when, and as what, the release stood at canary.
    """
    activity = records.activity(
        event.name, _KINDS[event.kind], event.at, event.at, label=event.label, **event.attributes
    )
    for name in signers:
        agent = records.agent(party("controller", name), "kfm:Controller", label=name)
        records.relate("wasAssociatedWith", activity=activity, agent=agent, role="carried out")
    standing = [name for since, name in held if since <= event.at]
    used = standing[-1] if standing else records.release
    records.relate("used", activity=activity, entity=used, at=event.at)
