"""The loop around the pure step: read, analyse, step, journal, act; kill it anywhere.

Rules kept here:

1. One controller leads, by a lease in the registry; the others stand by and do nothing. A decision
   is journaled before it is acted on, and the journal takes nothing of who lost the lease.
2. Nothing is deployed that the registry did not hand over as verified in this process.
3. A failed action is recorded, the pass ends with its error, and the next pass asks for it again.
4. A registry that can not be reached does not keep traffic on a bad canary: with what was last
   read the traffic is still watched, and taken back if need be. Nothing else is done meanwhile,
   and not even that once another controller has routed the traffic, or the cluster was restarted.
5. While the traffic plane is away nothing is decided; the journal says so, once, and takes it back.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import (
    ConflictError,
    IntegrityError,
    KfmError,
    PlaneError,
    RolloutError,
    StorageError,
)
from kfm_mlflow.rollout.actions import (
    Action,
    Demote,
    Deploy,
    Promote,
    PublishVerdict,
    Remove,
    Restore,
    SetSplit,
    WriteReports,
)
from kfm_mlflow.rollout.analysis import analyse, find_unmasked
from kfm_mlflow.rollout.bands import load_bands
from kfm_mlflow.rollout.describe import describe
from kfm_mlflow.rollout.inputs import Levels, Orders, Standing, StepInputs
from kfm_mlflow.rollout.leadership import LEASE_S
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY
from kfm_mlflow.rollout.orders import wants_restore_check
from kfm_mlflow.rollout.passes import DEMOTED, MAX_ROUNDS, PRODUCTION, Reconciler
from kfm_mlflow.rollout.plane import Split
from kfm_mlflow.rollout.record import record, record_failure
from kfm_mlflow.rollout.reports import build_reports, build_verdict, cause_of
from kfm_mlflow.rollout.state import (
    RESTING,
    UNDER_ANALYSIS,
    UNWINDING,
    RolloutState,
    initial_state,
)
from kfm_mlflow.rollout.step import step, wants_admission, wants_standing_of
from kfm_mlflow.rollout.told_away import tell_away
from kfm_mlflow.rollout.unwind import former_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.monitor.drift_bins import Columns
    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.plane import Band, Deployable, Observation, TrafficPlane
    from kfm_mlflow.rollout.ports import Clock, RegistryPort

_log = logging.getLogger(__name__)


class Controller(Reconciler):
    """Carries the rollouts of one registered model."""

    def __init__(
        self,
        registry: RegistryPort,
        plane: TrafficPlane,
        plan: RolloutPolicy,
        clock: Clock,
        model_name: str,
        *,
        holder: str | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """Make a controller; it does nothing before the first pass.

        Args:
            registry: Where levels, lease and journal are.
            plane: Carries the traffic.
            plan: The policy's rollout section.
            clock: Time.
            model_name: Registered model.
            holder: Name under which it holds the lease, which no other has; None makes one.
            lease_s: How long another waits when this one dies.
        """
        super().__init__(registry, clock, model_name, holder=holder, lease_s=lease_s)
        self._plane = plane
        self._plan = plan
        self._fetched: dict[int, Deployable] = {}
        self._applied = 0
        self._known: tuple[RolloutState, Levels] | None = None
        self._told = Standing()
        self._unsaved: RolloutState | None = None

    def reconcile_once(self) -> RolloutState | None:
        """Bring traffic and registry as far as they can come now.

        Returns:
            The journaled state that was reached; None while another controller leads.

        Raises:
            KfmError: A port failed; what was reached is journaled, and the next pass goes on.
        """
        try:
            if not self._leadership.take():
                self._known = self._unsaved = None
                return None
            return self._reconcile()
        except ConflictError:
            self._unsaved = None
            raise
        except StorageError:
            self._watch_without_registry()
            raise

    def _reconcile(self) -> RolloutState:
        state = self._load()
        for _ in range(MAX_ROUNDS):
            before = _stage(state)
            state, acted = self._round(state)
            if not acted and before == _stage(state):
                break
        return state

    def _load(self) -> RolloutState:
        stored = self._registry.load_journal(self._model_name)
        state = (
            initial_state(self._model_name, self._clock.now())
            if stored is None
            else RolloutState.from_dict(stored)
        )
        if self._unsaved is not None and self._unsaved.generation == state.generation:
            state = self._save(self._unsaved)
        self._unsaved = None
        return state

    def _save(self, state: RolloutState) -> RolloutState:
        saved = replace(state, generation=state.generation + 1)
        told = tell_away(describe(self._plan, saved, self._clock.now()), saved)
        journal = {**saved.to_dict(), NARRATIVE_KEY: told.to_dict()}
        self._registry.save_journal(
            self._model_name,
            journal,
            expect_generation=state.generation,
            token=self._leadership.token,
        )
        return saved

    def _round(self, state: RolloutState) -> tuple[RolloutState, bool]:
        levels = self._registry.levels(self._model_name)
        self._known = (state, levels)
        state_now, inputs = self._observe(state, levels)
        admitted, reason = self._ask_admission(state_now, levels)
        inputs = replace(
            inputs,
            admitted=admitted,
            admission_reason=reason,
            orders=self._orders(state_now),
            standing=self._standing(state_now, inputs),
        )
        self._told = inputs.standing
        decided, actions = step(self._plan, state_now, inputs, self._clock.now())
        if decided != state:
            self._known = (decided, levels)
            decided = self._save(decided)
            self._known = (decided, levels)
        return self._act(decided, actions, inputs), bool(actions)

    def _act(
        self, state: RolloutState, actions: tuple[Action, ...], inputs: StepInputs
    ) -> RolloutState:
        """Carry out actions in order; stop at the first that fails."""
        done = state
        for action in actions:
            self._leadership.require()
            try:
                self._perform(done, action, inputs)
            except KfmError as error:
                failed = record_failure(done, action, error, self._clock.now())
                if failed != state:
                    failed = self._save(failed)
                if failed.phase is done.phase:
                    raise
                _log.warning("rollout of %s: %s", self._model_name, failed.reason)
                return failed
            done = record(done, action, self._clock.now())
            _log.info("rollout of %s: %s", self._model_name, action)
        return self._save(done) if done != state else done

    def _observe(self, state: RolloutState, levels: Levels) -> tuple[RolloutState, StepInputs]:
        """Read the plane, and analyse what it counted; at rest, failed masking alone."""
        try:
            deployed = self._plane.deployed()
        except PlaneError as error:
            self._say_away(state, levels, error)
            raise
        state = replace(state, plane_problem="")
        observation = self._look()
        inputs = StepInputs(levels=levels, deployed=deployed, applied_generation=self._applied)
        if observation is None:
            return state, inputs
        if state.phase in RESTING:
            served = observation.arms.get(levels.production) if levels.production else None
            failed, memory = find_unmasked(self._plan.analysis, state.memory, served)
            if failed is not None and former_of(state, levels.production) is not None:
                state = replace(state, memory=memory, analysis=failed)
            return state, replace(inputs, analysis=failed)
        if state.phase not in UNDER_ANALYSIS or state.candidate is None:
            return state, inputs
        has_stable = state.stable is not None and levels.production != state.candidate
        analysis, memory = analyse(
            self._plan.analysis,
            state.memory,
            canary=observation.arms.get(state.candidate),
            stable=observation.arms.get(state.stable) if state.stable is not None else None,
            has_stable=has_stable,
            min_samples=self._plan.min_samples_at(state.step_index),
            canary_ratio=max(state.split.ratio, state.split.mirror_ratio),
            baselines=_baselines(state, observation),
            is_promoted=levels.production == state.candidate,
        )
        state = replace(state, memory=memory, analysis=analysis)
        return state, replace(inputs, analysis=analysis)

    def _say_away(self, state: RolloutState, levels: Levels, error: PlaneError) -> None:
        """Journal once that the traffic plane is away; without it nothing is decided."""
        if not state.plane_problem:
            self._known = (self._save(replace(state, plane_problem=str(error))), levels)

    def _look(self) -> Observation | None:
        """Return what the plane counted; None when it says nothing, which is a telemetry gap."""
        try:
            observation = self._plane.observe()
        except PlaneError as error:
            _log.warning("rollout of %s: nothing is measured: %s", self._model_name, error)
            return None
        self._applied = observation.generation
        return observation

    def _ask_admission(self, state: RolloutState, levels: Levels) -> tuple[bool | None, str]:
        if wants_restore_check(state) and state.stable is not None:
            return self._registry.admits_restore(self._model_name, state.stable)
        wanted = wants_admission(self._plan, state) and levels.production != state.candidate
        if not wanted or state.candidate is None:
            return None, ""
        return self._registry.admits(self._model_name, state.candidate, PRODUCTION)

    def _orders(self, state: RolloutState) -> Orders:
        watched = state.phase not in RESTING and state.phase not in UNWINDING
        return self._registry.orders(self._model_name, state.candidate if watched else None)

    def _standing(self, state: RolloutState, inputs: StepInputs) -> Standing:
        levels = inputs.levels
        others = wants_standing_of(state, inputs)
        if levels.production is None and levels.canary is None and not others:
            return Standing()
        return self._registry.standing(self._model_name, others)

    def _watch_without_registry(self) -> None:
        """Take traffic back from a bad canary although nothing can be journaled."""
        if self._known is None:
            return
        state, levels = self._known
        if state.phase in RESTING:
            return
        observed, inputs = self._observe(state, levels)
        # After a cluster's restart nothing has traffic, and only the journal tells which generation
        # is the next.
        if not 0 < inputs.applied_generation <= state.split.generation:
            return
        inputs = replace(inputs, standing=self._told)
        decided, actions = step(self._plan, observed, inputs, self._clock.now())
        if decided.phase not in UNWINDING:
            return
        if actions and isinstance(actions[0], SetSplit):
            self._perform(decided, actions[0], inputs)
            decided = record(decided, actions[0], self._clock.now())
            _log.warning("rollout of %s: traffic taken back without a registry", self._model_name)
        self._known = (decided, levels)
        self._unsaved = decided

    def _perform(self, state: RolloutState, action: Action, inputs: StepInputs) -> None:
        if isinstance(action, Deploy):
            self._deploy(action.version, inputs)
        elif isinstance(action, SetSplit):
            self._plane.set_split(
                Split(
                    generation=action.generation,
                    stable=action.stable,
                    canary=action.canary,
                    canary_ratio=action.ratio,
                    bands=self._bands(action.stable, in_haste=state.phase in UNWINDING),
                    mirror_ratio=action.mirror_ratio,
                )
            )
            self._applied = action.generation
        elif isinstance(action, Remove):
            self._plane.remove(action.version)
            self._fetched.pop(action.version, None)
        elif isinstance(action, Promote | Restore | Demote):
            self._move(action, state)
        elif isinstance(action, PublishVerdict):
            self._registry.publish_verdict(self._model_name, action.version, self._verdict(state))
        elif isinstance(action, WriteReports):
            documents = build_reports(state, action.rolled_back_version, action.restored_version)
            self._registry.publish_reports(self._model_name, action.rolled_back_version, documents)

    def _deploy(self, version: int, inputs: StepInputs) -> None:
        """Have a release verified, and served unless it already is."""
        release = self._fetch(version)
        if version not in inputs.deployed:
            asked = self._plan.analysis.explanations
            interval_s = None if asked is None else asked.interval_s
            release = replace(release, explain_interval_s=interval_s)
            self._plane.deploy(release, timeout_s=self._plan.canary_ready_s)

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

    def _bands(self, version: int | None, *, in_haste: bool) -> Mapping[str, Band]:
        """Return the bands of the version that answers; a rollback does not wait to verify one."""
        if version is None:
            return {}
        release = self._fetched.get(version)
        if release is None and in_haste:
            return {}
        return load_bands((release or self._fetch(version)).release_dir)

    def _move(self, action: Promote | Restore | Demote, state: RolloutState) -> None:
        self._registry.move(
            self._model_name,
            action.version,
            DEMOTED if isinstance(action, Demote) else PRODUCTION,
            expect_production=action.expect_production,
            expect_canary=action.expect_canary,
            reason="canary passed" if isinstance(action, Promote) else action.reason,
            cause=None if isinstance(action, Promote) else cause_of(state),
        )

    def _verdict(self, state: RolloutState) -> dict[str, Any]:
        if state.analysis is None:
            raise RolloutError("there is no analysis to publish", where=self._model_name)
        # What was given up was judged then: before the registry moved, and not after.
        given_up_at = state.detected_at if state.phase in UNWINDING else None
        decided_at = given_up_at or self._clock.now()
        return build_verdict(self._plan, state, state.analysis, decided_at)


def _baselines(state: RolloutState, observation: Observation) -> dict[str, Columns]:
    """Return the drift baseline of each arm that has one."""
    arms = (("canary", state.candidate), ("stable", state.stable))
    known = observation.baselines
    return {arm: known[v] for arm, v in arms if v is not None and v in known}


def _stage(state: RolloutState) -> tuple[Any, ...]:
    """Return what must stay as it is for a pass to have nothing more to do."""
    return state.candidate, state.stable, state.plan_digest, state.phase, state.step_index
