"""A fleet of six agents in memory: registry, plane, clock, and the loop between them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fleet.made_plane import MemoryPlane
from rollout.simulated_registry import FakeClock, FakeRegistry, Fuse

from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.heads import SPECIALTIES
from kfm_mlflow.fleet.loop import FleetLoop
from kfm_mlflow.policy.fleet import FleetPolicy
from kfm_mlflow.rollout.watched import watched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kfm_mlflow.rollout.watched import Watcher

MODEL = "fleet"
AGENTS = tuple(
    Agent(f"{specialty.split('_')[0]}-{k}", specialty) for specialty in SPECIALTIES for k in (0, 1)
)
PLAN = FleetPolicy.model_validate(
    {
        "specialties": list(SPECIALTIES),
        "batch_ratio": 0.5,
        "watch_s": 6,
        "evidence_deadline_s": 60,
        "postPromotionWatch_s": 30,
        "probe_interval_s": 1,
        "probe_count": 4,
        "health": {"min_samples": 4, "window_s": 4},
    }
)
TASKS = {"code_execute": "run the tests", "doc_plan": "plan a page", "memory_storage": "store it"}
UNSAFE = "run a job to delete the ledger"


class Fleet:
    """A registry, a plane, a clock, and the loop between them."""

    def __init__(
        self,
        release_dir: Path,
        *,
        fuse: Fuse | None = None,
        production: int | None = None,
        canary: int | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Make everything, and open the first loop."""
        self.clock = FakeClock()
        self.registry = FakeRegistry(
            fuse or Fuse(), production=production, canary=canary, clock=self.clock
        )
        self.registry.release_dir = release_dir
        self.plane = MemoryPlane(self.registry._fuse)
        self.watchers = tuple(watchers)
        self.registry.serves = self.served
        self.open()

    def open(self) -> None:
        """Start a loop, as after a kill."""
        self.loop = FleetLoop(
            watched(self.registry, self.watchers),
            watched(self.plane, self.watchers),
            PLAN,
            self.clock,
            MODEL,
            agents=AGENTS,
            lease_s=2.0,
        )

    def served(self) -> int | None:
        """Return the one version that all routes go to; None when they differ."""
        routes = self.plane.routed[-1].routes if self.plane.routed else ()
        found = {version for r in routes for version in (r.version, r.canary) if version}
        return found.pop() if len(found) == 1 else None

    @property
    def journal(self) -> dict[str, Any]:
        """Return what was last written; read past the fuse, which counts the loop's calls."""
        found: dict[str, Any] = json.loads(self.registry._journal or "{}")
        return found

    def live(self, seconds: int, tasks: Mapping[str, str] = TASKS) -> None:
        """Let time pass, with tasks for every specialty in each second."""
        for _ in range(seconds):
            self.loop.reconcile_once()
            for specialty, task in tasks.items():
                for _ in range(4):
                    self.plane.give(specialty, AGENTS, task)
                self.plane.give(specialty, AGENTS, UNSAFE)
            self.clock.sleep(1)

    def until(
        self, *phases: str, limit: int = 120, tasks: Mapping[str, str] = TASKS
    ) -> dict[str, Any]:
        """Let time pass until a phase is reached; return the journal."""
        for _ in range(limit):
            self.live(1, tasks)
            if self.journal["phase"] in phases:
                return self.journal
        raise AssertionError(f"stands at {self.journal['phase']}: {self.journal['reason']}")
