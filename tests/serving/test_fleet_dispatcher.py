"""The dispatcher's own logic in one event loop, over instances in memory: no Ray, no clock but limits.

An instance is a stand-in for Serve's handle: ``remote`` gives something to await and to cancel.
"""

import asyncio
import json

import pytest
from starlette.requests import Request

from kfm_mlflow.fleet.pipeline import TaskAnswer
from kfm_mlflow.monitor.spans import SpanOptions
from kfm_serving.fleet_counts import merge_tallies
from kfm_serving.fleet_desired import DesiredTable, InstanceRecord, RoutedAgent
from kfm_serving.fleet_dispatcher import Dispatcher
from kfm_serving.fleet_instance import InstanceAnswer
from kfm_serving.fleet_traces import TaskSpans

DEADLINE_S = 0.02
SPECIALTIES = {"p1": "plan", "p2": "plan", "r1": "run"}


class Call(asyncio.Future):
    """One call under way."""


class Remote:
    def __init__(self, call):
        self.remote = call


class Agent:
    """Answers as it is told: ``ok``, ``error``, ``lost`` or ``late``; the last stays."""

    def __init__(self, *ways, decision="act", is_unsafe=False, coordinated="plan"):
        self.ways, self.asked, self.is_up = list(ways or ("ok",)), [], True
        self.told = TaskAnswer(coordinated, decision, 0.75, "a text", is_unsafe)

    def _ping(self):
        call = Call()
        if self.is_up:
            call.set_result("here")
        else:
            call.set_exception(RuntimeError("no pong"))
        return call

    def _answer(self, task, specialty):
        way = self.ways[min(len(self.asked), len(self.ways) - 1)]
        self.asked.append((task, specialty))
        call = Call()
        if way == "lost":
            call.set_exception(RuntimeError("lost"))
        elif way == "error":
            call.set_result(InstanceAnswer("sha256:r", error="ValueError"))
        elif way == "ok":
            call.set_result(InstanceAnswer("sha256:r", self.told))
        return call

    @property
    def ping(self):
        """Be asked whether it is there."""
        return Remote(self._ping)

    @property
    def answer(self):
        """Be asked to do a task."""
        return Remote(self._answer)


class MemoryDispatcher(Dispatcher):
    """Only where handles come from is another."""

    def __init__(self, **agents):
        super().__init__("/fleet", DEADLINE_S)
        self.agents = agents

    async def _warm_handle(self, agent, version):
        handle = self.agents[f"{agent}_v{version}"]
        await handle.ping.remote()
        return handle

    async def route(self, generation, **versions):
        """Take a table as a broadcast brings it: agent -> version, or (version, canary, ratio)."""
        agents = []
        for name, given in versions.items():
            version, canary, ratio = given if isinstance(given, tuple) else (given, None, 0.0)
            ids = {v: f"{name}_v{v}" for v in (version, canary) if v is not None}
            agents.append(
                RoutedAgent(
                    agent=name,
                    specialty=SPECIALTIES[name],
                    version=version,
                    canary=canary,
                    canary_ratio=ratio,
                    deployment_ids=ids,
                )
            )
        table = DesiredTable(generation=generation, agents=tuple(agents))
        return await self.apply(table.to_bytes())

    async def send(self, value, path="/fleet/tasks", content_type=b"application/json"):
        """Answer one request; return the response and its JSON."""

        async def receive():
            return {"type": "http.request", "body": json.dumps(value).encode(), "more_body": False}

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
        scope |= {"headers": [(b"content-type", content_type)], "server": ("h", 80)}
        scope |= {"root_path": "", "scheme": "http"}
        response = await self(Request(scope, receive))
        return response, json.loads(response.body)

    def counted(self, deployment_id):
        """Return what was counted for an instance."""
        tally = self._tallies.get(deployment_id)
        return merge_tallies([] if tally is None else [tally.to_dict()])


TASK = {"task": "plan a page", "specialty": "plan", "id": "7"}


def run(coroutine):
    return asyncio.run(coroutine)


def test_answer_names_agent_version_and_release_and_is_counted():
    async def play():
        fleet = MemoryDispatcher(p1_v3=Agent())
        await fleet.route(1, p1=3)
        return fleet, *await fleet.send(TASK)

    fleet, response, said = run(play())
    assert response.status_code == 200
    named = {k: response.headers[k] for k in ("x-kfm-agent", "x-kfm-version", "x-kfm-release")}
    assert named == {"x-kfm-agent": "p1", "x-kfm-version": "3", "x-kfm-release": "sha256:r"}
    assert response.headers["x-kfm-generation"] == "1"
    assert said == {
        "id": "7",
        "specialty": "plan",
        "decision": "act",
        "confidence": 0.75,
        "text": "a text",
        "agent": "p1",
        "version": 3,
        "release_id": "sha256:r",
    }
    counts = fleet.counted("p1_v3")
    assert (counts.completed, counts.failed, counts.unsafe, counts.refused) == (1, 0, 0, 0)


