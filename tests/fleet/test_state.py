"""The journal of a fleet, and what becomes of actions."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from soak.fleet_schedules import make_agents
from soak.fleet_world import World

from kfm_mlflow.errors import (
    ConflictError,
    EvidenceError,
    IntegrityError,
    PlaneError,
    RefusedError,
    StorageError,
)
from kfm_mlflow.fleet.actions import Fetch, SetRoutes, Start, Stop
from kfm_mlflow.fleet.memories import InstanceMemory
from kfm_mlflow.fleet.plane import Route, RouteTable
from kfm_mlflow.fleet.record import record, record_failure
from kfm_mlflow.fleet.state import (
    SAVE_WATCHED_S,
    FleetPhase,
    FleetState,
    initial_state,
    is_worth_saving,
)
from kfm_mlflow.rollout.actions import Demote, Promote, PublishVerdict, Restore, WriteReports
from kfm_mlflow.rollout.inputs import Levels
from kfm_mlflow.rollout.state import Trigger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def state(phase=FleetPhase.STARTING, **changes):
    made = FleetState("fleet", phase, NOW, candidate=2, stable=1)
    return replace(made, **changes)


def test_a_journal_is_read_as_it_was_written():
    world = World(1, make_agents(Random(1), 12), 4, is_first=False)
    for tick in range(60):
        world.levels = Levels(1, 2, 1) if tick == 3 else world.levels
        world.tick()
        written = json.dumps(world.state.to_dict())
        assert FleetState.from_dict(json.loads(written)) == world.state
    assert world.state.phase is FleetPhase.SUCCEEDED


def test_what_was_measured_is_journaled_too():
    memory = InstanceMemory(NOW, 0.5, 8, NOW, is_isolated=True)
    made = state(instances={"a": {2: memory}})
    assert FleetState.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("broken", [
    {}, {"schema_version": "2"}, {"schema_version": "1", "phase": "Odd"},
    {"schema_version": "1", "model_name": "fleet", "phase": "Idle", "entered_at": "yesterday"},
])  # fmt: skip
def test_what_is_no_journal_is_refused(broken):
    with pytest.raises(EvidenceError, match="fleet journal"):
        FleetState.from_dict(broken)


def test_what_is_told_to_people_beside_the_state_is_left_alone():
    made = initial_state("fleet", NOW)
    assert FleetState.from_dict({**made.to_dict(), "narrative": {"phase": "x"}}) == made


def test_measurements_make_no_entry_of_their_own_and_decisions_do():
    made = state()
    measured = replace(made, instances={"a": {2: InstanceMemory(NOW, 0.9, 8)}}, watched_s=29.0)
    assert not is_worth_saving(made, measured)
    assert is_worth_saving(made, replace(made, watched_s=SAVE_WATCHED_S))
    isolated = {"a": {2: InstanceMemory(NOW, 0.1, 8, is_isolated=True)}}
    assert is_worth_saving(made, replace(made, instances=isolated))


DECISIONS = sorted(
    {f.name for f in fields(FleetState)}
    - {"watched_s", "looked_at", "assessment", "instances", "versions"}
)


@pytest.mark.parametrize("name", DECISIONS)
def test_every_decision_makes_an_entry(name):
    made = state()
    assert is_worth_saving(made, replace(made, **{name: object()}))


TABLE = RouteTable(3, (Route("a", 1),))
CARRIED_OUT = {
    Fetch(2): {"release_ids": {2: "sha256:2"}, "verified": (2,)},
    PublishVerdict(2): {"published": True},
    WriteReports(2, 1): {"reports_written": True},
    Restore(1, 2, None, ""): {"registry_restored_at": NOW},
    Demote(2, 1, 2, ""): {"registry_restored_at": NOW},
    Promote(2, 1, 2): {},
    Stop("a", 2): {},
    SetRoutes(TABLE): {},
    Start("a", 2): {"instances": {"a": {2: InstanceMemory(asked_at=NOW)}}},
}


@pytest.mark.parametrize("action", CARRIED_OUT, ids=lambda action: type(action).__name__)
def test_an_action_that_was_carried_out_is_noted_and_noting_it_twice_changes_nothing(action):
    made = state()
    once = record(made, action, NOW, release_id="sha256:2")
    assert once == replace(made, **CARRIED_OUT[action])
    assert record(once, action, NOW, release_id="sha256:2") == once


def test_traffic_is_restored_when_the_candidate_has_no_route():
    made = state(FleetPhase.ABORTING)
    canary = SetRoutes(RouteTable(3, (Route("a", 1, 2, 0.1),)))
    assert record(made, canary, NOW).traffic_restored_at is None
    assert record(made, SetRoutes(TABLE), NOW).traffic_restored_at == NOW


def test_a_download_is_no_part_of_the_time_to_start():
    later = NOW + timedelta(seconds=90)
    assert record(state(), Fetch(2), later).entered_at == later
    assert record(state(FleetPhase.SOAKING), Fetch(2), later).entered_at == NOW


GIVEN_UP = [
    (Fetch(2), IntegrityError, Trigger.INTEGRITY),
    (Fetch(2), RefusedError, Trigger.INTEGRITY),
    (Start("a", 2), IntegrityError, Trigger.INTEGRITY),
    (Fetch(1), IntegrityError, Trigger.NO_TARGET),
    (Fetch(1), RefusedError, Trigger.NO_TARGET),
    (Fetch(2), StorageError, None),
    (Fetch(1), StorageError, None),
    (Start("a", 2), PlaneError, None),
    (Start("a", 1), IntegrityError, None),
    (Promote(2, 1, 2), ConflictError, None),
    (Promote(2, 1, 2), RefusedError, None),
    (SetRoutes(TABLE), PlaneError, None),
]


@pytest.mark.parametrize(("action", "error", "trigger"), GIVEN_UP)
def test_a_failed_action_gives_up_what_is_not_sound_and_nothing_else(action, error, trigger):
    made = state()
    found = record_failure(made, action, error("broken", where="here"), NOW)
    if trigger is None:
        assert found == made
    else:
        assert (found.phase, found.trigger) == (FleetPhase.ABORTING, trigger)
        assert "broken" in found.reason


@pytest.mark.parametrize("action", [Fetch(1), Restore(1, 2, None, "")])
@pytest.mark.parametrize("trigger", [Trigger.OPERATOR, Trigger.ANALYSIS])
def test_only_an_operators_rollback_fails_with_its_target(action, trigger):
    made = state(FleetPhase.ABORTING, trigger=trigger, promoted=True, reason="ann")
    found = record_failure(made, action, RefusedError("not sound", where="v1"), NOW)
    failed = trigger is Trigger.OPERATOR
    assert (found.phase is FleetPhase.ROLLBACK_FAILED) == failed
    assert (found.stable is None) == failed
