"""How stable explanations are: counts in, verdicts out, and what becomes of a rollout."""

from dataclasses import replace

import pytest
from rollout.simulated_plane import Quality
from rollout.simulator import PLAN, World, build_plan

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.rollout import AnalysisPolicy, ExplanationWatch, lint_rollout
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.counts import find_fault, minus, plus
from kfm_mlflow.rollout.describe import describe
from kfm_mlflow.rollout.explanation_watch import ExplanationWindow, watch_explanations
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import Phase, Trigger

POLICY = ExplanationWatch(minStability=0.8, minSamples=10)


def rows(count, stability=1.0, *, worst=None, unexplained=0):
    """Return the counts of so many explained rows, alike on average to a stability."""
    instability_ppm = round((1 - stability) * 1e6) * count
    worst_ppm = round((1 - (stability if worst is None else worst)) * 1e6) if count else 0
    return ArmCounts(
        explained_count=count,
        unexplained_count=unexplained,
        instability_ppm=instability_ppm,
        worst_instability_ppm=worst_ppm,
    )


def look(new, window=None, *, policy=POLICY, is_promoted=False):
    return watch_explanations(policy, window or ExplanationWindow(), new, is_promoted=is_promoted)


@pytest.mark.parametrize(
    ("new", "before_promotion", "after_promotion"),
    [
        (rows(10, 0.95), "PASS", "PASS"),
        (rows(10, 0.8), "PASS", "PASS"),
        (rows(10, 0.79), "FAIL", "FAIL"),
        (rows(10, -1.0), "FAIL", "FAIL"),
        (rows(9, 0.95), "INCONCLUSIVE", None),
        (rows(9, -1.0), "INCONCLUSIVE", None),
        (rows(0, unexplained=50), "INCONCLUSIVE", None),
        (rows(0), "INCONCLUSIVE", None),
    ],
    ids=[
        "stable", "at the floor", "below the floor", "turned around", "too few",
        "too few, however bad", "none could be explained", "none was",
    ],
)  # fmt: skip
def test_truth_table(new, before_promotion, after_promotion):
    for is_promoted, verdict in ((False, before_promotion), (True, after_promotion)):
        found, _ = look(new, is_promoted=is_promoted)
        assert found.verdict == verdict, found.reason
        assert found.unexplained_count == new.unexplained_count


def test_a_window_is_judged_when_it_is_full_and_a_good_month_hides_no_bad_one():
    found, window = look(rows(1000, 1.0, worst=0.9))
    assert (found.verdict, found.mean_stability, found.row_count) == (Verdict.PASS, 1.0, 1000)
    assert found.lowest_stability == pytest.approx(0.9)
    found, window = look(rows(9, 0.0), window)
    assert (found.verdict, found.row_count) == (Verdict.PASS, 1000)
    found, window = look(rows(1, 0.0), window)
    assert (found.verdict, found.mean_stability) == (Verdict.FAIL, 0.0)
    assert look(rows(10), window)[0].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("mode", "verdict", "is_unstable"),
    [("enforce", Verdict.FAIL, True), ("audit", Verdict.PASS, False), (None, Verdict.PASS, False)],
)
def test_what_the_analysis_makes_of_unstable_explanations(mode, verdict, is_unstable):
    asked = {} if mode is None else {"explanations": {"mode": mode, "minSamples": 10}}
    policy = AnalysisPolicy.model_validate({"limits": {"error_ratio": 0.05}, **asked})
    counts = replace(rows(10, 0.1), request_count=100)
    found, memory = analyse(
        policy, Memory(canary_seen=ArmCounts()), canary=counts, stable=None, has_stable=False,
        min_samples=50,
    )  # fmt: skip
    assert (found.verdict, found.is_unstable) == (verdict, is_unstable)
    assert (found.explanations is None) is (mode is None)
    assert memory.explanations.full_row_count == (0 if mode is None else 10)


def test_rows_are_collected_over_the_steps_and_only_since_the_canary_began():
    policy = AnalysisPolicy.model_validate(
        {"limits": {"error_ratio": 0.05}, "explanations": {"minSamples": 10}}
    )

    def seen(memory, count):
        counts = replace(rows(count), request_count=100)
        asked = {"stable": None, "has_stable": False, "min_samples": 50}
        return analyse(policy, memory, canary=counts, **asked)

    found, memory = seen(Memory(), 100)  # from before
    assert found.explanations.reason == "0 of 10 rows explained"
    found, memory = seen(memory, 105)
    assert found.explanations.reason == "5 of 10 rows explained"
    found, _ = seen(memory.with_new_window(), 110)
    assert found.explanations.verdict is Verdict.PASS


