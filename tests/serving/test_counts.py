import bisect
import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.rollout.plane import Band
from kfm_serving.counts import LATENCY_BOUNDS_MS, ArmTally, merge_tallies

BANDS = {"a": Band(0.0, 1.0)}
events = st.lists(
    st.one_of(
        st.tuples(st.just("good"), st.floats(0.01, 60_000), st.floats(-1, 2)),
        st.tuples(st.just("unmeasured"), st.floats(0.01, 60_000), st.none()),
        st.tuples(st.just("error"), st.none() | st.floats(0.01, 60_000), st.none()),
        st.tuples(st.just("dropped"), st.none(), st.none()),
        st.tuples(st.just("explained"), st.none(), st.none() | st.integers(0, 2_000_000)),
    )
)


def tally(listed):
    arm = ArmTally()
    for kind, latency_ms, value in listed:
        if kind == "error":
            arm.add_error(latency_ms)
        elif kind == "dropped":
            arm.add_dropped()
        elif kind == "explained":
            arm.add_explained([value])
        else:
            arm.add_answer(latency_ms, {} if value is None else {"a": value, "b": 9.0}, BANDS)
    return arm.to_dict()


@given(events)
def test_every_count_is_the_number_of_events_of_its_kind(listed):
    counts = merge_tallies([tally(listed)])
    latencies = sorted(latency for _, latency, _ in listed if latency is not None)
    values = [value for kind, _, value in listed if kind == "good"]
    assert counts.dropped_count == sum(kind == "dropped" for kind, _, _ in listed)
    explained = [value for kind, _, value in listed if kind == "explained"]
    found = [value for value in explained if value is not None]
    assert (counts.explained_count, counts.instability_ppm) == (len(found), sum(found))
    assert counts.unexplained_count == len(explained) - len(found)
    assert counts.worst_instability_ppm == max(found, default=0)
    assert counts.request_count == len(listed) - counts.dropped_count - len(explained)
    assert counts.error_count == sum(kind == "error" for kind, _, _ in listed)
    assert counts.measured_count == ({"a": len(values)} if values else {})
    assert counts.outside_count.get("a", 0) == sum(not 0 <= v <= 1 for v in values)
    for bound, count in counts.latency_ms_buckets.items():
        assert count == bisect.bisect_right(latencies, bound)


def test_alarms_and_signals_of_several_routers_are_sums():
    one, other = ArmTally(), ArmTally()
    one.add_told(("narrative-safety",), {"attention_entropy": 0.25})
    one.add_told((), {"attention_entropy": 0.5, "fusion_norm_shift": 2.0})
    other.add_told(("narrative-safety", "fusion-collapse"), {})
    counts = merge_tallies([one.to_dict(), other.to_dict()])
    assert counts.alarm_count == {"narrative-safety": 2, "fusion-collapse": 1}
    assert counts.signal_count == {"attention_entropy": 2, "fusion_norm_shift": 1}
    assert counts.signal_ppm == {"attention_entropy": 750_000, "fusion_norm_shift": 2_000_000}


@given(st.lists(events, max_size=5), st.randoms())
def test_merging_routers_is_counting_at_one_router_in_any_order(parts, rng: random.Random):
    together = [event for part in parts for event in part]
    tallies = [tally(part) for part in parts]
    rng.shuffle(tallies)
    assert merge_tallies(tallies) == merge_tallies([tally(together)])


def test_bounds_grow_by_a_tenth_of_a_decade_and_cover_the_longest_deadline():
    steps = [b / a for a, b in itertools.pairwise(LATENCY_BOUNDS_MS)]
    assert max(steps) < 1.27
    assert LATENCY_BOUNDS_MS[0] <= 1.0
    assert LATENCY_BOUNDS_MS[-1] > 60_000
