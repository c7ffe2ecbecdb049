"""Who was what, when: against a model that writes the levels down at every step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trust.made_ledger import chained, claims, fields, good, policy_claims

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.history import Entry, History, history_of, read_entry

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "climate-tiny"


def text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@st.composite
def journeys(draw):
    """Rows of several kinds and models at instants that sometimes repeat or go back."""
    rows, second = [], 100
    for seq in range(1, draw(st.integers(1, 25)) + 1):
        second += draw(st.sampled_from([0, 0, 1, 5, 60, -3]))
        rows.append(
            Entry(
                seq=seq,
                at=text(START + timedelta(seconds=second)),
                kind=draw(st.sampled_from(["moved", "moved", "moved", "refused", "policy"])),
                model=draw(st.sampled_from([MODEL, MODEL, MODEL, "other"])),
                version=draw(st.integers(1, 4)),
                hash="",
                to_level=draw(st.sampled_from([str(level) for level in Level])),
            )
        )
    return rows


def written_down(rows):
    """The simple model: after each row, (instant from which it counts, version -> level)."""
    levels, clock, states = {}, START, []
    for row in rows:
        if row.kind != "moved" or row.model != MODEL:
            continue
        clock = max(clock, datetime.fromisoformat(row.at))
        if row.to_level == "production":
            levels = {v: "candidate" if at == "production" else at for v, at in levels.items()}
        levels = {**levels, row.version: row.to_level}
        states.append((clock, levels))
    return states


@given(journeys(), st.integers(0, 2000))
def test_at_any_instant_the_ledger_says_what_was_written_down(rows, tenth):
    instant = START + timedelta(seconds=90) + timedelta(seconds=tenth / 10)
    expected = {}
    for since, levels in written_down(rows):
        if since <= instant:
            expected = levels
    found = history_of(rows, MODEL).at(instant)
    assert {tenure.version: str(tenure.level) for tenure in found} == expected
    assert len({tenure.version for tenure in found}) == len(found)


@given(journeys())
def test_there_is_never_more_than_one_production_and_every_change_has_its_row(rows):
    history = history_of(rows, MODEL)
    instants = [START, *(since for since, _ in written_down(rows))]
    for instant in instants:
        assert sum(t.level is Level.PRODUCTION for t in history.at(instant)) <= 1
    for tenure in (*history.past, *history.present):
        assert tenure.by.kind == "moved"
        assert (tenure.until is None) == (tenure.ended_by is None)
        if tenure.displaced:
            assert (tenure.level, tenure.by.to_level) == (Level.CANDIDATE, "production")


@given(journeys())
def test_the_present_is_the_last_state_and_tenures_of_a_version_join(rows):
    history = history_of(rows, MODEL)
    states = written_down(rows)
    present = {t.version: str(t.level) for t in history.present}
    assert present == (states[-1][1] if states else {})
    assert history.levels() == {v: Level(x) for v, x in present.items() if x != "candidate"}
    for version in present:
        mine = [t for t in (*history.past, *history.present) if t.version == version]
        for before, after in pairwise(mine):
            assert before.until == after.since
            assert before.ended_by == after.by
            assert before.level is not after.level


def entries(*moves: tuple[int, str]) -> list[Entry]:
    rows = (fields(seq, claims(version, to)) for seq, (version, to) in enumerate(moves, 1))
    return [read_entry(row) for row in chained(rows)]


def test_promotion_archives_the_former_production_by_the_successors_decision():
    history = history_of(entries((1, "production"), (2, "production")), "m")
    one, two = history.present
    assert (one.level, one.displaced, one.by.seq) == (Level.CANDIDATE, True, 2)
    assert (two.level, two.displaced) == (Level.PRODUCTION, False)
    (past,) = history.past
    assert (past.version, past.level, past.ended_by.version) == (1, Level.PRODUCTION, 2)
    assert past.to_dict()["ended_by_row"] == 2


def test_a_restore_at_one_instant_leaves_no_moment_without_its_outcome():
    moves = entries((1, "production"), (2, "production"), (2, "candidate"), (1, "production"))
    restore = "2026-11-08T22:30:00.000Z"
    moves = [*moves[:2], *(Entry(**{**vars(row), "at": restore}) for row in moves[2:])]
    at = datetime.fromisoformat(restore)
    (live,) = [t for t in history_of(moves, "m").at(at) if t.level is Level.PRODUCTION]
    assert live.version == 1
    (before,) = [
        t
        for t in history_of(moves, "m").at(at - timedelta(milliseconds=1))
        if t.level is Level.PRODUCTION
    ]
    assert before.version == 2


def test_real_rows_are_read_with_who_why_and_what_did_not_pass():
    found = [read_entry(row) for row in good()]
    assert [entry.kind for entry in found] == ["policy", "moved", "refused", "moved", "moved"]
    policy, staged, refused = found[:3]
    assert (policy.change["before"], policy.from_level) == (None, "")
    assert (staged.actor, staged.reason, staged.to_level) == ("ann", "because", "staging")
    assert (refused.outcome, refused.verdict) == ("refused", "FAIL")
    assert history_of(found, "m").levels() == {1: Level.PRODUCTION}


def test_findings_that_passed_are_left_out_and_waived_ones_are_kept():
    def one(verdict, **more):
        return {"code": "X", "verdict": verdict, "detail": "d", **more}

    gates = [
        {"gate": "stac", "mode": "enforce", "verdict": "PASS", "findings": [one("PASS")]},
        {"gate": "xai", "mode": "warn", "verdict": "FAIL", "findings": [one("FAIL")]},
        {
            "gate": "votes",
            "mode": "enforce",
            "verdict": "PASS",
            "findings": [one("FAIL", waiver={"by": "exemption"}), one("PASS")],
        },
    ]
    (row,) = chained([fields(1, claims(1, gates=gates))])
    found = read_entry(row).not_passed
    assert [(item["gate"], item["mode"]) for item in found] == [
        ("xai", "warn"),
        ("votes", "enforce"),
    ]


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"payload": "e30="}', '{"payload": 5}', "null"])
def test_a_row_without_a_statement_is_named(body):
    with pytest.raises(EvidenceError, match="row 1: holds no statement"):
        read_entry({**good()[0], "body": body})


@pytest.mark.parametrize("change", [{"at": "yesterday"}, {"to_level": "live"}])
def test_a_move_without_instant_or_level_is_named(change):
    entry = Entry(**{**vars(entries((1, "staging"))[0]), **change})
    with pytest.raises(EvidenceError, match="row 1"):
        History("m").add(entry)


def test_policy_rows_and_refusals_change_nothing():
    rows = chained([fields(1, policy_claims()), fields(2, claims(1, passed=False))])
    assert history_of([read_entry(row) for row in rows], "m").present == ()
