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
    )
)


def tally(listed):
    arm = ArmTally()
    for kind, latency_ms, value in listed:
        if kind == "error":
            arm.add_error(latency_ms)
        elif kind == "dropped":
            arm.add_dropped()
        else:
            arm.add_answer(latency_ms, {} if value is None else {"a": value, "b": 9.0}, BANDS)
    return arm.to_dict()


@given(events)
def test_every_count_is_the_number_of_events_of_its_kind(listed):
    counts = merge_tallies([tally(listed)])
    latencies = sorted(latency for _, latency, _ in listed if latency is not None)
    values = [value for kind, _, value in listed if kind == "good"]
    assert counts.dropped_count == sum(kind == "dropped" for kind, _, _ in listed)
    assert counts.request_count == len(listed) - counts.dropped_count
    assert counts.error_count == sum(kind == "error" for kind, _, _ in listed)
    assert counts.measured_count == ({"a": len(values)} if values else {})
    assert counts.outside_count.get("a", 0) == sum(not 0 <= v <= 1 for v in values)
    for bound, count in counts.latency_ms_buckets.items():
        assert count == bisect.bisect_right(latencies, bound)


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
