"""Random schedules of failures against the step of a fleet, and what must hold whatever happens.

One number makes one schedule, so a violation is found again by its seed. Laws, looked at after every
pass:

1. No agent gets tasks for a release that was not verified, that is recalled, or that the agent does
   not run by the release id that it loaded.
2. No level is skipped: a release has the whole tasks of an agent only when it is, or was, at
   Production, and is promoted only when admitted and with a published verdict.
3. At most one batch is unhealthy: of the agents that a bad release reached, no more have tasks for
   it than the largest batch holds.
4. An instance is stopped only when it has no tasks; on a node without room no second one starts.
5. It comes to rest within a bound once the world is well again, or says loudly that nothing can take
   the place of what is at Production.
6. At rest every agent serves the registry's Production version, and nothing else has tasks. A
   release that was found bad is not at Production, unless nothing can take its place.
7. In a schedule without failures no task is lost.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from soak.fleet_world import GOOD, POLICY, SPECIALTIES, Quality, Running, World

from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.batches import batch_size
from kfm_mlflow.fleet.state import RESTING, FleetPhase
from kfm_mlflow.rollout.inputs import Orders, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

QUALITIES = {
    "good": GOOD,
    "slow to start": Quality(start_ticks=3),
    "errors": Quality(error_ratio=0.3),
    "slow": Quality(latency_ms=900),
    "half wrong": Quality(agreement=0.5),
    "rubbish": Quality(agreement=0.1),
    "unsafe": Quality(held_ratio=0.5),
    "never starts": Quality(start_ticks=None),
    "crashes": Quality(fails=True),
    "other bytes": Quality(lies_of=True),
    "errors in later batches": Quality(error_ratio=0.3, from_batch=True),
    "rubbish in later batches": Quality(agreement=0.1, from_batch=True),
    "crashes in later batches": Quality(fails=True, from_batch=True),
}
EVENTS = (
    *("canary",) * 3,
    *("node_lost", "node_back") * 2,
    *("flap", "old_version", "unverified"),
    *("silence", "silence_ends", "garbled", "garbled_ends"),
    *("unstartable", "startable"),
    *("votes_refuse", "votes_come", "veto", "veto_ends"),
    *("abort", "rollback", "rollback_refused"),
    *("recall", "level_lost", "production_moved", "conflict"),
    *("kill",) * 4,
    *("registry_away", "registry_back"),
)
END_TICKS = 160
"""Ticks in which a world that is well again must come to rest: the sum of all deadlines, twice."""


@dataclass(frozen=True)
class Result:
    """How one schedule went."""

    seed: int
    violations: tuple[str, ...]
    pass_count: int
    phases: frozenset[FleetPhase]


def make_agents(dice: random.Random, count: int) -> tuple[Agent, ...]:
    """Return agents of all specialties; some have no room for two, and name a fall-back."""
    agents = [
        Agent(f"a{k:04d}", SPECIALTIES[k % len(SPECIALTIES)], side_by_side=True)
        for k in range(count)
    ]
    swapping = dice.choice((0.0, 0.0, 0.3, 1.0))
    for k, agent in enumerate(agents):
        if dice.random() < swapping:
            others = [a.name for a in agents[k % 3 :: 3] if a.name != agent.name]
            agents[k] = replace(agent, side_by_side=False, fallback=dice.choice(others))
    return tuple(agents)


class Schedule:
    """One world, and a dice that throws failures into it."""

    def __init__(self, seed: int, *, agent_count: int | None = None) -> None:
        self.dice = dice = random.Random(seed)
        count = agent_count or dice.randint(12, 40)
        self.is_calm = dice.random() < 0.1
        agents = make_agents(dice, count)
        self.world = World(seed, agents, dice.randint(3, 8), is_first=dice.random() < 0.15)
        self.seed = seed
        self.next_version = 2
        self.order_id = 0
        self.phases: set[FleetPhase] = set()
        self.violations: list[str] = []
        self.pass_count = 0
        self.kept: set[int] = set()

    def run(self) -> Result:
        """Run it, let the world become well, and see where it comes to rest."""
        dice, world = self.dice, self.world
        for _ in range(3):
            self._tick()
        self._canary()
        for tick in range(dice.randint(30, 90)):
            if self.is_calm and tick == 0 and world.levels.production is not None:
                world.lost_tasks = 0
            if not self.is_calm and dice.random() < 0.25:
                getattr(self, f"_{dice.choice(EVENTS)}")()
            self._tick()
        if self.is_calm and world.lost_tasks and world.ever_production - {2}:
            self.violations.append(f"{world.lost_tasks} tasks were lost without a failure")
        self._make_well()
        calm = 0
        for _ in range(END_TICKS):
            self._tick()
            calm = calm + 1 if self._is_at_rest() else 0
            if calm > 2:
                break
        else:
            state = world.state
            told = f"{state.phase} v{state.candidate}: {state.reason}; {dict(state.unplaced)}"
            self.violations.append(f"not at rest in {END_TICKS} passes: {told[:300]}")
        self._look_at_the_end()
        found = tuple(dict.fromkeys([*self.violations, *world.violations]))[:5]
        return Result(self.seed, found, self.pass_count, frozenset(self.phases))

    def _tick(self) -> None:
        self.world.tick()
        self.pass_count += 1
        self.phases.add(self.world.state.phase)
        self._look()

    # Laws.

    def _routed(self) -> Iterator[tuple[str, int, float]]:
        for route in self.world.applied.routes:
            if route.version is not None:
                yield route.agent, route.version, 1.0
            if route.canary is not None:
                yield route.agent, route.canary, route.canary_ratio

    def _look(self) -> None:
        world = self.world
        if self._is_kept() and world.levels.production is not None:
            self.kept.add(world.levels.production)
        reached: dict[int, int] = {}
        for agent, version, share in self._routed():
            if share > POLICY.canary_ratio and version not in world.ever_production:
                self.violations.append(f"v{version} skipped a level")
            if world.true_quality(agent, version).is_bad and version != 1:
                reached[version] = reached.get(version, 0) + 1
        bound = max(len(SPECIALTIES), batch_size(len(world.agents), POLICY.batch_ratio))
        for version, count in reached.items():
            if count > bound:
                self.violations.append(
                    f"bad v{version} is on more agents than the {bound} of a batch"
                )

    def _is_kept(self) -> bool:
        state, levels = self.world.state, self.world.levels
        stuck = state.stable is None and state.candidate == levels.production
        return state.phase is FleetPhase.ROLLBACK_FAILED and stuck

    def _is_at_rest(self) -> bool:
        world = self.world
        if self._is_kept():
            return True
        if world.state.phase not in RESTING or world.levels.canary is not None:
            return False
        return world.levels.production in self.kept or (not world.state.unplaced and self._is_one())

    def _is_one(self) -> bool:
        production = self.world.levels.production
        wanted = set() if production is None else {(a.name, production) for a in self.world.agents}
        return {(agent, version) for agent, version, _ in self._routed()} == wanted

    def _look_at_the_end(self) -> None:
        world = self.world
        production = world.levels.production
        if self._is_kept() or production in self.kept:
            return
        if not self._is_one():
            self.violations.append("a mixed fleet was left behind")
        if production is not None and world.quality[production].is_bad:
            self.violations.append(f"bad v{production} is at Production in the end")

    # Failures.

    def _make_well(self) -> None:
        world = self.world
        world.down_nodes.clear()
        for crowd in (world.silent, world.unstartable, world.garbled):
            crowd.clear()
        world.admits, world.restores, world.refusal = True, True, ""
        world.is_registry_away, world.kill_after, world.conflicts = False, None, 0
        world.orders = replace(world.orders, veto="")

    def _agent(self) -> str:
        return self.dice.choice(self.world.agents).name

    def _canary(self) -> None:
        world, version = self.world, self.next_version
        if world.is_registry_away or version > 6:
            return
        self.next_version += 1
        kinds = [*["good"] * 6, *QUALITIES]
        world.quality[version] = GOOD if self.is_calm else QUALITIES[self.dice.choice(kinds)]
        world.levels = replace(world.levels, canary=version, head=world.levels.head + 1)

    def _node_lost(self) -> None:
        if not self.world.down_nodes:
            self.world.lose_node(self.dice.randrange(8))

    def _node_back(self) -> None:
        self.world.down_nodes.clear()

    def _flap(self) -> None:
        self.world.flap(self._agent())

    def _old_version(self) -> None:
        self.world.flap(self._agent(), self.dice.randint(1, self.next_version - 1))

    def _unverified(self) -> None:
        agent, production = self._agent(), self.world.levels.production
        if production is not None:
            self.world.instances[agent] = {production: Running(production, 1, "sha256:none")}

    def _silence(self) -> None:
        self.world.silent |= {self._agent() for _ in range(self.dice.randint(1, 3))}

    def _silence_ends(self) -> None:
        self.world.silent.clear()

    def _garbled(self) -> None:
        self.world.garbled.add(self._agent())

    def _garbled_ends(self) -> None:
        self.world.garbled.clear()

    def _unstartable(self) -> None:
        self.world.unstartable.add(self._agent())

    def _startable(self) -> None:
        self.world.unstartable.clear()

    def _votes_refuse(self) -> None:
        self.world.admits, self.world.refusal = False, "votes 1 of 3"

    def _votes_come(self) -> None:
        self.world.admits, self.world.refusal = True, ""

    def _veto(self) -> None:
        self.world.orders = replace(self.world.orders, veto="the council said no")

    def _veto_ends(self) -> None:
        self.world.orders = replace(self.world.orders, veto="")

    def _order(self, **fields: object) -> None:
        self.order_id += 1
        veto = self.world.orders.veto
        self.world.orders = Orders(veto=veto, order_id=self.order_id, **fields)  # type: ignore[arg-type]  # the caller's fields

    def _abort(self) -> None:
        self._order(operator="abort", operator_name="ann")

    def _rollback(self) -> None:
        production, recalls = self.world.levels.production, self.world.standing.recalls
        older = sorted(
            v
            for v in self.world.ever_production
            if v != production and v not in recalls and not self.world.quality[v].is_bad
        )
        if production is not None and older:
            target = self.dice.choice(older)
            self._order(operator="rollback", version=production, to_version=target)

    def _rollback_refused(self) -> None:
        self.world.restores = not self.world.restores

    def _recall(self) -> None:
        world, recalls = self.world, dict(self.world.standing.recalls)
        if world.is_registry_away or len(recalls) > 1:
            return
        named = [v for v in (world.levels.canary, world.levels.production) if v is not None]
        if named:
            recalls[self.dice.choice(named)] = "consent was withdrawn"
        sound = [v for v in world.ever_production if v not in recalls]
        good = [v for v in sound if not world.quality[v].is_bad]
        world.standing = Standing(recalls=recalls, fallback=max(good, default=None))

    def _level_lost(self) -> None:
        self.world.levels = replace(self.world.levels, canary=None)

    def _production_moved(self) -> None:
        world = self.world
        good = [
            v
            for v in sorted(world.ever_production)
            if not world.quality[v].is_bad and v not in world.standing.recalls
        ]
        if good and world.levels.production is not None:
            world.levels = replace(world.levels, production=self.dice.choice(good))

    def _conflict(self) -> None:
        self.world.conflicts = 1

    def _kill(self) -> None:
        self.world.kill_after = self.dice.randint(0, 4)

    def _registry_away(self) -> None:
        self.world.is_registry_away = True

    def _registry_back(self) -> None:
        self.world.is_registry_away = False


def run_schedule(seed: int, *, agent_count: int | None = None) -> Result:
    """Run the schedule of a seed."""
    return Schedule(seed, agent_count=agent_count).run()
