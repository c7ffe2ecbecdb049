"""What people and controllers sign: what counts, what does not, what is not even kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from registry.world import (
    COUNCIL,
    NAME,
    claims_of,
    only_refused,
    told,
)

from kfm_mlflow.cli.ledger_text import entry_lines
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.history import read_entry
from kfm_mlflow.trust.ledger_rows import verify_rows

# -- people ----------------------------------------------------------------------------------------


def test_three_of_four_with_the_indigenous_representative_are_a_quorum(canary):
    for member in COUNCIL[1:]:
        canary.vote(1, member)
    canary.store.move(NAME, 1, Level.PRODUCTION)


@pytest.mark.parametrize(
    ("members", "words"),
    [(COUNCIL[2:], "votes 2 of 3"), (COUNCIL[:3], "votes 3 of 3"), ((), "votes 0")],
)
def test_too_few_votes_or_a_missing_role_refuse(canary, members, words):
    for member in members:
        canary.vote(1, member)
    with told(403, words):
        canary.store.move(NAME, 1, Level.PRODUCTION)


@pytest.mark.parametrize("choice", ["deny", "veto"])
def test_a_veto_of_the_indigenous_representative_stops_a_full_quorum(canary, choice):
    for member in COUNCIL[:3]:
        canary.vote(1, member)
    canary.vote(1, COUNCIL[3], choice)
    before = canary.state()
    with told(403, f"vetoed by {COUNCIL[3]}"):
        canary.store.move(NAME, 1, Level.PRODUCTION)
    only_refused(before, canary.state())


@pytest.mark.parametrize(
    "changed",
    [{"epoch": 1}, {"policy_digest": f"sha256:{'1' * 64}"}],
    ids=["epoch", "policy"],
)
def test_votes_on_something_else_do_not_count(canary, changed):
    for member in COUNCIL:
        canary.vote(1, member, **changed)
    with told(403, "votes 0 of 3"):
        canary.store.move(NAME, 1, Level.PRODUCTION)


def test_a_vote_about_another_release_or_model_is_not_even_kept(canary):
    before = canary.state()
    for changed in ({"release_id": f"sha256:{'2' * 64}"}, {"model_name": "climate-other"}):
        with told(400, "is about another release"):
            canary.vote(1, COUNCIL[0], **changed)
    assert canary.state() == before


def test_votes_are_void_once_their_version_was_taken_down(canary):
    for member in COUNCIL:
        canary.vote(1, member)
    canary.store.delete_registered_model_alias(NAME, "canary")
    canary.store.move(NAME, 1, Level.CANARY)
    with told(403, "canary-verdict invalid", "votes 0 of 3"):
        canary.store.move(NAME, 1, Level.PRODUCTION)


def test_votes_are_spent_when_production_is_reached_and_a_successor_archives_it(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    two.to_canary(1)
    with told(403, "canary-verdict invalid", "votes 0 of 3"):
        two.store.move(NAME, 1, Level.PRODUCTION)


def test_a_canary_that_failed_does_not_reach_production(canary):
    for member in COUNCIL:
        canary.vote(1, member)
    canary.now += timedelta(minutes=1)
    canary.verdict(1, "FAIL")
    with told(403, "canary FAIL"):
        canary.store.move(NAME, 1, Level.PRODUCTION)


# -- who contradicts themselves --------------------------------------------------------------------


def rows_of(registry, kind):
    with registry.store.ManagedSessionMaker(read_only=True) as session:
        return [row for row in records.read_ledger(session) if row.kind == kind]


def test_equivocation_is_recorded_with_both_votes_and_excludes_the_voter(canary, world):
    ann, *others = COUNCIL
    canary.vote(1, ann)
    canary.vote(1, ann, "abstain")
    (row,) = rows_of(canary, "equivocation")
    claims = claims_of(row.body)
    kept = canary.query("SELECT digest FROM kfm_attestation WHERE kind = 'vote'")
    assert claims["votes"] == sorted(digest for (digest,) in kept)
    assert (claims["voter"], claims["choices"]) == (ann, ["abstain", "approve"])
    assert (row.model, row.version) == (NAME, 1)
    said = "\n".join(entry_lines(read_entry({**row.fields, "hash": row.hash})))
    assert f"{NAME} v1 {ann} contradicts themselves: abstain, approve" in said
    assert "every gate passed" not in said
    for member in others[1:]:
        canary.vote(1, member)
    with told(403, "votes 2 of 3"):
        canary.store.move(NAME, 1, Level.PRODUCTION)
    assert claims_of(rows_of(canary, "refused")[-1].body)["report"]["votes"]["equivocators"] == [
        ann
    ]
    canary.vote(1, others[0])
    canary.store.move(NAME, 1, Level.PRODUCTION)
    with canary.store.ManagedSessionMaker(read_only=True) as session:
        rows = [
            {**row.fields, "prev_hash": row.prev_hash, "hash": row.hash}
            for row in records.read_ledger(session)
        ]
    report = verify_rows(rows, keys=[world.signer("registry").public_key])
    assert (report.finding, report.row_count) == (None, len(rows))


def test_only_what_is_new_and_contradicts_is_recorded(canary):
    ann, bea = COUNCIL[:2]
    canary.vote(1, ann)
    canary.now += timedelta(seconds=1)
    canary.vote(1, ann)
    canary.vote(1, bea, "deny")
    canary.vote(1, ann, "deny", epoch=7)
    assert rows_of(canary, "equivocation") == []
    canary.vote(1, ann, "deny")
    for (envelope,) in canary.query("SELECT envelope FROM kfm_attestation WHERE kind = 'vote'"):
        canary.store.add_attestation(NAME, 1, envelope.encode())
    canary.now += timedelta(seconds=1)
    canary.vote(1, ann, "deny")
    assert len(rows_of(canary, "equivocation")) == 1
    canary.vote(1, ann, "abstain")
    assert len(rows_of(canary, "equivocation")) == 2


def test_a_vote_after_the_first_ran_out_contradicts_nothing(canary):
    canary.vote(1, COUNCIL[0], "deny", expires_at=canary.now + timedelta(hours=1))
    canary.now += timedelta(hours=2)
    canary.vote(1, COUNCIL[0])
    assert rows_of(canary, "equivocation") == []


# -- votes that arrive while the move is judged ----------------------------------------------------


@pytest.mark.parametrize(
    ("late", "words"),
    [
        ((COUNCIL[3], "veto", {}), "vetoed by"),
        ((COUNCIL[0], "deny", {}), "votes 2 of 3"),
        ((COUNCIL[0], "abstain", {"epoch": 7}), ""),
    ],
    ids=["veto", "equivocation", "another epoch"],
)
def test_what_arrives_between_judging_and_writing_is_judged_again(canary, monkeypatch, late, words):
    for name in (COUNCIL[0], COUNCIL[1], COUNCIL[3]):
        canary.vote(1, name)
    decide = type(canary.store.admission).decide

    def meanwhile(self, *args, **kwargs):
        decided = decide(self, *args, **kwargs)
        monkeypatch.setattr(type(canary.store.admission), "decide", decide)
        canary.vote(1, late[0], late[1], **late[2])
        return decided

    monkeypatch.setattr(type(canary.store.admission), "decide", meanwhile)
    with told(409, "changed while v1 was judged"):
        canary.store.move(NAME, 1, Level.PRODUCTION)
    assert canary.level(1) == "canary"
    if words:
        with told(403, words):
            canary.store.move(NAME, 1, Level.PRODUCTION)
    else:
        canary.store.move(NAME, 1, Level.PRODUCTION)


@pytest.mark.parametrize(
    ("key", "kind"), [("foreign", "vote"), ("trainer", "vote"), ("council-ann", "canary-verdict")]
)
def test_a_statement_of_nobody_with_that_duty_is_not_kept(canary, key, kind):
    before = canary.state()
    with told(400):
        canary.attest(1, kind, {"verdict": "PASS", "epoch": 0}, key)
    assert canary.state() == before


@pytest.mark.parametrize("envelope", [b"", b"{", b"[]", b'{"a":1,"a":2}', b"\xff", b"{}" * 10])
def test_an_envelope_that_is_none_is_bad_input(canary, envelope):
    before = canary.state()
    with told(400):
        canary.store.add_attestation(NAME, 1, envelope)
    assert canary.state() == before


def test_an_envelope_kept_twice_is_kept_once(canary):
    before = canary.state()
    ((envelope,),) = canary.query("SELECT envelope FROM kfm_attestation")
    canary.store.add_attestation(NAME, 1, envelope.encode())
    assert canary.state() == before


def test_nothing_is_attested_about_what_is_not_frozen(registry, world):
    registry.register(world.releases[0])
    with told(400, "is not frozen yet"):
        registry.store.add_attestation(NAME, 1, b"{}")


def test_no_decision_names_a_path_of_this_machine(two):
    bodies = [claims_of(body) for (body,) in two.query("SELECT body FROM kfm_ledger")]
    assert bodies
    assert not any(str(folder) in repr(bodies) for folder in (two.area, two.world.root))
