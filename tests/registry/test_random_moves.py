"""Random sequences of moves and crashes, against a model of the registry that fits on one page.

A crash is an exception that nobody catches, thrown at a random SQL statement, before it, after it
or at a commit; the store is then thrown away and opened again, as a restarted worker would. That a
real kill is no worse is the subject of ``test_kills.py``.
"""

from __future__ import annotations

import gc
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from registry.world import NAME
from sqlalchemy import event

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.trust.ledger import verify_chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.world import Registry

VERSIONS = (1, 2, 3)
CANDIDATE, STAGING, CANARY, PRODUCTION = Level
STAGES = {CANDIDATE: "Archived", STAGING: "Staging", PRODUCTION: "Production"}


class Killed(BaseException):
    """The process is gone."""


@dataclass(frozen=True)
class State:
    """The model: what the registry must be like.

    Attributes:
        levels: Of the versions in order.
        staged: Version that alias ``staging`` points to: the last that came to staging, unless it
            has left since. Several versions may be at staging; an alias has one version.
        endorsed: Canaries that lack nothing.
        served: Versions that were Production once.
        ledger: Number of decisions.
        outbox: Number of moves.
    """

    levels: tuple[Level, ...] = (CANDIDATE,) * len(VERSIONS)
    staged: int | None = None
    endorsed: frozenset[int] = frozenset()
    served: frozenset[int] = frozenset()
    ledger: int = 0
    outbox: int = 0

    def level(self, version: int) -> Level:
        """Return a version's level."""
        return self.levels[version - 1]

    def at(self, level: Level) -> list[int]:
        """Return the versions at a level."""
        return [v for v in VERSIONS if self.level(v) is level]

    def aliases(self, version: int) -> set[str]:
        """Return the aliases that a version must have (DESIGN.md, section 1)."""
        if self.level(version) is STAGING:
            return {"staging"} if self.staged == version else set()
        return {CANDIDATE: set(), CANARY: {"canary"}, PRODUCTION: {"production", "champion"}}[
            self.level(version)
        ]

    def placed(self, changed: dict[int, Level], rows: int = 1) -> State:
        """Return the state after moves that were allowed."""
        levels = tuple(changed.get(v, self.level(v)) for v in VERSIONS)
        came = [v for v, level in changed.items() if level is STAGING]
        kept = self.staged if self.staged and levels[self.staged - 1] is STAGING else None
        new = replace(self, levels=levels, staged=came[0] if came else kept)
        return replace(
            new,
            endorsed=self.endorsed & set(new.at(CANARY)),
            served=self.served | set(new.at(PRODUCTION)),
            ledger=self.ledger + rows,
            outbox=self.outbox + rows,
        )


def moved(state: State, version: int, to: Level) -> State:
    """Return what a move must lead to; the same state for what is refused without a row."""
    now = state.level(version)
    occupied = to is CANARY and state.at(CANARY) not in ([], [version])
    if to is now or occupied:
        return state
    skips = to.rank > now.rank + 1
    if now is PRODUCTION or skips or (to is PRODUCTION and version not in state.endorsed):
        return replace(state, ledger=state.ledger + 1)
    former = dict.fromkeys(state.at(PRODUCTION), CANDIDATE) if to is PRODUCTION else {}
    return state.placed({**former, version: to})


def restored(state: State, version: int, back: int) -> State:
    """Return what taking down Production for a former one must lead to."""
    if version == back or state.level(version) is not PRODUCTION or back not in state.served:
        return state
    after = state.placed({version: CANDIDATE, back: PRODUCTION}, rows=2)
    # What was taken down comes back by a new admission only.
    return replace(after, served=after.served - {version})


@dataclass(frozen=True)
class Act:
    """One thing that somebody does, and the event at which the process dies, if it does."""

    door: str
    version: int
    to: Level
    other: int
    dies_at: int | None


DOORS = ("move", "move", "stage", "alias", "unalias", "endorse", "endorse", "restore", "delete")
ACTS = st.builds(
    Act,
    door=st.sampled_from(DOORS),
    version=st.sampled_from(VERSIONS),
    to=st.sampled_from((CANDIDATE, STAGING, CANARY, CANARY, PRODUCTION, PRODUCTION)),
    other=st.sampled_from(VERSIONS),
    dies_at=st.none() | st.integers(0, 60),
).filter(
    # What no door can say: MLflow has no stage for canary, and candidate has no alias.
    lambda act: (
        (act.door, act.to) not in (("stage", CANARY), ("alias", CANDIDATE), ("unalias", CANDIDATE))
    )
)


def expected(state: State, act: Act) -> State:
    """Return what an act must lead to when nobody dies."""
    if act.door == "restore":
        return restored(state, act.version, act.other)
    if act.door == "delete":
        return state
    if act.door == "unalias":
        holders = [state.staged] if act.to is STAGING else state.at(act.to)
        down = STAGING if act.to is CANARY else CANDIDATE
        return moved(state, holders[0], down) if holders and holders[0] else state
    if act.door == "stage" and act.to is STAGING and state.level(act.version) is CANARY:
        return state  # Its stage is Staging already.
    return moved(state, act.version, act.to)


def perform(registry: Registry, act: Act) -> None:
    """Do it, by the door that it names."""
    store, version = registry.store, act.version
    if act.door == "move":
        store.move(NAME, version, act.to)
    elif act.door == "restore":
        store.move(NAME, version, CANDIDATE, restore=act.other)
    elif act.door == "stage":
        store.transition_model_version_stage(
            NAME, version, STAGES[act.to], archive_existing_versions=False
        )
    elif act.door == "alias":
        store.set_registered_model_alias(NAME, str(act.to), version)
    elif act.door == "unalias":
        store.delete_registered_model_alias(NAME, str(act.to))
    elif store.snapshot(NAME, version).release is not None:
        store.delete_model_version(NAME, version)