def test_held_unsafe_task_counts_as_refused_and_its_text_is_not_given_out():
    async def play():
        fleet = MemoryDispatcher(p1_v3=Agent(decision="hold", is_unsafe=True))
        await fleet.route(1, p1=3)
        return fleet, *await fleet.send(TASK)

    fleet, _, said = run(play())
    assert (said["decision"], said["text"]) == ("hold", "")
    counts = fleet.counted("p1_v3")
    assert (counts.unsafe, counts.refused) == (1, 1)


@pytest.mark.parametrize("way", ["error", "lost", "late"])
def test_what_one_agent_fails_another_of_its_specialty_answers(way):
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(way), p2_v1=Agent(way), r1_v1=Agent())
        await fleet.route(1, p1=1, p2=1, r1=1)
        fleet.agents["p2_v1"].ways = ["ok"]
        seen = [(await fleet.send({**TASK, "id": str(k)}))[0] for k in range(8)]
        return fleet, seen

    fleet, seen = run(play())
    assert {(r.status_code, r.headers["x-kfm-agent"]) for r in seen} == {(200, "p2")}
    failed = fleet.counted("p1_v1").failed
    # What only errs stays in the order and is counted; what does not answer comes last.
    assert failed == (1 if way in {"lost", "late"} else len(fleet.agents["p1_v1"].asked))
    assert failed >= 1
    assert fleet.counted("p2_v1").completed == 8
    assert fleet.agents["r1_v1"].asked == []


def test_failed_canary_is_answered_for_by_another_agent_or_its_own_stable_version():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(), p1_v2=Agent("error"))
        await fleet.route(1, p1=(1, 2, 1.0))
        return fleet, *await fleet.send(TASK)

    fleet, response, _ = run(play())
    assert (response.status_code, response.headers["x-kfm-version"]) == (200, "1")
    assert fleet.counted("p1_v2").failed == 1
    assert fleet.counted("p1_v1").completed == 1


def test_lost_process_is_asked_again_when_there_is_no_other():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent("lost", "ok"))
        await fleet.route(1, p1=1)
        return (await fleet.send(TASK))[0]

    assert run(play()).status_code == 200


@pytest.mark.parametrize(("way", "status"), [("error", 500), ("late", 503), ("lost", 503)])
def test_task_that_nobody_answers_says_whether_to_try_again(way, status):
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(way), p2_v1=Agent(way))
        await fleet.route(1, p1=1, p2=1)
        return fleet, *await fleet.send(TASK)

    fleet, response, said = run(play())
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)
    assert said["id"] == "7"
    assert sum(len(agent.asked) for agent in fleet.agents.values()) == 2


def test_specialty_without_a_version_is_503_with_retry_after():
    async def play():
        fleet = MemoryDispatcher(r1_v1=Agent())
        before, _ = await fleet.send(TASK)
        await fleet.route(1, p1=None, r1=1)
        return before, *await fleet.send(TASK)

    before, response, said = run(play())
    assert before.status_code == response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "specialty plan" in said["message"]


def test_without_specialty_the_coordinator_says_whose_agent_does_it():
    async def play():
        agents = {name: Agent(coordinated="run") for name in ("p1_v1", "p2_v1", "r1_v1")}
        fleet = MemoryDispatcher(**agents)
        await fleet.route(1, p1=1, p2=1, r1=1)
        seen = [(await fleet.send({"task": "run it", "id": str(k)}))[1] for k in range(9)]
        return fleet, seen

    fleet, seen = run(play())
    assert {(said["agent"], said["specialty"]) for said in seen} == {("r1", "run")}
    # Answers that only say the specialty are no completed tasks.
    assert [fleet.counted(key).completed for key in fleet.agents] == [0, 0, 9]
    assert all(specialty in (None, "run") for _, specialty in fleet.agents["r1_v1"].asked)
    assert sum(len(agent.asked) for agent in fleet.agents.values()) > 9


def test_failed_coordinator_is_counted_and_another_is_asked():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent("error"), p2_v1=Agent("error"), r1_v1=Agent("error"))
        await fleet.route(1, p1=1, p2=1, r1=1)
        return fleet, (await fleet.send({"task": "run it"}))[0]

    fleet, response = run(play())
    assert response.status_code == 500
    assert sum(fleet.counted(key).failed for key in fleet.agents) == 2


def test_list_is_answered_in_order_with_the_worst_status():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent())
        await fleet.route(1, p1=1, r1=None)
        tasks = [{**TASK, "id": "a"}, {"task": "x", "specialty": "run", "id": "b"}]
        return await fleet.send(tasks), await fleet.send(tasks[:1])

    (mixed, said), (good, _) = run(play())
    assert (mixed.status_code, good.status_code) == (503, 200)
    assert [(a["id"], a["status"]) for a in said["answers"]] == [("a", 200), ("b", 503)]


