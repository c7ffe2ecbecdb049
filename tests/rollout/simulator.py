"""A world in memory for the rollout controller: registry, traffic plane and clock.

The fakes implement the real protocols and keep their promises: compare-and-set, generations,
counters that only grow. They note every breach of what no controller may do in ``violations``.
A :class:`Fuse` kills the controller at a chosen call, before or after the call took effect.
"""

# The methods of the fakes are documented where the protocols are, and have their signatures.
# ruff: noqa: D102, ARG002

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import (
    ConflictError,
    IntegrityError,
    KfmError,
    PlaneError,
    RefusedError,
    StorageError,
)
from kfm_mlflow.policy.rollout import RolloutPolicy
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.inputs import Levels, Orders, Standing
from kfm_mlflow.rollout.plane import ArmCounts, Deployable, Observation, Split
from kfm_mlflow.rollout.state import RESTING, RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kfm_mlflow.rollout.plane import TrafficPlane
    from kfm_mlflow.rollout.ports import Clock, RegistryPort

MODEL = "climate-downscaler"
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Killed(BaseException):
    """The controller's process is gone; nothing in it can catch this."""


@dataclass
class Fuse:
    """Kills the caller at one call, counted over all ports, or lets somebody else go first.

    ``rival`` is called in the middle of the chosen call ``rival_at``, as when a second controller
    runs between two instructions of the first.
    """

    at: int | None = None
    when: Literal["before", "after"] = "before"
    calls: list[str] = field(default_factory=list)
    rival_at: int | None = None
    rival: Callable[[], None] | None = None

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Count one call, and burn at the chosen one."""
        index = len(self.calls)
        self.calls.append(name)
        if index == self.at and self.when == "before":
            raise Killed(name)
        if self.rival is not None and self.rival_at is not None and index >= self.rival_at:
            rival, self.rival = self.rival, None
            rival()
        try:
            yield
        finally:
            if index == self.at and self.when == "after":
                raise Killed(name)


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> datetime:
        return self._now

    def sleep(self, duration_s: float) -> None:
        self._now += timedelta(seconds=duration_s)

    def jump(self, by_s: float) -> None:
        """Be set ahead or back."""
        self._now += timedelta(seconds=by_s)


class FakeRegistry:
    """Levels, journal and documents of one model."""

    def __init__(
        self, fuse: Fuse, *, production: int | None = 1, canary: int | None = None
    ) -> None:
        self.held = Levels(production, canary, 0)
        self.history: list[tuple[int, str]] = []
        self.admit = True
        self.refusal = "votes 1 of 3"
        self.corrupt: set[int] = set()
        self.fetched: set[int] = set()
        self.reachable = True
        self.order = Orders()
        self.vetoed: set[int] = set()
        self.recalls: dict[int, str] = {}
        self.fallback: int | None = None
        self.verdicts: list[dict[str, Any]] = []
        self.reports: dict[int, dict[str, Any]] = {}
        self.violations: list[str] = []
        self.release_dir = Path("/nonexistent")
        self._journal: str | None = None
        self._fuse = fuse

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._fuse.call(name):
            if not self.reachable:
                raise StorageError("registry can not be reached")
            yield

    def set_levels(self, *, production: int | None, canary: int | None) -> None:
        """Move levels as a person would, past the controller."""
        self.held = Levels(production, canary, self.held.head + 1)

    def give_order(self, operator: Any) -> None:
        """Order something as an operator would."""
        self.order = replace(self.order, operator=operator, order_id=self.order.order_id + 1)

    def levels(self, model_name: str) -> Levels:
        with self._call("levels"):
            return self.held

    def orders(self, model_name: str, version: int) -> Orders:
        with self._call("orders"):
            return replace(self.order, veto="council" if version in self.vetoed else "")

    def standing(self, model_name: str) -> Standing:
        with self._call("standing"):
            served = {self.held.production, self.held.canary}
            recalls = {v: why for v, why in self.recalls.items() if v in served}
            return Standing(recalls, frozenset(recalls), self.fallback)

    def fetch(self, model_name: str, version: int) -> Deployable:
        with self._call("fetch"):
            if version in self.corrupt:
                raise IntegrityError("model.onnx is not what was signed", where=f"v{version}")
            self.fetched.add(version)
            return Deployable(model_name, version, f"sha256:{version:064x}", self.release_dir)

    def admits(self, model_name: str, version: int, level: str) -> tuple[bool, str]:
        with self._call("admits"):
            return self.admit, "" if self.admit else self.refusal

    def move(
        self,
        model_name: str,
        version: int,
        to_level: str,
        *,
        expect_production: int | None,
        expect_canary: int | None,
        reason: str,
    ) -> None:
        with self._call("move"):
            held = self.held
            if (held.production, held.canary) != (expect_production, expect_canary):
                raise ConflictError("levels have moved")
            known = {v for v, level in self.history if level == "production"} | {1}
            if to_level == "production":
                if version != held.canary and version not in known:
                    self.violations.append(f"v{version} skipped the canary level")
                if version == held.canary and not self.admit:
                    raise RefusedError(self.refusal)
                canary = None if held.canary == version else held.canary
                self.held = Levels(version, canary, held.head + 1)
            else:
                production = None if held.production == version else held.production
                canary = None if held.canary == version else held.canary
                self.held = Levels(production, canary, held.head + 1)
            self.history.append((version, to_level))

    def publish_verdict(self, model_name: str, version: int, analysis: Mapping[str, Any]) -> None:
        with self._call("publish_verdict"):
            self.verdicts.append(json.loads(canonical_bytes(dict(analysis))))

    def publish_reports(
        self, model_name: str, version: int, documents: Mapping[str, dict[str, Any]]
    ) -> None:
        with self._call("publish_reports"):
            self.reports[version] = json.loads(canonical_bytes(dict(documents)))

    def load_journal(self, model_name: str) -> dict[str, Any] | None:
        with self._call("load_journal"):
            return None if self._journal is None else json.loads(self._journal)

    def save_journal(
        self, model_name: str, state: dict[str, Any], *, expect_generation: int
    ) -> None:
        with self._call("save_journal"):
            stored = 0 if self._journal is None else json.loads(self._journal)["generation"]
            if stored != expect_generation:
                raise ConflictError("another controller has written")
            self._journal = canonical_bytes(state).decode()


@dataclass(frozen=True)
class Quality:
    """How a version answers: shares of errors and of answers outside stable's band.

    ``full_error_ratio`` counts instead of ``error_ratio`` while the version has all traffic.
    """

    error_ratio: float = 0.0
    full_error_ratio: float | None = None
    outside_ratio: float = 0.0
    latency_ms: float = 20.0


class FakePlane:
    """Routers, replicas and counters of one model, with deterministic traffic."""

    def __init__(self, fuse: Fuse, registry: FakeRegistry) -> None:
        self.split = Split(0, None, None, 0.0)
        self.up: dict[int, Deployable] = {}
        self.quality: dict[int, Quality] = {}
        self.unready: set[int] = set()
        self.failures: int = 0
        self.unanswered = 0
        self.reachable = True
        self.lies: dict[int, Literal["vanish", "nan", "stuck"]] = {}
        self._stuck: dict[int, ArmCounts] = {}
        self.levels: list[tuple[float, float]] | None = None
        self.reached: dict[int, int] = {}
        self.violations: list[str] = []
        self.moves: list[tuple[int | None, int | None, float]] = []
        self._owed: Counter[tuple[str, int]] = Counter()
        self._counts: dict[int, ArmCounts] = {}
        self._registry = registry
        self._fuse = fuse

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._fuse.call(name):
            if not self.reachable:
                raise PlaneError("the cluster's head is away")
            yield

    def deploy(self, release: Deployable, *, timeout_s: float) -> None:
        with self._call("deploy"):
            if release.version in self._registry.corrupt:
                self.violations.append(f"v{release.version} was deployed unverified")
            if release.version in self.unready:
                raise PlaneError(f"not ready within {timeout_s} s")
            self.up[release.version] = release
            self._counts.setdefault(release.version, ArmCounts())

    def deployed(self) -> frozenset[int]:
        with self._call("deployed"):
            return frozenset(self.up)

    def remove(self, version: int) -> None:
        with self._call("remove"):
            if version in {self.split.stable, self.split.canary}:
                self.violations.append(f"v{version} was removed under traffic")
            self.up.pop(version, None)
            self._counts.pop(version, None)

    def set_split(self, split: Split) -> None:
        with self._call("set_split"):
            if self.failures:
                self.failures -= 1
                raise PlaneError("a router did not acknowledge")
            if split.generation <= self.split.generation:
                raise PlaneError(f"generation {split.generation} is not newer")
            self._check_level(split)
            for version in (split.stable, split.canary):
                if version is not None and version not in self.up:
                    self.violations.append(f"traffic to v{version}, which is not up")
                if version is not None and version not in self._registry.fetched:
                    self.violations.append(f"traffic to unverified v{version}")
            self.split = split
            self.moves.append((split.stable, split.canary, split.canary_ratio))

    def observe(self) -> Observation:
        with self._call("observe"):
            arms = {version: self._told(version) for version in self._counts}
            return Observation(
                self.split.generation, {v: counts for v, counts in arms.items() if counts}
            )

    def _told(self, version: int) -> ArmCounts | None:
        """Return an arm's counters, or what they say while they lie."""
        true, lie = self._counts[version], self.lies.get(version)
        if lie == "nan":
            return replace(true, request_count=math.nan)  # type: ignore[arg-type]
        if lie == "stuck":
            return self._stuck.setdefault(version, true)
        self._stuck.pop(version, None)
        return None if lie == "vanish" else true

    def _check_level(self, split: Split) -> None:
        """Note a canary whose share goes up by more than one level of the plan."""
        if self.levels is None or split.canary is None:
            return
        asked = (split.mirror_ratio, split.canary_ratio)
        index = self.levels.index(asked) if asked in self.levels else len(self.levels)
        before = self.reached.get(split.canary, -1)
        if index > before + 1:
            self.violations.append(f"v{split.canary} skipped a level: {asked} after {before}")
        self.reached[split.canary] = max(before, index)

    def restart(self) -> None:
        """Lose everything, as when the whole cluster is restarted."""
        self.up, self._counts = {}, {}
        self.split = Split(0, None, None, 0.0)

    def lie(self, version: int, counts: ArmCounts | None) -> None:
        """Put other counters in place of the true ones."""
        if counts is None:
            self._counts.pop(version, None)
        else:
            self._counts[version] = counts

    def send(self, request_count: int) -> None:
        """Send requests, split and answered in exact proportion."""
        canary_count = self._share(("split", 0), request_count, self.split.canary_ratio)
        if self.split.mirror_ratio and self.split.canary in self.up:
            copies = self._share(("mirror", 0), request_count, self.split.mirror_ratio)
            self._answer(self.split.canary, copies)
        arms = (
            (self.split.canary, canary_count),
            (self.split.stable, request_count - canary_count),
        )
        for version, count in arms:
            if version is None or version not in self.up:
                self.unanswered += count
            else:
                self._answer(version, count)

    def _share(self, key: tuple[str, int], count: int, ratio: float) -> int:
        self._owed[key] += count * ratio  # type: ignore[assignment]
        whole = math.floor(self._owed[key] + 1e-9)
        self._owed[key] -= whole
        return whole

    def _answer(self, version: int, count: int) -> None:
        quality = self.quality.get(version, Quality())
        ratio = quality.error_ratio
        if quality.full_error_ratio is not None and self.split.stable == version:
            ratio = ratio if self.split.canary_ratio else quality.full_error_ratio
        errors = self._share(("error", version), count, ratio)
        measured = count - errors
        outside = self._share(("outside", version), measured, quality.outside_ratio)
        old = self._counts[version]
        slow = quality.latency_ms > 1000
        bounds = {1000.0: 0 if slow else measured, math.inf: measured}
        names = ("amplification_ratio", "mean_shift_ratio")
        self._counts[version] = ArmCounts(
            request_count=old.request_count + count,
            error_count=old.error_count + errors,
            latency_ms_buckets={
                bound: old.latency_ms_buckets.get(bound, 0) + n for bound, n in bounds.items()
            },
            outside_count={n: old.outside_count.get(n, 0) + outside for n in names},
            measured_count={n: old.measured_count.get(n, 0) + measured for n in names},
        )


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
        self.registry = FakeRegistry(self.fuse, production=production, canary=canary)
        self.plane = FakePlane(self.fuse, self.registry)
        self.plan = plan or build_plan()
        self.errors: list[Exception] = []
        self.kills = 0
        self.controller = self.start_controller()

    def start_controller(self) -> Controller:
        """Return a controller as a fresh process would have it."""
        registry: RegistryPort = self.registry
        plane: TrafficPlane = self.plane
        clock: Clock = self.clock
        return Controller(registry, plane, self.plan, clock, MODEL)

    @property
    def state(self) -> RolloutState:
        """What the journal holds."""
        value = self.registry._journal
        assert value is not None
        return RolloutState.from_dict(json.loads(value))

    @property
    def violations(self) -> list[str]:
        """What no controller may do, and this one did."""
        return self.registry.violations + self.plane.violations

    def tick(self, *, request_count: int = 100, wait_s: float = 1.0) -> None:
        """Let traffic, one pass and a second go by; a killed controller is replaced."""
        self.plane.send(request_count)
        try:
            self.controller.reconcile_once()
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
            quiet = before == (self.registry._journal, self.plane.split)
            calm = calm + 1 if quiet and self.state.phase in RESTING else 0
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
