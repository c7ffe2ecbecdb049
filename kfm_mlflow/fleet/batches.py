"""Which agents get a release next. Pure; the same choice for the same facts.

Rules kept here:

1. The first batch is one agent per specialty, a healthy one where there is one.
2. A later batch holds at most ``batch_ratio`` of the fleet, and at least one agent; never an agent
   together with its fall-back.
3. Who serves nothing now comes last, in batches of their own. A release that crashes there fails
   its batch, too; an agent on which nothing can be placed is left out, and brought to the fleet's
   version when it is back. In a first release nobody serves yet, and all have their turn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.observed import Seen


def first_batch(agents: Sequence[Agent], seen: Seen, stable: int | None) -> tuple[str, ...]:
    """Return one agent per specialty: the first by name of those that are best off.

    One that serves stable soundly goes before one that does not, and one with room for both
    releases, whose share of tasks can be small, before one that has to swap.
    """
    best: dict[str, Agent] = {}
    for agent in sorted(agents, key=lambda one: one.name):
        held = best.get(agent.specialty)
        if held is None or _rank(agent, seen, stable) < _rank(held, seen, stable):
            best[agent.specialty] = agent
    return tuple(sorted(agent.name for agent in best.values()))


def _rank(agent: Agent, seen: Seen, stable: int | None) -> tuple[bool, bool, bool]:
    return (
        not seen.is_sound(agent.name, stable),
        stable is not None and not seen.is_right(agent.name, stable),
        not agent.side_by_side,
    )


def next_batch(
    agents: Sequence[Agent],
    seen: Seen,
    stable: int | None,
    touched: Collection[str],
    batch_ratio: float,
) -> tuple[str, ...]:
    """Return the agents of the next batch; none when all had their turn.

    Healthy ones go first, isolated ones next; those that serve nothing, alone, in the end.
    """
    done = set(touched)
    groups: dict[int, list[Agent]] = {0: [], 1: [], 2: []}
    for agent in sorted(agents, key=lambda one: one.name):
        if agent.name not in done:
            groups[_order(agent, seen, stable)].append(agent)
    waiting = groups[0] + groups[1] or groups[2]
    size = batch_size(len(agents), batch_ratio)
    chosen: dict[str, Agent] = {}
    for agent in waiting:
        backed = {other.fallback for other in chosen.values()}
        if agent.name in backed or agent.fallback in chosen:
            continue
        chosen[agent.name] = agent
        if len(chosen) == size:
            break
    return tuple(sorted(chosen))


def _order(agent: Agent, seen: Seen, stable: int | None) -> int:
    if stable is None or seen.is_sound(agent.name, stable):
        return 0
    return 1 if is_served(agent.name, seen, stable) else 2


def is_served(name: str, seen: Seen, stable: int | None) -> bool:
    """Whether an agent runs stable and answers, be it isolated for its answers."""
    if stable is None or seen.is_sound(name, stable):
        return True
    return seen.is_right(name, stable) and seen.memory(name, stable).is_isolated


def batch_size(agent_count: int, batch_ratio: float) -> int:
    """Return how many agents a later batch has at most: a share of the fleet, never none."""
    return max(1, math.floor(agent_count * batch_ratio + 1e-9))
