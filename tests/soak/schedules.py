"""Random schedules of failures against the real controller, and what must hold whatever happens.

One number makes one schedule, so a violation is found again by its seed. The world is
:mod:`rollout.simulator`: registry, routers and clock in memory; plan, step, analysis and
controller are the product's own.

Laws, looked at after every pass:

1. No level is skipped: a canary's share rises by one level of the plan at a time, and a canary
   reaches production only with one signed PASS for each analysis of the plan.
2. No request goes to a release that was not verified, or is not up.
3. Whenever the loop is idle, registry and traffic name the same releases.
4. A release that was found bad is gone: it holds neither a level nor traffic in the end. One that
   the registry keeps at Production for want of another is called a failed rollback.
5. Of several controllers one acts, and one that lost its lease without noticing changes nothing.
6. The loop raises nothing but the product's own errors, and comes to rest once all is well again.
7. What an authority forbids is given no traffic, and has none after the next pass that reached
   registry and routers, clean or not: one that the registry refused something in counts, too. What a newer validation finds
   bad is not at Production in the end, unless nothing can take its place or an operator kept it.
8. Each reversion, from canary or from Production, leaves its three reports, and they name what is at
   Production and has the traffic when they are written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.simulated_plane import Quality
from rollout.simulated_registry import LEASE_S, Fuse, Killed
from rollout.simulator import PLAN, World, build_plan

from kfm_mlflow.errors import ConflictError, KfmError, StorageError
from kfm_mlflow.policy.steps import AnalysisStep
from kfm_mlflow.rollout.inputs import Regression
from kfm_mlflow.rollout.reports import ROLLBACK_REPORT
from kfm_mlflow.rollout.state import NEVER_SERVES, RESTING, UNWINDING, Phase, Trigger

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.controller import Controller

_SAMPLES = {"analysis": {"minSamples": 20, "deadline_s": 30}}
_VOTES = {"pause": {"gate": "votes", "deadline_s": 30}}
_TIMES = {"postPromotionWatch_s": 8, "telemetryGap_s": 20}
_SHADOW = [
    {"setMirrorRoute": {"percentage": 100}}, _SAMPLES,
    {"setWeight": 5}, _SAMPLES, {"setWeight": 50}, _SAMPLES, _VOTES,
]  # fmt: skip
_TIMED = [{"setWeight": 10}, _SAMPLES, {"pause": {"duration_s": 3}}, {"setWeight": 50}, _SAMPLES]
_COMPARE = ["error_ratio", "slow_p95_ratio", "amplification_ratio", "mean_shift_ratio"]
_ANALYSIS = {**PLAN["analysis"], "drift": {"minSamples": 20}}
PLANS: tuple[RolloutPolicy, ...] = (
    build_plan(**_TIMES, analysis=_ANALYSIS),
    build_plan(**_TIMES, steps=_SHADOW, analysis={**_ANALYSIS, "compare": _COMPARE}),
    build_plan(**_TIMES, steps=_TIMED, analysis=_ANALYSIS),
    build_plan(**_TIMES, promotion="manual", analysis=_ANALYSIS),
)

STABLE = 1
QUALITIES = {
    "good": Quality(),
    "slow": Quality(latency_ms=4000),
    "rubbish": Quality(outside_ratio=0.9),
    "drifts": Quality(drift_ratio=0.9),
    "errors": Quality(error_ratio=0.6),
    "only at 100 %": Quality(full_error_ratio=0.6),
    "never ready": Quality(),
    "crashes at load": Quality(),
    "dies": Quality(),
    "broken bytes": Quality(),
}
_LIES = ("vanish", "nan", "stuck")
_PAUSES = ("load_journal", "levels", "orders", "observe", "save_journal", "fetch", "move")
_EVENTS = (
    *("canary",) * 4,
    *("order",) * 2,
    "rollback",
    "restore_refused",
    "person_moves_production_back",
    "veto",
    "recall",
    *("regression",) * 2,
    "validated_again",
    "admission",
    "kill",
    "rival",
    "leader_pauses",
    "registry_clock_jumps",
    "registry_goes_away",
    "head_restarts",
    "router_fails",
    "replica_dies",
    "counters_lie",
    "clock_jumps",
    "traffic_stops",
    "plan_changes",
)


@dataclass(frozen=True)
class Result:
    """How one schedule went."""

    seed: int
    violations: tuple[str, ...]
    pass_count: int
    phases: frozenset[Phase]


class Schedule:
    """One world, and a dice that throws failures into it."""

    def __init__(self, seed: int) -> None:
        """Make the world of a seed: a plan, up to six candidates, perhaps a second controller."""
        self.dice = random.Random(seed)
        self.seed = seed
        self.violations: list[str] = []
        self.phases: set[Phase] = set()
        self.is_first = self.dice.random() < 0.2
        self.kinds = {
            version: self.dice.choice([*["good"] * 5, *QUALITIES])
            for version in range(2, 2 + self.dice.randint(1, 6))
        }
        self.hidden: set[int] = set()
        self.chosen: set[int] = set()
        self.kept: set[int] = set()
        self.unjudged: set[int] = set()
        self.is_stuck = False
        self.is_cut_off = False
        self.passed_over: int | None = None
        plan = self.dice.choice(PLANS)
        self.world = World(
            production=None if self.is_first else STABLE, canary=2, plan=plan, fuse=Fuse()
        )
        self._adopt(plan)
        for version, kind in self.kinds.items():
            self.world.plane.quality[version] = QUALITIES[kind]
            if kind == "broken bytes":
                self.world.registry.corrupt.add(version)
            if kind in {"never ready", "crashes at load"}:
                self.world.plane.unready.add(version)
        self.controllers: list[Controller] = [self.world.controller]
        if self.dice.random() < 0.5:
            self.controllers.append(self.world.start_controller())
        self.registry_away = self.head_away = 0
        self.lie_ends: dict[int, int] = {}
        self.passes = 0

    def run(self, event_count: int = 14) -> Result:
        """Throw events with quiet stretches between, mend everything, and wait for rest."""
        for _ in range(event_count):
            getattr(self, f"_{self.dice.choice(_EVENTS)}")()
            for _ in range(self.dice.choice((1, 1, 2, 4, 9, 20))):
                self._pass()
        self._mend()
        self._come_to_rest()
        violations = tuple(dict.fromkeys(self.violations + self.world.violations))
        return Result(self.seed, violations, self.passes, frozenset(self.phases))

    # One method per kind of failure; `_EVENTS` lists them.

    def _canary(self) -> None:
        held, registry = self.world.registry.held, self.world.registry
        version = self.dice.choice([None, *self.kinds])
        if version not in {held.production, held.canary}:
            registry.set_levels(production=held.production, canary=version)

    def _person_moves_production_back(self) -> None:
        registry = self.world.registry
        if not self.is_first and registry.held.production != STABLE:
            registry.set_levels(production=STABLE, canary=registry.held.canary)

    def _order(self) -> None:
        self.world.registry.give_order(self.dice.choice(["pause", "resume", "abort", "promote"]))

    def _rollback(self) -> None:
        registry = self.world.registry
        former = [v for v in registry.former if v != registry.held.canary]
        if registry.held.production is None or not former:
            return
        target = self.dice.choice(former)
        self.chosen.add(target)
        registry.give_order("rollback", version=registry.held.production, to_version=target)

    def _restore_refused(self) -> None:
        version = self.dice.choice([STABLE, *self.kinds])
        self.world.registry.unrestorable[version] = "STAC item is invalid"

    def _veto(self) -> None:
        self.world.registry.vetoed.add(self.dice.choice(list(self.kinds)))

    def _recall(self) -> None:
        """Let an authority forbid a version, whatever it is at; it does not take that back."""
        version = self.dice.choice([STABLE, *self.kinds])
        self.world.registry.recalls[version] = "region north: its authority vetoed"

    def _regression(self) -> None:
        """Let a validator measure a version again, and find it bad."""
        version = self.dice.choice([STABLE, *self.kinds])
        cause = self.dice.choice(("validation", "xai"))
        statement = f"sha256:{self.dice.getrandbits(256):064x}"
        self.world.registry.regressions[version] = Regression(cause, "nrmse is 0.5", statement)

    def _validated_again(self) -> None:
        """Let a validator measure once more what was found bad, and find it good."""
        found = self.world.registry.regressions
        if found:
            del found[self.dice.choice(sorted(found))]

    def _admission(self) -> None:
        self.world.registry.admit = not self.world.registry.admit

    def _kill(self) -> None:
        fuse = self.world.fuse
        fuse.at = len(fuse.calls) + self.dice.randrange(12)
        fuse.when = self.dice.choice(["before", "after"])

    def _rival(self) -> None:
        """Let another controller look in the middle of a pass; the lease is not its."""
        fuse = self.world.fuse
        fuse.rival_at, fuse.rival_in = len(fuse.calls) + self.dice.randrange(12), None
        fuse.rival = lambda: self._reconcile(self.world.start_controller())

    def _leader_pauses(self) -> None:
        """Stop a controller in the middle of a call, until another has taken over."""
        fuse = self.world.fuse

        def pause() -> None:
            self.world.clock.sleep(2 * LEASE_S)
            self._reconcile(self.world.start_controller())

        fuse.rival_at, fuse.rival_in = len(fuse.calls), self.dice.choice(_PAUSES)
        fuse.rival = pause

    def _registry_clock_jumps(self) -> None:
        self.world.registry.jumped_s += self.dice.choice((1, 30, 3600))

    def _registry_goes_away(self) -> None:
        self.registry_away = self.dice.choice((1, 5, 60))

    def _head_restarts(self) -> None:
        self.world.plane.restart()
        self.head_away = self.dice.choice((0, 2, 10))

    def _router_fails(self) -> None:
        self.world.plane.failures = self.dice.randint(1, 3)

    def _replica_dies(self) -> None:
        split = self.world.plane.split
        version = self.dice.choice([split.stable, split.canary])
        self.world.plane.up.pop(version, None)

    def _counters_lie(self) -> None:
        version = self.dice.choice([STABLE, *self.kinds])
        self.world.plane.lies[version] = self.dice.choice(_LIES)
        self.lie_ends[version] = self.passes + self.dice.choice((1, 5, 40))

    def _clock_jumps(self) -> None:
        self.world.clock.jump(self.dice.choice((-86400, -30, 30, 3600, 10**6)))

    def _traffic_stops(self) -> None:
        for _ in range(self.dice.choice((3, 15))):
            self._pass(request_count=0)

    def _plan_changes(self) -> None:
        self._adopt(self.dice.choice(PLANS))
        self.controllers = [self.world.start_controller() for _ in self.controllers]

    def _adopt(self, plan: RolloutPolicy) -> None:
        if plan is self.world.plan and self.world.plane.levels is not None:
            return
        self.world.plan = plan
        shares = [
            (plan.mirror_pct_at(i) / 100, plan.weight_pct_at(i) / 100)
            for i in range(len(plan.steps))
        ]
        self.world.plane.levels = list(dict.fromkeys(shares))

    # A pass of the loop, and what must hold after it.

    def _pass(self, request_count: int = 100) -> None:
        world, plane = self.world, self.world.plane
        self.passes += 1
        plane.send(request_count)
        for version, kind in self.kinds.items():
            if kind == "dies" and version in plane.up and self.dice.random() < 0.3:
                del plane.up[version]
        for version, ends in list(self.lie_ends.items()):
            if self.passes >= ends:
                plane.lies.pop(version, None)
                del self.lie_ends[version]
            elif plane.split.stable == version:
                self.hidden.add(version)
        world.registry.reachable = self.registry_away <= 0
        plane.reachable = self.head_away <= 0
        self.registry_away -= 1
        self.head_away -= 1
        index = self.dice.randrange(len(self.controllers))
        before = world.registry.held
        self.is_cut_off = bool(plane.failures) or not plane.reachable
        clean = self._reconcile(self.controllers[index])
        self._check_promotion(before.production)
        self._note_stuck()
        if clean or not self.is_cut_off:
            self._check_recalls()
        if clean:
            self._check_agreement()
        world.clock.sleep(1.0)

    def _reconcile(self, controller: Controller) -> bool:
        """Run one pass; True when it ended without an error.

        One that was killed, lost its lease, or found no registry, is noted as cut off.
        """
        try:
            state = controller.reconcile_once()
        except Killed:
            fresh = self.world.start_controller()
            self.controllers = [fresh if c is controller else c for c in self.controllers]
            self.is_cut_off = True
            return False
        except (StorageError, ConflictError):
            self.is_cut_off = True
            return False
        except KfmError:
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self.violations.append(f"the loop raised {type(error).__name__}: {error}")
            return False
        if state is None:
            self.is_cut_off = True
            return False  # Another controller leads.
        self.phases.add(state.phase)
        return True

    def _note_stuck(self) -> None:
        """Note what a rollback that has just failed could have gone back to.

        What becomes good later comes back when somebody decides so, not by itself.
        """
        registry = self.world.registry
        was_stuck, self.is_stuck = self.is_stuck, registry.has_journal and self.world.is_stuck
        if self.is_stuck and not was_stuck:
            self.passed_over = registry.fallback
        if self.is_stuck and self.world.state.candidate is not None:
            self.kept.add(self.world.state.candidate)
        # A new canary, which is a decision, may end it within the pass; then the reports tell.
        held = registry.held.production
        if held in registry.reports:
            report = registry.reports[held][ROLLBACK_REPORT]
            if report["restored_version"] is None and report["registry_restored_at"] is None:
                self.kept.add(held)

    def _check_promotion(self, before: int | None) -> None:
        """Law 1, the registry's half: one signed PASS per analysis, of the plan in force."""
        registry = self.world.registry
        version = registry.held.production
        if version in {before, STABLE} or not registry.history:
            return
        if registry.history[-1] != (version, "production"):
            return
        # Quality is judged against a stable release; without a sound one, only limits find harm.
        if version is not None and (
            before is None or (before in self.unjudged and self.kinds.get(before) == "rubbish")
        ):
            self.unjudged.add(version)
        needed = sum(isinstance(item, AnalysisStep) for item in self.world.plan.steps)
        wanted = (version, "PASS", self.world.plan.digest)
        passed = [
            v for v in registry.verdicts if (v["version"], v["verdict"], v["plan_digest"]) == wanted
        ]
        was_there = (version, "production") in registry.history[:-1]
        if not was_there and len(passed) < needed:
            self.violations.append(
                f"v{version} got to production with {len(passed)} PASS of {needed}"
            )

    def _check_agreement(self) -> None:
        """Law 3: a pass that ended cleanly left nothing to do."""
        held, split, state = self.world.registry.held, self.world.plane.split, self.world.state
        if state.phase in UNWINDING or self.world.fuse.rival is not None:
            return
        waiting = None if state.phase in RESTING else held.canary
        if split.stable != held.production or split.canary not in {None, waiting}:
            self.violations.append(
                f"idle at {state.phase}: registry {held.production}/{held.canary}, "
                f"traffic {split.stable}/{split.canary}"
            )

    def _check_recalls(self) -> None:
        """Law 7, at once."""
        split, recalls = self.world.plane.split, self.world.registry.recalls
        for version in {split.stable, split.canary} & recalls.keys():
            self.violations.append(f"v{version} has traffic although {recalls[version]}")

    def _check_regression(self) -> None:
        """Law 7, in the end."""
        state, registry = self.world.state, self.world.registry
        found = registry.regressions.get(registry.held.production or 0)
        if found is not None and found.statement != state.excused:
            self.violations.append(f"v{registry.held.production} regressed and is at production")

    def _mend(self) -> None:
        """End every failure that is not a release's own; the kinds stay what they are."""
        world = self.world
        world.fuse.at = world.fuse.rival = None
        world.plane.failures = 0
        world.plane.lies.clear()
        self.lie_ends.clear()
        self.registry_away = self.head_away = 0
        world.registry.admit = True
        world.registry.unrestorable.clear()

    def _come_to_rest(self) -> None:
        calm = 0
        for _ in range(400):
            self._pass()
            ends = self.world.state.phase in RESTING and self.world.registry.held.canary is None
            quiet = ends or self.world.is_stuck
            calm = calm + 1 if quiet else 0
            if calm > PLAN["scaleDownDelay_s"] + 2:
                return self._check_end()
            if self.world.state.phase is Phase.PAUSED or calm == 0:
                self._help()
        self.violations.append(f"not at rest: {self.world.state.phase}: {self.world.state.reason}")
        return None

    def _help(self) -> None:
        """Do what a person would: order the promotion that waits for one."""
        if self.world.state.reason == "waits for an operator's promote":
            self.world.registry.give_order("promote")

    def _check_end(self) -> None:
        """Law 4, and that nothing is left over."""
        held, plane = self.world.registry.held, self.world.plane
        for version in self.world.registry.unreported:
            self.violations.append(f"v{version} was taken down without a report")
        if self.world.is_stuck:
            return self._check_stuck()
        self._check_regression()
        kind = self.kinds.get(held.production or 0, "good")
        excused = held.production in self.hidden | self.chosen | self.kept
        excused = excused or (held.production in self.unjudged and kind == "rubbish")
        if kind not in {"good", "dies"} and not excused:
            self.violations.append(f"v{held.production} ({kind}) is still at production")
        if plane.up.keys() - {held.production}:
            self.violations.append(f"left over: {sorted(plane.up)} beside v{held.production}")
        return None

    def _check_stuck(self) -> None:
        """Law 4, where there is nothing to go back to: loud, and no traffic to what is vetoed."""
        held, split, trigger = (
            self.world.registry.held, self.world.plane.split, self.world.state.trigger,
        )  # fmt: skip
        served = None if trigger in NEVER_SERVES else held.production
        if (split.stable, split.canary) != (served, None):
            self.violations.append(f"stuck by {trigger}: traffic {split.stable}/{split.canary}")
        if trigger is not Trigger.OPERATOR and self.passed_over is not None:
            self.violations.append(f"stuck by {trigger} although v{self.passed_over} was there")


def run_schedule(seed: int) -> Result:
    """Run the schedule of one seed."""
    return Schedule(seed).run()
