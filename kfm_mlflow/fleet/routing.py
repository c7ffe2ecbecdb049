"""From what each agent is to serve to routes, starts and stops. Pure.

Rules kept here:

1. Tasks go to sound instances only, of the version that the agent is to serve. Another one answers
   only where the aim names it as a stopgap, and no agent of the specialty can take over yet.
2. Where all agents of a specialty fall silent, those last known to answer keep its tasks: asking
   them costs nothing that turning tasks away would save. Isolated ones do not.
3. An instance is stopped only when no dispatcher sends it tasks.
4. Where old and new do not fit together, the old one goes first, and only while the named fall-back
   answers.
5. What does not start, fails, runs the wrong release or answers nothing for the start deadline is
   stopped and started anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.actions import Fetch, SetRoutes, Start, Stop
from kfm_mlflow.fleet.plane import Route, RouteTable
from kfm_mlflow.rollout.transitions import elapsed_s

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kfm_mlflow.fleet.actions import Action
    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.memories import InstanceMemory
    from kfm_mlflow.fleet.observed import Seen
    from kfm_mlflow.fleet.state import FleetState

Aims = dict[str, "Aim"]

ASK_AGAIN_S = 5.0
"""How long a start may take to show before it is asked for again."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What an agent is to serve.

    Attributes:
        version: Gets its tasks; None gives it none.
        beside: Has to run, too: the next version.
        beside_ratio: Share of the agent's tasks that goes there, 0..1.
        stopgap: Answers while the agent does not serve ``version``.
        yields: On a node without room for two, the old instance gives way to the new one now.
    """

    version: int | None = None
    beside: int | None = None
    beside_ratio: float = 0.0
    stopgap: int | None = None
    yields: bool = False


def plan_routes(aims: Aims, seen: Seen, asked: Mapping[str, Route]) -> tuple[Route, ...]:
    """Return who gets which tasks, one route per agent; as asked before where that still holds."""
    routes: dict[str, Route] = {}
    served: set[str] = set()
    for agent in seen.agents:
        name = agent.name
        aim = aims[name]
        version = aim.version if seen.is_sound(name, aim.version) else None
        if version is None and seen.is_sound(name, aim.stopgap):
            version = aim.stopgap
        canary = aim.beside if aim.beside_ratio and seen.is_sound(name, aim.beside) else None
        if version is not None or canary is not None:
            served.add(agent.specialty)
        ratio = aim.beside_ratio if canary is not None else 0.0
        held = asked.get(name)
        same = held is not None and held.version == version and held.canary == canary
        routes[name] = (
            held
            if held is not None and same and held.canary_ratio == ratio
            else Route(name, version, canary, ratio)
        )
    for agent in seen.agents:
        if agent.specialty not in served:
            routes[agent.name] = _last_resort(agent.name, aims[agent.name], seen)
    return tuple(routes.values())


def _last_resort(name: str, aim: Aim, seen: Seen) -> Route:
    named = (v for v in (aim.version, aim.stopgap) if v is not None)
    alive = (v for v in named if seen.is_alive(name, v) and not _is_hung(seen, name, v))
    return Route(name, next(alive, None))


def ready_specialties(seen: Seen, version: int | None) -> set[str]:
    """Return the specialties of which some agent soundly serves a version."""
    sound = seen.sound_on(version)
    return {agent.specialty for agent in seen.agents if agent.name in sound}


def move_towards(
    state: FleetState, seen: Seen, version: int | None, stopgaps: Mapping[str, int | None]
) -> Aims:
    """Aim the whole fleet at one version; until a specialty can serve it, stopgaps answer.

    Where both do not fit, one agent of such a specialty goes first, while another one answers, and
    one more for each start deadline that passes.
    """
    ready = ready_specialties(seen, version)
    ahead = Aim(version)
    aims = {
        a.name: ahead
        if a.specialty in ready or stopgaps.get(a.name) is None
        else Aim(version, stopgap=stopgaps[a.name])
        for a in seen.agents
    }
    if version is None:
        return aims
    turns = 1 + int(elapsed_s(state.entered_at, seen.now) // seen.plan.start_deadline_s)
    for specialty, group in _swapping(seen, ready).items():
        able = [name for name in group if seen.is_sound(name, aims[name].stopgap)]
        answering = len(able) + _side_by_side_count(seen, aims, specialty)
        if able and answering > 1 and len(group) - len(able) < turns:
            aims[able[0]] = replace(aims[able[0]], stopgap=None, yields=True)
    return aims


def _swapping(seen: Seen, ready: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for agent in seen.agents:
        if not agent.side_by_side and agent.specialty not in ready:
            found.setdefault(agent.specialty, []).append(agent.name)
    return found


def _side_by_side_count(seen: Seen, aims: Aims, specialty: str) -> int:
    return sum(
        agent.specialty == specialty
        and agent.side_by_side
        and seen.is_sound(agent.name, aims[agent.name].stopgap)
        for agent in seen.agents
    )


def arrange(
    state: FleetState, aims: Aims, seen: Seen, warm: Collection[int], recalls: Collection[int]
) -> tuple[FleetState, list[Action]]:
    """Work out what routes and instances lack; the state notes the routes asked for."""
    if recalls:
        aims = {name: _allowed(aim, recalls) for name, aim in aims.items()}
    kept = frozenset(warm) - frozenset(recalls)
    state, actions = _set_routes(state, aims, seen)
    applied = seen.generation == state.routes.generation
    by_name = {route.agent: route for route in state.routes.routes}
    unknown: set[int] = set()
    for agent in seen.agents:
        aim = aims[agent.name]
        if _is_settled(agent, aim, seen, kept):
            continue
        wanted, may_run = _wanted(agent, aim, seen, kept)
        if applied:
            route = by_name.get(agent.name, Route(agent.name, None))
            actions += _stops(agent.name, seen, may_run, route)
        here = seen.of(agent.name)
        for version in sorted(wanted - here.keys()):
            if version not in state.release_ids:
                unknown.add(version)
            elif (agent.side_by_side or not here) and _is_due(seen, agent.name, version):
                actions.append(Start(agent.name, version))
    actions += _strangers(seen, by_name, applied=applied)
    return state, [*actions, *(Fetch(version) for version in sorted(unknown))]


def _is_settled(agent: Agent, aim: Aim, seen: Seen, warm: frozenset[int]) -> bool:
    """Whether nothing is to be started or stopped: told quickly, as it is true of most agents.

    Looks at memories, and so at all instances, and those that were asked for and are not there.
    """
    if agent.name in seen.unsound or not agent.side_by_side:
        return False
    if aim.beside is not None or aim.stopgap is not None:
        return False
    if not seen.is_sound(agent.name, aim.version):
        return False
    for version in seen.memories[agent.name]:
        if version != aim.version and version not in warm:
            return False
    return True


def _stops(name: str, seen: Seen, may_run: set[int], route: Route) -> list[Action]:
    """Return the stops of an agent whose dispatchers all apply a route."""
    routed = {route.version, route.canary}
    return [
        Stop(name, version)
        for version in seen.of(name)
        if version not in routed and (version not in may_run or _is_hung(seen, name, version))
    ]


def _allowed(aim: Aim, recalls: Collection[int]) -> Aim:
    """Take out of an aim what may no longer be served."""
    if not recalls or not {aim.version, aim.beside, aim.stopgap} & set(recalls):
        return aim
    return Aim(
        None if aim.version in recalls else aim.version,
        None if aim.beside in recalls else aim.beside,
        0.0 if aim.beside in recalls else aim.beside_ratio,
        None if aim.stopgap in recalls else aim.stopgap,
        aim.yields,
    )


def _set_routes(state: FleetState, aims: Aims, seen: Seen) -> tuple[FleetState, list[Action]]:
    asked = state.routes
    routes = plan_routes(aims, seen, {route.agent: route for route in asked.routes})
    if routes == asked.routes and seen.generation == asked.generation:
        return state, []
    says_nothing = not asked.generation and not any(r.version or r.canary for r in routes)
    if says_nothing and (not seen.generation or _is_unprobed(aims, seen)):
        return state, []
    table = RouteTable(max(asked.generation, seen.generation) + 1, routes)
    return replace(state, routes=table), [SetRoutes(table)]


def _is_unprobed(aims: Aims, seen: Seen) -> bool:
    """Whether an instance was never judged: after a lost journal that says nothing of it."""
    return any(
        aim.version is not None
        and (
            aim.version not in seen.release_ids
            or (seen.is_right(name, aim.version) and _is_new(seen.memory(name, aim.version)))
        )
        for name, aim in aims.items()
    )


def _is_new(memory: InstanceMemory) -> bool:
    return memory.coherence is None and memory.silent_since is None


def _wanted(agent: Agent, aim: Aim, seen: Seen, warm: frozenset[int]) -> tuple[set[int], set[int]]:
    """Return the versions that have to run on an agent, and those that may."""
    if agent.side_by_side:
        named = {v for v in (aim.version, aim.beside) if v is not None}
        return named, named | warm | ({aim.stopgap} - {None})  # type: ignore[operator]  # no None
    target = aim.beside if aim.beside is not None and aim.yields else aim.version
    holds = not aim.yields and seen.is_sound(agent.name, aim.stopgap)
    one = aim.stopgap if holds else target
    alone = set() if one is None else {one}
    return alone, alone


def _is_due(seen: Seen, name: str, version: int) -> bool:
    """Whether an instance that is not there is to be asked for, or asked for again."""
    at = seen.memory(name, version).asked_at
    return at is None or not 0 <= (seen.now - at).total_seconds() < ASK_AGAIN_S


def _is_hung(seen: Seen, name: str, version: int) -> bool:
    """Whether an instance is of no use and had its time."""
    if seen.is_sound(name, version):
        return False
    memory = seen.memory(name, version)
    # An isolated one that answers is still looked at: it may come back.
    at = memory.silent_since if seen.is_right(name, version) else memory.asked_at
    return at is not None and (seen.now - at).total_seconds() >= seen.plan.start_deadline_s


def _strangers(seen: Seen, routes: Mapping[str, Route], *, applied: bool) -> list[Action]:
    """Stop the instances of agents that are no longer in the fleet."""
    if len(seen.memories) == len(seen.agents) and all(a.name in seen.memories for a in seen.agents):
        return []
    known = {agent.name for agent in seen.agents}
    return [
        Stop(name, version)
        for name, versions in seen.instances.items()
        if name not in known and applied and name not in routes
        for version in versions
    ]
