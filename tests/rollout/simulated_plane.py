"""A traffic plane in memory with deterministic traffic, and a seat for each controller at it."""

# The methods of the fakes are documented where the protocols are, and have their signatures.
# ruff: noqa: D102

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.errors import (
    PlaneError,
)
from kfm_mlflow.monitor.drift_bins import Column, Columns
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO
from kfm_mlflow.rollout.counts import FULL_PPM, add_bins
from kfm_mlflow.rollout.plane import ArmCounts, Deployable, Observation, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rollout.simulated_registry import FakeRegistry, Fuse


@dataclass(frozen=True)
class Quality:
    """How a version answers: shares of errors, and of answers outside stable's band.

    ``drift_ratio`` of the answers have left the version's own baseline. ``full_error_ratio`` counts
    instead of ``error_ratio`` while the version has all traffic. One row of those that come together
    is explained, where a release is to be, with ``stability``; None is a row without an explanation.
    ``alarm_ratio`` is the share of the answers that raise each alarm; ``full_alarm`` is raised by all
    while the version has all traffic.
    """

    error_ratio: float = 0.0
    full_error_ratio: float | None = None
    outside_ratio: float = 0.0
    drift_ratio: float = 0.0
    latency_ms: float = 20.0
    stability: float | None = 1.0
    alarm_ratio: Mapping[str, float] = field(default_factory=dict)
    full_alarm: str = ""


DRIFTED = "outputs.mean_shift_ratio"
QUARTERS = Columns(
    "sha256:" + "b" * 64, {DRIFTED: Column((0.25, 0.5, 0.75), (0.25, 0.5, 0.75), 1000)}
)
"""The baseline of every version here: a quarter of the answers between each two cuts."""


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
        self.keeps_spans = False
        self.lies: dict[int, Literal["vanish", "nan", "stuck"]] = {}
        self._stuck: dict[int, ArmCounts] = {}
        self.levels: list[tuple[float, float]] | None = None
        self.reached: dict[tuple[int, int], int] = {}
        self.violations: list[str] = []
        self.is_forbidden: Callable[[int], bool] = lambda _: False
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
                if version is not None and self.is_forbidden(version):
                    self.violations.append(f"traffic to v{version}, which an authority forbids")
                if version is not None and version not in self._registry.fetched:
                    self.violations.append(f"traffic to unverified v{version}")
            self.split = split
            self.moves.append((split.stable, split.canary, split.canary_ratio))

    def observe(self) -> Observation:
        with self._call("observe"):
            arms = {version: self._told(version) for version in self._counts}
            return Observation(
                self.split.generation,
                {v: counts for v, counts in arms.items() if counts},
                dict.fromkeys(arms, QUARTERS),
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
        rollout = (split.canary, self._registry.begin_count)
        before = self.reached.get(rollout, -1)
        if index > before + 1:
            self.violations.append(f"v{split.canary} skipped a level: {asked} after {before}")
        self.reached[rollout] = max(before, index)

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
        self._counts[version] = replace(
            old,
            request_count=old.request_count + count,
            error_count=old.error_count + errors,
            latency_ms_buckets={
                bound: old.latency_ms_buckets.get(bound, 0) + n for bound, n in bounds.items()
            },
            outside_count={
                **{n: old.outside_count.get(n, 0) + outside for n in names},
                **({LOST_SPAN_RATIO: 0} if self.keeps_spans else {}),
            },
            measured_count={
                **{n: old.measured_count.get(n, 0) + measured for n in names},
                **({LOST_SPAN_RATIO: old.request_count + count} if self.keeps_spans else {}),
            },
            bin_counts=add_bins(old.bin_counts, self._bins(version, measured, quality)),
            **self._explained(version, old, quality) if measured else {},
            alarm_count=self._alarms(version, measured, quality),
        )

    def _explained(self, version: int, old: ArmCounts, quality: Quality) -> dict[str, int]:
        """Return what is counted of one more row, if replicas were told to explain any."""
        if self.up[version].explain_interval_s is None:
            return {}
        if quality.stability is None:
            return {"unexplained_count": old.unexplained_count + 1}
        instability_ppm = round((1 - quality.stability) * FULL_PPM)
        return {
            "explained_count": old.explained_count + 1,
            "instability_ppm": old.instability_ppm + instability_ppm,
            "worst_instability_ppm": max(old.worst_instability_ppm, instability_ppm),
        }

    def _alarms(self, version: int, count: int, quality: Quality) -> dict[str, int]:
        """Return how many answers have raised each alarm up to now."""
        found = dict(self._counts[version].alarm_count)
        ratios = dict(quality.alarm_ratio)
        if quality.full_alarm and not self.split.canary_ratio and self.split.stable == version:
            ratios[quality.full_alarm] = 1.0
        for name, ratio in ratios.items():
            found[name] = found.get(name, 0) + self._share((name, version), count, ratio)
        return found

    def _bins(self, version: int, count: int, quality: Quality) -> dict[str, tuple[int, ...]]:
        """Return the bins of some answers: those that drift are above every cut."""
        drifting = self._share(("drift", version), count, quality.drift_ratio)
        quarter = [self._share((f"quarter {k}", version), count - drifting, 0.25) for k in range(4)]
        quarter[3] += drifting
        return {DRIFTED: (quarter[0], 0, quarter[1], 0, quarter[2], 0, quarter[3])}


class Seat:
    """The plane as one controller reaches it: notes what is done by one that does not lead.

    Without the lease traffic may be taken off a canary while the registry is away, and nothing else.
    """

    def __init__(self, plane: FakePlane, registry: FakeRegistry, holder: str) -> None:
        self._plane = plane
        self._registry = registry
        self._holder = holder
        self.deployed = plane.deployed
        self.observe = plane.observe

    def deploy(self, release: Deployable, *, timeout_s: float) -> None:
        self._check("deployed")
        self._plane.deploy(release, timeout_s=timeout_s)

    def remove(self, version: int) -> None:
        self._check("removed")
        self._plane.remove(version)

    def set_split(self, split: Split) -> None:
        if self._registry.reachable or split.canary is not None:
            self._check("routed")
        self._plane.set_split(split)

    def _check(self, what: str) -> None:
        if self._registry.lease.holder != self._holder:
            self._plane.violations.append(f"{self._holder} {what} without the lease")
