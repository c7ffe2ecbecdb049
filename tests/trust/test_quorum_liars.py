"""What f liars can do to a council: signed votes of every wrong kind, in every order.

Every vote here is a real envelope that went through the same reading as in the registry, so that
what the liars are refused is refused by signature, binding, digest or clock, not by the test.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import pytest
from gates import made_evidence as made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.gates.people import proposal_of, tally_of, votes
from kfm_mlflow.trust.quorum import build_vote_claims, byzantine_quorum
from kfm_mlflow.trust.statement import build_statement, sign_statement

if TYPE_CHECKING:
    from kfm_mlflow.policy.models import Policy

DAY = timedelta(days=1)
RIVAL_MANIFEST = made.make_manifest("MLmodel")
RIVAL = RIVAL_MANIFEST.release_id
"""Another release of the same model that a liar would have in the place of ours."""
LIES = (
    "equivocates",
    "another release",
    "another move",
    "another policy",
    "another epoch",
    "another model",
    "another number",
    "expired",
    "not yet valid",
    "for another member",
    "stolen role",
    "twice",
    "abstains",
    "escalates",
    "denies",
    "vetoes",
    "silent",
)


def name_of(member: int) -> str:
    return f"m{member}"


@cache
def council_policy(members: int) -> Policy:
    """Return a policy with n council members, each with a key of their own, without roles."""
    return made.changed_policy(
        trust={
            "council": {
                "members": [made.trusted(name_of(i)) for i in range(members)],
                "required_roles": [],
                "veto_roles": [],
            }
        }
    )


@cache
def cast(
    members: int, who: int, choice: str, how: str = "", *, rival: bool = False
) -> tuple[bytes, ...]:
    """Return the envelopes of one member's vote on our move, or on the rival's, told in a way."""
    policy = council_policy(members)
    proposal = proposal_of(made.RELEASE_ID, policy, made.make_move())
    bound = made.make_binding(policy)
    if rival:
        proposal = dataclasses.replace(proposal, release_id=RIVAL)
        bound = dataclasses.replace(bound, release_id=RIVAL)
    changes = {
        "another move": {"from_level": "staging", "to_level": "canary"},
        "another policy": {"policy_digest": RIVAL},
        "another epoch": {"epoch": made.EPOCH + 1},
        "another model": {"model_name": "climate-other"},
    }.get(how, {})
    proposal = dataclasses.replace(proposal, **changes)
    bound = dataclasses.replace(
        bound, **{k: v for k, v in changes.items() if k in {"model_name", "policy_digest"}}
    )
    if how == "another number":
        bound = dataclasses.replace(bound, version=made.VERSION + 1)
    at = made.NOW + (DAY if how == "not yet valid" else -DAY)
    until = made.NOW if how == "expired" else at + 3 * DAY
    voter = name_of((who + 1) % members) if how == "for another member" else name_of(who)
    claims = build_vote_claims(proposal, voter, choice, "as I see it")
    if how == "stolen role":
        claims["roles"] = ["indigenous-representative"]
    signer = made.signer(name_of(who))
    first = sign_statement(build_statement("vote", bound, claims, at, until), signer)
    if how != "twice":
        return (first,)
    later = build_statement("vote", bound, claims, at + timedelta(hours=1), until)
    return first, sign_statement(later, signer)


def lie(members: int, who: int, how: str) -> tuple[bytes, ...]:
    """Return what one liar sends: always at both releases, so as to get both through."""
    words = {"abstains": "abstain", "escalates": "escalate", "denies": "deny", "vetoes": "veto"}
    if how == "silent":
        return ()
    if how == "equivocates":
        sent = [cast(members, who, c, rival=r) for c in ("approve", "deny") for r in (False, True)]
    else:
        sent = [cast(members, who, words.get(how, "approve"), how, rival=r) for r in (False, True)]
    return tuple(envelope for envelopes in sent for envelope in envelopes)


@cache
def read(members: int, envelope: bytes):
    return read_attestation(envelope, council_policy(members).trust, made.NOW)


def outcome(members: int, envelopes: tuple[bytes, ...], *, rival: bool = False):
    """Count as the gate does, for our release or for the rival's."""
    policy = council_policy(members)
    reports = tuple(read(members, envelope) for envelope in envelopes)
    evidence = made.make_evidence(policy, attestations=reports)
    if rival:
        evidence = dataclasses.replace(evidence, manifest=RIVAL_MANIFEST)
    counted = tally_of(evidence, policy, made.make_move())
    passed = votes(evidence, policy, made.make_move())[0].code == "QUORUM_REACHED"
    assert passed == (counted["outcome"] == "reached")
    return counted


SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.data_too_large]
)


@SETTINGS
@given(st.integers(1, 13), st.data())
def test_f_liars_never_make_two_contradicting_certificates(members, data):
    _, f = byzantine_quorum(members)
    sent: list[bytes] = []
    for liar in range(f):
        for how in data.draw(st.lists(st.sampled_from(LIES), min_size=1, max_size=3)):
            sent += lie(members, liar, how)
    for honest in range(f, members):
        # Who is honest approves one of the two at most, whatever the liars told them.
        sent += cast(members, honest, "approve", rival=data.draw(st.booleans()))
    sent = data.draw(st.permutations(sent))
    both = [outcome(members, tuple(sent), rival=rival)["outcome"] for rival in (False, True)]
    assert both.count("reached") <= 1


