"""The drift watch: counts against a release's own baseline, at any time, and whose fault it is."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout.simulated_plane import DRIFTED, QUARTERS, Quality
from rollout.simulator import PLAN, World, build_plan
from scipy.stats import kstwo

from kfm_mlflow.authoring.evidence_files import drift_baseline
from kfm_mlflow.canonical import digest_file, load_json, write_json
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.drift import check_drift
from kfm_mlflow.monitor.drift_baseline import load_baseline
from kfm_mlflow.monitor.drift_bins import Column, Columns, load_bins
from kfm_mlflow.monitor.drift_sample import sample_of_inputs
from kfm_mlflow.policy.drift import DriftPlan
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.rollout import AnalysisPolicy, DriftWatch
from kfm_mlflow.rollout.analysis import Memory, analyse
from kfm_mlflow.rollout.drift_watch import DriftWindow, judge_columns, watch
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.state import Phase, Trigger

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
POLICY = DriftWatch(minSamples=50)
COLUMN = Column(LEVELS, LEVELS, 2000)
KNOWN = Columns(
    "sha256:" + "a" * 64, {"inputs.input.mean": COLUMN, "outputs.mean_shift_ratio": COLUMN}
)
EVEN = (5, 0, 20, 0, 25, 0, 25, 0, 20, 0, 5)
"""A hundred requests as the baseline has them."""
HIGH = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100)


def of(inputs, outputs):
    return {"inputs.input.mean": inputs, "outputs.mean_shift_ratio": outputs}


def look(new, windows=None, *, policy=POLICY, known=None):
    return watch(policy, windows or {}, new, known or dict.fromkeys(new, KNOWN))


@pytest.mark.parametrize(
    ("arms", "verdict", "is_shared"),
    [
        ({"canary": of(EVEN, EVEN), "stable": of(EVEN, EVEN)}, "PASS", False),
        ({"canary": of(EVEN, HIGH), "stable": of(EVEN, EVEN)}, "FAIL", False),
        ({"canary": of(HIGH, EVEN), "stable": of(HIGH, EVEN)}, "PASS", False),
        ({"canary": of(HIGH, HIGH), "stable": of(HIGH, EVEN)}, "FAIL", False),
        ({"canary": of(HIGH, HIGH), "stable": of(HIGH, HIGH)}, "PASS", True),
        ({"canary": of(EVEN, HIGH)}, "FAIL", False),
        ({"canary": of(HIGH, HIGH)}, "PASS", True),
        ({"canary": of(EVEN, ())}, "INCONCLUSIVE", False),
        ({"canary": {}}, "INCONCLUSIVE", False),
        ({}, "INCONCLUSIVE", False),
    ],
    ids=[
        "nothing drifts",
        "the canary's answers do",
        "the inputs do, of both alike",
        "the inputs do, and only the canary's answers with them",
        "everything does: the world changed",
        "answers do, with nobody beside",
        "inputs and answers do, with nobody beside",
        "answers were not counted",
        "nothing was counted",
        "no traffic",
    ],
)
def test_answers_count_against_the_canary_unless_the_world_changed(arms, verdict, is_shared):
    found, _ = look(arms)
    assert (found.verdict, found.is_shared) == (verdict, is_shared), found.reason
    assert found.reason


def test_inputs_that_drift_give_a_release_up_only_when_the_policy_says_so():
    arms = {"canary": of(HIGH, EVEN)}
    strict = DriftWatch(minSamples=50, inputs="enforce")
    assert look(arms)[0].verdict is Verdict.PASS
    assert look(arms, policy=strict)[0].verdict is Verdict.FAIL


def test_fewer_samples_than_asked_never_pass_and_certain_harm_is_seen_before():
    few = tuple(n // 5 for n in EVEN)
    assert look({"canary": of(few, few)})[0].verdict is Verdict.INCONCLUSIVE
    bad = tuple(n // 5 for n in HIGH)
    assert look({"canary": of(few, bad)})[0].verdict is Verdict.FAIL


def test_release_without_a_baseline_is_said_to_have_none():
    found, windows = watch(POLICY, {}, {"canary": of(EVEN, EVEN)}, {})
    assert (found.verdict, found.columns, windows) == (Verdict.INCONCLUSIVE, (), {})
    assert "no baseline" in found.reason


def test_counts_of_other_bins_are_an_error():
    found, _ = look({"canary": of(EVEN, (1,) * 40)})
    assert found.verdict is Verdict.ERROR


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 11), min_size=1, max_size=6))
def test_what_is_found_does_not_depend_on_how_often_one_looks(parts):
    windows = {}
    for part in parts:
        found, windows = look({"canary": of(EVEN, part)}, windows, policy=LARGE)
    total = of(tuple(len(parts) * n for n in EVEN), tuple(map(sum, zip(*parts, strict=True))))
    once, _ = look({"canary": total}, policy=LARGE)
    drift = {c.name for c in once.columns if c.verdict is Verdict.FAIL}
    assert drift <= {c.name for c in found.columns if c.verdict is Verdict.FAIL}
    assert [c.distance for c in found.columns] == pytest.approx([c.distance for c in once.columns])


LARGE = DriftWatch(minSamples=1000)


def test_distance_is_kolmogorov_smirnovs_at_the_cuts():
    (finding,) = judge_columns(
        POLICY,
        Columns("", {"outputs.s": COLUMN}),
        DriftWindow(counts={"outputs.s": (0, 0, 10, 0, 20, 0, 30, 0, 30, 0, 10)}),
    )
    # Shares up to the cuts: 0, .1, .3, .6, .9 against .05, .25, .5, .75, .95.
    assert finding.distance == pytest.approx(0.2)


def test_a_small_baseline_is_trusted_no_farther_than_its_own_sample():
    (finding,) = judge_columns(POLICY, Columns("", {"outputs.s": Column((0.5,), (0.5,), 100)}),
                               DriftWindow())  # fmt: skip
    # SciPy's exact distribution of the distance of 100 from their source, at alpha/2.
    assert finding.tolerance >= kstwo.isf(POLICY.false_alarm_ratio / 2, 100)
    assert finding.tolerance <= 1.1 * kstwo.isf(POLICY.false_alarm_ratio / 2, 100) + 1 / 100


def test_windows_spend_the_budget_and_no_more():
    spent = sum(
        1 / judge_columns(POLICY, KNOWN, DriftWindow(number=k))[0].threshold for k in range(1, 5000)
    )
    size = len(KNOWN.columns)
    assert size * spent == pytest.approx(POLICY.false_alarm_ratio / 2, rel=1e-3)
    assert size * spent < POLICY.false_alarm_ratio / 2


def test_a_month_of_good_answers_does_not_hide_a_bad_hour():
    windows = {}
    for _ in range(300):
        found, windows = look({"canary": of(EVEN, EVEN)}, windows)
    assert found.verdict is Verdict.PASS
    assert windows["canary"].number == 31
    found, windows = look({"canary": of(EVEN, HIGH)}, windows)
    assert found.verdict is Verdict.FAIL
    for _ in range(30):
        found, windows = look({"canary": of(EVEN, EVEN)}, windows)
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize("min_distance", [0.0, 0.1])
def test_no_more_false_alarms_than_declared_under_continuous_peeking(min_distance):
    """Baselines and traffic are drawn alike; every ten requests somebody looks."""
    policy = DriftWatch(minSamples=50, falseAlarmRatio=0.2, minDistance=min_distance)
    rng = np.random.Generator(np.random.PCG64(11))
    runs, alarms = 40, 0
    for _ in range(runs):
        edges = np.quantile(rng.normal(size=80), LEVELS)
        known = {"canary": Columns("", {"outputs.s": Column(LEVELS, LEVELS, 80)})}
        windows = {}
        for _ in range(40):
            places = 2 * np.searchsorted(edges, rng.normal(size=10))
            counts = tuple(int(n) for n in np.bincount(places, minlength=11))
            found, windows = watch(policy, windows, {"canary": {"outputs.s": counts}}, known)
        alarms += found.verdict is Verdict.FAIL
    assert alarms / runs <= policy.false_alarm_ratio


# The same document before promotion, in canary and after.

ROLLOUT = AnalysisPolicy.model_validate(
    {"limits": {"error_ratio": 0.05}, "drift": {"minSamples": 50}}
)


def patches(count, *, seed, shift=0.0):
    rng = np.random.Generator(np.random.PCG64(seed))
    noise = rng.normal(0, 2, (count, 1, 4, 4))
    return (rng.normal(280, 5, (count, 1, 1, 1)) + noise + shift).astype(np.float32)


def counts_of(bins, inputs, outputs):
    counts = {name: [0] * (2 * len(c.below) + 1) for name, c in bins.known.columns.items()}
    for row, answer in zip(inputs, outputs, strict=True):
        for name, place in bins.place({"x": row[None]}, {"y": answer[None]}).items():
            counts[name][place] += 1
    size = len(inputs)
    bounds = {100.0: size, math.inf: size}
    return ArmCounts(size, 0, bounds, bin_counts={k: tuple(v) for k, v in counts.items()})


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("release"), patches(300, seed=1)
    write_json(folder / "drift" / "baseline.json", drift_baseline(rows, rows + 1))
    return folder


@pytest.mark.parametrize(
    ("shift", "error", "before", "after"),
    [(0.0, 1.0, "PASS", "PASS"), (12.0, 1.0, "FAIL", "PASS"), (0.0, 4.0, "PASS", "FAIL")],
    ids=["nothing drifts", "inputs drift", "answers drift"],
)
def test_one_document_drives_the_check_before_promotion_in_canary_and_after(
    release, shift, error, before, after
):
    rows = patches(150, seed=2, shift=shift)
    baseline, bins = load_baseline(release), load_bins(release)
    checked = check_drift(baseline, sample_of_inputs(rows), DriftPlan(), NOW)
    assert checked.verdict == before
    digest = digest_file(release / "drift" / "baseline.json")
    assert digest == checked.baseline_digest
    marked = Memory(canary_seen=ArmCounts(), stable_seen=ArmCounts())
    arms = {"canary": counts_of(bins, rows, rows + error), "stable": counts_of(bins, rows, rows)}
    for has_stable in (True, False):  # in canary, and after promotion
        analysis, _ = analyse(
            ROLLOUT, marked, canary=arms["canary"], stable=arms["stable"], has_stable=has_stable,
            min_samples=50, baselines={"canary": bins.known},
        )  # fmt: skip
        assert analysis.verdict == after, analysis.reason
        assert analysis.is_drifting is (after == "FAIL")
        assert analysis.drift.baseline_digest == digest
        asked = {c.name for c in analysis.drift.columns if c.kind == "inputs"}
        drifting = {c.name for c in analysis.drift.columns if c.verdict == "FAIL"}
        assert bool(asked & drifting) is (before == "FAIL")
        assert {f"inputs.{c.field}.{c.statistic}" for c in checked.checks if c.statistic} == asked
    assert schema_problems("drift-baseline", load_json(release / "drift" / "baseline.json")) == []


def test_in_mode_audit_drift_is_recorded_and_decides_nothing(release):
    policy = AnalysisPolicy.model_validate(
        {"limits": {"error_ratio": 0.05}, "drift": {"mode": "audit"}}
    )
    rows = patches(150, seed=2)
    bins = load_bins(release)
    analysis, _ = analyse(
        policy, Memory(canary_seen=ArmCounts()), canary=counts_of(bins, rows, rows + 9),
        stable=None, has_stable=False, min_samples=50, baselines={"canary": bins.known},
    )  # fmt: skip
    assert (analysis.verdict, analysis.is_drifting) == (Verdict.PASS, False)
    assert analysis.drift.verdict is Verdict.FAIL


# The whole rollout, in the world of the simulator.

WATCHED = build_plan(analysis={**PLAN["analysis"], "drift": {"minSamples": 20}})


def test_a_candidate_whose_answers_drift_is_given_up_with_trigger_drift():
    world = World(canary=2, plan=WATCHED)
    world.plane.quality[2] = Quality(drift_ratio=0.9)
    state = world.run_to_rest()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.DRIFT)
    cause = world.registry.causes[2]
    assert (cause.trigger, cause.drift.verdict, cause.drift.drifting_count) == ("drift", "FAIL", 1)
    assert world.registry.held.production == 1
    assert world.violations == []
    reports = world.registry.reports[2]
    assert reports["rollback_report.json"]["trigger"] == "drift"
    summary = reports["drift_summary.json"]
    assert schema_problems("drift_summary", summary) == []
    watched = summary["watch"]
    assert (watched["applicable"], watched["verdict"]) == (True, "FAIL")
    assert watched["baseline_digest"] == QUARTERS.digest
    assert watched["false_alarm_ratio"] == 0.05
    (column,) = watched["columns"]
    assert (column["name"], column["kind"], column["verdict"]) == (DRIFTED, "outputs", "FAIL")
    assert column["e_value"] >= column["threshold"] > 0
    assert column["distance"] > column["tolerance"] == 0.1
    assert column["sample_count"] >= 5


def test_answers_that_drift_after_promotion_give_it_up_the_same_way():
    world = World(canary=2, plan=WATCHED)
    while (state := world.run(1)).phase is not Phase.SOAKING:
        pass
    world.plane.quality[2] = Quality(drift_ratio=0.9)
    state = world.run_to_rest()
    assert (state.phase, state.trigger, state.promoted) == (
        Phase.ROLLED_BACK,
        Trigger.DRIFT,
        True,
    )
    assert world.registry.held.production == 1


def test_a_candidate_that_drifts_only_as_stable_does_is_promoted():
    world = World(canary=2, plan=WATCHED)
    world.plane.quality = {1: Quality(drift_ratio=0.9), 2: Quality(drift_ratio=0.9)}
    while (state := world.run(1)).phase not in {Phase.SOAKING, Phase.ROLLED_BACK}:
        pass
    assert state.phase is Phase.SOAKING
    assert state.analysis.drift is None or state.analysis.drift.is_shared


def test_as_good_a_candidate_passes_under_a_drift_watch():
    world = World(canary=2, plan=WATCHED)
    assert world.run_to_rest().phase is Phase.SUCCEEDED


@pytest.mark.parametrize("plan", [None, WATCHED], ids=["not watched", "watched"])
def test_the_summary_of_an_abort_before_traffic_says_that_it_does_not_apply(plan):
    world = World(canary=2, plan=plan)
    world.registry.corrupt.add(2)
    assert world.run_to_rest().trigger is Trigger.INTEGRITY
    summary = world.registry.reports[2]["drift_summary.json"]
    assert schema_problems("drift_summary", summary) == []
    assert summary["watch"]["applicable"] is False
    assert summary["watch"]["reason"].startswith("not applicable")


def test_lint_says_where_drift_is_judged_otherwise_than_before_promotion_or_only_recorded():
    policy = load_policies(None).policy("climate")
    assert policy.rollout.analysis.drift == DriftWatch(minSamples=50)
    notes = lint_policy(policy, NOW)
    assert not [note for note in notes if "rollout.analysis.drift" in note]
    changed = DriftWatch(mode="audit", minDistance=0.3)
    analysis = policy.rollout.analysis.model_copy(update={"drift": changed})
    rollout = policy.rollout.model_copy(update={"analysis": analysis})
    notes = lint_policy(policy.model_copy(update={"rollout": rollout}), NOW)
    said = [note for note in notes if "rollout.analysis.drift" in note]
    assert len(said) == 2
    assert "0.3 and gates.drift.plan.min_distance 0.1" in said[1]
