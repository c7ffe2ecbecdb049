"""The pure step: the rules of a canary engine, one by one."""

from dataclasses import replace

import pytest
import yaml
from rollout.simulator import PLAN, build_plan
from rollout.step_cases import (
    ANALYSIS,
    END,
    FACTS,
    GATE,
    MANUAL,
    NOW,
    PLAN_,
    after,
    found,
    in_canary,
    see,
)

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import IntegrityError, PlaneError
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.rollout import RolloutPolicy
from kfm_mlflow.rollout.actions import (
    Demote,
    Deploy,
    Promote,
    PublishVerdict,
    Remove,
    Restore,
    SetSplit,
    WriteReports,
)
from kfm_mlflow.rollout.analysis import Memory
from kfm_mlflow.rollout.inputs import Levels, Orders, StepInputs
from kfm_mlflow.rollout.plane import ArmCounts, Split
from kfm_mlflow.rollout.record import record, record_failure
from kfm_mlflow.rollout.state import (
    BEFORE_PROMOTION,
    UNDER_ANALYSIS,
    AskedSplit,
    Phase,
    RolloutState,
    Trigger,
)
from kfm_mlflow.rollout.step import step
from kfm_mlflow.rollout.transitions import keep_time
from kfm_serving.split import choose_version


def test_pass_publishes_the_verdict_before_it_goes_on():
    state, actions = step(PLAN_, in_canary(), see(analysis=found(Verdict.PASS)), NOW)
    assert actions == (PublishVerdict(2),)
    assert state.step_index == ANALYSIS
    state = record(state, actions[0], NOW)
    state, actions = step(PLAN_, state, see(analysis=found(Verdict.PASS)), NOW)
    assert (state.step_index, actions) == (GATE, ())


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR, None])
def test_rule_1_and_2_no_evidence_waits_until_the_deadline_and_then_aborts(verdict):
    facts = see(analysis=found(verdict) if verdict else None)
    state, actions = step(PLAN_, in_canary(), facts, after(29.9))
    assert (state.phase, actions) == (Phase.CANARY, ())
    state, actions = step(PLAN_, in_canary(), facts, after(30))
    assert (state.phase, state.trigger) == (Phase.ABORTING, Trigger.DEADLINE)
    assert actions[0] == SetSplit(1, None, 0.0, 6)


def test_rule_2_gate_waits_for_admission_and_aborts_at_its_deadline():
    facts = see(admitted=False, admission_reason="votes 1 of 3")
    state, actions = step(PLAN_, in_canary(GATE), facts, after(29))
    assert (state.phase, actions, state.reason) == (Phase.AWAITING_ADMISSION, (), "votes 1 of 3")
    state, _ = step(PLAN_, state, facts, after(30))
    assert state.trigger is Trigger.DEADLINE
    state, _ = step(PLAN_, in_canary(GATE), see(admitted=True), after(29))
    assert state.step_index == END


def test_gate_does_not_open_while_the_measurement_is_broken():
    facts = see(admitted=True, analysis=found(Verdict.ERROR))
    assert step(PLAN_, in_canary(GATE), facts, NOW)[0].step_index == GATE
    assert step(PLAN_, in_canary(END), facts, NOW)[1] == ()


def test_rule_3_abort_before_promotion_sends_all_traffic_to_stable_first():
    state = in_canary(analysis=found(Verdict.FAIL), published=True)
    state, actions = step(PLAN_, state, see(analysis=found(Verdict.FAIL)), NOW)
    assert actions == (
        SetSplit(1, None, 0.0, 6),
        Demote(2, 1, 2, "error_ratio: because"),
        PublishVerdict(2),
        WriteReports(2, 1),
    )
    assert state.detected_at == NOW


def test_rule_3_abort_after_promotion_restores_the_registry_after_the_traffic():
    soaking = in_canary(END, Phase.SOAKING, split=AskedSplit(2, None, 0.0, 5), promoted=True)
    facts = see(levels=Levels(2, None, 9), analysis=found(Verdict.FAIL))
    _, actions = step(PLAN_, soaking, facts, NOW)
    assert [type(action) for action in actions][:2] == [SetSplit, Restore]
    assert actions[1] == Restore(1, 2, None, "error_ratio: because")


