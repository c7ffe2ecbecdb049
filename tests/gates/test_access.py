"""Who asks: roles, separation of duties, broken glass."""

import math
from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.access import Asker, access, break_glass, may_attest
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.glass import BreakGlass, parse_break_glass
from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.models import Policy

ACCESS = {
    "unauthenticated": "loopback",
    "roles": {"operator": ["olga"], "trainer": ["tom"]},
    "may_move": {
        "down": ["operator", "authority"],
        "staging": ["trainer", "operator"],
        "canary": ["operator"],
        "production": ["operator"],
    },
    "may_attest": {"vote": ["council"], "validation": ["validator"]},
    "break_glass": {"roles": ["operator"], "max_hours": 8, "keep": ["prov"]},
}
GLASS = BreakGlass("the river is rising", "OPS-1", 4)


def policy_with(**sections):
    raw = made.base_policy().model_dump(mode="json", by_alias=True)
    return Policy.model_validate({**raw, "access": ACCESS, **sections})


POLICY = policy_with()
HERE = Asker(authenticated=False, local=True)
THERE = Asker(authenticated=False, local=False)
OPERATOR = Asker(authenticated=True, local=False, roles=("operator",), registered_it=False)
TRAINER = replace(OPERATOR, roles=("trainer",))


def codes(findings):
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("unauthenticated", "asker", "code"),
    [
        ("loopback", HERE, "ACCESS_LOOPBACK"),
        ("loopback", THERE, "UNAUTHENTICATED"),
        ("never", HERE, "UNAUTHENTICATED"),
        ("never", THERE, "UNAUTHENTICATED"),
    ],
)
def test_nobody_in_particular_is_answered_on_this_machine_at_most(unauthenticated, asker, code):
    policy = policy_with(access={**ACCESS, "unauthenticated": unauthenticated})
    assert codes(access(policy, made.make_move(), asker)) == [code]


@pytest.mark.parametrize(
    ("start", "end", "roles", "allowed"),
    [
        ("candidate", "staging", ("trainer",), True),
        ("staging", "canary", ("trainer",), False),
        ("staging", "canary", ("operator",), True),
        ("canary", "production", ("authority", "council", "trainer", "validator"), False),
        ("canary", "production", ("operator",), True),
        ("canary", "staging", ("trainer",), False),
        ("canary", "staging", ("authority",), True),
        ("production", "candidate", ("authority",), True),
        ("candidate", "staging", (), False),
    ],
)
def test_a_move_asks_for_one_of_its_roles(start, end, roles, allowed):
    move = made.make_move(from_level=Level(start), to_level=Level(end))
    found = access(POLICY, move, replace(OPERATOR, roles=roles))
    assert (worst(f.verdict for f in found) is Verdict.PASS) == allowed
    assert codes(found)[0] == ("ACCESS_ROLE" if allowed else "ROLE_MISSING")


@pytest.mark.parametrize(
    ("registered_it", "code", "verdict"),
    [
        (True, "OWN_RELEASE", Verdict.FAIL),
        (None, "REGISTRAR_UNKNOWN", Verdict.INCONCLUSIVE),
    ],
)
def test_nobody_moves_their_own_release_to_production(registered_it, code, verdict):
    asker = replace(OPERATOR, registered_it=registered_it)
    found = access(POLICY, made.make_move(), asker)
    assert codes(found) == ["ACCESS_ROLE", code]
    assert found[-1].verdict is verdict
    canary = made.make_move(from_level=Level.STAGING, to_level=Level.CANARY)
    assert codes(access(POLICY, canary, asker)) == ["ACCESS_ROLE"]


def test_a_rollback_may_bring_back_ones_own_release():
    move = made.make_move(from_level=Level.CANDIDATE, restores=True)
    assert codes(access(POLICY, move, replace(OPERATOR, registered_it=True))) == ["ACCESS_ROLE"]


def test_a_rollback_asks_for_the_roles_that_may_take_down():
    move = made.make_move(from_level=Level.CANDIDATE, restores=True)
    for role, code in (("authority", "ACCESS_ROLE"), ("trainer", "ROLE_MISSING")):
        assert codes(access(POLICY, move, replace(OPERATOR, roles=(role,)))) == [code]


