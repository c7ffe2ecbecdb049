"""The loop on a registry in memory and a plane that runs real releases."""

import pytest
from fleet.made_fleet import AGENTS, MODEL, PLAN, Fleet
from fleet.made_release import write_release
from rollout.simulated_registry import Fuse, Killed

from kfm_mlflow.errors import PlaneError, StorageError
from kfm_mlflow.fleet.loop import FleetLoop
from kfm_mlflow.metadata.schemas import schema_problems


@pytest.fixture(scope="module")
def release_dir(tmp_path_factory):
    """Return a fused release made by hand."""
    return write_release(tmp_path_factory.mktemp("release") / "v")


def test_a_first_release_reaches_one_agent_per_specialty_then_votes_then_all(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.registry.admit = False
    waiting = fleet.until("AwaitingAdmission")
    assert [name.split("-")[0] for name in waiting["batch"]] == ["code", "doc", "memory"]
    assert fleet.registry.held.production is None
    assert fleet.registry.verdicts[-1]["verdict"] == "PASS"
    fleet.live(5)
    assert fleet.journal["phase"] == "AwaitingAdmission"
    fleet.registry.admit = True
    fleet.until("Soaking", "Succeeded")
    assert (fleet.registry.held.production, fleet.served()) == (1, 1)
    assert fleet.registry.violations == []


def test_what_is_journaled_and_told_keeps_its_schema_in_every_phase(release_dir):
    fleet = Fleet(release_dir, canary=1)
    seen = set()
    for _ in range(60):
        fleet.live(1)
        if fleet.journal["phase"] not in seen:
            seen.add(fleet.journal["phase"])
            assert schema_problems("fleet_journal", fleet.journal) == []
        if fleet.journal["phase"] == "Succeeded":
            break
    fleet.registry.set_levels(production=1, canary=2)
    fleet.plane.answers_wrongly = {(agent.name, 2) for agent in AGENTS}
    fleet.until("RolledBack")
    assert schema_problems("fleet_journal", fleet.journal) == []
    assert {"Watching", "Soaking", "Succeeded"} <= seen


def test_a_release_that_agents_do_not_run_rightly_is_stopped_after_its_first_batch(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    fleet.registry.set_levels(production=1, canary=2)
    fleet.plane.answers_wrongly = {(agent.name, 2) for agent in AGENTS}
    journal = fleet.until("RolledBack")
    assert journal["batch_index"] == 0
    assert "coherence" in journal["reason"] or "safety" in journal["reason"]
    assert (fleet.registry.held.production, fleet.registry.held.canary) == (1, None)
    assert fleet.served() == 1
    documents = fleet.registry.reports[2]
    assert sorted(documents) == [
        "drift_summary.json", "rollback_report.json", "sovereignty_conflict.json",
    ]  # fmt: skip
    for name, document in documents.items():
        assert schema_problems(name.removesuffix(".json"), document) == []
    assert documents["rollback_report.json"]["restored_version"] == 1
    assert fleet.registry.violations == []


def test_an_agent_that_nothing_can_place_fails_its_batch_with_the_reason(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    fleet.registry.set_levels(production=1, canary=2)
    fleet.loop.reconcile_once()
    fleet.plane.unplaceable = {("doc-0", 2), ("doc-1", 2)}
    journal = fleet.until("RolledBack", "RollbackFailed", limit=200)
    assert "no node has its label" in journal["reason"]
    assert fleet.registry.held.production == 1


def test_an_operators_rollback_names_a_version_and_every_agent_goes_there(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    fleet.registry.set_levels(production=1, canary=2)
    fleet.until("Succeeded", limit=200)
    while fleet.journal["candidate"] != 2:
        fleet.live(1)
    fleet.until("Succeeded", limit=200)
    assert fleet.served() == 2
    fleet.registry.give_order("rollback", version=2, to_version=1)
    fleet.until("RolledBack")
    assert (fleet.registry.held.production, fleet.served()) == (1, 1)


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_a_loop_killed_at_any_call_comes_to_the_same_end(release_dir, at):
    fuse = Fuse()
    fleet = Fleet(release_dir, fuse=fuse, canary=1)
    fuse.at, killed = at, False
    for _ in range(120):
        try:
            fleet.live(1)
        except Killed:
            killed = True
            fuse.at = None
            fleet.clock.sleep(3)  # the lease of the dead one runs out
            fleet.open()
        if fleet.registry.has_journal and fleet.journal["phase"] == "Succeeded":
            break
    assert killed
    assert (fleet.registry.held.production, fleet.served()) == (1, 1)
    assert fleet.registry.violations == []


def test_two_loops_share_one_fleet_and_only_the_holder_of_the_lease_acts(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.live(1)
    second = FleetLoop(fleet.registry, fleet.plane, PLAN, fleet.clock, MODEL, agents=AGENTS)
    assert second.reconcile_once() is None


def test_a_cluster_that_is_away_is_said_once_and_decides_nothing(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Watching")
    fleet.plane.is_away = True
    for _ in range(3):
        with pytest.raises(PlaneError):
            fleet.loop.reconcile_once()
        fleet.clock.sleep(1)
    generation = fleet.journal["generation"]
    assert "does not answer" in fleet.journal["narrative"]["happening"]
    with pytest.raises(PlaneError):
        fleet.loop.reconcile_once()
    assert fleet.journal["generation"] == generation
    fleet.plane.is_away = False
    fleet.until("Soaking", "Succeeded")


def test_without_a_registry_a_degraded_batch_loses_its_tasks_all_the_same(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    fleet.registry.set_levels(production=1, canary=2)
    fleet.until("Watching")
    fleet.registry.reachable = False
    fleet.plane.answers_wrongly = {(agent.name, 2) for agent in AGENTS}
    for _ in range(30):
        with pytest.raises(StorageError):
            fleet.loop.reconcile_once()
        fleet.clock.sleep(1)
        if fleet.served() == 1:
            break
    assert fleet.served() == 1
    fleet.registry.reachable = True
    fleet.until("RolledBack")
    assert fleet.registry.held.production == 1


def test_what_is_told_of_agents_is_never_older_than_ten_seconds_at_rest(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    before = fleet.journal["narrative"]["described_at"]
    fleet.live(12)
    assert fleet.journal["narrative"]["described_at"] != before


def test_an_agent_that_cannot_be_asked_to_start_does_not_hold_up_the_others(release_dir):
    fleet = Fleet(release_dir, canary=1)
    fleet.until("Succeeded")
    fleet.plane.stop("doc-1", 1)
    fleet.plane.stop("memory-1", 1)
    fleet.plane.refuses = {"doc-1"}
    fleet.live(8)
    standing = {agent["name"]: agent["version"] for agent in fleet.journal["narrative"]["agents"]}
    assert standing["memory-1"] == 1
    assert standing["doc-1"] is None
    assert "doc-1" in fleet.journal["unplaced"]
    fleet.plane.refuses = set()
    fleet.live(12)
    standing = {agent["name"]: agent["version"] for agent in fleet.journal["narrative"]["agents"]}
    assert set(standing.values()) == {1}
