"""Counting votes: the quorum table, and what liars can and cannot do."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.quorum import (
    Council,
    Member,
    Proposal,
    Vote,
    build_vote_claims,
    byzantine_quorum,
    parse_vote,
    tally,
)
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ID = f"sha256:{'ab' * 32}"
PROPOSAL = Proposal("climate", ID, "canary", "production", f"sha256:{'cd' * 32}", 1)
RIVAL = dataclasses.replace(PROPOSAL, release_id=f"sha256:{'ef' * 32}")
CHOICES = st.sampled_from(["approve", "deny", "abstain", "escalate", "veto"])


def council(count, **options):
    return Council(tuple(Member(f"m{i}") for i in range(count)), **options)


def vote(who, choice="approve", proposal=PROPOSAL, **changes):
    name = f"m{who}" if isinstance(who, int) else who
    made = Vote(name, choice, "because", NOW - DAY, NOW + DAY, proposal.digest)
    return dataclasses.replace(made, **changes)


def count(votes, members=4, proposal=PROPOSAL, **options):
    return tally(votes, council(members, **options), proposal, NOW)


@pytest.mark.parametrize(
    ("members", "quorum", "f"),
    [(2, 2, 0), (3, 2, 0), (4, 3, 1), (5, 4, 1), (6, 4, 1), (7, 5, 2), (10, 7, 3), (13, 9, 4)],
)
def test_quorum_is_ceil_of_half_n_plus_f_plus_one(members, quorum, f):
    assert byzantine_quorum(members) == (quorum, f)


@given(st.integers(1, 200))
def test_quorum_is_safe_live_and_smallest(members):
    quorum, f = byzantine_quorum(members)
    assert 2 * quorum - members > f
    assert quorum <= members - f
    assert 2 * (quorum - 1) - members <= f


def test_three_of_four_reach_and_two_do_not():
    assert count([vote(0), vote(1), vote(2)]).reached
    pending = count([vote(0), vote(1)])
    assert (pending.outcome, pending.needed, pending.f) == ("pending", 3, 1)
    assert pending.scheme == "byzantine-fault-tolerant"


def test_three_members_never_reach_a_byzantine_threshold_and_are_not_called_so():
    result = count([vote(0), vote(1), vote(2)], members=3)
    assert (result.outcome, result.scheme) == ("pending", "k-of-n")
    assert "needs 4 members" in result.findings[0]


def test_k_of_n_is_called_what_it_is():
    result = count([vote(0), vote(1)], threshold=2)
    assert (result.outcome, result.scheme, result.f) == ("reached", "k-of-n", 0)
    assert count([vote(0)], members=1, threshold=1).reached


def test_threshold_above_the_number_of_members_is_pending_with_a_finding():
    result = count([vote(0)], members=1, threshold=2)
    assert result.outcome == "pending"
    assert "2 approvals are asked of 1 members" in result.findings


def test_nobody_reaches_nothing():
    assert count([], members=0).outcome == "pending"
    assert count([]).outcome == "pending"


@pytest.mark.parametrize("threshold", [0, -1])
def test_threshold_below_one_is_refused(threshold):
    with pytest.raises(InputError, match="below 1"):
        council(4, threshold=threshold)


def test_member_named_twice_is_refused():
    with pytest.raises(InputError, match="twice"):
        Council((Member("a"), Member("a")))


def test_voting_twice_counts_once():
    result = count([vote(0), vote(0), vote(0, cast_at=NOW), vote(1)])
    assert result.approving == ("m0", "m1")
    assert result.outcome == "pending"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"voter": "stranger"}, "not a member"),
        ({"proposal_digest": RIVAL.digest}, "another proposal"),
        ({"expires_at": NOW}, "expired"),
        ({"cast_at": NOW + DAY}, "in the future"),
    ],
)
def test_vote_that_does_not_count_is_ignored_with_a_finding(changes, reason):
    result = count([vote(0), vote(1), vote(2, **changes)])
    assert result.outcome == "pending"
    assert result.approving == ("m0", "m1")
    assert reason in result.findings[0]


@pytest.mark.parametrize(
    "field", ["model_name", "from_level", "to_level", "policy_digest", "epoch"]
)
def test_every_part_of_a_proposal_is_in_its_digest(field):
    other = 2 if field == "epoch" else "other"
    assert dataclasses.replace(PROPOSAL, **{field: other}).digest != PROPOSAL.digest


def test_equivocator_is_excluded_and_named():
    result = count([vote(0), vote(1), vote(2), vote(2, "deny")])
    assert result.outcome == "pending"
    assert result.equivocators == ("m2",)
    assert result.approving == ("m0", "m1")
    assert result.denying == ()
    assert "contradicting" in result.findings[0]


def test_expired_first_choice_makes_no_equivocator():
    result = count([vote(0, "deny", expires_at=NOW), vote(0), vote(1), vote(2)])
    assert result.reached
    assert result.equivocators == ()


STEWARD = Council(
    (Member("m0", ("steward",)), *(Member(f"m{i}") for i in range(1, 4))),
    required_roles=("steward",),
    veto_roles=("steward",),
)


def test_required_role_must_approve():
    without = tally([vote(1), vote(2), vote(3)], STEWARD, PROPOSAL, NOW)
    assert (without.outcome, without.missing_roles) == ("pending", ("steward",))
    assert tally([vote(0), vote(1), vote(2)], STEWARD, PROPOSAL, NOW).reached


@pytest.mark.parametrize("choice", ["deny", "veto"])
def test_one_denial_of_a_veto_holder_stops_everything(choice):
    result = tally([vote(1), vote(2), vote(3), vote(0, choice)], STEWARD, PROPOSAL, NOW)
    assert (result.outcome, result.vetoing) == ("vetoed", ("m0",))


def test_veto_stands_although_its_holder_also_approved():
    votes = [vote(i) for i in range(4)] + [vote(0, "veto")]
    assert tally(votes, STEWARD, PROPOSAL, NOW).outcome == "vetoed"


def test_veto_without_the_role_is_a_denial_with_a_finding():
    result = tally([vote(0), vote(1), vote(2), vote(3, "veto")], STEWARD, PROPOSAL, NOW)
    assert result.reached
    assert result.denying == ("m3",)
    assert "holds no veto role" in result.findings[0]


def test_veto_for_another_proposal_stops_nothing_here():
    votes = [vote(0), vote(1), vote(2), vote(0, "veto", proposal=RIVAL)]
    assert tally(votes, STEWARD, PROPOSAL, NOW).reached


def test_escalation_is_shown_and_does_not_approve():
    result = count([vote(0), vote(1), vote(2, "escalate")])
    assert result.outcome == "pending"
    assert result.findings == ("'m2' asks for escalation",)


SIZES = st.integers(4, 13)
VOTES = st.lists(
    st.builds(
        vote,
        st.integers(0, 14),
        CHOICES,
        st.sampled_from([PROPOSAL, RIVAL]),
        expires_at=st.sampled_from([NOW + DAY, NOW - DAY, None]),
    ),
    max_size=30,
)


@given(SIZES, VOTES, st.randoms(use_true_random=False))
def test_order_and_repetition_of_votes_do_not_matter(members, votes, random):
    shuffled = [*votes, *votes[:3]]
    random.shuffle(shuffled)
    assert count(shuffled, members) == count(votes, members)


@given(SIZES, VOTES, st.integers(0, 14), CHOICES.filter(lambda choice: choice != "approve"))
def test_adding_anything_but_an_approval_never_reaches_what_was_not(members, votes, who, choice):
    before, after = count(votes, members), count([*votes, vote(who, choice)], members)
    assert before.reached or not after.reached


@given(SIZES, st.data())
def test_f_liars_cannot_certify_two_contradicting_proposals(members, data):
    _, f = byzantine_quorum(members)
    votes = [vote(i, proposal=p) for i in range(f) for p in (PROPOSAL, RIVAL)]
    for i in range(f, members):
        side = data.draw(st.sampled_from([PROPOSAL, RIVAL]))
        votes.append(vote(i, data.draw(st.sampled_from(["approve", "deny"])), proposal=side))
    assert not (count(votes, members).reached and count(votes, members, RIVAL).reached)


@given(SIZES, st.data())
def test_f_liars_cannot_block_the_honest_approvers(members, data):
    _, f = byzantine_quorum(members)
    votes = [vote(i) for i in range(f, members)]
    for i in range(f):
        votes += [vote(i, choice) for choice in data.draw(st.lists(CHOICES, max_size=3))]
    assert count(votes, members).reached


@given(SIZES, VOTES)
def test_reached_means_enough_distinct_members_approve(members, votes):
    result = count(votes, members)
    if result.reached:
        assert len(set(result.approving)) >= byzantine_quorum(members)[0]
        assert set(result.approving) <= {f"m{i}" for i in range(members)}


BINDING = Binding("climate", "v1", ID, PROPOSAL.policy_digest, 3)


def _statement(claims, binding=BINDING):
    return build_statement("vote", binding, claims, NOW, NOW + DAY)


def test_signed_vote_travels_from_key_to_tally(key_dir, trust):
    claims = build_vote_claims(PROPOSAL, "alice", "approve", "looks right")
    envelope = sign_statement(_statement(claims), load_private_key(key_dir / "alice"))
    report = verify_envelope(envelope, [trust("bob"), trust("alice")], NOW, kind="vote")
    cast = parse_vote(report.statement, signers=report.signers)
    assert cast == Vote("alice", "approve", "looks right", NOW, NOW + DAY, PROPOSAL.digest)
    assert tally([cast], Council((Member("alice"),), threshold=1), PROPOSAL, NOW).reached


def test_nobody_votes_for_somebody_else():
    statement = _statement(build_vote_claims(PROPOSAL, "alice", "approve", "x"))
    with pytest.raises(EvidenceError, match="not signed by that member"):
        parse_vote(statement, signers=["mallory"])


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "maybe"},
        {"choice": ["approve"]},
        {"voter": 1},
        {"proposal": RIVAL.to_dict()},
        {"proposal": None},
        {"proposal": {"epoch": 10**400}},
        {"proposal_digest": RIVAL.digest},
        {"proposal": RIVAL.to_dict(), "proposal_digest": RIVAL.digest},
        {"more": 1},
    ],
)
def test_malformed_vote_is_refused(changes):
    statement = _statement(build_vote_claims(PROPOSAL, "alice", "approve", "x"))
    statement["predicate"]["claims"].update(changes)
    with pytest.raises(EvidenceError):
        parse_vote(statement, signers=["alice"])


@pytest.mark.parametrize("statement", [{}, {"predicate": 1}, {"predicate": {"claims": {}}}])
def test_what_is_no_statement_is_refused(statement):
    with pytest.raises(EvidenceError, match="vote"):
        parse_vote(statement, signers=["alice"])


def test_vote_needs_a_choice_and_a_reason():
    with pytest.raises(InputError, match="no choice"):
        build_vote_claims(PROPOSAL, "alice", "yes", "x")
    with pytest.raises(InputError, match="reason"):
        build_vote_claims(PROPOSAL, "alice", "deny", " ")


def test_tally_as_json_says_which_scheme_it_is():
    shown = count([vote(0)]).to_dict()
    assert shown["scheme"] == "byzantine-fault-tolerant"
    assert shown["proposal_digest"] == PROPOSAL.digest
