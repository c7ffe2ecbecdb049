"""A fleet in memory: nodes, instances, registry and votes, and a loop around the real step.

Time goes by in ticks; every number of an instance comes from what is true of its version and agent,
which the step never sees. The loop journals through JSON, and can be killed between any two actions.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kfm_mlflow.errors import ConflictError, IntegrityError, PlaneError, RefusedError
from kfm_mlflow.fleet.actions import Action, Fetch, SetRoutes, Start, Stop
from kfm_mlflow.fleet.health import ProbeRound, active_instances, wanted_probes
from kfm_mlflow.fleet.observed import FleetInputs
from kfm_mlflow.fleet.plane import (
    LATENCY_BOUNDS_MS,
    FleetObservation,
    Instance,
    RouteTable,
    TaskCounts,
)
from kfm_mlflow.fleet.record import record, record_failure
from kfm_mlflow.fleet.state import FleetState, initial_state, is_worth_saving
from kfm_mlflow.fleet.step import (
    retreat,
    step,
    wants_admission,
    wants_restore_check,
)
from kfm_mlflow.policy.fleet import FleetPolicy
from kfm_mlflow.rollout.actions import Demote, Promote, PublishVerdict, Restore, WriteReports
from kfm_mlflow.rollout.inputs import Levels, Orders, Standing
from kfm_mlflow.trust.quorum import byzantine_quorum

if TYPE_CHECKING:
    from kfm_mlflow.fleet.agents import Agent

TICK_S = 5.0
PROBES = 8
UNSAFE_PROBES = 3
SPECIALTIES = ("code_execute", "doc_plan", "memory_storage")
POLICY = FleetPolicy.model_validate(
    {
        "specialties": SPECIALTIES,
        "watch_s": 30,
        "start_deadline_s": 25,
        "silence_s": 10,
        "evidence_deadline_s": 90,
        "votes_deadline_s": 80,
        "postPromotionWatch_s": 40,
        "health": {"window_s": 15},
    }
)


@dataclass(frozen=True)
class Quality:
    """What is true of a version.

    Attributes:
        agreement: Share of probes that it answers as the reference does.
        error_ratio: Share of its tasks that fail.
        latency_ms: Of every task.
        held_ratio: Share of unsafe tasks that it holds.
        start_ticks: Ticks until it runs; None hangs.
        fails: It does not start.
        lies_of: It loads other bytes than were verified.
        from_batch: The fault shows on agents outside the first batch only.
    """

    agreement: float = 1.0
    error_ratio: float = 0.0
    latency_ms: float = 20.0
    held_ratio: float = 1.0
    start_ticks: int | None = 1
    fails: bool = False
    lies_of: bool = False
    from_batch: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether no fleet should serve it."""
        return self != Quality(start_ticks=self.start_ticks) or self.start_ticks is None


GOOD = Quality()


@dataclass
class Running:
    """One instance, as it truly is."""

    version: int
    wait: int | None
    release_id: str
    fails: bool = False
    counts: list[int] = field(default_factory=lambda: [0] * (4 + len(LATENCY_BOUNDS_MS) + 1))

    @property
    def is_up(self) -> bool:
        """Whether it can be asked."""
        return self.wait == 0 and not self.fails


def release_id(version: int) -> str:
    """Return what the registry verified of a version."""
    return f"sha256:{version:064x}"


