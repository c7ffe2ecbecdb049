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

    Agents that have a version, or a canary alone, stand in the order of their rendezvous hashes
    with the id (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998),
    so each is offered an even share of the ids. The first agent's canary comes first for its share
    of them; all others, and that agent again last, are asked at their ordinary version. What an
    agent without one is offered beyond its canary's share goes to the others.

    Args:
        table: The route table in force.
        specialty: Whose agents; None for all of them.
        task_id: The task's id.
        doubted: Deployment ids of instances that did not answer lately. They come last, because
            another one may not answer either.

    Returns:
        Empty when no such agent has a version for this id.
    """
    key = task_id.encode()
    offered = [
        agent
        for agent in table.agents
        if {agent.version, agent.canary} != {None} and specialty in {None, agent.specialty}
    ]
    offered.sort(key=lambda agent: hashlib.sha256(agent.agent.encode() + b"\0" + key).digest())
    offered.sort(key=lambda agent: _usual(agent) in doubted)
    if not offered:
        return ()
    ordinary = [_target(agent, agent.version) for agent in offered if agent.version is not None]
    first = offered[0]
    if first.canary is None or bucket(key) >= canary_bucket_count(first.canary_ratio):
        return tuple(ordinary)
    canary = _target(first, first.canary, is_canary=True)
    again = [target for target in ordinary if target.agent == first.agent]
    order = [canary, *(target for target in ordinary if target not in again), *again]
    return tuple(sorted(order, key=lambda target: target.deployment_id in doubted))


def _usual(agent: RoutedAgent) -> str:
    """Return the deployment id of the instance that an agent is known by."""
    version = agent.canary if agent.version is None else agent.version
    assert version is not None
    return agent.deployment_ids[version]


def _target(agent: RoutedAgent, version: int, *, is_canary: bool = False) -> Target:
    return Target(agent.agent, agent.specialty, version, agent.deployment_ids[version], is_canary)
