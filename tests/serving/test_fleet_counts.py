"""Counts of dispatchers: exact, merged in any order, and never smaller than before."""

from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.fleet.plane import LATENCY_BOUNDS_MS
from kfm_serving.fleet_counts import TaskTally, keep_reports, merge_tallies

latencies = st.floats(0, 10_000)
done = st.tuples(latencies, st.booleans(), st.booleans())


def tally_of(answers, failures=0):
    tally = TaskTally()
    for latency_ms, is_unsafe, is_held in answers:
        tally.add_answer(latency_ms, is_unsafe=is_unsafe, is_held=is_held)
    for _ in range(failures):
        tally.add_failure()
    return tally


@given(st.lists(st.tuples(st.lists(done), st.integers(0, 5)), max_size=4))
def test_merged_counts_are_those_of_one_dispatcher_that_did_it_all(parts):
    merged = merge_tallies(tally_of(*part).to_dict() for part in parts)
    every = [answer for answers, _ in parts for answer in answers]
    alone = merge_tallies([tally_of(every, sum(failures for _, failures in parts)).to_dict()])
    assert merged == alone
    assert merged.completed == sum(merged.latency_counts) == len(every)
    assert merged.refused == sum(unsafe and held for _, unsafe, held in every)


def test_latency_lies_in_the_bin_whose_bound_is_the_first_not_below_it():
    for latency_ms, place in ((0.5, 0), (1, 0), (1.001, 1), (200, 8), (5000, 13), (5001, 14)):
        counts = tally_of([(latency_ms, False, False)]).latency_counts
        assert counts.index(1) == place
        assert len(counts) == len(LATENCY_BOUNDS_MS) + 1


def report(process, **completed):
    tallies = {key: tally_of([(1, False, False)] * n).to_dict() for key, n in completed.items()}
    return {"process": process, "generation": 1, "tallies": tallies}


def total(reports, key):
    found = (r["tallies"].get(key) for r in reports.values())
    return merge_tallies(tally for tally in found if tally is not None).completed


def test_counts_of_a_dispatcher_that_died_stay_and_its_successor_adds_to_them():
    kept = keep_reports({}, [report("p1", a=3), report("p2", a=1)], ["a"])
    kept = keep_reports(kept, [report("p2", a=2), report("p3", a=4)], ["a"])
    assert total(kept, "a") == 3 + 2 + 4
    assert keep_reports(kept, [report("p2", a=2)], ["a"]) == kept


def test_counts_of_an_instance_that_was_stopped_are_dropped():
    kept = keep_reports({}, [report("p1", a=3), report("p2", b=1)], ["a", "b"])
    kept = keep_reports(kept, [], ["b"])
    assert set(kept) == {"p2"}
