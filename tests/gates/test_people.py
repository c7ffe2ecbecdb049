"""The council's votes, and the release to go back to."""

from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.gates.people import tally_of
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.trust.statement import build_statement, sign_statement

POLICY = made.base_policy()


def ask_votes(*reports, policy=POLICY, move=None):
    return made.ask("votes", made.make_evidence(policy, attestations=reports), policy, move)


def approvals(*names, **options):
    return tuple(made.make_vote(POLICY, name, **options) for name in names)


# Four members, byzantine: three must approve, among them ada, who alone holds the required role.
@pytest.mark.parametrize(
    ("names", "verdict", "code"),
    [
        ((), "INCONCLUSIVE", "QUORUM_PENDING"),
        (("ada", "ben"), "INCONCLUSIVE", "QUORUM_PENDING"),
        (("ada", "ben", "cas"), "PASS", "QUORUM_REACHED"),
        (("ada", "ben", "cas", "dee"), "PASS", "QUORUM_REACHED"),
        (("ben", "cas", "dee"), "INCONCLUSIVE", "QUORUM_PENDING"),
        (("ada", "ada", "ada"), "INCONCLUSIVE", "QUORUM_PENDING"),
        (("ada", "ben", "zoe"), "INCONCLUSIVE", "QUORUM_PENDING"),
    ],
)
def test_the_quorum_is_reached_from_three_on(names, verdict, code):
    assert ask_votes(*approvals(*names)) == (verdict, [code])


@pytest.mark.parametrize("choice", ["deny", "veto"])
def test_the_holder_of_a_veto_role_stops_everything(choice):
    reports = (*approvals("ben", "cas", "dee"), made.make_vote(POLICY, "ada", choice))
    assert ask_votes(*reports) == ("FAIL", ["VETOED"])
    assert ask_votes(*approvals(*made.PEOPLE), made.make_vote(POLICY, "ada", choice))[0] == "FAIL"


def test_others_deny_without_stopping():
    reports = (*approvals("ada", "ben", "cas"), made.make_vote(POLICY, "dee", "veto"))
    assert ask_votes(*reports)[0] == "PASS"


@pytest.mark.parametrize(
    "move",
    [
        made.make_move(from_level=Level.STAGING, to_level=Level.CANARY),
        made.make_move(epoch=made.EPOCH + 1),
        made.make_move(model_name="climate-other"),
    ],
)
def test_votes_on_another_move_do_not_count(move):
    assert ask_votes(*approvals(*made.PEOPLE, move=move))[0] == "INCONCLUSIVE"


def test_nobody_votes_for_somebody_else():
    posing = tuple(made.make_vote(POLICY, "ada", voter=name) for name in ("ben", "cas"))
    assert ask_votes(*approvals("ada"), *posing) == ("INCONCLUSIVE", ["QUORUM_PENDING"])


def test_an_ignored_vote_is_reported():
    broken = replace(made.make_vote(POLICY, "dee"), ok=False, problems=("expired at noon",))
    (finding,) = (
        f
        for f in made.GATES["votes"](
            made.make_evidence(POLICY, attestations=(*approvals("ada"), broken)),
            POLICY,
            made.make_move(),
        )
    )
    assert "expired at noon" in finding.detail
    assert finding.summary == "votes 1 of 3"


def test_a_council_without_members_approves_nothing():
    policy = made.changed_policy(trust={"council": {"members": []}})
    reports = tuple(made.make_vote(policy, name) for name in made.PEOPLE)
    assert ask_votes(*reports, policy=policy)[0] != "PASS"


def test_the_tally_in_the_decision_is_the_one_that_the_gate_counted():
    evidence = made.make_evidence(POLICY, attestations=approvals("ada", "ben", "cas"))
    counted = tally_of(evidence, POLICY, made.make_move())
    assert counted["outcome"] == "reached"
    assert counted["approving"] == ["ada", "ben", "cas"]


