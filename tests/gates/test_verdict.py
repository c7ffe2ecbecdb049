import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.gates.verdict import Verdict, worst

VERDICTS = st.lists(st.sampled_from(list(Verdict)))


def test_no_evidence_is_not_a_pass() -> None:
    assert worst([]) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["PASS", "PASS"], "PASS"),
        (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["ERROR", "INCONCLUSIVE"], "ERROR"),
        (["FAIL", "ERROR", "PASS"], "FAIL"),
    ],
)
def test_a_whole_is_its_worst_part(parts, whole) -> None:
    assert worst(Verdict(part) for part in parts) is Verdict(whole)


@given(VERDICTS.filter(bool), VERDICTS.filter(bool))
def test_worst_of_is_associative(one, two) -> None:
    assert worst([worst(one), worst(two)]) is worst(one + two)


@given(VERDICTS, st.randoms())
def test_order_does_not_matter(verdicts, random) -> None:
    shuffled = list(verdicts)
    random.shuffle(shuffled)
    assert worst(shuffled) is worst(verdicts)


@given(VERDICTS.filter(bool), st.sampled_from(list(Verdict)))
def test_one_more_gate_never_turns_a_refusal_into_a_pass(verdicts, more) -> None:
    assert worst([*verdicts, more]).severity >= worst(verdicts).severity