def test_rule_3_traffic_never_goes_to_a_version_that_is_not_up():
    facts = see(deployed=frozenset({2}), analysis=found(Verdict.FAIL))
    state, actions = step(PLAN_, in_canary(), facts, NOW)
    assert actions == (Deploy(1),)
    assert state.phase is Phase.ABORTING


def test_rule_3_veto_takes_traffic_away_even_when_stable_is_not_up():
    facts = see(deployed=frozenset({2}), orders=Orders(veto="council"))
    _, actions = step(PLAN_, in_canary(), facts, NOW)
    assert actions == (SetSplit(None, None, 0.0, 6), Deploy(1))


def test_rule_4_target_is_verified_and_has_the_traffic_before_the_candidate_is_deployed():
    state = RolloutState("m", Phase.IDLE, NOW, NOW, split=AskedSplit(1, None, 0.0, 5))
    facts = see(deployed=frozenset({1}), analysis=None)
    seen = []
    for _ in range(9):
        state, actions = step(PLAN_, state, facts, NOW)
        seen.extend(actions)
        for action in actions:
            state = record(state, action, NOW)
            if isinstance(action, Deploy):
                facts = replace(facts, deployed=facts.deployed | {action.version})
            if isinstance(action, SetSplit):
                facts = replace(facts, applied_generation=action.generation)
    assert seen == [Deploy(1), Deploy(2), SetSplit(1, 2, 0.1, 6)]


@pytest.mark.parametrize("error", [IntegrityError("x"), PlaneError("x")])
def test_rule_4_no_sound_target_no_canary(error):
    state = record_failure(in_canary(0, Phase.DEPLOYING), Deploy(1), error, NOW)
    assert (state.phase, state.trigger) == (Phase.ABORTING, Trigger.NO_TARGET)


def test_rule_4_old_version_stays_warm_for_the_delay():
    state = in_canary(END, Phase.SUCCEEDED, split=AskedSplit(2, None, 0.0, 5), retired_at={1: NOW})
    facts = see(levels=Levels(2, None, 9), analysis=None)
    assert step(PLAN_, state, facts, after(2.9))[1] == ()
    assert step(PLAN_, state, facts, after(3))[1] == (Remove(1),)


def test_rule_5_rollback_is_done_when_traffic_registry_and_reports_are():
    state, actions = step(PLAN_, in_canary(), see(orders=Orders(veto="council")), NOW)
    for second, action in enumerate(actions):
        state = record(state, action, after(second))
    facts = see(levels=Levels(1, None, 10), applied_generation=6, analysis=None)
    state, actions = step(PLAN_, state, facts, after(9))
    assert (state.phase, actions) == (Phase.ROLLED_BACK, ())
    assert state.traffic_restored_at < state.registry_restored_at


def test_rule_5_a_person_who_moved_production_meanwhile_is_not_overruled():
    state = in_canary(END, Phase.ABORTING, promoted=True, reports_written=True)
    state = replace(state, split=AskedSplit(1, None, 0.0, 5))
    state, actions = step(PLAN_, state, see(levels=Levels(7, None, 11)), NOW)
    assert (state.phase, actions) == (Phase.ROLLED_BACK, ())


def test_rule_5_reports_wait_for_what_a_person_moved_to_production_and_name_it():
    facts = see(levels=Levels(7, 2, 11), analysis=found(Verdict.FAIL))
    state, actions = step(PLAN_, in_canary(published=True, analysis=facts.analysis), facts, NOW)
    # The version that is up gets the traffic at once; it is not what comes back.
    assert actions == (SetSplit(1, None, 0.0, 6), Demote(2, 7, 2, "error_ratio: because"))
    facts = see(levels=Levels(7, None, 12), applied_generation=6)
    state, actions = step(PLAN_, state, facts, after(1))
    assert actions == (Deploy(7),)
    facts = replace(facts, deployed=frozenset({1, 2, 7}))
    state, actions = step(PLAN_, state, facts, after(2))
    assert actions == (SetSplit(7, None, 0.0, 7), PublishVerdict(2), WriteReports(2, 7))


