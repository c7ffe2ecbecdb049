"""Journals as the real controller writes them, one or more of every phase, from the world in memory."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from rollout.simulated_plane import Quality
from rollout.simulated_registry import START
from rollout.simulator import PLAN, World, build_plan

from kfm_mlflow.canonical import canonical_bytes

PAUSES = [*PLAN["steps"][:2], {"pause": {"duration_s": 20}}, PLAN["steps"][2]]
SHADOW = [{"setMirrorRoute": {"percentage": 50}}, PLAN["steps"][1], *PLAN["steps"]]


@dataclass(frozen=True)
class Chapter:
    """One journal that was written, and what the world was like then.

    Attributes:
        story: What happened before.
        journal: As the registry keeps it.
    """

    story: str
    journal: dict[str, Any]

    @property
    def phase(self) -> str:
        """The phase that the journal stands at."""
        return str(self.journal["phase"])


def overhear(world: World) -> list[dict[str, Any]]:
    """Return a list that every journal of a world is appended to when it is saved."""
    heard: list[dict[str, Any]] = []
    save = world.registry.save_journal

    def saved(model_name: str, state: dict[str, Any], **kwargs: Any) -> None:
        save(model_name, state, **kwargs)
        heard.append(json.loads(canonical_bytes(state)))

    world.registry.save_journal = saved
    return heard


def _good(world: World) -> None:
    world.registry.admit = False
    world.run(4)
    world.registry.give_order("pause")
    world.run(3)
    world.registry.give_order("resume")
    world.run(3)
    world.registry.admit = True
    world.run(12)


def _bad(world: World) -> None:
    world.plane.quality = {2: Quality(error_ratio=0.9)}
    world.run(8)


def _stuck(world: World) -> None:
    world.run(1)
    world.plane.quality = {2: Quality(error_ratio=0.9)}
    world.plane.failures = 10**6
    world.run(16)


def _recalled(world: World) -> None:
    world.run(20)
    world.registry.recalls = {2: "consent was withdrawn", 1: "consent was withdrawn"}
    world.run(8)


def _blind(world: World) -> None:
    world.run(1, request_count=0)
    world.plane.lies[2] = "nan"
    world.run(10)


_STORIES: dict[str, tuple[dict[str, Any], Any]] = {
    "no canary": ({"canary": None}, lambda world: world.run(2)),
    "a good canary": ({}, _good),
    "a bad canary": ({}, _bad),
    "routers that do not answer": ({}, _stuck),
    "everything recalled": ({}, _recalled),
    "counters that are no numbers": ({}, _blind),
    "a first release": ({"production": None}, lambda world: world.run(10)),
    "a timed pause": ({"plan": build_plan(steps=PAUSES)}, lambda world: world.run(30)),
    "shadow traffic": ({"plan": build_plan(steps=SHADOW)}, lambda world: world.run(10)),
    "a promotion by hand": (
        {"plan": build_plan(promotion="manual")},
        lambda world: world.run(8),
    ),
}


@cache
def chapters() -> tuple[Chapter, ...]:
    """Return every journal that was written in any of the stories."""
    told: list[Chapter] = []
    for name, (start, happen) in _STORIES.items():
        world = World(**{"canary": 2, **start})
        heard = overhear(world)
        happen(world)
        told += [Chapter(name, journal) for journal in heard]
    return tuple(told)


_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


def journal_at(
    phase: str, story: str = "", *, now: datetime = START, **changed: Any
) -> dict[str, Any]:
    """Return the last journal of a phase, of one story or of any, as if it had just been written.

    Args:
        phase: Where it stands.
        story: Which of the stories; empty takes the first that comes to the phase.
        now: When it was written.
        changed: Fields of journal and narrative to be given another value.
    """
    found = [c for c in chapters() if c.phase == phase and story in {"", c.story}]
    last = [c.journal for c in found if c.story == found[0].story][-1]
    by = now - datetime.fromisoformat(last["narrative"]["described_at"])

    def shift(match: re.Match[str]) -> str:
        return (datetime.fromisoformat(match[0]) + by).isoformat().replace("+00:00", "Z")

    journal: dict[str, Any] = json.loads(_INSTANT.sub(shift, json.dumps(last)))
    told = journal["narrative"]
    told.update({key: value for key, value in changed.items() if key in told})
    return {**journal, **{key: value for key, value in changed.items() if key in journal}}
