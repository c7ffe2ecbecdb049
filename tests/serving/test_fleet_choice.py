"""Who gets a task: laws of the choice, and the shares that it gives."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kfm_serving.fleet_choice import rank_targets
from kfm_serving.fleet_desired import DesiredTable, RoutedAgent, agent_app, parse_agent_app

NAMES = ("a0", "a1", "a2", "a3")
IDS = tuple(f"task-{number}" for number in range(4000))


def routed(name, version=1, canary=None, ratio=0.0, specialty="plan"):
    ids = {v: f"{name}@{v}" for v in (version, canary) if v is not None}
    return RoutedAgent(
        agent=name,
        specialty=specialty,
        version=version,
        canary=canary,
        canary_ratio=ratio,
        deployment_ids=ids,
    )


def table(*agents):
    return DesiredTable(generation=1, agents=agents)


PLAIN = table(*map(routed, NAMES))
tables = st.lists(
    st.builds(
        routed,
        st.sampled_from(NAMES),
        st.sampled_from([None, 1]),
        st.sampled_from([None, 2]),
        st.floats(0, 1),
        st.sampled_from(["plan", "run"]),
    ),
    unique_by=lambda agent: agent.agent,
).map(lambda agents: table(*agents))
ids, doubts = (
    st.text(min_size=1),
    st.sets(st.sampled_from([f"{n}@{v}" for n in NAMES for v in (1, 2)])),
)


@given(tables, st.sampled_from([None, "plan", "run"]), ids, doubts)
def test_order_names_instances_of_the_specialty_once_each_with_the_doubted_last(
    routes, specialty, task_id, doubted
):
    order = rank_targets(routes, specialty, task_id, doubted)
    asked = [target.deployment_id for target in order]
    named = [a for a in routes.agents if specialty in (None, a.specialty)]
    able = {agent.agent for agent in named if agent.version}
    alone = {agent.agent for agent in named if agent.canary and not agent.version}
    assert len(set(asked)) == len(asked)
    assert able <= {target.agent for target in order} <= able | alone
    assert [key in doubted for key in asked] == sorted(key in doubted for key in asked)
    assert all(specialty in (None, target.specialty) for target in order)


@given(tables, ids, doubts)
def test_second_attempt_goes_to_another_agent_where_there_is_one(routes, task_id, doubted):
    order = rank_targets(routes, "plan", task_id)
    if len({target.agent for target in order}) > 1:
        assert order[0].agent != order[1].agent
    assert not any(target.is_canary for target in order[1:])


def test_an_agent_with_a_canary_alone_gets_that_share_of_what_it_is_offered():
    first = table(routed("a0", None, canary=1, ratio=0.1), routed("a1", None))
    seen = Counter(len(rank_targets(first, "plan", task_id)) for task_id in IDS)
    assert abs(seen[1] / len(IDS) - 0.1) < 0.02
    assert seen[0] + seen[1] == len(IDS)
    beside = table(routed("a0", None, canary=2, ratio=0.1), routed("a1", 1))
    orders = [rank_targets(beside, "plan", task_id) for task_id in IDS]
    canaries = sum(order[0].is_canary for order in orders)
    assert abs(canaries / len(IDS) - 0.05) < 0.02
    assert all(order[-1].agent == "a1" for order in orders)


@given(ids)
def test_agent_that_leaves_moves_only_its_own_tasks(task_id):
    before = [target.agent for target in rank_targets(PLAIN, "plan", task_id)]
    fewer = table(*(routed(name, None if name == "a2" else 1) for name in NAMES))
    after = [target.agent for target in rank_targets(fewer, "plan", task_id)]
    assert after == [name for name in before if name != "a2"]


@given(ids, st.floats(0, 1), st.floats(0, 1))
def test_task_of_a_canary_stays_with_it_when_its_share_grows(task_id, one, other):
    low, high = sorted((one, other))
    shares = [
        rank_targets(table(routed("a0", 1, 2, ratio)), "plan", task_id)[0].version
        for ratio in (low, high)
    ]
    assert shares != [2, 1]


def test_tasks_are_spread_evenly():
    got = Counter(rank_targets(PLAIN, "plan", task_id)[0].agent for task_id in IDS)
    # Four standard deviations of a binomial share of 1/4.
    assert all(abs(got[name] - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for name in NAMES)


def test_canary_gets_its_share_of_its_agents_tasks():
    routes = table(routed("a0", 1, 2, 0.1), routed("a1"))
    got = Counter(
        (t := rank_targets(routes, "plan", task_id)[0]).agent + str(t.version) for task_id in IDS
    )
    assert set(got) == {"a01", "a02", "a11"}
    assert abs(got["a02"] - 200) < 4 * (4000 * 0.05 * 0.95) ** 0.5


def test_doubted_canary_leaves_its_tasks_to_others():
    routes = table(routed("a0", 1, 2, 1.0))
    assert [t.version for t in rank_targets(routes, "plan", "x")] == [2, 1]
    assert [t.version for t in rank_targets(routes, "plan", "x", {"a0@2"})] == [1, 2]


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True), st.integers(1, 10**9))
def test_application_names_lead_back_to_agent_and_version(agent, version):
    assert parse_agent_app(agent_app(agent, version)) == (agent, version)
