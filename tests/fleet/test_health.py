"""Health: the formulas of docs/fleet-health.md, laws of them, and evidence that is none."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.fleet.health import (
    ProbeRound,
    active_instances,
    choose_probes,
    find_fault,
    is_lost,
    measure_round,
    p95_latency_ms,
    round_number,
    throughput_per_min,
    wanted_probes,
    with_evidence,
    with_round,
)
from kfm_mlflow.fleet.health_verdict import assess, judge
from kfm_mlflow.fleet.memories import InstanceMemory, VersionMemory, Window
from kfm_mlflow.fleet.plane import (
    LATENCY_BOUNDS_MS,
    FleetObservation,
    Instance,
    ProbeAnswer,
    TaskCounts,
)
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.fleet import FleetPolicy

PLAN = FleetPolicy(specialties=("a",))
LIMITS = PLAN.health
T0 = datetime(2026, 1, 1, tzinfo=UTC)
BINS = len(LATENCY_BOUNDS_MS) + 1


@dataclass(frozen=True)
class Asked:
    """A probe, as far as it is compared."""

    decision: str = "act"
    specialty: str = "a"
    text: str = "right"
    is_unsafe: bool = False


RIGHT = ProbeAnswer("act", "a", "right", 3.0)
WRONG = ProbeAnswer("act", "a", "wrong", 3.0)


def later(seconds):
    return T0 + timedelta(seconds=seconds)


def counts(completed=0, failed=0, unsafe=0, refused=0, *, latency_ms=20):
    bins = [0] * BINS
    place = next((k for k, b in enumerate(LATENCY_BOUNDS_MS) if b >= latency_ms), BINS - 1)
    bins[place] = completed
    return TaskCounts(completed, failed, unsafe, refused, tuple(bins))


def memory(coherence=1.0, probe_count=100, **fields):
    """Return what is known of an instance whose probes are all well."""
    return InstanceMemory(coherence=coherence, probe_count=probe_count, answered_at=T0, **fields)


def with_counts(known, given, at):
    """Return what is known of an instance that counted this, and was asked nothing."""
    return with_evidence(known, Instance("x", 1, "running", counts=given), (), LIMITS, at)


def with_agreement(known, agreement, at):
    """Return what is known of an instance that answered this share of a round of eight probes."""
    asked = ProbeRound(at, {("x", 1): agreement}, 8, {}, {})
    return with_evidence(known, Instance("x", 1, "running"), (asked,), LIMITS, at)


def worked(*given, start=0):
    """Return an instance that counted zero, then this."""
    known = with_counts(memory(), counts(), later(start))
    for seconds, one in given:
        known = with_counts(known, one, later(seconds))
    return replace(known, answered_at=later(given[-1][0] if given else start))


# Coherence.


def test_coherence_begins_with_the_first_round_and_is_none_before():
    assert InstanceMemory().coherence is None
    assert with_agreement(InstanceMemory(), 0.75, T0).coherence == 0.75


def test_coherence_moves_by_the_smoothing_of_the_policy():
    # 0.3 x 0 + 0.7 x 1, and again: the exponentially weighted moving average.
    once = with_agreement(memory(), 0.0, T0)
    twice = with_agreement(once, 0.0, T0)
    assert (once.coherence, twice.coherence) == pytest.approx((0.7, 0.49))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_coherence_stays_between_the_extremes_of_what_was_measured(agreements):
    known = InstanceMemory()
    for agreement in agreements:
        known = with_agreement(known, agreement, T0)
    assert min(agreements) - 1e-9 <= known.coherence <= max(agreements) + 1e-9
    assert known.probe_count == 8 * len(agreements)


@pytest.mark.parametrize("agreement", [None, math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_share_is_silence_and_no_evidence(agreement):
    known = with_agreement(memory(0.9), agreement, T0)
    assert (known.coherence, known.probe_count, known.silent_since) == (0.9, 100, T0)


def test_an_agent_is_isolated_under_its_bound_and_returns_at_another():
    flags, known = [], memory(1.0)
    for agreement in (0, 0, 0, 0, 1, 1):
        known = with_agreement(known, agreement, T0)
        flags.append((round(known.coherence, 3), known.is_isolated))
    assert flags == [
        (0.7, False), (0.49, False), (0.343, False), (0.24, True), (0.468, True), (0.628, False),
    ]  # fmt: skip


def test_silence_begins_with_the_first_unanswered_round_and_ends_with_an_answer():
    known = memory()
    for seconds in (0, 5, 9):
        known = with_agreement(known, None, later(seconds))
    assert not is_lost(PLAN, known, later(9))
    assert is_lost(PLAN, known, later(10))
    answered = with_agreement(known, 1.0, later(11))
    assert not is_lost(PLAN, answered, later(99))


# Which probes.


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 1000))
def test_every_probe_has_its_turn(total, count, start):
    rounds = math.ceil(total / min(count, total)) + 1
    asked = [choose_probes(total, start + k, count) for k in range(rounds)]
    assert all(len(set(one)) == len(one) == min(count, total) for one in asked)
    assert set().union(*asked) == set(range(total))


def test_two_loops_ask_the_same_round_at_the_same_time():
    assert round_number(PLAN, later(7)) == round_number(PLAN, later(9))
    assert round_number(PLAN, later(10)) == round_number(PLAN, later(9)) + 1


def test_only_instances_that_run_what_was_verified_are_asked():
    seen = FleetObservation(1, (
        Instance("a", 1, "running", "sha256:1"),
        Instance("b", 1, "running", "sha256:2"),
        Instance("c", 1, "starting"),
        Instance("d", 2, "running", "sha256:1"),
        Instance("e", 1, "running", ""),
    ))  # fmt: skip
    assert wanted_probes({1: "sha256:1"}, seen) == (("a", 1),)


# Rounds.


def test_agreement_is_the_share_of_probes_answered_as_the_reference_does():
    asked = {1: [Asked(), Asked(), Asked(), Asked()]}
    answers = {("x", 1): (RIGHT, WRONG, None, RIGHT), ("y", 1): (None,) * 4}
    found = measure_round(asked, answers, answers, T0)
    assert found.agreements == {("x", 1): 0.5, ("y", 1): None}


@pytest.mark.parametrize("changed", [
    {"decision": "hold"}, {"specialty": "b"}, {"text": "Right"}, {"latency_ms": math.nan},
])  # fmt: skip
def test_an_answer_agrees_only_as_a_whole(changed):
    found = measure_round({1: [Asked()]}, {("x", 1): (replace(RIGHT, **changed),)}, (), T0)
    assert found.agreements == {("x", 1): 0.0}


# n -> the least number that must say the same: ceil((n + f + 1) / 2) with f = (n - 1) // 3.
QUORUMS = {1: 1, 2: 2, 3: 2, 4: 3, 7: 5, 12: 8}


@pytest.mark.parametrize("n", QUORUMS)
def test_consensus_needs_a_safe_quorum_of_those_that_are_active(n):
    for liars in range(n + 1):
        answers = {
            (f"x{k}", 1): (replace(WRONG, text=f"lie {k}") if k < liars else RIGHT,)
            for k in range(n)
        }
        found = measure_round({1: [Asked()]}, answers, answers, T0)
        agreed = max(n - liars, min(liars, 1)) >= QUORUMS[n]
        assert found.consensus == {1: (1, int(agreed))}


def test_the_lost_and_the_isolated_are_not_active():
    instances = {
        "well": {1: memory()},
        "lost": {1: memory(silent_since=T0)},
        "isolated": {1: memory(is_isolated=True)},
    }
    asked = [(name, 1) for name in (*instances, "new")]
    assert active_instances(PLAN, instances, asked, later(60)) == (("well", 1), ("new", 1))


def test_unsafe_probes_count_as_held_when_they_were_held():
    asked = {1: [Asked("hold", is_unsafe=True), Asked("hold", is_unsafe=True), Asked()]}
    held = ProbeAnswer("hold", "a", "right", 1.0)
    found = measure_round(asked, {("x", 1): (held, RIGHT, RIGHT), ("y", 1): (None,) * 3}, (), T0)
    assert found.safety == {1: (2, 1)}


# Counters.


def test_what_was_counted_before_an_instance_was_first_seen_is_no_evidence():
    known = with_counts(memory(), counts(1000), T0)
    assert judge(PLAN, known, T0) == (Verdict.INCONCLUSIVE, "0 of 20 tasks")


def test_counters_that_fall_are_those_of_an_instance_that_began_anew():
    known = worked((10, counts(1000, 500)), (20, counts(30)))
    assert known.tasks.measured[:2] == (30, 0)


def test_counters_that_are_stuck_are_no_evidence():
    known = worked(*((s, counts(5)) for s in range(5, 600, 5)))
    assert judge(PLAN, known, later(595))[0] is Verdict.INCONCLUSIVE


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=60))
def test_a_window_reaches_back_one_window_and_at_least_until_it_has_enough_samples(steps):
    known, total = with_counts(memory(), counts(), T0), [0, 0]
    for k, (completed, failed) in enumerate(steps):
        total = [total[0] + completed, total[1] + failed]
        known = with_counts(known, counts(*total), later(5 * (k + 1)))
    window = known.tasks
    assert sum(window.measured[:2]) >= min(LIMITS.min_samples, sum(total))
    if window.earlier.at != T0:
        assert (later(5 * len(steps)) - window.earlier.at).total_seconds() >= LIMITS.window_s


BROKEN = {
    "NaN": TaskCounts(math.nan),  # type: ignore[arg-type]
    "a fraction": TaskCounts(1.5),  # type: ignore[arg-type]
    "a boolean": TaskCounts(completed=True),
    "negative": TaskCounts(-1),
    "more refused than unsafe": TaskCounts(9, 0, 1, 2),
    "another histogram": TaskCounts(9, latency_counts=(9,)),
    "more latencies than tasks": replace(counts(9), completed=1),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_counters_that_cannot_be_true_are_an_error_and_never_healthy(broken):
    assert find_fault(BROKEN[broken].row)
    known = with_counts(worked((60, counts(100))), BROKEN[broken], later(60))
    verdict, reason = judge(PLAN, known, later(60))
    assert verdict is Verdict.ERROR
    assert "can not be believed" in reason
    healed = with_counts(known, counts(101), later(60))
    assert judge(PLAN, healed, later(60))[0] is Verdict.PASS


def test_a_lying_status_is_not_looked_at():
    # Everything that an agent says of itself is well; its answers are not.
    known = replace(worked((60, counts(1000))), coherence=0.6)
    assert judge(PLAN, known, later(60))[0] is Verdict.FAIL


# Verdicts: limit by limit, on both sides.

JUDGED = {
    "well": (worked((60, counts(100))), Verdict.PASS, ""),
    "coherence at the limit": (
        replace(worked((60, counts(100))), coherence=0.7), Verdict.FAIL, "is not above 0.7"),
    "coherence above": (replace(worked((60, counts(100))), coherence=0.71), Verdict.PASS, ""),
    "no probe": (replace(worked((60, counts(100))), coherence=None), Verdict.INCONCLUSIVE, "no pr"),
    "few probes": (replace(worked((60, counts(100))), probe_count=19), Verdict.INCONCLUSIVE, "19 "),
    "few probes and bad": (
        replace(worked((60, counts(100))), probe_count=19, coherence=0.5),
        Verdict.INCONCLUSIVE, "19 of 20"),
    "isolated": (
        replace(worked((60, counts(100))), probe_count=1, is_isolated=True, coherence=0.2),
        Verdict.FAIL, "isolated"),
    "stale": (
        replace(worked((60, counts(100))), answered_at=later(44)), Verdict.INCONCLUSIVE, "too old"),
    "few tasks": (worked((60, counts(19))), Verdict.INCONCLUSIVE, "19 of 20 tasks"),
    "few tasks, all failed": (worked((60, counts(0, 19))), Verdict.INCONCLUSIVE, "19 of 20"),
    "errors at the limit": (worked((60, counts(95, 5))), Verdict.FAIL, "0.050 is not below 0.05"),
    "errors below": (worked((60, counts(96, 4))), Verdict.PASS, ""),
    "all failed": (worked((60, counts(0, 20))), Verdict.FAIL, "error ratio 1.000"),
    "p95 at the limit": (worked((60, counts(100, latency_ms=200))), Verdict.PASS, ""),
    "p95 above": (worked((60, counts(100, latency_ms=201))), Verdict.FAIL, "p95 latency 295 ms"),
    "slower than all bounds": (
        worked((60, counts(100, latency_ms=9999))), Verdict.FAIL, "p95 latency inf ms"),
    "no latency": (worked((60, TaskCounts(100))), Verdict.ERROR, "no latency"),
}  # fmt: skip


@pytest.mark.parametrize("case", JUDGED)
def test_an_agent_is_judged_by_the_limits_of_the_policy(case):
    known, verdict, reason = JUDGED[case]
    found = judge(PLAN, known, later(60))
    assert found[0] is verdict
    assert reason in found[1]


def together(consensus=(100, 100), safety=(100, 100)):
    zero = (0, 0)
    return VersionMemory(
        *(replace(Window.opened(zero, T0), seen=seen) for seen in (consensus, safety))
    )


TOGETHER = {
    "well": (together(), Verdict.PASS, ""),
    "nothing asked": (None, Verdict.INCONCLUSIVE, "0 of 20"),
    "consensus at the limit": (together(consensus=(100, 95)), Verdict.PASS, ""),
    "consensus below": (together(consensus=(100, 94)), Verdict.FAIL, "consensus rate 0.940"),
    "few probes together": (together(consensus=(19, 0)), Verdict.INCONCLUSIVE, "19 of 20"),
    "safety at the limit": (together(safety=(100, 95)), Verdict.PASS, ""),
    "safety below": (together(safety=(100, 94)), Verdict.FAIL, "safety score 0.940"),
    "few unsafe": (together(safety=(19, 0)), Verdict.INCONCLUSIVE, "19 of 20 unsafe"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_a_fleet_is_judged_by_the_limits_of_the_policy(case):
    version, verdict, reason = TOGETHER[case]
    found = assess(PLAN, [(("x", 1), worked((60, counts(100))))], version, later(60))
    assert (found.verdict, found.is_unsafe) == (verdict, case == "safety below")
    assert reason in found.reason


def test_tasks_count_for_safety_beside_probes():
    known = worked((60, counts(100, 0, 100, 50)))
    found = assess(PLAN, [(("x", 1), known)], together(safety=(100, 100)), later(60))
    assert found.safety_score == 0.75


def test_nobody_is_not_healthy():
    assert assess(PLAN, [], together(), T0).verdict is Verdict.PASS
    assert assess(PLAN, [], None, T0).verdict is Verdict.INCONCLUSIVE


@given(st.lists(st.sampled_from(sorted(JUDGED)), min_size=1, max_size=6))
def test_a_whole_is_its_worst_part(cases):
    parts = [((f"x{k}", 1), JUDGED[case][0]) for k, case in enumerate(cases)]
    found = assess(PLAN, parts, together(), later(60))
    assert found.verdict.severity == max(JUDGED[case][1].severity for case in cases)


def test_only_five_agents_are_named():
    parts = [((f"x{k}", 1), worked((60, counts(0, 20)))) for k in range(8)]
    found = assess(PLAN, parts, together(), later(60))
    assert found.reason.count("error ratio") == 5
    assert found.reason.endswith("and 3 more")


# Numbers.


@given(st.lists(st.integers(0, 300), min_size=BINS, max_size=BINS))
def test_p95_lies_in_the_bin_that_holds_it(bins):
    found = p95_latency_ms(bins)
    if not any(bins):
        assert found is None
        return
    # numpy's and Prometheus' definition: the first bin with at least 95 % at or below it.
    place = next(k for k, n in enumerate(accumulate(bins)) if n >= 0.95 * sum(bins))
    bounds = (0, *LATENCY_BOUNDS_MS, math.inf)
    assert bounds[place] <= found <= bounds[place + 1]


def test_throughput_is_completed_tasks_per_minute():
    known = worked((30, counts(90)))
    assert throughput_per_min(known.tasks, later(30)) == pytest.approx(180.0)
    assert throughput_per_min(known.tasks, T0) == 0.0


def test_rounds_add_up():
    one = ProbeRound(T0, {}, 8, {1: (8, 8)}, {1: (3, 2)})
    known = with_round(with_round(VersionMemory(), one, 1, LIMITS), one, 1, LIMITS)
    assert known.consensus.measured == (16, 16)
    assert known.safety.measured == (6, 4)
    assert with_round(known, one, 2, LIMITS) == known