@dataclass
class Deadly:
    """Kills the process at the n-th event of its database."""

    registry: Registry
    left: int | None = None
    armed: Any = None
    connections: list[Any] = field(default_factory=list)

    def tick(self, *_: object) -> None:
        """Count an event."""
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed

    def arm(self, dies_at: int | None) -> None:
        """Attach to the store that is open now."""
        self.left = dies_at
        if self.armed is not self.registry.store:
            self.armed = self.registry.store
            # Those that it opened before are in the pool; from now on each is seen.
            self.armed.engine.dispose()
            event.listen(self.armed.engine, "connect", self._opened)
            for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
                event.listen(self.armed.engine, name, self.tick)

    def _opened(self, connection: Any, _: object) -> None:
        self.connections.append(connection)

    def dies(self, doing: Callable[[], object]) -> bool:
        """Do something, and return whether the process died of it; then another has been started."""
        try:
            doing()
        except Killed:
            pass
        else:
            return False
        finally:
            self.left = None
        # What the kernel does: close the files of a dead process. Cursors that the exception's
        # frames still hold would keep the database locked.
        gc.collect()
        while self.connections:
            connection = self.connections.pop()
            # The pool may have closed it.
            with suppress(sqlite3.ProgrammingError):
                connection.rollback()
            connection.close()
        self.registry.store = self.registry.open()
        return True


def counted(registry: Registry, state: State) -> State:
    """Return the model with the numbers of rows that there are."""
    ((ledger,),) = registry.query("SELECT count(*) FROM kfm_ledger WHERE kind <> 'policy'")
    ((outbox,),) = registry.query("SELECT count(*) FROM kfm_outbox")
    return replace(state, ledger=ledger, outbox=outbox)


def check(registry: Registry, state: State) -> None:
    """Compare the database, read as a stranger would, with the model."""
    assert counted(registry, state) == state
    for version in VERSIONS:
        ((stage,),) = registry.query(
            "SELECT current_stage FROM model_versions WHERE version = ?", version
        )
        level = state.level(version)
        stages = {CANDIDATE: ("None", "Archived"), CANARY: ("Staging",)}
        assert stage in stages.get(level, (STAGES.get(level),)), (version, stage, state)
        rows = registry.query(
            "SELECT alias FROM registered_model_aliases WHERE version = ?", version
        )
        assert {alias for (alias,) in rows} == state.aliases(version), (version, state)
    rows = registry.query(
        "SELECT seq, at, kind, model, version, body, prev_hash, hash FROM kfm_ledger"
    )
    names = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "row_hash")
    chain = [dict(zip(names, row, strict=True)) for row in sorted(rows)]
    assert verify_chain(chain) is None
    assert [row["seq"] for row in chain] == list(range(1, len(chain) + 1))
    decided = [row["seq"] for row in chain if row["kind"] == "moved"]
    assert [seq for (seq,) in sorted(registry.query("SELECT seq FROM kfm_outbox"))] == decided


def attempt(registry: Registry, deadly: Deadly, act: Act, state: State) -> State:
    """Do one thing, perhaps die of it, and return what must be so afterwards."""
    wanted = expected(state, act)
    deadly.arm(act.dies_at)
    try:
        died = deadly.dies(lambda: perform(registry, act))
    except MlflowException as exc:
        assert exc.get_http_status_code() in (400, 403, 409), exc  # noqa: PT017 - most acts pass
        assert wanted.levels == state.levels, f"{act} was refused: {exc}"  # noqa: PT017 - as above
        return wanted
    # Before or after, never between: the number of rows says which.
    return state if died and counted(registry, state) == state else wanted


@settings(
    max_examples=12,
    deadline=None,
    # Each example takes a fresh registry from the fixture itself.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=st.lists(ACTS, min_size=6, max_size=20))
def test_any_sequence_of_moves_and_crashes_is_what_the_model_says(
    fresh_three: Any, acts: list[Act]
):
    registry, state = fresh_three(), State()
    deadly = Deadly(registry)
    for act in acts:
        if act.door == "endorse":
            for version in state.at(CANARY):
                # Of two verdicts the newer one counts; the clock is the test's.
                registry.now += timedelta(seconds=1)
                registry.endorse(version)
                state = replace(state, endorsed=frozenset({version}))
            continue
        state = attempt(registry, deadly, act, state)
        check(registry, state)


@pytest.mark.parametrize("dies_at", range(0, 120, 3))
def test_a_promotion_that_dies_anywhere_is_before_or_after(two: Registry, dies_at: int):
    deadly = Deadly(two)
    ((rows,),) = two.query("SELECT count(*) FROM kfm_ledger")
    deadly.arm(dies_at)
    deadly.dies(lambda: two.store.move(NAME, 2, PRODUCTION))
    ((after,),) = two.query("SELECT count(*) FROM kfm_ledger")
    levels = {1: CANDIDATE, 2: PRODUCTION} if after > rows else {1: PRODUCTION, 2: CANARY}
    assert [two.level(v) for v in (1, 2)] == [str(levels[v]) for v in (1, 2)]
    # And it can be done again.
    two.store.move(NAME, 2, PRODUCTION)
    assert two.level(2) == "production"
