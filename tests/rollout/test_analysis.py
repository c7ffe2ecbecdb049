"""The analysis as a table: counts in, verdicts out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.rollout import AnalysisPolicy
from kfm_mlflow.rollout.analysis import Analysis, Memory, analyse
from kfm_mlflow.rollout.counts import find_fault, p95_latency_ms
from kfm_mlflow.rollout.plane import ArmCounts

POLICY = AnalysisPolicy.model_validate(
    {
        "falseAlarmRatio": 0.05,
        "limits": {"error_ratio": 0.05, "p95_latency_ms": 1000},
        "compare": ["error_ratio", "mean_shift_ratio"],
    }
)


def arm(requests, errors=0, outside=0, slow=0):
    answered = requests - errors
    return ArmCounts(
        request_count=requests,
        error_count=errors,
        latency_ms_buckets={100.0: answered - slow, 1000.0: answered - slow, math.inf: answered},
        outside_count={"mean_shift_ratio": outside},
        measured_count={"mean_shift_ratio": answered},
    )


MARKED = Memory(canary_seen=arm(0), stable_seen=arm(0))
UNSEEN = Memory(canary_seen=ArmCounts(), stable_seen=ArmCounts())


def judge(canary, stable, *, has_stable=True, min_samples=100, memory=MARKED, policy=POLICY):
    return analyse(
        policy,
        memory,
        canary=canary,
        stable=stable,
        has_stable=has_stable,
        min_samples=min_samples,
    )


def verdicts(analysis: Analysis):
    return {(metric.kind, metric.name): metric.verdict for metric in analysis.metrics}


@pytest.mark.parametrize(
    ("canary", "stable", "expected"),
    [
        (arm(100), arm(900), Verdict.PASS),
        (arm(106, errors=5), arm(900, errors=40), Verdict.PASS),
        (arm(99), arm(900), Verdict.INCONCLUSIVE),
        (arm(0), arm(900), Verdict.INCONCLUSIVE),
        (arm(100), arm(0), Verdict.INCONCLUSIVE),
        (arm(100, errors=6), arm(900, errors=54), Verdict.FAIL),
        (arm(8, errors=8), arm(72), Verdict.FAIL),
        (arm(50, errors=4), arm(450, errors=36), Verdict.INCONCLUSIVE),
        (arm(50, errors=6), arm(450, errors=54), Verdict.FAIL),
        (arm(100, slow=10), arm(900), Verdict.FAIL),
        (arm(100, slow=3), arm(900), Verdict.PASS),
        (arm(20, slow=6), arm(180), Verdict.FAIL),
        (arm(30, outside=20), arm(270, outside=5), Verdict.FAIL),
    ],
    ids=[
        "as good",
        "as bad as stable and within the limit",
        "one sample short",
        "no canary traffic",
        "no stable traffic",
        "above the absolute limit, though no worse than stable",
        "much worse, before minSamples",
        "few errors early",
        "limit can not be met any more",
        "slow",
        "a few slow",
        "slow limit can not be met any more",
        "drifts from its band",
    ],
)
def test_verdict_of_the_counts(canary, stable, expected):
    analysis, _ = judge(canary, stable)
    assert analysis.verdict is expected, analysis.reason


@pytest.mark.parametrize(
    "lie",
    [
        ArmCounts(request_count=5),
        ArmCounts(request_count=50, error_count=60),
        ArmCounts(request_count=float("nan")),
        ArmCounts(request_count=True),
        ArmCounts(request_count=50, latency_ms_buckets={1.0: 9, 2.0: 3}),
        ArmCounts(request_count=50, latency_ms_buckets={math.nan: 9}),
        ArmCounts(request_count=50, outside_count={"mean_shift_ratio": 2}, measured_count={}),
        ArmCounts(request_count=50, error_count=-1),
        None,
    ],
    ids=["shrank", "contradiction", "nan", "bool", "falls", "nan bound", "outside", "neg", "gone"],
)
@pytest.mark.parametrize("liar", ["canary", "stable"])
def test_counters_that_can_not_be_true_are_an_error_and_never_remembered(lie, liar):
    memory = judge(arm(40), arm(40))[1]
    arms = {"canary": arm(500), "stable": arm(500), liar: lie}
    analysis, after = judge(arms["canary"], arms["stable"], memory=memory)
    assert analysis.verdict is Verdict.ERROR
    assert after == memory
    assert all(metric.verdict is Verdict.ERROR for metric in analysis.metrics)
    assert judge(arm(500), arm(500), memory=after)[0].verdict is Verdict.PASS


def test_without_stable_comparisons_say_not_applicable_and_only_limits_count():
    analysis, _ = judge(arm(100), None, has_stable=False)
    assert analysis.verdict is Verdict.PASS
    assert verdicts(analysis) == {
        ("limit", "error_ratio"): Verdict.PASS,
        ("limit", "p95_latency_ms"): Verdict.PASS,
        ("compare", "error_ratio"): None,
        ("compare", "mean_shift_ratio"): None,
    }
    assert judge(arm(99), None, has_stable=False)[0].verdict is Verdict.INCONCLUSIVE
    assert judge(arm(100, errors=6), None, has_stable=False)[0].verdict is Verdict.FAIL


def test_only_comparisons_without_stable_is_never_pass():
    policy = AnalysisPolicy.model_validate({"compare": ["error_ratio"]})
    analysis, _ = judge(arm(100_000), None, has_stable=False, policy=policy)
    assert analysis.verdict is Verdict.INCONCLUSIVE


def test_first_look_only_sets_the_mark():
    analysis, memory = judge(arm(10_000, errors=9_000), arm(10_000), memory=Memory())
    assert analysis.verdict is Verdict.INCONCLUSIVE
    assert judge(arm(10_100, errors=9_000), arm(10_900), memory=memory)[0].verdict is Verdict.PASS


def test_new_window_asks_for_new_samples_and_keeps_the_evidence():
    _, memory = judge(arm(20, outside=4), arm(180))
    analysis, after = judge(arm(20, outside=4), arm(180), memory=memory.with_new_window())
    assert all(metric.sample_count == 0 for metric in analysis.metrics)
    assert analysis.verdict is not Verdict.PASS
    assert after.sequential["mean_shift_ratio"].past.canary_bad_count == 4


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400)),
        min_size=1,
        max_size=6,
    )
)
def test_window_does_not_depend_on_how_often_one_looks(parts):
    memory, canary, stable = MARKED, arm(0), arm(0)
    for requests, errors, others in parts:
        total = canary.request_count + requests
        canary = arm(total, canary.error_count + min(errors, requests))
        stable = arm(stable.request_count + others)
        _, memory = judge(canary, stable, memory=memory)
    once = judge(canary, stable)[1]
    assert memory.canary == once.canary
    assert memory.stable == once.stable


@given(samples=st.integers(1, 300), errors=st.integers(0, 300), short=st.integers(1, 50))
def test_fewer_samples_than_asked_never_pass(samples, errors, short):
    canary = arm(samples, min(errors, samples))
    analysis, _ = judge(canary, arm(1000), min_samples=samples + short)
    assert analysis.verdict is not Verdict.PASS


def test_p95_is_interpolated_as_prometheus_does():
    # histogram_quantile(0.95, ...) of 100 answers: 90 up to 100 ms, all up to 200 ms.
    counts = ArmCounts(100, 0, {100.0: 90, 200.0: 100, math.inf: 100})
    assert p95_latency_ms(counts) == pytest.approx(150)


def test_p95_beyond_the_last_bound_is_infinite_and_without_answers_is_nan():
    assert math.isinf(p95_latency_ms(ArmCounts(10, 0, {100.0: 5, math.inf: 10})))
    assert math.isnan(p95_latency_ms(ArmCounts(10)))


def test_requests_under_way_are_not_slow():
    counts = ArmCounts(200, 0, {100.0: 120, math.inf: 120})
    assert p95_latency_ms(counts) <= 100


def test_arm_that_never_answered_may_be_unknown():
    assert find_fault(None, None) == ""
    assert find_fault(arm(0), None) == ""


def timed(answers, slow=0, *, fast_ms=10.0, slow_ms=100.0):
    """Return an arm whose answers take up to one bound, and some up to another."""
    return ArmCounts(answers, 0, {fast_ms: answers - slow, slow_ms: answers, 1000.0: answers})


SLOW = AnalysisPolicy.model_validate({"compare": ["slow_p95_ratio"]})


def test_bound_of_slow_is_stables_own_quantile_from_answers_before_it_is_used():
    _, memory = judge(timed(0), timed(400, 8), policy=SLOW)
    assert memory.slow_bounds_ms == {}
    analysis, memory = judge(timed(40, 30), timed(800, 16), policy=SLOW, memory=memory)
    assert memory.slow_bounds_ms == {"slow_p95_ratio": 10.0}
    assert memory.sequential["slow_p95_ratio"].past.stable_bad_count == 8
    assert analysis.verdict is Verdict.FAIL
    _, later = judge(timed(40, 30), timed(2000, 1000), policy=SLOW, memory=memory)
    assert later.slow_bounds_ms == memory.slow_bounds_ms


def test_canary_as_slow_as_stable_passes_a_compared_quantile():
    _, memory = judge(timed(0), timed(400, 8), policy=SLOW)
    analysis, _ = judge(timed(200, 4), timed(2200, 44), policy=SLOW, memory=memory)
    assert analysis.verdict is Verdict.PASS


def test_quantile_without_enough_of_stables_answers_never_passes():
    _, memory = judge(timed(0), timed(99), policy=SLOW)
    analysis, _ = judge(timed(500), timed(9000), policy=SLOW, memory=memory)
    assert analysis.verdict is Verdict.INCONCLUSIVE


COST = AnalysisPolicy.model_validate(
    {"limits": {"cost_usd_per_1k_requests": 0.01}, "replicaUsdPerHour": 3.6}
)


@pytest.mark.parametrize(
    ("fast_ms", "expected"),
    # Half the bound on average: 10 ms at 3.6 USD an hour are 1e-5 USD an answer.
    [(20.0, Verdict.PASS), (20.1, Verdict.FAIL), (math.inf, Verdict.FAIL)],
)
def test_cost_is_the_time_of_the_answers_at_the_price_of_a_replica(fast_ms, expected):
    buckets = {fast_ms: 100, 1000.0: 100} if math.isfinite(fast_ms) else {1000.0: 0, math.inf: 100}
    analysis, _ = judge(ArmCounts(100, 0, buckets), arm(900), policy=COST, memory=UNSEEN)
    assert analysis.verdict is expected, analysis.reason


def test_cost_that_can_not_be_met_any_more_fails_before_the_samples_are_there():
    spent = ArmCounts(20, 0, {200.0: 20, 1000.0: 20})
    assert judge(spent, arm(180), policy=COST, memory=UNSEEN)[0].verdict is Verdict.FAIL
    few = ArmCounts(5, 0, {200.0: 5, 1000.0: 5})
    assert judge(few, arm(45), policy=COST, memory=UNSEEN)[0].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("share", "others", "verdict"),
    # 0.9 ** 196 > 1e-9 > 0.9 ** 197
    [
        (0.1, 196, Verdict.INCONCLUSIVE),
        (0.1, 197, Verdict.ERROR),
        (0.0, 10**6, Verdict.INCONCLUSIVE),
    ],
)
def test_canary_that_answers_nothing_beyond_chance_is_an_error(share, others, verdict):
    analysis, _ = analyse(
        POLICY,
        MARKED,
        canary=arm(0),
        stable=arm(others),
        has_stable=True,
        min_samples=9,
        canary_ratio=share,
    )
    assert (analysis.verdict, analysis.is_silent) == (verdict, verdict is Verdict.ERROR)


def test_counter_that_is_stuck_stops_every_pass_until_it_moves():
    memory = judge(arm(40), arm(360))[1]
    both = {"has_stable": True, "min_samples": 9, "canary_ratio": 0.1}
    stuck, memory = analyse(POLICY, memory, canary=arm(40), stable=arm(700), **both)
    assert (stuck.verdict, stuck.is_silent) == (Verdict.ERROR, True)
    assert (
        analyse(POLICY, memory, canary=arm(41), stable=arm(701), **both)[0].verdict is Verdict.PASS
    )
