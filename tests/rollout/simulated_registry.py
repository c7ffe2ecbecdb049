"""A registry and a clock in memory, and the fuse that kills a controller at a chosen call."""

# The methods of the fakes are documented where the protocols are, and have their signatures.
# ruff: noqa: D102, ARG002

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import (
    ConflictError,
    IntegrityError,
    RefusedError,
    StorageError,
)
from kfm_mlflow.rollout.inputs import Levels, Orders, Regression, Standing
from kfm_mlflow.rollout.plane import Deployable
from kfm_mlflow.rollout.ports import Lease
from kfm_mlflow.rollout.reports import DRIFT_SUMMARY, ROLLBACK_REPORT, SOVEREIGNTY_CONFLICT
from kfm_mlflow.rollout.state import Phase

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kfm_mlflow.gates.cause import Cause

MODEL = "climate-downscaler"
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LEASE_S = 2.0
"""Of the controllers here: less than a scale-down, so that a world is not at rest in between."""


class Killed(BaseException):
    """The controller's process is gone; nothing in it can catch this."""


@dataclass
class Fuse:
    """Kills the caller at one call, counted over all ports, or lets somebody else go first.

    ``rival`` is called in the middle of the chosen call ``rival_at``, or the next of the name
    ``rival_in``, as when a second controller runs between two instructions of the first.
    """

    at: int | None = None
    when: Literal["before", "after"] = "before"
    calls: list[str] = field(default_factory=list)
    rival_at: int | None = None
    rival_in: str | None = None
    rival: Callable[[], None] | None = None

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Count one call, and burn at the chosen one."""
        index = len(self.calls)
        self.calls.append(name)
        if index == self.at and self.when == "before":
            raise Killed(name)
        due = self.rival_at is not None and index >= self.rival_at
        if self.rival is not None and due and self.rival_in in {None, name}:
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
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._elapsed_s

    def sleep(self, duration_s: float) -> None:
        self._now += timedelta(seconds=duration_s)
        self._elapsed_s += duration_s

    def wait(self, event: threading.Event, at_most_s: float) -> bool:
        # Nobody sleeps while a pass goes on, so its time is never up.
        return event.wait()

    def jump(self, by_s: float) -> None:
        """Be set ahead or back."""
        self._now += timedelta(seconds=by_s)


class FakeRegistry:
    """Levels, journal and documents of one model."""

    def __init__(
        self,
        fuse: Fuse,
        *,
        production: int | None = 1,
        canary: int | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.jumped_s = 0.0
        self.begin_count = 0
        self.lease = Lease(leader=False, token=0, holder="", expires_in_s=0.0)
        self._lease_ends_s = 0.0
        self.held = Levels(production, canary, 0)
        self.history = [] if production is None else [(production, "production")]
        self.admit = True
        self.refusal = "votes 1 of 3"
        self.corrupt: set[int] = set()
        self.fetched: set[int] = set()
        self.reachable = True
        self.order = Orders()
        self.vetoed: set[int] = set()
        self.recalls: dict[int, str] = {}
        self.unrestorable: dict[int, str] = {}
        self.regressions: dict[int, Regression] = {}
        self.verdicts: list[dict[str, Any]] = []
        self.reports: dict[int, dict[str, Any]] = {}
        self.causes: dict[int, Cause | None] = {}
        """Version that was taken down -> why."""
        self.unreported: set[int] = set()
        """Versions that were taken down without reports as yet."""
        self.serves: Callable[[], int | None] = lambda: self.held.production
        """What routers answer with."""
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

    def give_order(
        self, operator: Any, *, version: int | None = None, to_version: int | None = None
    ) -> None:
        """Order something as an operator would."""
        self.order = replace(
            self.order,
            operator=operator,
            order_id=self.order.order_id + 1,
            version=version,
            to_version=to_version,
        )

    @property
    def has_journal(self) -> bool:
        """Whether a controller has written yet."""
        return self._journal is not None

    @property
    def former(self) -> list[int]:
        """Versions that a successor took the place of at Production, the last first."""
        found: list[int] = []
        for version, level in self.history:
            found = [v for v in found if v != version]
            if level == "production":
                found.insert(0, version)
        return [v for v in found if v != self.held.production]

    @property
    def fallback(self) -> int | None:
        """The newest former Production version that may be served and has not regressed."""
        bad = self.recalls.keys() | self.regressions.keys()
        return next((version for version in self.former if version not in bad), None)

    def tells_recall(self, version: int) -> bool:
        """Whether who asks is told that a version may not be served."""
        return self.reachable and version in self.recalls

    def hold_lease(self, model_name: str, holder: str, ttl_s: float) -> Lease:
        with self._call("hold_lease"):
            # The registry's own clock: not set with the controllers', and never back here.
            now_s = self.clock.monotonic_s() + self.jumped_s
            if self.lease.holder != holder:
                if self.lease.holder and now_s < self._lease_ends_s:
                    return replace(self.lease, expires_in_s=self._lease_ends_s - now_s)
                self.lease = replace(self.lease, token=self.lease.token + 1, holder=holder)
            self._lease_ends_s = now_s + ttl_s
            return replace(self.lease, leader=True, expires_in_s=ttl_s)

    def release_lease(self, model_name: str, holder: str) -> None:
        with self._call("release_lease"):
            if self.lease.holder == holder:
                self.lease = replace(self.lease, holder="")

    def levels(self, model_name: str) -> Levels:
        with self._call("levels"):
            return self.held

    def orders(self, model_name: str, version: int | None) -> Orders:
        with self._call("orders"):
            return replace(self.order, veto="council" if version in self.vetoed else "")

    def standing(self, model_name: str, others: Sequence[int]) -> Standing:
        with self._call("standing"):
            served = {self.held.production, self.held.canary}
            asked = served.union(others)
            recalls = {v: why for v, why in self.recalls.items() if v in asked}
            regressions = {
                v: found
                for v, found in self.regressions.items()
                if v in served and v not in recalls
            }
            bad = self.recalls.keys() | self.regressions.keys()
            wanted = self.held.production is not None and bad & {self.held.production, *others}
            fallback = self.fallback if wanted else None
            return Standing(recalls, frozenset(recalls), fallback, regressions)

    def fetch(self, model_name: str, version: int) -> Deployable:
        with self._call("fetch"):
            if version in self.corrupt:
                raise IntegrityError("model.onnx is not what was signed", where=f"v{version}")
            self.fetched.add(version)
            return Deployable(model_name, version, f"sha256:{version:064x}", self.release_dir)

    def admits(self, model_name: str, version: int, level: str) -> tuple[bool, str]:
        with self._call("admits"):
            refusal = self._refusal(version)
            return not refusal, refusal

    def admits_restore(self, model_name: str, version: int) -> tuple[bool, str]:
        with self._call("admits_restore"):
            refusal = self._restore_refusal(version)
            return not refusal, refusal

    def _refusal(self, version: int) -> str:
        return self.recalls.get(version, "" if self.admit else self.refusal)

    def _restore_refusal(self, version: int) -> str:
        return self.recalls.get(version, self.unrestorable.get(version, ""))

    def move(
        self,
        model_name: str,
        version: int,
        to_level: str,
        *,
        expect_production: int | None,
        expect_canary: int | None,
        reason: str,
        cause: Cause | None = None,
    ) -> None:
        with self._call("move"):
            held = self.held
            if (held.production, held.canary) != (expect_production, expect_canary):
                raise ConflictError("levels have moved")
            known = {v for v, level in self.history if level == "production"} | {1}
            if to_level == "production":
                if version != held.canary and version not in known:
                    self.violations.append(f"v{version} skipped the canary level")
                find = self._refusal if version == held.canary else self._restore_refusal
                if refusal := find(version):
                    raise RefusedError(refusal)
                if version != held.canary and held.production is not None:
                    self.history.append((held.production, "candidate"))
                    self.unreported.add(held.production)
                    self.causes[held.production] = cause
                canary = None if held.canary == version else held.canary
                self.held = Levels(version, canary, held.head + 1)
            else:
                if version == held.production and version not in self.recalls:
                    raise RefusedError("Production comes down by promotion or rollback only")
                production = None if held.production == version else held.production
                canary = None if held.canary == version else held.canary
                self.held = Levels(production, canary, held.head + 1)
                self.unreported.add(version)
                self.causes[version] = cause
            self.history.append((version, to_level))

    def publish_verdict(self, model_name: str, version: int, analysis: Mapping[str, Any]) -> None:
        with self._call("publish_verdict"):
            self.verdicts.append(json.loads(canonical_bytes(dict(analysis))))

    def publish_reports(
        self, model_name: str, version: int, documents: Mapping[str, dict[str, Any]]
    ) -> None:
        with self._call("publish_reports"):
            self.reports[version] = json.loads(canonical_bytes(dict(documents)))
            self._check_reports(version)

    def _check_reports(self, version: int) -> None:
        """Note a reversion whose reports are not three, or name another version than came back.

        That is what is at Production and has the traffic; neither, when it may not be served.
        """
        if version not in self.unreported:
            return
        self.unreported.remove(version)
        documents, restored = self.reports[version], self.held.production
        if documents.keys() != {ROLLBACK_REPORT, DRIFT_SUMMARY, SOVEREIGNTY_CONFLICT}:
            self.violations.append(f"v{version} was taken down with {sorted(documents)} alone")
            return
        said = documents[ROLLBACK_REPORT]["restored_version"]
        came_back = None if restored in self.recalls else restored
        if (said, self.serves()) != (came_back, came_back):
            self.violations.append(
                f"v{version}: v{came_back} came back, reported is v{said}, served v{self.serves()}"
            )

    def load_journal(self, model_name: str) -> dict[str, Any] | None:
        with self._call("load_journal"):
            return None if self._journal is None else json.loads(self._journal)

    def save_journal(
        self, model_name: str, state: dict[str, Any], *, expect_generation: int, token: int
    ) -> None:
        with self._call("save_journal"):
            if token != self.lease.token:
                raise ConflictError("another controller was given the lease")
            stored = {} if self._journal is None else json.loads(self._journal)
            if stored.get("generation", 0) != expect_generation:
                raise ConflictError("another controller has written")
            begins = state["phase"] == Phase.PENDING and stored.get("phase") != Phase.PENDING
            self.begin_count += begins
            self._journal = json.dumps(state, sort_keys=True, allow_nan=False)
