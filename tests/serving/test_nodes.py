"""One plan on several nodes: a head and three more, of which one dies under load."""

import pytest
from serving.programs import run_program

pytestmark = pytest.mark.ray

ROUTERS = 2


@pytest.fixture(scope="module")
def seen():
    """Return what was seen on a cluster of its own."""
    return run_program("nodes.py", timeout_s=200)


def test_a_split_is_applied_by_all_routers_of_a_cluster_of_several_nodes(seen):
    # Ray spreads replicas as it likes: releases and routers together are on several nodes.
    assert seen["nodes_used"] >= 2
    assert seen["generations"] == [1] * ROUTERS
    assert seen["misrouted"] == []


def test_a_node_killed_under_load_leaves_no_lasting_failure_and_the_split_stays(seen):
    assert seen["lost"] >= 1
    assert seen["nodes_left"] == 3
    assert seen["generations_after"] == [1] * ROUTERS
    assert seen["misrouted_after"] == []
    # What went through the dead node until Serve knew of it may be lost; the rest was answered.
    lost = sum(count for what, count in seen["under_load"].items() if what != "200")
    assert lost < seen["under_load"]["200"]


def test_the_next_split_is_applied_by_all_routers_of_the_nodes_that_are_left(seen):
    assert seen["generations_later"] == [2] * ROUTERS
    assert seen["misrouted_later"] == []