@pytest.mark.parametrize(
    ("asker", "kind", "approves", "code"),
    [
        (replace(OPERATOR, roles=("council",)), "vote", True, "ACCESS_ROLE"),
        (replace(OPERATOR, roles=("council",), registered_it=True), "vote", True, "OWN_RELEASE"),
        (replace(OPERATOR, roles=("council",), registered_it=True), "vote", False, "ACCESS_ROLE"),
        (OPERATOR, "vote", True, "ROLE_MISSING"),
        (OPERATOR, "decision", True, "ROLE_MISSING"),
        (HERE, "vote", True, "ACCESS_LOOPBACK"),
        (THERE, "vote", True, "UNAUTHENTICATED"),
    ],
)
def test_a_statement_is_taken_from_who_has_the_role_and_not_in_favour_of_ones_own(
    asker, kind, approves, code
):
    assert may_attest(POLICY, asker, kind, approves=approves).code == code


@pytest.mark.parametrize(
    ("asker", "hours", "code"),
    [
        (OPERATOR, 8, "BREAK_GLASS"),
        (OPERATOR, 8.1, "BREAK_GLASS_TOO_LONG"),
        (TRAINER, 4, "BREAK_GLASS_ROLE"),
        (HERE, 4, "BREAK_GLASS_UNAUTHENTICATED"),
        (replace(HERE, roles=("operator",)), 4, "BREAK_GLASS_UNAUTHENTICATED"),
        (None, 4, "BREAK_GLASS_UNAUTHENTICATED"),
    ],
)
def test_breaking_the_glass_needs_a_login_a_role_and_a_limit(asker, hours, code):
    move = made.make_move(asker=asker, break_glass=replace(GLASS, hours=hours))
    assert codes(break_glass(POLICY, move)) == [code]


@pytest.mark.parametrize("hours", [0, -1, math.nan, math.inf, 168.1, 1e9])
def test_a_length_of_time_that_is_none_is_bad_input(hours):
    with pytest.raises(InputError, match=r"no length of time|more than any policy allows"):
        BreakGlass("why", "OPS-1", hours)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "now",
        {"reason": "a", "ticket": "b"},
        {"reason": "a", "ticket": "b", "hours": True},
        {"reason": "a", "ticket": "b", "hours": "4"},
        {"reason": " ", "ticket": "b", "hours": 4},
        {"reason": "a", "ticket": "", "hours": 4},
        {"reason": 1, "ticket": "b", "hours": 4},
        {"reason": "a", "ticket": "b", "hours": 4, "role": "operator"},
    ],
)
def test_a_request_to_break_the_glass_says_reason_ticket_and_hours_and_nothing_else(value):
    with pytest.raises(InputError):
        parse_break_glass(value)


def test_the_report_says_which_role_asked_and_never_who():
    report = evaluate(made.make_evidence(POLICY), POLICY, made.make_move(asker=OPERATOR))
    assert report.verdict is Verdict.PASS
    assert [gate.gate for gate in report.gates][:2] == ["path", "access"]
    elsewhere = made.make_move(asker=replace(OPERATOR, local=True))
    assert evaluate(made.make_evidence(POLICY), POLICY, elsewhere).digest == report.digest
    other = made.make_move(asker=replace(OPERATOR, roles=("authority", "operator")))
    assert evaluate(made.make_evidence(POLICY), POLICY, other).digest != report.digest
    assert "olga" not in repr(report.to_dict())


def test_who_may_not_move_is_refused_whatever_the_gates_say():
    report = evaluate(made.make_evidence(POLICY), POLICY, made.make_move(asker=TRAINER))
    assert [(gate, finding.code) for gate, finding in report.blocking] == [
        ("access", "ROLE_MISSING")
    ]


def test_a_key_that_signed_or_validated_does_not_approve_and_may_still_deny():
    members = made.base_policy().model_dump(mode="json", by_alias=True)["trust"]["council"]
    for maker in ("trainer", "validator"):
        trust = made.base_policy().model_dump(mode="json", by_alias=True)["trust"]
        trust["council"] = {
            **members,
            "members": [
                made.trusted(maker, roles=["indigenous-representative"]),
                *members["members"][1:],
            ],
        }
        policy = policy_with(trust=trust)
        others = made.PEOPLE[1:]
        basis = (made.make_validation(), made.make_canary(policy))
        votes = tuple(made.make_vote(policy, name) for name in others)
        own = made.make_vote(policy, maker)
        evidence = made.make_evidence(policy, attestations=(*basis, *votes, own))
        report = evaluate(evidence, policy, made.make_move())
        (finding,) = [f for gate, f in report.blocking if gate == "votes"]
        assert finding.code == "QUORUM_PENDING"
        assert "whose key signed or validated the release" in finding.detail
        assert maker not in report.votes["approving"]
        denied = made.make_vote(policy, maker, "deny")
        evidence = made.make_evidence(policy, attestations=(*basis, *votes, denied))
        assert made.ask("votes", evidence, policy)[1] == ["VETOED"]
