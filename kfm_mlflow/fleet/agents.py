"""Who is in a fleet, and where: what an operator writes, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_FIELDS = {"name", "specialty", "labels", "gpu_ratio", "side_by_side", "fallback"}


@dataclass(frozen=True)
class Agent:
    """One agent of a fleet.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40; unique in the fleet.
        specialty: What it is there for.
        labels: Ray node labels that the node of its instances must have, name -> value.
        gpu_ratio: GPUs lent to one instance; 0 for the CPU.
        side_by_side: Whether old and new fit on its node together. Where not, the old instance is
            stopped before the new one starts, and ``fallback`` answers meanwhile.
        fallback: Another agent of the same specialty; None where old and new fit together.
    """

    name: str
    specialty: str
    labels: Mapping[str, str] = field(default_factory=dict)
    gpu_ratio: float = 0.0
    side_by_side: bool = True
    fallback: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the agent as JSON."""
        return {
            "name": self.name,
            "specialty": self.specialty,
            "labels": dict(self.labels),
            "gpu_ratio": self.gpu_ratio,
            "side_by_side": self.side_by_side,
            "fallback": self.fallback,
        }


def parse_agents(value: Any, specialties: Iterable[str], *, where: str) -> tuple[Agent, ...]:
    """Return the agents of a fleet, sorted by name.

    Args:
        value: ``{"agents": [{"name": …, "specialty": …}, …]}``.
        specialties: What the policy knows; each needs at least one agent.
        where: Where the value was read, for messages.

    Raises:
        InputError: It is none; says which agent and field.
    """
    entries = value.get("agents") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            "names no agents", where=where, remedy='write {"agents": [{"name": …, "specialty": …}]}'
        )
    known = tuple(specialties)
    agents = tuple(_agent(entry, known, f"{where}: agents[{k}]") for k, entry in enumerate(entries))
    by_name = {agent.name: agent for agent in agents}
    if len(by_name) != len(agents):
        raise InputError("an agent's name appears twice", where=f"{where}: agents")
    missing = sorted(set(known) - {agent.specialty for agent in agents})
    if missing:
        raise InputError(f"no agent for {', '.join(missing)}", where=f"{where}: agents")
    for agent in agents:
        other = by_name.get(agent.fallback or "")
        if agent.fallback is not None and (other is None or other.specialty != agent.specialty):
            raise InputError(
                f"fallback {agent.fallback!r} is no agent of specialty {agent.specialty}",
                where=f"{where}: {agent.name}",
            )
    return tuple(by_name[name] for name in sorted(by_name))


def _agent(entry: Any, specialties: tuple[str, ...], where: str) -> Agent:
    if not isinstance(entry, dict):
        raise InputError("is no object", where=where)
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        raise InputError(f"unknown field {unknown[0]!r}", where=where)
    name, specialty = entry.get("name"), entry.get("specialty")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name", where=f"{where}.name", remedy="use a-z, 0-9 and -, at most 40"
        )
    if specialty not in specialties:
        raise InputError(
            f"{specialty!r} is no specialty",
            where=f"{where}.specialty",
            remedy=f"use one of {', '.join(specialties)}",
        )
    labels = entry.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise InputError("must be name -> text", where=f"{where}.labels")
    gpu_ratio, side_by_side = entry.get("gpu_ratio", 0.0), entry.get("side_by_side", True)
    if isinstance(gpu_ratio, bool) or not isinstance(gpu_ratio, int | float) or gpu_ratio < 0:
        raise InputError("must be a number, 0 or more", where=f"{where}.gpu_ratio")
    if not isinstance(side_by_side, bool):
        raise InputError("must be true or false", where=f"{where}.side_by_side")
    fallback = entry.get("fallback")
    if (fallback is None) != side_by_side or fallback == name:
        raise InputError(
            "names another agent exactly where old and new do not fit side by side",
            where=f"{where}.fallback",
        )
    return Agent(name, specialty, labels, float(gpu_ratio), side_by_side, fallback)
