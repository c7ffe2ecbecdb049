"""The loop around the pure step of a fleet: read, probe, step, journal, act; kill it anywhere.

Rules kept here:

1. One loop leads, by the lease that a model's rollouts have; the others stand by. A decision is
   journaled before it is acted on, and the journal takes nothing of who lost the lease.
2. Nothing is started that the registry did not hand over as verified in this process.
3. A failed action is recorded, the pass ends with its error, and the next pass asks for it again.
4. A registry that can not be reached does not keep tasks on a degraded batch: with what was last
   read the routes are taken back. Nothing else is done meanwhile, and not even that once another
   loop has routed.
5. While the cluster is away nothing is decided; the journal says so, once, and takes it back.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.errors import (
    ConflictError,
    IntegrityError,
    KfmError,
    PlaneError,
    StorageError,
)
from kfm_mlflow.fleet.actions import Fetch, SetRoutes, Start, Stop
from kfm_mlflow.fleet.describe import describe
from kfm_mlflow.fleet.health import wanted_probes
from kfm_mlflow.fleet.observed import FleetInputs
from kfm_mlflow.fleet.probing import Prober
from kfm_mlflow.fleet.record import record, record_failure
from kfm_mlflow.fleet.reports import build_reports, build_verdict
from kfm_mlflow.fleet.state import (
    RESTING,
    UNWINDING,
    FleetState,
    initial_state,
    is_worth_saving,
)
from kfm_mlflow.fleet.step import (
    retreat,
    step,
    wants_admission,
    wants_restore_check,
    wants_standing_of,
)
from kfm_mlflow.gates.cause import Cause
from kfm_mlflow.rollout.actions import Demote, Promote, PublishVerdict, Restore, WriteReports
from kfm_mlflow.rollout.inputs import Levels, Standing
from kfm_mlflow.rollout.leadership import LEASE_S
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY
from kfm_mlflow.rollout.passes import DEMOTED, MAX_ROUNDS, PRODUCTION, Reconciler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.fleet.actions import Action
    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.fleet.health import ProbeRound
    from kfm_mlflow.fleet.plane import FleetObservation, FleetPlane
    from kfm_mlflow.policy.fleet import FleetPolicy
    from kfm_mlflow.rollout.inputs import Orders
    from kfm_mlflow.rollout.plane import Deployable
    from kfm_mlflow.rollout.ports import Clock, RegistryPort

_log = logging.getLogger(__name__)

TOLD_S = 10.0
"""How old what the journal tells of agents may grow while nothing is decided."""


class FleetLoop(Reconciler):
    """Carries the releases of one registered model through a fleet."""

    def __init__(
        self,
        registry: RegistryPort,
        plane: FleetPlane,
        plan: FleetPolicy,
        clock: Clock,
        model_name: str,
        *,
        agents: Sequence[Agent],
        holder: str | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """Make a loop; it does nothing before the first pass.

        Args:
            registry: Where levels, lease and journal are.
            plane: Carries the fleet.
            plan: The policy's fleet section.
            clock: Time.
            model_name: Registered model of the fused releases.
            agents: Who is in the fleet.
            holder: Name under which it holds the lease, which no other has; None makes one.
            lease_s: How long another waits when this one dies.
        """
        super().__init__(registry, clock, model_name, holder=holder, lease_s=lease_s)
        self._plane = plane
        self._plan = plan
        self._agents = tuple(agents)
        self._fetched: dict[int, Deployable] = {}
        self._prober = Prober(plane, plan)
        self._observed: FleetObservation | None = None
        self._journaled: FleetState | None = None
        self._told_at = clock.now()
        self._measured: FleetState | None = None
        self._known: tuple[FleetState, Levels] | None = None
        self._unsaved: FleetState | None = None
        self._told = Standing()

    def reconcile_once(self) -> FleetState | None:
        """Bring fleet and registry as far as they can come now.

        Returns:
            The state that was reached; None while another loop leads.

        Raises:
            KfmError: A port failed; what was reached is journaled, and the next pass goes on.
        """
        try:
            if not self._leadership.take():
                self._known = self._unsaved = self._measured = None
                return None
            return self._reconcile()
        except ConflictError:
            self._unsaved = self._measured = None
            raise
        except StorageError:
            self._watch_without_registry()
            raise

    def _reconcile(self) -> FleetState:
        state = self._load()
        asked: tuple[Action, ...] = ()
        for _ in range(MAX_ROUNDS):
            before = _stage(state)
            state, actions = self._round(state)
            # What is asked for again has yet to show: instances take their time to come and go.
            if before == _stage(state) and actions in {(), asked}:
                break
            asked = actions
        return state

    def _load(self) -> FleetState:
        stored = self._registry.load_journal(self._model_name)
        state = (
            initial_state(self._model_name, self._clock.now())
            if stored is None
            else FleetState.from_dict(stored)
        )
        if self._unsaved is not None and self._unsaved.generation == state.generation:
            state = self._save(self._unsaved)
        self._unsaved = None
        measured = self._measured
        # What was measured since the last entry is this process's own, and still true.
        if measured is not None and measured.generation == state.generation:
            return measured
        self._journaled = state if stored is not None else None
        return state

    def _save(self, state: FleetState) -> FleetState:
        saved = replace(state, generation=state.generation + 1)
        now = self._clock.now()
        told = describe(self._plan, self._agents, saved, self._observed, now)
        self._registry.save_journal(
            self._model_name,
            {**saved.to_dict(), NARRATIVE_KEY: told.to_dict()},
            expect_generation=state.generation,
            token=self._leadership.token,
        )
        self._journaled = self._measured = saved
        self._told_at = now
        return saved

    def _round(self, state: FleetState) -> tuple[FleetState, tuple[Action, ...]]:
        levels = self._registry.levels(self._model_name)
        self._known = (state, levels)
        observation = self._observe(state)
        state = replace(state, plane_problem="")
        inputs = FleetInputs(
            levels=levels,
            observation=observation,
            rounds=self._probe(state, observation),
            orders=self._orders(state),
        )
        inputs = replace(inputs, standing=self._standing(state, inputs))
        self._told = inputs.standing
        inputs = self._with_admission(state, inputs)
        decided, actions = step(self._plan, self._agents, state, inputs, self._clock.now())
        if self._is_due(decided):
            decided = self._save(decided)
        self._known = (decided, levels)
        self._measured = decided
        return self._act(decided, actions), actions

    def _is_due(self, state: FleetState) -> bool:
        """Whether a decision changed, or what the journal tells of agents is old."""
        if self._journaled is None or is_worth_saving(self._journaled, state):
            return True
        return (self._clock.now() - self._told_at).total_seconds() >= TOLD_S

    def _act(self, state: FleetState, actions: tuple[Action, ...]) -> FleetState:
        """Carry out actions in order; stop at the first that fails, unless it is of one agent."""
        done = state
        for action in actions:
            self._leadership.require()
            try:
                release_id = self._perform(done, action)
            except KfmError as error:
                failed = record_failure(done, action, error, self._clock.now())
                if isinstance(action, Start | Stop) and failed.phase is done.phase:
                    _log.warning("fleet of %s: %s: %s", self._model_name, action, error)
                    done = failed
                    continue
                if failed != state:
                    failed = self._save(failed)
                if failed.phase is done.phase:
                    raise
                _log.warning("fleet of %s: %s", self._model_name, failed.reason)
                return failed
            done = record(done, action, self._clock.now(), release_id=release_id)
            _log.info("fleet of %s: %s", self._model_name, action)
        return self._save(done) if done != state else done

    def _observe(self, state: FleetState) -> FleetObservation:
        try:
            self._observed = self._plane.observe()
        except PlaneError as error:
            if not state.plane_problem:
                self._save(replace(state, plane_problem=str(error)))
            raise
        return self._observed

    def _probe(self, state: FleetState, observation: FleetObservation) -> tuple[ProbeRound, ...]:
        """Ask the probes that are due, of releases whose bytes this process has verified."""
        for version in {version for _, version in wanted_probes(state.release_ids, observation)}:
            if version not in self._fetched:
                try:
                    self._fetch(version)
                except KfmError as error:
                    name = f"{self._model_name} v{version}"
                    _log.warning("fleet: %s is not probed: %s", name, error)
        return self._prober.ask(state, observation, self._fetched, self._clock.now())

    def _with_admission(self, state: FleetState, inputs: FleetInputs) -> FleetInputs:
        if wants_restore_check(state) and state.stable is not None:
            restorable, why = self._registry.admits_restore(self._model_name, state.stable)
            return replace(inputs, restorable=restorable, restore_reason=why)
        wanted = wants_admission(self._plan, state) and state.candidate != inputs.levels.production
        if not wanted or state.candidate is None:
            return inputs
        admitted, why = self._registry.admits(self._model_name, state.candidate, PRODUCTION)
        return replace(inputs, admitted=admitted, admission_reason=why)

    def _orders(self, state: FleetState) -> Orders:
        watched = state.phase not in RESTING and state.phase not in UNWINDING
        return self._registry.orders(self._model_name, state.candidate if watched else None)

    def _standing(self, state: FleetState, inputs: FleetInputs) -> Standing:
        levels, others = inputs.levels, wants_standing_of(state, inputs)
        if levels.production is None and levels.canary is None and not others:
            return Standing()
        return self._registry.standing(self._model_name, others)

    def _watch_without_registry(self) -> None:
        """Take tasks back from a degraded batch although nothing can be journaled."""
        if self._known is None or self._known[0].phase in RESTING:
            return
        state, levels = self._known
        observation = self._plane.observe()
        # After a cluster's restart nothing is routed, and only the journal tells what is the next.
        if not 0 < observation.generation <= state.routes.generation:
            return
        inputs = FleetInputs(
            levels=levels,
            observation=observation,
            rounds=self._probe(state, observation),
            standing=self._told,
        )
        decided, actions = retreat(self._plan, self._agents, state, inputs, self._clock.now())
        if decided.phase not in UNWINDING:
            return
        for action in actions:
            if isinstance(action, SetRoutes):
                self._perform(decided, action)
                decided = record(decided, action, self._clock.now())
                _log.warning("fleet of %s: routes taken back without a registry", self._model_name)
        self._known = (decided, levels)
        self._unsaved = decided

    def _perform(self, state: FleetState, action: Action) -> str:
        """Carry out one action; return the release id of what a Fetch handed over."""
        if isinstance(action, Fetch):
            return self._fetch(action.version).release_id
        if isinstance(action, Start):
            agent = next(agent for agent in self._agents if agent.name == action.agent)
            release = self._fetched.get(action.version) or self._fetch(action.version)
            self._plane.start(agent, release)
        elif isinstance(action, Stop):
            self._plane.stop(action.agent, action.version)
        elif isinstance(action, SetRoutes):
            self._plane.route(action.table)
        elif isinstance(action, PublishVerdict):
            verdict = build_verdict(self._plan, state, self._clock.now())
            self._registry.publish_verdict(self._model_name, action.version, verdict)
        elif isinstance(action, WriteReports):
            documents = build_reports(state, action.rolled_back_version, action.restored_version)
            self._registry.publish_reports(self._model_name, action.rolled_back_version, documents)
        else:
            self._move(action, state)
        return ""

    def _fetch(self, version: int) -> Deployable:
        release = self._registry.fetch(self._model_name, version)
        if (release.model_name, release.version) != (self._model_name, version):
            raise IntegrityError(
                f"the registry handed over {release.model_name} v{release.version}",
                where=f"{self._model_name} v{version}",
            )
        self._fetched[version] = release
        # A download may have outlasted the lease.
        self._leadership.require()
        return release

    def _move(self, action: Promote | Restore | Demote, state: FleetState) -> None:
        is_promotion = isinstance(action, Promote)
        cause = None
        if not is_promotion and state.trigger is not None:
            cause = Cause.model_validate({"trigger": str(state.trigger), "drift": None})
        self._registry.move(
            self._model_name,
            action.version,
            DEMOTED if isinstance(action, Demote) else PRODUCTION,
            expect_production=action.expect_production,
            expect_canary=action.expect_canary,
            reason="first batch passed" if isinstance(action, Promote) else action.reason,
            cause=cause,
        )


def _stage(state: FleetState) -> tuple[object, ...]:
    """Return what must stay as it is for a pass to have nothing more to do."""
    return state.phase, state.candidate, state.stable, state.batch_index
