"""A fleet on several nodes: placed by label, rolled and put back under load, and hurt."""

from collections import Counter

import pytest
from serving.programs import run_program

pytestmark = pytest.mark.ray

AGENTS = {"code-0", "code-1", "doc-0", "doc-1", "memory-0", "memory-1"}
SPECIALTY_OF = {"code": "code_execute", "doc": "doc_plan", "memory": "memory_storage"}


@pytest.fixture(scope="module")
def seen():
    """Return what was seen on a cluster of its own."""
    return run_program("fleet_nodes.py", timeout_s=280)


def test_every_agent_runs_on_the_node_that_its_labels_name_and_reports_its_release(seen):
    wanted = {f"{name} v1": [seen["rooms"][name], seen["release_ids"]["1"]] for name in AGENTS}
    assert seen["places"] == wanted
    assert len(set(seen["rooms"].values())) == 3


def test_tasks_go_to_agents_of_their_specialty_and_are_counted_exactly(seen):
    statuses = {status for status, _ in seen["served"] + seen["coordinated"]}
    assert statuses == {200}
    answers = [told for _, told in seen["served"] + seen["coordinated"]]
    for asked, specialty, decision, agent, version, release_id in answers:
        assert asked == specialty == SPECIALTY_OF[agent.partition("-")[0]]
        assert (decision, version, release_id) == ("act", "1", seen["release_ids"]["1"])
    # Two dispatchers have counted them; every agent had some.
    assert seen["completed"] == Counter(f"{told[3]} v1" for told in answers)
    assert set(seen["completed"]) == {f"{name} v1" for name in AGENTS}


def test_old_and_new_run_side_by_side_on_one_node_and_the_canary_gets_tasks(seen):
    places = seen["places_side_by_side"]
    for name in ("code-0", "doc-0", "memory-0"):
        assert places[f"{name} v1"][0] == places[f"{name} v2"][0] == seen["rooms"][name]
    assert seen["answered"]["code-0 v2"] > 0


def test_no_task_fails_while_all_agents_are_rolled_and_put_back(seen):
    statuses = seen["during_roll"]["statuses"]
    assert set(statuses) == {"200"}
    assert statuses["200"] > 50
    assert set(seen["answered"]) == {f"{name} v{k}" for name in AGENTS for k in (1, 2)}
    assert seen["places_back"] == seen["places"]


def test_agent_that_is_swapped_is_gone_before_its_next_version_starts(seen):
    assert seen["gone_at_once"]


def test_probes_reach_every_instance_past_the_routes(seen):
    right = list(SPECIALTY_OF.values())
    nobody = seen["probed"].pop("nobody v1")
    assert nobody == [None]
    assert len(seen["probed"]) == 11  # all but the swapped agent's old one
    assert all(said == right for said in seen["probed"].values())


def test_unplaceable_agent_waits_and_names_the_label_that_no_node_has(seen):
    status, message = seen["misfits"]["nowhere"]
    assert (status, message) == ("starting", "no node has label room=r9")


def test_release_with_other_bytes_fails_and_says_so(seen):
    status, message = seen["misfits"]["code-0"]
    assert status == "failed"
    assert f"expected {seen['release_ids']['9']}" in message


def test_counts_do_not_shrink_when_a_dispatcher_is_killed(seen):
    assert seen["dispatcher"] == {"shrunk": [], "grown": 30}


def test_agents_of_a_killed_node_are_told_apart_and_their_tasks_go_to_others(seen):
    assert set(seen["lost"]) == {"code-0", "memory-1"}
    running = {name for name, status in seen["after_kill"].items() if status == "running"}
    assert running == AGENTS - set(seen["lost"])
    assert seen["why_lost"] == ["no node has label room=r0"] * 2
    assert {status for status, _ in seen["served_without"]} == {200}
    # The dispatchers were elsewhere: what a lost agent had is done by another, late.
    assert set(seen["under_kill"]["statuses"]) == {"200"}


def test_node_with_the_same_labels_brings_its_agents_back(seen):
    assert seen["back_by_itself_s"] < 60


def test_plane_without_a_cluster_says_so(seen):
    assert seen["left"] == 0
    assert "not connected to Ray" in seen["without_cluster"]
