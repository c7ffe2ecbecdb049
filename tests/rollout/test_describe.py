"""What is told of a rollout is there in every phase, and is what then happens."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout.simulated_plane import Quality
from rollout.simulated_registry import Fuse
from rollout.simulator import World, build_plan
from rollout.stories import PAUSES, SHADOW, chapters, overhear
from rollout.strategies import START, states
from rollout.test_schedule import CORRUPT, QUALITIES, events, happen

from kfm_mlflow.metadata.schemas import load_schema, schema_problems
from kfm_mlflow.rollout.counts import p95_latency_ms
from kfm_mlflow.rollout.describe import describe
from kfm_mlflow.rollout.state import (
    BEFORE_PROMOTION,
    UNDER_ANALYSIS,
    AskedSplit,
    Phase,
    RolloutState,
    Trigger,
)

PLANS = (build_plan(), build_plan(steps=PAUSES), build_plan(steps=SHADOW, promotion="manual"))
WITH_DEADLINE = {Phase.DEPLOYING, Phase.CANARY, Phase.AWAITING_ADMISSION, Phase.PAUSED}
WITH_DEADLINE |= {Phase.ABORTING}


def says_enough(journal):
    """Assert what must be told in every state that any controller reaches."""
    told, phase = journal["narrative"], Phase(journal["phase"])
    for name in ("happening", "traffic", "reason", "next"):
        assert len(told[name]) > 5, (name, told)
    assert (told["phase"], told["since"]) == (journal["phase"], journal["entered_at"])
    assert bool(told["deadline_at"]) == bool(told["on_deadline"])
    assert told["deadline_at"] or phase not in WITH_DEADLINE
    assert bool(told["ends"]) == (phase in BEFORE_PROMOTION | UNDER_ANALYSIS)
    assert [step["number"] for step in told["steps"]] == [*range(1, told["step_count"] + 1)]
    present = [s["number"] for s in told["steps"] if s["status"] in {"present", "stopped"}]
    assert present == ([told["step_number"]] if told["step_number"] else [])
    if told["is_loud"]:
        assert told["to_do"]
    if phase is Phase.ROLLBACK_FAILED:
        assert told["is_loud"]


def test_the_stories_come_to_every_phase():
    assert {chapter.phase for chapter in chapters()} == set(Phase)


def test_every_journal_of_every_story_keeps_to_the_schema_and_says_enough():
    last = {(chapter.story, chapter.phase): chapter.journal for chapter in chapters()}
    for where, journal in last.items():
        assert schema_problems("rollout_journal", journal) == [], where
    for chapter in chapters():
        says_enough(chapter.journal)


def test_the_schema_knows_every_phase():
    written = load_schema("rollout_journal")["properties"]
    assert set(written["phase"]["enum"]) == set(Phase)
    assert set(written["narrative"]["properties"]["phase"]["enum"]) == set(Phase)


def test_what_is_told_is_no_part_of_the_state_that_is_read_back():
    for chapter in chapters():
        state = RolloutState.from_dict(chapter.journal)
        assert {**state.to_dict(), "narrative": chapter.journal["narrative"]} == chapter.journal


@settings(max_examples=25, deadline=None)
@given(schedule=st.lists(events, max_size=20), first=st.sampled_from([None, 1]))
def test_every_state_that_any_schedule_of_failures_reaches_is_told(schedule, first):
    world = World(production=first, canary=2, fuse=Fuse())
    world.plane.quality = QUALITIES
    world.registry.corrupt.add(CORRUPT)
    heard = overhear(world)
    for name, value in schedule:
        happen(world, name, value)
    for journal in heard:
        says_enough(journal)
        assert schema_problems("rollout_journal", journal) == []


@settings(max_examples=60, deadline=None)
@given(state=states, plan=st.sampled_from(PLANS), step_index=st.integers(0, 9))
def test_no_state_however_odd_is_without_words(state, plan, step_index):
    told = describe(plan, replace(state, step_index=step_index), START)
    assert all((told.happening, told.traffic, told.reason, told.next))


# -- what is told is what happens ------------------------------------------------------------------


def _stuck(world):
    world.run(1)
    world.plane.quality = {2: Quality(error_ratio=0.9)}
    world.plane.failures = 10**6
    world.run(1)


def _refused(world):
    world.registry.admit = False
    world.run(4)


def _held(world):
    _refused(world)
    world.registry.give_order("pause")
    world.run(1)


def _blinded(world):
    world.run(1, request_count=0)
    world.plane.lies[2] = "nan"
    world.run(1, request_count=0)


DEADLINES = {
    "an analysis without answers": ({}, lambda world: world.run(1, request_count=0), Phase.CANARY),
    "votes that do not come": ({}, _refused, Phase.AWAITING_ADMISSION),
    "a pause that nobody ends": ({}, _held, Phase.PAUSED),
    "a promotion that nobody orders": (
        {"plan": build_plan(promotion="manual", promotionDeadline_s=20)},
        lambda world: world.run(5),
        Phase.AWAITING_ADMISSION,
    ),
    "a telemetry gap": ({"plan": build_plan(telemetryGap_s=7)}, _blinded, Phase.CANARY),
    "routers that do not answer": ({}, _stuck, Phase.ABORTING),
}


@pytest.mark.parametrize("case", DEADLINES)
def test_a_wait_ends_at_the_deadline_that_was_told_and_not_before(case):
    start, begin, phase = DEADLINES[case]
    world = World(**{"canary": 2, **start})
    begin(world)
    assert world.state.phase is phase
    told = describe(world.plan, world.state, world.clock.now())
    before_s = (told.deadline_at - world.clock.now()).total_seconds() - 0.5
    count = 0 if phase in {Phase.CANARY, Phase.ABORTING} else 100
    while before_s > 0:
        wait_s = min(1.0, before_s)
        world.tick(request_count=count, wait_s=wait_s)
        before_s -= wait_s
    world.tick(request_count=count, wait_s=0.6)
    assert world.state.phase is phase
    world.tick(request_count=count)
    expected = Phase.ROLLBACK_FAILED if phase is Phase.ABORTING else Phase.ROLLED_BACK
    assert world.state.phase is expected
    said = "called failed" if phase is Phase.ABORTING else "v2 is given up, and v1 gets every"
    assert said in told.on_deadline


@pytest.mark.parametrize(
    ("plan", "ticks", "phase"),
    [
        (build_plan(steps=PAUSES), 4, Phase.CANARY),
        (build_plan(postPromotionWatch_s=10), 5, Phase.SOAKING),
    ],
    ids=["a timed pause", "the watch"],
)
def test_a_timed_wait_is_over_at_the_instant_that_was_told(plan, ticks, phase):
    world = World(canary=2, plan=plan)
    world.run(ticks)
    told = describe(plan, world.state, world.clock.now())
    assert (world.state.phase, told.next_at is not None) == (phase, True)
    index = world.state.step_index
    while world.clock.now() < told.next_at:
        assert (world.state.phase, world.state.step_index) == (phase, index)
        # A pass later the same instant is still told.
        assert describe(plan, world.state, world.clock.now()).next_at == told.next_at
        world.tick()
    world.tick()
    assert (world.state.phase, world.state.step_index) != (phase, index)


# -- the loud ones ---------------------------------------------------------------------------------


def _state(**changed):
    return RolloutState("climate-downscaler", Phase.IDLE, START, START, **changed)


def test_a_release_that_nobody_may_get_is_said_loudly():
    (journal,) = [c.journal for c in chapters() if c.story == "everything recalled"][-1:]
    told = journal["narrative"]
    assert told["is_loud"]
    assert told["traffic"] == "Nobody is served: every request is refused with 503."
    assert "consent was withdrawn" in told["reason"]


def test_traffic_that_was_only_asked_for_is_not_told_as_if_it_were_so():
    for chapter in chapters():
        told = chapter.journal["narrative"]
        if chapter.story == "routers that do not answer" and told["phase"] == "RollbackFailed":
            assert "(asked; not every router may apply it yet)" in told["traffic"]
            assert "Bring v1 and the routers up" in told["to_do"]


@pytest.mark.parametrize(
    ("trigger", "offers"), [(Trigger.ANALYSIS, True), (Trigger.SOVEREIGNTY, False)]
)
def test_a_production_that_nothing_can_replace_waits_loudly_for_a_person(trigger, offers):
    state = replace(
        _state(candidate=2, promoted=True, trigger=trigger, split=AskedSplit(2, None, 0.0, 9)),
        phase=Phase.ROLLBACK_FAILED,
    )
    told = describe(PLANS[0], state, START)
    assert told.is_loud
    assert "NOTHING TO GO BACK TO" in told.happening
    assert "kfm rollback climate-downscaler --to VERSION --reason WHY" in told.to_do
    assert ("repaired version to canary" in told.to_do) is offers


# -- numbers ---------------------------------------------------------------------------------------


def test_arms_and_metrics_carry_the_numbers_of_the_analysis():
    world = World(canary=2)
    world.registry.admit = False
    world.plane.quality = {2: Quality(error_ratio=0.1), 1: Quality()}
    world.tick(request_count=150)
    world.tick(request_count=150)
    state = world.state
    told = describe(world.plan, state, world.clock.now())
    canary, stable = told.arms
    assert (canary.arm, canary.version, canary.share_pct) == ("canary", 2, 10)
    assert (stable.arm, stable.version, stable.share_pct) == ("stable", 1, 90)
    assert (canary.request_count, stable.request_count) == (15, 135)
    assert canary.error_ratio == canary.error_count / 15
    assert canary.p95_ms == p95_latency_ms(state.memory.canary)
    assert canary.p50_ms <= canary.p95_ms <= canary.p99_ms
    lines = {(m.name, m.kind): m for m in told.metrics}
    limit, compared = lines["error_ratio", "limit"], lines["error_ratio", "compare"]
    assert (limit.canary_value, limit.limit, limit.unit) == (canary.error_ratio, 0.05, "ratio")
    assert compared.threshold == 3 / 0.05
    assert compared.e_value == state.memory.sequential["error_ratio"].e_value
    assert (compared.stable_value, compared.needed_count) == (0.0, 20)
    assert lines["p95_latency_ms", "limit"].unit == "ms"


def test_an_endless_plan_is_told_without_an_end_of_the_calendar():
    plan = build_plan(postPromotionWatch_s=1e300, pauseDeadline_s=1e300)
    for phase in Phase:
        state = replace(_state(candidate=2, stable=1), phase=phase)
        told = describe(plan, state, datetime.fromisoformat("2026-11-20T00:00:00Z"))
        assert told.happening
        assert told.next_at is None or told.next_at - START > timedelta(days=365)
