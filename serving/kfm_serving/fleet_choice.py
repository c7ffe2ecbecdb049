"""Which instance gets a task: a function of the route table and the task's id alone.

Laws: the same id, table and set of doubted instances give the same order on every dispatcher and
after every restart; an agent that joins or leaves moves only the tasks that it gets or had; a task
that goes to a canary stays with it when its share grows; no instance stands twice in an order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_serving.split import bucket, canary_bucket_count

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from kfm_serving.fleet_desired import DesiredTable, RoutedAgent


@dataclass(frozen=True)
class Target:
    """An instance that may be asked.

    Attributes:
        agent: Its agent.
        specialty: Of the agent.
        version: What it serves.
        deployment_id: Which start of that version it is.
        is_canary: It gets the task as the agent's canary.
    """

    agent: str
    specialty: str
    version: int
    deployment_id: str
    is_canary: bool = False


def rank_targets(
    table: DesiredTable,
    specialty: str | None,
    task_id: str,
    doubted: AbstractSet[str] = frozenset(),
) -> tuple[Target, ...]:
    """Return whom to ask: the first gets the task, the next the second attempt.

    Agents that have a version stand in the order of their rendezvous hashes with the id (Thaler and
    Ravishankar, "Using name-based mappings to increase hit rates", 1998), so each is first for an
    even share of the ids. The first agent's canary comes first for its share of the ids; all
    others, and that agent again last, are asked at their ordinary version.

    Args:
        table: The route table in force.
        specialty: Whose agents; None for all of them.
        task_id: The task's id.
        doubted: Deployment ids of instances that did not answer lately. They come last, because
            another one may not answer either.

    Returns:
        Empty when no such agent has a version.
    """
    key = task_id.encode()
    able = [
        agent
        for agent in table.agents
        if agent.version is not None and specialty in (None, agent.specialty)
    ]
    able.sort(key=lambda agent: hashlib.sha256(agent.agent.encode() + b"\0" + key).digest())
    able.sort(key=lambda agent: agent.deployment_ids[_version(agent)] in doubted)
    ordinary = [_target(agent, _version(agent)) for agent in able]
    if not able:
        return ()
    first = able[0]
    if first.canary is None or bucket(key) >= canary_bucket_count(first.canary_ratio):
        return tuple(ordinary)
    canary = _target(first, first.canary, is_canary=True)
    order = [canary, *ordinary[1:], ordinary[0]]
    return tuple(sorted(order, key=lambda target: target.deployment_id in doubted))


def _version(agent: RoutedAgent) -> int:
    assert agent.version is not None
    return agent.version


def _target(agent: RoutedAgent, version: int, *, is_canary: bool = False) -> Target:
    return Target(agent.agent, agent.specialty, version, agent.deployment_ids[version], is_canary)