def test_mistakes_of_clients_are_told_and_not_counted():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent())
        await fleet.route(1, p1=1)
        wrong = await fleet.send({"task": "x", "specialty": "cooking"})
        kind = await fleet.send(TASK, content_type=b"text/plain")
        place = await fleet.send(TASK, path="/fleet/other")
        return fleet, wrong, kind, place

    fleet, (wrong, said), (kind, _), (place, _) = run(play())
    assert (wrong.status_code, kind.status_code, place.status_code) == (400, 415, 404)
    assert (said["field"], said["remedy"]) == ("specialty", "use one of plan, or leave it out")
    assert fleet.agents["p1_v1"].asked == []


def test_lower_generations_are_refused():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(), p1_v2=Agent())
        return [await fleet.route(k, p1=v) for k, v in ((2, 1), (1, 2), (2, 2), (3, 2))], (
            await fleet.send(TASK)
        )[0].headers["x-kfm-version"]

    assert run(play()) == ([2, 2, 2, 3], "2")


def test_table_is_applied_although_an_instance_is_silent_and_it_gets_tasks_once_it_answers():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(), p2_v1=Agent())
        fleet.agents["p1_v1"].is_up = False
        applied = await fleet.route(1, p1=1, p2=1)
        without = {(await fleet.send({**TASK, "id": str(k)}))[1]["agent"] for k in range(20)}
        await fleet._clear_doubts()
        still = {(await fleet.send({**TASK, "id": str(k)}))[1]["agent"] for k in range(20)}
        fleet.agents["p1_v1"].is_up = True
        await fleet._clear_doubts()
        back = {(await fleet.send({**TASK, "id": str(k)}))[1]["agent"] for k in range(20)}
        return applied, without, still, back

    assert run(play()) == (1, {"p2"}, {"p2"}, {"p1", "p2"})


def test_version_that_had_tasks_before_gets_them_back_without_waiting_for_a_ping():
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent(), p1_v2=Agent())
        await fleet.route(1, p1=1)
        await fleet.route(2, p1=2)
        fleet.agents["p1_v1"].is_up = False
        await fleet.route(3, p1=1)
        return fleet._doubted, (await fleet.send(TASK))[1]["version"]

    assert run(play()) == (frozenset(), 1)


def test_instance_that_was_started_anew_is_taken_within_a_generation():
    old = RoutedAgent(agent="p1", specialty="plan", version=1, deployment_ids={1: "p1_v1"})
    table = DesiredTable(generation=4, agents=(old,))
    record = InstanceRecord(
        agent="p1",
        version=1,
        specialty="plan",
        labels={},
        gpu_ratio=0,
        release_id="sha256:r",
        deployment_id="anew",
    )
    newer = table.with_instance(record)
    assert newer.with_instance(record) == newer
    assert newer.routes == table.routes

    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent())
        await fleet.apply(table.to_bytes())
        await fleet.apply(newer.to_bytes())
        await fleet.apply(table.to_bytes())
        await fleet.send(TASK)
        return fleet

    assert run(play()).counted("anew").completed == 1


def test_spans_are_those_that_are_counted_and_hold_no_text(tmp_path):
    async def play():
        fleet = MemoryDispatcher(p1_v1=Agent("error"), p1_v2=Agent("error"), p2_v1=Agent())
        fleet._spans = TaskSpans(SpanOptions(tmp_path), "d1")
        await fleet.route(5, p1=(1, 2, 1.0), p2=1)
        for k in range(6):
            await fleet.send({**TASK, "task": "secret words", "id": f"secret-{k}"})
        fleet._spans.close()
        return fleet

    fleet = run(play())
    text = (tmp_path / "spans-d1.jsonl").read_text()
    assert "secret" not in text
    assert "a text" not in text
    spans = [
        span
        for line in text.splitlines()
        for scope in json.loads(line)["resourceSpans"][0]["scopeSpans"]
        for span in scope["spans"]
    ]
    told = [{a["key"]: next(iter(a["value"].values())) for a in s["attributes"]} for s in spans]
    assert {s["name"] for s in spans} == {"kfm.task"}
    failed, done = fleet.counted("p1_v2").failed, fleet.counted("p2_v1").completed
    stages = sorted((t["kfm.stage"], t["kfm.agent"], t["kfm.outcome"]) for t in told)
    assert stages == sorted(
        [("canary", "p1", "error")] * failed + [("production", "p2", "answered")] * done
    )
    assert failed > 0
    assert {t["kfm.release.id"] for t in told} == {"sha256:r"}