@pytest.mark.parametrize(
    ("production", "changes", "verdict", "code"),
    [
        (2, {}, "PASS", "TARGET_VERIFIED"),
        (None, {"target_release_id": ""}, "PASS", "FIRST_RELEASE"),
        (made.VERSION, {"target_release_id": ""}, "PASS", "FIRST_RELEASE"),
        (2, {"target_release_id": ""}, "FAIL", "TARGET_UNKNOWN"),
        (2, {"target_problems": ("v2 has changed",)}, "FAIL", "TARGET_BROKEN"),
        (
            2,
            {"target_problems": ("v2 has changed",), "target_release_id": ""},
            "FAIL",
            "TARGET_BROKEN",
        ),
    ],
)
def test_rollback_target(production, changes, verdict, code):
    move = made.make_move(production=production)
    found = made.ask("rollback_target", made.make_evidence(**changes), move=move)
    assert found == (verdict, [code])


# -- a rollback that somebody must sign --------------------------------------------------------------

APPROVED = {"restored_version": made.VERSION, "replaced_version": 2, "epoch": made.EPOCH}
RESTORE = made.make_move(from_level=Level.CANDIDATE, restores=True)


def restored(claims, *, by="controller", approvers=("controllers",), bound=None):
    """Return (verdict, codes) of what a restore asks of its approval, read as it arrives."""
    policy = made.changed_policy(trust={"rollback_approvers": list(approvers)})
    reports = ()
    if claims is not None:
        binding = replace(made.make_binding(policy), **(bound or {}))
        statement = build_statement("rollback", binding, {**claims, "reason": "drift"}, made.NOW)
        envelope = sign_statement(statement, made.signer(by))
        reports = (read_attestation(envelope, policy.trust, made.NOW),)
    report = evaluate(made.make_evidence(policy, attestations=reports), policy, RESTORE)
    asked = [gate for gate in report.gates if gate.gate == "rollback_approval"]
    assert all(gate.mode == "enforce" for gate in asked)
    return [(str(gate.verdict), [f.code for f in gate.findings]) for gate in asked]


def test_a_rollback_that_nobody_must_sign_asks_nobody():
    assert restored(None, approvers=()) == []


@pytest.mark.parametrize(
    ("by", "approvers", "counts"),
    [
        ("controller", ["controllers"], True),
        ("controller", ["council"], False),
        ("ben", ["council"], True),
        ("ben", ["controllers"], False),
        ("ben", ["controllers", "council"], True),
        ("trainer", ["controllers", "council"], False),
        ("validator", ["controllers", "council"], False),
        ("mallory", ["controllers", "council"], False),
    ],
)
def test_a_rollback_is_signed_by_whom_the_policy_names(by, approvers, counts):
    ((verdict, codes),) = restored(APPROVED, by=by, approvers=approvers)
    assert (verdict == "PASS") == (codes == ["ROLLBACK_APPROVED"]) == counts
    assert restored(None, approvers=approvers) == [("INCONCLUSIVE", ["ROLLBACK_MISSING"])]


@pytest.mark.parametrize(
    "changed",
    [
        {"restored_version": 2},
        {"replaced_version": 1},
        {"replaced_version": None},
        {"epoch": made.EPOCH - 1},
        {"epoch": made.EPOCH + 1},
        {"epoch": True},
    ],
    ids=str,
)
def test_an_approval_of_another_rollback_brings_nothing_back(changed):
    assert restored({**APPROVED, **changed}) == [("FAIL", ["ROLLBACK_INVALID"])]


@pytest.mark.parametrize(
    "bound",
    [
        {"model_name": "climate-other"},
        {"release_version": "v9.9.9"},
        {"release_id": f"sha256:{'0' * 64}"},
        {"policy_digest": f"sha256:{'1' * 64}"},
        {"policy_digest": None},
        {"version": made.VERSION + 1},
    ],
    ids=str,
)
def test_an_approval_about_something_else_brings_nothing_back(bound):
    ((verdict, _),) = restored(APPROVED, bound=bound)
    assert verdict == "FAIL"