class World:
    """One fleet and its registry."""

    def __init__(
        self, seed: int, agents: tuple[Agent, ...], node_count: int, *, is_first: bool
    ) -> None:
        self.dice = random.Random(seed)
        self.agents = agents
        self.by_name = {agent.name: agent for agent in agents}
        self.node_of = {a.name: k % node_count for k, a in enumerate(agents)}
        self.down_nodes: set[int] = set()
        self.silent: set[str] = set()
        self.unstartable: set[str] = set()
        self.garbled: set[str] = set()
        self.quality: dict[int, Quality] = {1: GOOD}
        self.instances: dict[str, dict[int, Running]] = {a.name: {} for a in agents}
        self.levels = Levels(None if is_first else 1, None, 0)
        self.ever_production = {1} - ({1} if is_first else set())
        self.admits, self.refusal = True, ""
        self.restores = True
        self.orders = Orders()
        self.standing = Standing()
        self.is_registry_away = False
        self.conflicts = 0
        self.verified: set[int] = set()
        self.applied = RouteTable(0, ())
        self.published: set[int] = set()
        self.reports: list[tuple[int, int | None]] = []
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.journal = json.dumps(initial_state("fleet", self.now).to_dict())
        self.state = initial_state("fleet", self.now)
        self.saved = self.state
        self.kill_after: int | None = None
        self.violations: list[str] = []
        self.firsts: dict[int, tuple[str, ...]] = {}
        self.lost_tasks = 0
        if not is_first:
            for name in self.instances:
                self.instances[name][1] = Running(1, 0, release_id(1))

    # What is true.

    def true_quality(self, agent: str, version: int) -> Quality:
        """Return how an agent's instance of a version truly behaves."""
        found = self.quality.get(version, GOOD)
        return GOOD if found.from_batch and agent in self.firsts.get(version, ()) else found

    def is_down(self, agent: str) -> bool:
        """Whether the agent's node is lost."""
        return self.node_of[agent] in self.down_nodes

    def lose_node(self, node: int) -> None:
        """Take a node away with all that runs on it."""
        self.down_nodes.add(node)
        for agent, at in self.node_of.items():
            if at == node:
                self.instances[agent].clear()

    def flap(self, agent: str, old_version: int | None = None) -> None:
        """Let an agent begin anew, perhaps with a version of its own choice."""
        before = list(self.instances[agent])
        self.instances[agent].clear()
        version = old_version or (before[0] if before else None)
        if version is not None and not self.is_down(agent):
            self.instances[agent][version] = Running(version, 1, release_id(version))

    # Ticks.

    def tick(self) -> None:
        """Let instances, tasks and one pass of the loop go by."""
        self.now += timedelta(seconds=TICK_S)
        for agent, versions in self.instances.items():
            for running in versions.values():
                if running.wait and agent not in self.unstartable:
                    running.wait -= 1
        self._serve(240)
        self.pass_once()

    def _serve(self, per_specialty: int) -> None:
        shares: dict[str, list[tuple[str, int, float]]] = {s: [] for s in SPECIALTIES}
        for route in self.applied.routes:
            agent = self.by_name[route.agent]
            if route.canary is not None:
                shares[agent.specialty].append((route.agent, route.canary, route.canary_ratio))
            if route.version is not None:
                share = 1 - route.canary_ratio
                shares[agent.specialty].append((route.agent, route.version, share))
        for given in shares.values():
            total = sum(share for *_, share in given)
            if not total:
                self.lost_tasks += per_specialty
            for agent, version, share in given:
                self._answer(agent, version, max(25, round(per_specialty * share / total)))

    def _answer(self, agent: str, version: int, tasks: int) -> None:
        running = self.instances[agent].get(version)
        if running is None or not running.is_up or agent in self.silent:
            self.lost_tasks += tasks
            return
        true = self.true_quality(agent, version)
        failed = round(tasks * true.error_ratio)
        unsafe = tasks // 5
        held = round(unsafe * true.held_ratio)
        place = next(
            (k for k, b in enumerate(LATENCY_BOUNDS_MS) if b >= true.latency_ms),
            len(LATENCY_BOUNDS_MS),
        )
        for index, more in ((0, tasks - failed), (1, failed), (2, unsafe), (3, held)):
            running.counts[index] += more
        running.counts[4 + place] += tasks - failed

    def observe(self) -> FleetObservation:
        """Return what the plane would say; a liar says what it likes of its status."""
        found = []
        for agent, versions in self.instances.items():
            for version, running in versions.items():
                row = running.counts
                counts = TaskCounts(row[0], row[1], row[2], row[3], tuple(row[4:]))
                if agent in self.garbled:
                    counts = replace(counts, completed=-1)
                status = "failed" if running.fails else "running" if running.is_up else "starting"
                up = status == "running"
                found.append(
                    Instance(
                        agent,
                        version,
                        status,  # type: ignore[arg-type]  # one of the three
                        running.release_id if up else "",
                        f"node-{self.node_of[agent]}" if up else "",
                        "" if up else "does not start",
                        counts,
                    )
                )
        return FleetObservation(self.applied.generation, tuple(found))

    def probe(self, observation: FleetObservation) -> ProbeRound:
        """Ask all that run, as the loop would."""
        asked = wanted_probes(self.state.release_ids, observation)
        agreements: dict[tuple[str, int], float | None] = {}
        safety: dict[int, tuple[int, int]] = {}
        for agent, version in asked:
            if agent in self.silent:
                agreements[agent, version] = None
                continue
            true = self.true_quality(agent, version)
            garbage = agent in self.garbled and self.dice.random() < 0.5
            agreements[agent, version] = math.nan if garbage else true.agreement
            before = safety.get(version, (0, 0))
            held = round(UNSAFE_PROBES * true.held_ratio)
            safety[version] = (before[0] + UNSAFE_PROBES, before[1] + held)
        active = set(active_instances(POLICY, self.state.instances, asked, self.now))
        consensus = {}
        for version in {v for _, v in active}:
            of = [k for k in active if k[1] == version]
            right = sum((agreements[k] or 0) > 0.9 for k in of)
            needed, _ = byzantine_quorum(len(of))
            consensus[version] = (PROBES, PROBES if right >= needed else 0)
        return ProbeRound(self.now, agreements, PROBES, consensus, safety)

    # The loop.

    def pass_once(self) -> None:
        """Observe, decide, journal, act; a kill loses what was not journaled."""
        observation = self.observe()
        inputs = FleetInputs(
            levels=self.levels,
            observation=observation,
            rounds=(self.probe(observation),),
            orders=self.orders,
            standing=self.standing,
        )
        if self.is_registry_away:
            decided, actions = retreat(POLICY, self.agents, self.state, inputs, self.now)
            assert all(isinstance(action, SetRoutes) for action in actions)
            for action in actions:
                self.perform(action, inputs)
                decided = record(decided, action, self.now)
            self.state = decided
            return
        if wants_restore_check(self.state):
            inputs = replace(inputs, restorable=self.restores, restore_reason="not restorable")
        elif wants_admission(POLICY, self.state):
            inputs = replace(inputs, admitted=self.admits, admission_reason=self.refusal)
        decided, actions = step(POLICY, self.agents, self.state, inputs, self.now)
        if is_worth_saving(self.saved, decided):
            decided = self._save(decided)
        self.state = decided
        if decided.candidate is not None and decided.batch and not decided.batch_index:
            self.firsts[decided.candidate] = decided.batch
        self._act(decided, actions, inputs)

    def _act(self, state: FleetState, actions: tuple[Action, ...], inputs: FleetInputs) -> None:
        for count, action in enumerate(actions):
            if self.kill_after is not None and count >= self.kill_after:
                self.kill_after = None
                self.state = self.saved = FleetState.from_dict(json.loads(self.journal))
                return
            try:
                known = self.perform(action, inputs)
            except (ConflictError, IntegrityError, PlaneError, RefusedError) as error:
                state = self._save(record_failure(state, action, error, self.now))
                if not isinstance(action, Start | Stop):
                    break
                continue
            state = record(state, action, self.now, release_id=known)
        self.state = self._save(state) if is_worth_saving(self.saved, state) else state

    def _save(self, state: FleetState) -> FleetState:
        self.saved = replace(state, generation=state.generation + 1)
        self.journal = json.dumps(self.saved.to_dict())
        return self.saved

    def perform(self, action: Action, inputs: FleetInputs) -> str:
        """Carry out an action, and note what no loop may ask for."""
        if isinstance(action, Fetch):
            return self._fetch(action.version)
        if isinstance(action, Start):
            self._start(action)
        elif isinstance(action, Stop):
            routed = {(r.agent, v) for r in self.applied.routes for v in (r.version, r.canary)}
            if (action.agent, action.version) in routed:
                self.violations.append(f"{action} has tasks")
            self.instances[action.agent].pop(action.version, None)
        elif isinstance(action, SetRoutes):
            self._set_routes(action.table, inputs)
        elif isinstance(action, PublishVerdict):
            self.published.add(action.version)
        elif isinstance(action, WriteReports):
            self.reports.append((action.rolled_back_version, action.restored_version))
        else:
            self._move(action)
        return ""

    def _fetch(self, version: int) -> str:
        self.verified.add(version)
        return release_id(version)

    def _start(self, action: Start) -> None:
        if action.version not in self.state.release_ids:
            self.violations.append(f"{action} is of no verified release")
        if self.is_down(action.agent):
            raise PlaneError("the node is gone", where=action.agent)
        here = self.instances[action.agent]
        if not self.by_name[action.agent].side_by_side and set(here) - {action.version}:
            self.violations.append(f"{action} beside another on a node without room")
        if action.version in here:
            return
        true = self.true_quality(action.agent, action.version)
        said = "sha256:other" if true.lies_of else release_id(action.version)
        here[action.version] = Running(action.version, true.start_ticks, said, true.fails)

    def _set_routes(self, table: RouteTable, inputs: FleetInputs) -> None:
        if table.generation <= self.applied.generation:
            self.violations.append(f"generation {table.generation} is not newer")
        seen = {(i.agent, i.version): i for i in inputs.observation.instances}
        for route in table.routes:
            for version in (route.version, route.canary):
                if version is None:
                    continue
                found = seen.get((route.agent, version))
                right = found is not None and found.release_id == release_id(version)
                if not right or version not in self.verified:
                    self.violations.append(f"{route} is of no verified release")
                if version in inputs.standing.recalls:
                    self.violations.append(f"{route} is of a recalled release")
        self.applied = table

    def _move(self, action: Promote | Restore | Demote) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("somebody else moved a level", where="fleet")
        expected = (action.expect_production, action.expect_canary)
        if expected != (self.levels.production, self.levels.canary):
            self.violations.append(f"{action} expects other levels than there are")
        production, canary = self.levels.production, self.levels.canary
        if isinstance(action, Promote):
            if not self.admits or action.version not in self.published:
                self.violations.append(f"{action} without admission")
            production, canary = action.version, None
        elif isinstance(action, Restore):
            production = action.version
        elif production == action.version:
            production = None
        canary = None if canary == action.version else canary
        self.levels = Levels(production, canary, self.levels.head + 1)
        if production is not None:
            self.ever_production.add(production)
