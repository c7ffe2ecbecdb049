"""The head of a real Ray is killed under a rollout and started again: the same decision in the end.

Run by ``make soak``, because the head stays away for more than a minute.
"""

import os

import pytest
from serving.programs import run_program

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif("KFM_SOAK" not in os.environ, reason="takes minutes: make soak"),
]


@pytest.fixture(scope="module")
def seen():
    """Return what was seen on a cluster of its own."""
    return run_program("head_restart.py", timeout_s=900)


def test_while_the_head_is_away_nothing_is_decided_and_the_journal_says_so_once(seen):
    before, away = seen["before"], seen["away"]
    assert seen["killed"] > 5, "Ray's own processes, Serve's and the releases'"
    unmoved = ("phase", "step_index", "production", "canary", "moves")
    assert [away[name] for name in unmoved] == [before[name] for name in unmoved]
    assert (before["phase"], before["production"], before["canary"]) == ("Canary", 1, 2)
    assert before["plane_problem"] == ""
    assert away["plane_problem"] != ""
    assert away["narrative"]["reason"] == away["plane_problem"]
    assert away["narrative"]["is_loud"] is True
    assert seen["passes_away"] > 2, "the controller outlived a minute without a head"
    assert len(seen["problems"]) == 1
    assert away["generation"] == before["generation"] + 1


def test_a_head_that_comes_back_serves_both_releases_again_and_the_canary_is_promoted(seen):
    after = seen["after"]
    assert seen["deployed_anew"] == [1, 2]
    assert (after["production"], after["canary"], after["plane_problem"]) == (2, None, "")
    assert after["moves"] == seen["away"]["moves"] + 1
    assert seen["verdicts"] == ["PASS"]
    assert seen["split"] == [2, None]
    assert seen["answered_again"] > 0
    assert seen["violations"] == []