def test_counts_add_up_and_what_can_not_be_is_no_measurement():
    two, five = rows(2, 0.5), rows(5, 0.2)
    added = plus(two, five)
    assert (added.explained_count, added.instability_ppm) == (7, 5_000_000)
    assert added.worst_instability_ppm == 800_000
    assert minus(added, two).instability_ppm == five.instability_ppm
    assert find_fault(two, added) == ""
    assert find_fault(added, two) == "explained_count shrank"
    assert find_fault(None, replace(two, instability_ppm=-1)) == "instability_ppm is not a count"
    impossible = "explanations are less alike than any can be"
    assert find_fault(None, replace(two, instability_ppm=4_000_001)) == impossible
    assert find_fault(None, replace(two, worst_instability_ppm=1_000_001)) == impossible
    assert find_fault(replace(two, worst_instability_ppm=600_000), two) == (
        "worst_instability_ppm shrank"
    )


# -- the plan --------------------------------------------------------------------------------------


def test_a_plan_whose_canary_must_end_before_its_rows_are_explained_is_refused():
    analysis = {**PLAN["analysis"], "explanations": {"minSamples": 4, "interval_s": 10}}
    with pytest.raises(ValueError, match=r"4 rows, one in 10 s, take 30 s, and steps\[1\] ends"):
        build_plan(analysis=analysis)  # at 30 s
    analysis["explanations"]["mode"] = "audit"
    assert build_plan(analysis=analysis).analysis.explanations.min_samples == 4
    analysis["explanations"] = {"minSamples": 3, "interval_s": 10, "minStability": 0}
    (note,) = lint_rollout(build_plan(analysis=analysis))
    assert "minStability is not above 0" in note


def test_the_packaged_climate_policy_records_them():
    packaged = load_policies(None).policy("climate").rollout.analysis.explanations
    assert packaged == ExplanationWatch(mode="audit")


# -- the whole rollout, in the world of the simulator ----------------------------------------------

ASKED = {"minStability": 0.8, "minSamples": 2, "interval_s": 1}
WATCHED = build_plan(analysis={**PLAN["analysis"], "explanations": ASKED})


def test_a_candidate_with_unstable_explanations_is_given_up_with_trigger_xai():
    world = World(canary=2, plan=WATCHED)
    world.plane.quality[2] = Quality(stability=0.25)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.XAI)
    assert "explanations of 2 rows agree to 0.25 on average, at least 0.8 is asked" in state.reason
    assert world.registry.held.production == 1
    assert world.violations == []
    report = world.registry.reports[2]["rollback_report.json"]
    assert schema_problems("rollback_report", report) == []
    assert report["trigger"] == "xai"
    evidence = report["observations"]["explanations"]
    assert (evidence["applicable"], evidence["verdict"], evidence["row_count"]) == (True, "FAIL", 2)
    assert evidence["mean_stability"] == evidence["lowest_stability"] == 0.25
    assert (evidence["min_stability"], evidence["min_samples"]) == (0.8, 2)
    told = describe(WATCHED, state, world.clock.now())
    (line,) = [metric for metric in told.metrics if metric.kind == "explanation"]
    assert (line.canary_value, line.limit, line.unit) == (0.25, 0.8, "correlation")
    assert (line.sample_count, line.needed_count) == (2, 2)


def test_explanations_that_turn_unstable_after_promotion_give_it_up_the_same_way():
    world = World(canary=2, plan=WATCHED)
    while (state := world.run(1)).phase is not Phase.SOAKING:
        pass
    world.plane.quality[2] = Quality(stability=0.25)
    state = world.run_to_rest()
    assert (state.phase, state.trigger, state.promoted) == (Phase.ROLLED_BACK, Trigger.XAI, True)
    assert world.registry.held.production == 1


def test_as_good_a_candidate_passes_and_one_that_nothing_is_known_of_does_not():
    assert World(canary=2, plan=WATCHED).run_to_rest().phase is Phase.SUCCEEDED
    world = World(canary=2, plan=WATCHED)
    world.plane.quality[2] = Quality(stability=None)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.DEADLINE)
    assert "0 of 2 rows explained" in state.reason
    assert "gave no explanation" in state.reason
    evidence = world.registry.reports[2]["rollback_report.json"]["observations"]["explanations"]
    assert evidence["applicable"] is False
    assert evidence["reason"].startswith("not applicable: 0 of 2 rows explained")


@pytest.mark.parametrize("mode", [None, "audit"])
def test_unstable_explanations_that_are_not_enforced_decide_nothing_and_are_told(mode):
    asked = {} if mode is None else {"explanations": {**ASKED, "mode": mode}}
    plan = build_plan(analysis={**PLAN["analysis"], **asked})
    world = World(canary=2, plan=plan)
    world.plane.quality[2] = Quality(stability=0.25)
    while (state := world.run(1)).phase is not Phase.SOAKING:
        pass
    assert world.plane.up[2].explain_interval_s == (None if mode is None else 1)
    told = describe(plan, world.run(1), world.clock.now()).measured
    assert ("; only recorded: explanation_stability: explanations of 2" in told) is bool(mode)
    assert world.run_to_rest().phase is Phase.SUCCEEDED
    assert state.trigger is None