@pytest.mark.parametrize("production", [7, None])
def test_rule_5_an_operators_rollback_ends_with_a_person_who_moved_production(production):
    state = in_canary(END, Phase.ABORTING, promoted=True, trigger=Trigger.OPERATOR, reason="units")
    state = replace(state, split=AskedSplit(2, None, 0.0, 5))
    facts = see(levels=Levels(production, None, 11), deployed=frozenset({1, 2, 7}), admitted=False)
    state, actions = step(PLAN_, state, facts, NOW)
    assert actions == (SetSplit(production, None, 0.0, 6), WriteReports(2, production))
    assert state.trigger is Trigger.REGISTRY
    assert state.reason == "units; production was moved by somebody else"


def test_rule_6_new_candidate_restarts_against_the_last_stable():
    state, actions = step(PLAN_, in_canary(), see(levels=Levels(1, 3, 9)), NOW)
    assert (state.phase, state.candidate, state.stable, actions) == (Phase.PENDING, 3, 1, ())
    state, actions = step(PLAN_, state, see(levels=Levels(1, 3, 9)), NOW)
    assert actions == (SetSplit(1, None, 0.0, 6),)


def test_rule_6_new_production_becomes_the_target():
    state, _ = step(PLAN_, in_canary(), see(levels=Levels(5, 2, 9)), NOW)
    assert (state.phase, state.candidate, state.stable) == (Phase.PENDING, 2, 5)


def test_changed_plan_starts_again():
    state, _ = step(build_plan(canaryReady_s=11), in_canary(), FACTS, NOW)
    assert (state.phase, state.candidate, state.step_index) == (Phase.PENDING, 2, 0)


def test_candidate_that_a_person_took_off_canary_is_given_up_without_a_second_move():
    state, actions = step(PLAN_, in_canary(), see(levels=Levels(1, None, 9)), NOW)
    assert state.trigger is Trigger.REGISTRY
    assert [type(action) for action in actions] == [SetSplit, WriteReports]


@pytest.mark.parametrize("phase", sorted(UNDER_ANALYSIS))
def test_rule_7_fail_aborts_in_every_phase_with_traffic(phase):
    index = END if phase in {Phase.PROMOTING, Phase.SOAKING} else ANALYSIS
    state = in_canary(index, phase, paused_from=Phase.CANARY)
    assert step(PLAN_, state, see(analysis=found(Verdict.FAIL)), NOW)[0].phase is Phase.ABORTING


@pytest.mark.parametrize("phase", sorted({*BEFORE_PROMOTION, Phase.PROMOTING, Phase.SOAKING}))
def test_rule_11_veto_aborts_at_once_in_every_phase(phase):
    state, _ = step(PLAN_, in_canary(END, phase), see(orders=Orders(veto="no consent")), NOW)
    assert (state.phase, state.trigger) == (Phase.ABORTING, Trigger.VETO)
    assert state.detected_at == NOW


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_rule_8_split_is_a_hash_of_the_key_and_its_error_is_binomial(ratio):
    split = Split(generation=1, stable=1, canary=2, canary_ratio=ratio)
    keys = [str(number).encode() for number in range(20_000)]
    chosen = [choose_version(split, key) for key in keys]
    assert chosen == [choose_version(split, key) for key in keys]
    # 4.9 standard deviations of a binomial share: one key set in a million lies outside.
    assert abs(chosen.count(2) / 20_000 - ratio) < 4.9 * (ratio * (1 - ratio) / 20_000) ** 0.5
    wider = replace(split, canary_ratio=min(1.0, 2 * ratio))
    assert all(choose_version(wider, k) == 2 for k, v in zip(keys, chosen, strict=True) if v == 2)


def test_rule_9_action_without_effect_is_asked_for_again_with_a_newer_generation():
    first, (split,) = step(PLAN_, in_canary(split=AskedSplit(1, None, 0.0, 5)), FACTS, NOW)
    again, (repeated,) = step(PLAN_, first, FACTS, after(1))
    assert (split, repeated) == (SetSplit(1, 2, 0.1, 6), SetSplit(1, 2, 0.1, 7))
    assert step(PLAN_, again, see(applied_generation=7), after(2))[1] == ()


