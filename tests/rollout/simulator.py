"""A world in memory for the rollout controller: registry, traffic plane and clock.

The fakes implement the real protocols and keep their promises: compare-and-set, generations,
counters that only grow. They note every breach of what no controller may do in ``violations``.
A :class:`Fuse` kills the controller at a chosen call, before or after the call took effect.
"""

# The methods of the fakes are documented where the protocols are, and have their signatures.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rollout.simulated_plane import FakePlane, Seat
from rollout.simulated_registry import LEASE_S, MODEL, FakeClock, FakeRegistry, Fuse, Killed

from kfm_mlflow.errors import (
    KfmError,
)
from kfm_mlflow.policy.rollout import RolloutPolicy
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.state import RESTING, Phase, RolloutState

if TYPE_CHECKING:
    from kfm_mlflow.rollout.plane import TrafficPlane
    from kfm_mlflow.rollout.ports import Clock, RegistryPort


PLAN = {
    "steps": [
        {"setWeight": 10},
        {"analysis": {"minSamples": 20, "deadline_s": 30}},
        {"pause": {"gate": "votes", "deadline_s": 30}},
    ],
    "analysis": {
        "falseAlarmRatio": 0.05,
        "limits": {"error_ratio": 0.05, "p95_latency_ms": 1000},
        "compare": ["error_ratio", "amplification_ratio", "mean_shift_ratio"],
    },
    "scaleDownDelay_s": 3,
    "postPromotionWatch_s": 3,
    "telemetryGap_s": 60,
    "canaryReady_s": 10,
    "promotionDeadline_s": 60,
    "pauseDeadline_s": 40,
}


def build_plan(**changes: Any) -> RolloutPolicy:
    """Return the test plan with some sections replaced."""
    return RolloutPolicy.model_validate({**PLAN, **changes})


class World:
    """One model's registry, plane, clock and controller, and the traffic between them."""

    def __init__(
        self,
        *,
        production: int | None = 1,
        canary: int | None = None,
        plan: RolloutPolicy | None = None,
        fuse: Fuse | None = None,
    ) -> None:
        self.fuse = fuse or Fuse()
        self.clock = FakeClock()
        self.registry = FakeRegistry(
            self.fuse, production=production, canary=canary, clock=self.clock
        )
        self.plane = FakePlane(self.fuse, self.registry)
        self.plane.is_forbidden = self.registry.tells_recall
        self.registry.serves = lambda: self.plane.split.stable
        self.plan = plan or build_plan()
        self.errors: list[Exception] = []
        self.kills = 0
        self.led = False
        self._started = 0
        self.controller = self.start_controller()

    def start_controller(self) -> Controller:
        """Return a controller as a fresh process would have it."""
        self._started += 1
        holder = f"controller-{self._started}"
        registry: RegistryPort = self.registry
        plane: TrafficPlane = Seat(self.plane, self.registry, holder)
        clock: Clock = self.clock
        return Controller(registry, plane, self.plan, clock, MODEL, holder=holder, lease_s=LEASE_S)

    @property
    def state(self) -> RolloutState:
        """What the journal holds."""
        value = self.registry._journal
        assert value is not None
        return RolloutState.from_dict(json.loads(value))

    @property
    def is_stuck(self) -> bool:
        """Whether a rollback has nothing to go back to, and says so."""
        state, held = self.state, self.registry.held
        kept = state.stable is None and state.candidate == held.production
        return state.phase is Phase.ROLLBACK_FAILED and kept

    @property
    def violations(self) -> list[str]:
        """What no controller may do, and this one did."""
        return self.registry.violations + self.plane.violations

    def tick(self, *, request_count: int = 100, wait_s: float = 1.0) -> None:
        """Let traffic, one pass and a second go by; a killed controller is replaced."""
        self.plane.send(request_count)
        self.led = False
        try:
            self.led = self.controller.reconcile_once() is not None
        except Killed:
            self.kills += 1
            self.controller = self.start_controller()
        except KfmError as error:
            self.errors.append(error)
        self.clock.sleep(wait_s)

    def run(self, ticks: int, *, request_count: int = 100) -> RolloutState:
        """Let some seconds go by."""
        for _ in range(ticks):
            self.tick(request_count=request_count)
        return self.state

    def run_to_rest(self, *, limit: int = 200, request_count: int = 100) -> RolloutState:
        """Go on until no rollout is under way and nothing changes any more."""
        calm = 0
        for _ in range(limit):
            before = (self.registry._journal, self.plane.split)
            self.tick(request_count=request_count)
            if self.registry._journal is None:
                continue
            quiet = self.led and before == (self.registry._journal, self.plane.split)
            ends = self.state.phase in RESTING or self.is_stuck
            calm = calm + 1 if quiet and ends else 0
            if calm > self.plan.scale_down_delay_s:
                return self.state
        raise AssertionError(f"not at rest after {limit} passes: {self.state.phase}")

    @property
    def outcome(self) -> tuple[Any, ...]:
        """Everything that two runs of one story must agree on."""
        state, split = self.state, self.plane.split
        return (
            state.phase,
            state.candidate,
            state.trigger,
            (self.registry.held.production, self.registry.held.canary),
            (split.stable, split.canary, split.canary_ratio),
            frozenset(self.plane.up),
            frozenset(self.registry.reports),
        )