@SETTINGS
@given(st.integers(4, 13), st.data())
def test_f_liars_never_block_the_honest(members, data):
    _, f = byzantine_quorum(members)
    sent = [e for honest in range(f, members) for e in cast(members, honest, "approve")]
    for liar in range(f):
        for how in data.draw(st.lists(st.sampled_from(LIES), min_size=1, max_size=3)):
            sent += lie(members, liar, how)
    counted = outcome(members, tuple(data.draw(st.permutations(sent))))
    assert counted["outcome"] == "reached"
    assert {name_of(i) for i in range(f, members)} <= set(counted["approving"])


@pytest.mark.parametrize("how", LIES)
def test_what_one_liar_of_four_sends_is_worth_one_approval_at_most(how):
    sent = (*lie(4, 0, how), *cast(4, 1, "approve"), *cast(4, 2, "approve"))
    counted = outcome(4, sent)
    # Who approves the rival, too, or says the same twice, still approves ours once.
    approves = how in {"twice", "another release"}
    assert (counted["outcome"] == "reached") == approves
    assert set(counted["approving"]) == {"m1", "m2"} | ({"m0"} if approves else set())


def test_what_each_kind_of_silence_is_called():
    sent = tuple(e for who, how in enumerate(("abstains", "escalates")) for e in lie(4, who, how))
    counted = outcome(4, (*sent, *lie(4, 2, "equivocates")))
    assert (counted["abstaining"], counted["escalating"]) == (["m0"], ["m1"])
    assert (counted["equivocators"], counted["approving"]) == (["m2"], [])
    assert "'m1' asks for escalation" in counted["findings"]


def test_the_certificate_of_one_is_no_certificate_of_the_other():
    sent = tuple(e for who in range(4) for e in cast(4, who, "approve"))
    found = [outcome(4, sent, rival=rival)["outcome"] for rival in (False, True)]
    assert found == ["reached", "pending"]


def test_one_key_under_two_names_has_one_vote():
    members = [made.trusted(name_of(i)) for i in range(3)]
    members.append({**made.trusted("m0"), "name": "m3"})
    policy = made.changed_policy(
        trust={"council": {"members": members, "required_roles": [], "veto_roles": []}}
    )
    proposal = proposal_of(made.RELEASE_ID, policy, made.make_move())
    reports = []
    for who, voter in (("m0", "m0"), ("m0", "m3"), ("m1", "m1")):
        claims = build_vote_claims(proposal, voter, "approve", "as I see it")
        statement = build_statement("vote", made.make_binding(policy), claims, made.NOW)
        envelope = sign_statement(statement, made.signer(who))
        reports.append(read_attestation(envelope, policy.trust, made.NOW))
    evidence = made.make_evidence(policy, attestations=tuple(reports))
    counted = tally_of(evidence, policy, made.make_move())
    assert (counted["outcome"], counted["approving"]) == ("pending", ["m0", "m1"])


@pytest.mark.parametrize("members", [1, 2, 3])
def test_fewer_than_four_are_k_of_n_in_the_sentence_and_in_the_json_and_tolerate_nobody(members):
    policy = made.changed_policy(council_policy(members), trust={"council": {"threshold": members}})
    reports = tuple(made.make_vote(policy, name_of(i)) for i in range(members))
    for approving, code in ((members - 1, "QUORUM_PENDING"), (members, "QUORUM_REACHED")):
        evidence = made.make_evidence(policy, attestations=reports[:approving])
        (finding,) = votes(evidence, policy, made.make_move())
        assert finding.code == code
        assert finding.summary == f"votes {approving} of {members} (k-of-n)"
        counted = tally_of(evidence, policy, made.make_move())
        assert (counted["scheme"], counted["f"]) == ("k-of-n", 0)


def test_four_are_byzantine_fault_tolerant_in_the_json_and_the_detail():
    (finding,) = votes(made.make_evidence(), made.base_policy(), made.make_move())
    assert finding.summary == "votes 4 of 3"
    assert "byzantine-fault-tolerant" in finding.detail


@pytest.mark.parametrize("role", ["indigenous-representative", "sovereignty-authority"])
def test_the_roles_that_must_approve_are_those_that_the_policy_names(role):
    names = ("ada", "ben", "cas", "dee")
    policy = made.changed_policy(
        trust={
            "council": {
                "members": [made.trusted(n, roles=[role] if n == "dee" else []) for n in names],
                "required_roles": [role],
                "veto_roles": [role],
            }
        }
    )
    for approving, code in ((names[:3], "QUORUM_PENDING"), (names[1:], "QUORUM_REACHED")):
        reports = tuple(made.make_vote(policy, name) for name in approving)
        (finding,) = votes(
            made.make_evidence(policy, attestations=reports), policy, made.make_move()
        )
        assert finding.code == code
        assert (f"no approval of {role}" in finding.detail) == (code == "QUORUM_PENDING")
    vetoed = (*(made.make_vote(policy, n) for n in names), made.make_vote(policy, "dee", "veto"))
    (finding,) = votes(made.make_evidence(policy, attestations=vetoed), policy, made.make_move())
    assert finding.code == "VETOED"