def test_rule_9_journal_read_back_leads_to_the_same_decision():
    """The whole of the rule is in test_controller: killed at every call, the same end."""
    state = in_canary(memory=Memory(canary_seen=ArmCounts(9)))
    stored = RolloutState.from_dict(parse_json(canonical_bytes(state.to_dict()), where="journal"))
    for verdict in Verdict:
        facts = see(analysis=found(verdict))
        assert step(PLAN_, stored, facts, after(7)) == step(PLAN_, state, facts, after(7))


def test_rule_10_plan_is_written_in_the_words_of_argo_and_flagger():
    text = """
    steps:
      - setMirrorRoute: {percentage: 100}
      - analysis: {minSamples: 20, deadline_s: 30}
      - setWeight: 10
      - analysis: {minSamples: 20, deadline_s: 30}
      - pause: {duration_s: 5}
      - pause: {gate: votes, deadline_s: 60}
    analysis: {limits: {error_ratio: 0.05}}
    scaleDownDelay_s: 30
    """
    plan = RolloutPolicy.model_validate(yaml.safe_load(text))
    words = [next(iter(s)) for s in plan.model_dump(mode="json", by_alias=True)["steps"]]
    assert words == ["setMirrorRoute", "analysis", "setWeight", "analysis", "pause", "pause"]


def test_shadow_copies_first_and_gives_true_requests_only_after_its_analysis():
    plan = build_plan(steps="shadow")
    state = in_canary(0, plan=plan, split=AskedSplit(1, None, 0.0, 5))
    state, actions = step(plan, state, FACTS, NOW)
    assert actions == (SetSplit(1, 2, 0.0, 6, mirror_ratio=1.0),)
    facts = see(applied_generation=6)
    state, actions = step(plan, state, facts, NOW)
    assert (state.step_index, actions) == (1, ())
    assert step(plan, state, facts, after(9)) == (keep_time(state, after(9)), ())
    state, _ = step(
        plan, replace(state, published=True), replace(facts, analysis=found(Verdict.PASS)), NOW
    )
    state, actions = step(plan, state, facts, NOW)
    assert actions == (SetSplit(1, 2, 0.01, 7),)


def test_bad_shadow_is_taken_back_like_any_canary():
    plan = build_plan(steps="shadow")
    state = in_canary(1, plan=plan, split=AskedSplit(1, 2, 0.0, 5, 1.0))
    _, actions = step(plan, state, see(analysis=found(Verdict.FAIL)), NOW)
    assert actions[0] == SetSplit(1, None, 0.0, 6)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.DEPLOYING])
def test_pause_ordered_before_the_canary_begins_holds_its_first_step(phase):
    order = see(orders=Orders(operator="pause", order_id=1))
    state = in_canary(0, phase, split=AskedSplit(1, None, 0.0, 5))
    for second in range(3):
        state, _ = step(PLAN_, state, order, after(second))
    assert (state.phase, state.step_index, state.paused_from) == (Phase.PAUSED, 0, Phase.CANARY)


def test_order_out_of_place_changes_nothing_and_is_not_kept():
    for order in ("resume", "promote"):
        facts = see(orders=Orders(operator=order, order_id=1))
        state, actions = step(PLAN_, in_canary(), facts, NOW)
        assert (state, actions) == (keep_time(in_canary(order_id=1), NOW), ())


def test_promotion_expects_the_levels_that_were_read():
    state, actions = step(PLAN_, in_canary(END), see(admitted=True), NOW)
    assert actions == (Promote(2, 1, 2),)
    assert state.phase is Phase.PROMOTING


def test_promotion_waits_for_the_registry_and_then_traffic_follows():
    state = in_canary(END, memory=Memory(canary=ArmCounts(request_count=9)))
    state, actions = step(PLAN_, state, see(admitted=False, admission_reason="no"), NOW)
    assert (state.phase, actions) == (Phase.AWAITING_ADMISSION, ())
    state, actions = step(PLAN_, state, see(levels=Levels(2, None, 10)), NOW)
    assert (state.phase, state.promoted) == (Phase.PROMOTING, True)
    state, actions = step(PLAN_, state, see(levels=Levels(2, None, 10)), NOW)
    assert actions == (SetSplit(2, None, 0.0, 6),)
    facts = see(levels=Levels(2, None, 10), applied_generation=6)
    state, actions = step(PLAN_, state, facts, NOW)
    assert state.phase is Phase.SOAKING
    assert state.memory.canary == ArmCounts()
    assert step(PLAN_, state, facts, after(30))[0].phase is Phase.SOAKING
    facts = replace(facts, analysis=found(Verdict.PASS))
    assert step(PLAN_, state, facts, after(2.9))[0].phase is Phase.SOAKING
    assert step(PLAN_, state, facts, after(3))[0].phase is Phase.SUCCEEDED


