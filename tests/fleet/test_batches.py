"""Which agents come next."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.fleet.agents import Agent
from kfm_mlflow.fleet.batches import batch_size, first_batch, next_batch
from kfm_mlflow.fleet.memories import InstanceMemory
from kfm_mlflow.fleet.observed import FleetInputs, look
from kfm_mlflow.fleet.plane import FleetObservation, Instance
from kfm_mlflow.fleet.state import initial_state
from kfm_mlflow.policy.fleet import FleetPolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPECIALTIES = ("x", "y", "z")


def fleet(count):
    return [Agent(f"a{k:03d}", SPECIALTIES[k % 3]) for k in range(count)]


def seen(agents, *, sound=(), isolated=()):
    """Return a look at a fleet of which these run v1."""
    running = (*sound, *isolated)
    known = {
        name: {1: InstanceMemory(coherence=1.0, is_isolated=name in isolated)} for name in running
    }
    state = replace(initial_state("m", NOW), instances=known, release_ids={1: "sha256:1"})
    found = tuple(Instance(name, 1, "running", "sha256:1") for name in running)
    inputs = FleetInputs(observation=FleetObservation(1, found))
    return look(FleetPolicy(specialties=SPECIALTIES), agents, state, inputs, NOW)


def names(agents):
    return [agent.name for agent in agents]


def test_the_first_batch_is_one_agent_per_specialty_the_first_healthy_one_by_name():
    agents = fleet(9)
    assert first_batch(agents, seen(agents, sound=names(agents)), 1) == ("a000", "a001", "a002")
    assert first_batch(agents, seen(agents, sound=["a003", "a005"]), 1) == ("a001", "a003", "a005")


def test_an_agent_with_room_for_both_releases_goes_first():
    agents = [
        Agent("a", "x", side_by_side=False, fallback="b"), Agent("b", "x"),
    ]  # fmt: skip
    assert first_batch(agents, seen(agents, sound=["a", "b"]), 1) == ("b",)
    assert first_batch(agents, seen(agents, sound=["a"]), 1) == ("a",)


@given(st.permutations(range(12)))
def test_the_choice_does_not_hang_on_the_order_of_the_agents(order):
    agents = fleet(12)
    mixed = [agents[k] for k in order]
    view = seen(agents, sound=names(agents))
    assert first_batch(mixed, view, 1) == first_batch(agents, view, 1)
    assert next_batch(mixed, view, 1, (), 0.34) == next_batch(agents, view, 1, (), 0.34)


@pytest.mark.parametrize(
    ("count", "ratio", "size"),
    [(12, 0.34, 4), (3, 0.34, 1), (2, 0.1, 1), (1000, 0.34, 340), (10, 0.3, 3), (5, 1.0, 5)],
)
def test_a_later_batch_is_a_share_of_the_fleet_and_never_empty(count, ratio, size):
    assert batch_size(count, ratio) == size


@given(
    st.integers(3, 40),
    st.floats(0.01, 1),
    st.sets(st.integers(0, 39)),
    st.sets(st.integers(0, 39)),
    st.booleans(),
)
def test_every_agent_has_exactly_one_turn(count, ratio, sound, isolated, is_first):
    agents = fleet(count)
    view = seen(
        agents,
        sound=[f"a{k:03d}" for k in sound - isolated if k < count],
        isolated=[f"a{k:03d}" for k in isolated if k < count],
    )
    stable = None if is_first else 1
    touched = list(first_batch(agents, view, stable))
    assert {agent.specialty for agent in agents if agent.name in touched} == set(SPECIALTIES)
    while batch := next_batch(agents, view, stable, touched, ratio):
        assert len(batch) <= batch_size(count, ratio)
        touched += batch
    assert sorted(touched) == names(agents)


def test_healthy_agents_go_before_isolated_ones_and_those_that_serve_nothing_alone_at_the_end():
    agents = fleet(9)
    view = seen(agents, sound=["a003", "a006"], isolated=["a004"])
    touched = ["a000", "a001", "a002"]
    assert next_batch(agents, view, 1, touched, 0.25) == ("a003", "a006")
    assert next_batch(agents, view, 1, [*touched, "a003", "a006"], 0.25) == ("a004",)
    done = [*touched, "a003", "a004", "a006"]
    assert next_batch(agents, view, 1, done, 0.5) == ("a005", "a007", "a008")


@given(st.integers(2, 12), st.data())
def test_an_agent_is_never_in_a_batch_with_its_fallback(count, data):
    agents = []
    for k in range(count):
        other = data.draw(st.sampled_from([j for j in range(count) if j != k]))
        agents.append(Agent(f"a{k}", "x", side_by_side=False, fallback=f"a{other}"))
    touched = []
    view = seen(agents, sound=names(agents))
    while batch := next_batch(agents, view, 1, touched, 1.0):
        backing = {agent.fallback for agent in agents if agent.name in batch}
        assert not backing & set(batch)
        touched += batch
    assert len(touched) == count
