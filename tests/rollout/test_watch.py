"""The pure step after promotion: watched for 48 hours, and still taken back."""

from dataclasses import replace

import pytest
from rollout.simulator import PLAN, build_plan
from rollout.step_cases import (
    END,
    FACTS,
    GATE,
    NOW,
    PLAN_,
    after,
    found,
    in_canary,
    see,
)

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.actions import (
    Restore,
    SetSplit,
)
from kfm_mlflow.rollout.inputs import Levels, Orders, StepInputs
from kfm_mlflow.rollout.state import (
    AskedSplit,
    Phase,
    Trigger,
)
from kfm_mlflow.rollout.step import step

WATCHED = {"postPromotionWatch_s": 48 * 3600.0}
AT_PRODUCTION = StepInputs(Levels(2, None, 9), frozenset({1, 2}), 5, found(Verdict.PASS))


def watch(hours, *, plan, facts=AT_PRODUCTION, every_s=60):
    """Watch a promoted release for hours, one look a minute."""
    state = in_canary(END, Phase.SOAKING, plan, split=AskedSplit(2, None, 0.0, 5), promoted=True)
    actions = ()
    for look in range(int(hours * 3600 / every_s)):
        state, actions = step(plan, state, facts, after((look + 1) * every_s))
    return state, actions


def test_promoted_release_is_watched_for_48_hours_and_its_predecessor_kept_warm():
    plan = build_plan(**WATCHED)
    state, actions = watch(47.9, plan=plan)
    assert (state.phase, actions) == (Phase.SOAKING, ())
    assert watch(48, plan=plan)[0].phase is Phase.SUCCEEDED


def test_harm_in_the_47th_hour_still_rolls_back_registry_and_traffic():
    plan = build_plan(**WATCHED)
    state, _ = watch(47, plan=plan)
    state, actions = step(
        plan, state, replace(AT_PRODUCTION, analysis=found(Verdict.FAIL)), after(47 * 3600 + 1)
    )
    assert actions[:2] == (SetSplit(1, None, 0.0, 6), Restore(1, 2, None, "error_ratio: because"))


def test_abort_while_watched_puts_the_predecessor_back():
    plan = build_plan(**WATCHED)
    state, _ = watch(1, plan=plan)
    order = Orders(
        operator="abort", order_id=1, operator_name="olga", operator_reason="wrong units"
    )
    state, actions = step(plan, state, replace(AT_PRODUCTION, orders=order), after(3601))
    assert (state.trigger, state.reason) == (Trigger.OPERATOR, "aborted by olga: wrong units")
    assert isinstance(actions[1], Restore)


def test_clock_that_jumps_ahead_does_not_end_the_watch_nor_a_timed_pause():
    plan = build_plan(**WATCHED)
    state, _ = watch(1, plan=plan)
    assert step(plan, state, AT_PRODUCTION, after(90 * 3600))[0].phase is Phase.SOAKING
    plan = build_plan(
        steps=[*PLAN["steps"][:2], {"pause": {"duration_s": 3600}}], canaryReady_s=10**6
    )
    state, _ = step(plan, in_canary(GATE, plan=plan), FACTS, after(7200))
    assert (state.phase, state.step_index) == (Phase.CANARY, GATE)


def test_clock_that_was_set_back_does_not_put_a_deadline_off():
    state, _ = step(PLAN_, in_canary(step_entered_at=after(86400)), FACTS, NOW)
    assert state.step_entered_at == NOW
    assert step(PLAN_, state, FACTS, after(30))[0].trigger is Trigger.DEADLINE


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_watch_does_not_end_while_nothing_is_measured(verdict):
    blind = replace(AT_PRODUCTION, analysis=found(verdict))
    plan = build_plan(telemetryGap_s=10**6, postPromotionWatch_s=120)
    state, _ = watch(0.1, plan=plan, facts=blind)
    assert state.phase is Phase.SOAKING
    assert step(plan, state, AT_PRODUCTION, after(400))[0].phase is Phase.SUCCEEDED


@pytest.mark.parametrize("analysis", [found(Verdict.ERROR), None])
def test_telemetry_gap_gives_the_candidate_up_even_while_it_waits_for_votes(analysis):
    facts = see(analysis=analysis)
    plan = build_plan(steps=[*PLAN["steps"][:2], {"pause": {"gate": "votes", "deadline_s": 86400}}])
    state, _ = step(plan, in_canary(GATE, plan=plan), facts, NOW)
    state, _ = step(plan, state, facts, after(59.9))
    assert state.phase is Phase.AWAITING_ADMISSION
    recovered, _ = step(plan, state, FACTS, after(59.9))
    assert step(plan, recovered, facts, after(61))[0].phase is Phase.AWAITING_ADMISSION
    assert step(plan, state, facts, after(60))[0].trigger is Trigger.TELEMETRY


def test_arm_that_nobody_asks_is_no_telemetry_gap_and_passes_nothing():
    silent = replace(found(Verdict.ERROR), is_silent=True)
    plan = build_plan(steps=[*PLAN["steps"][:2], {"pause": {"gate": "votes", "deadline_s": 86400}}])
    state, _ = step(plan, in_canary(GATE, plan=plan), see(analysis=silent), NOW)
    state, actions = step(plan, state, see(analysis=silent, admitted=True), after(3600))
    assert (state.phase, state.step_index, actions) == (Phase.AWAITING_ADMISSION, GATE, ())


def test_repair_need_not_wait_for_the_end_of_a_watch_and_goes_against_what_is_at_production():
    plan = build_plan(**WATCHED)
    state, _ = watch(1, plan=plan)
    early = replace(state, watched_s=2.0)
    facts = replace(AT_PRODUCTION, levels=Levels(2, 3, 10))
    assert step(plan, early, facts, after(3600.5))[0].phase is Phase.SOAKING
    state, _ = step(plan, state, facts, after(3601))
    assert (state.phase, state.candidate, state.stable) == (Phase.PENDING, 3, 2)


def test_plan_that_was_made_longer_does_not_put_a_promoted_release_back_into_its_canary():
    longer = build_plan(steps="shadow", **WATCHED)
    state, actions = watch(0.1, plan=longer)
    assert (state.phase, actions) == (Phase.SOAKING, ())