def test_manual_promotion_needs_an_order_given_when_it_is_due():
    early = see(orders=Orders(operator="promote", order_id=1), admitted=True)
    state, _ = step(MANUAL, in_canary(ANALYSIS, plan=MANUAL), early, NOW)
    assert (state.order_id, state.promote_ordered) == (1, False)
    due = in_canary(END, plan=MANUAL, order_id=1)
    assert step(MANUAL, due, early, NOW)[1] == ()
    ordered = see(orders=Orders(operator="promote", order_id=2), admitted=True)
    assert step(MANUAL, due, ordered, NOW)[1] == (Promote(2, 1, 2),)


def test_promote_order_stands_in_for_no_vote():
    ordered = see(orders=Orders(operator="promote", order_id=2), admitted=False)
    assert step(MANUAL, in_canary(END, plan=MANUAL), ordered, NOW)[1] == ()


def test_timed_pause_goes_on_after_its_time_or_by_order():
    plan = build_plan(steps=[*PLAN["steps"][:2], {"pause": {"duration_s": 5}}])
    state = in_canary(GATE, plan=plan)
    assert step(plan, state, FACTS, after(4.9))[0].step_index == GATE
    assert step(plan, state, FACTS, after(5))[0].step_index == END
    order = see(orders=Orders(operator="promote", order_id=1))
    assert step(plan, state, order, after(1))[0].step_index == END


def test_pause_keeps_its_split_and_has_a_deadline():
    order = see(orders=Orders(operator="pause", order_id=1))
    state, actions = step(PLAN_, in_canary(), order, NOW)
    assert (state.phase, actions) == (Phase.PAUSED, ())
    assert step(PLAN_, state, order, after(39))[0].phase is Phase.PAUSED
    assert step(PLAN_, state, order, after(40))[0].trigger is Trigger.DEADLINE
    resume = see(orders=Orders(operator="resume", order_id=2))
    resumed, _ = step(PLAN_, state, resume, after(39))
    assert (resumed.phase, resumed.step_entered_at) == (Phase.CANARY, after(39))


def test_late_rollback_is_called_failed_and_goes_on_trying():
    state = in_canary(phase=Phase.ABORTING)
    facts = see(deployed=frozenset({2}))
    state, actions = step(PLAN_, state, facts, after(11))
    assert (state.phase, actions) == (Phase.ROLLBACK_FAILED, (Deploy(1),))
    state, actions = step(PLAN_, state, FACTS, after(12))
    assert actions[0] == SetSplit(1, None, 0.0, 6)


def test_at_rest_nothing_is_asked_when_all_is_as_it_should_be():
    state = RolloutState("m", Phase.IDLE, NOW, NOW, split=AskedSplit(1, None, 0.0, 5))
    facts = StepInputs(Levels(1, None, 1), frozenset({1}), 5)
    assert step(PLAN_, state, facts, NOW) == (state, ())


def test_plane_with_a_newer_split_of_somebody_else_is_corrected():
    state = RolloutState("m", Phase.IDLE, NOW, NOW, split=AskedSplit(1, None, 0.0, 5))
    facts = StepInputs(Levels(1, None, 1), frozenset({1}), 8)
    assert step(PLAN_, state, facts, NOW)[1] == (SetSplit(1, None, 0.0, 9),)


def test_redeployed_arm_is_marked_anew_because_its_counters_may_start_at_zero():
    seen = Memory(canary_seen=ArmCounts(9), stable_seen=ArmCounts(9), canary=ArmCounts(4))
    state = record(in_canary(memory=seen), Deploy(2), NOW)
    assert (state.memory.canary_seen, state.memory.stable_seen) == (None, ArmCounts(9))
    assert state.memory.canary == ArmCounts(4)
    assert record(state, Deploy(1), NOW).memory.stable_seen is None
