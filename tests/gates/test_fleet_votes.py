"""How many approvals each step of a fleet's release asks for, and what counts as one."""

import pytest
from gates import made_evidence as made
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.certificates import terms_digest
from kfm_mlflow.gates.people import council_of, tally_of, votes
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.models import Policy
from kfm_mlflow.trust.quorum import Council, Member, Proposal, Vote, byzantine_quorum, tally

# Operation "deploy" of the fleet governance gate: training (here staging), canary, production.
DEPLOY = {"staging": 2, "canary": 2, "production": 3}
LEVELS = (Level.CANDIDATE, Level.STAGING, Level.CANARY, Level.PRODUCTION)


def fleet_policy(*, members=4, **council) -> Policy:
    raw = load_policies(None).policy("fleet").model_dump(mode="json", by_alias=True)
    raw["trust"]["signers"] = [made.trusted("trainer")]
    raw["trust"]["council"] |= {
        "members": [made.trusted(name_of(i)) for i in range(members)],
        **council,
    }
    return Policy.model_validate(raw)


def fleet_policy_of(members) -> Policy:
    raw = fleet_policy().model_dump(mode="json", by_alias=True)
    raw["trust"]["council"]["members"] = members
    return Policy.model_validate(raw)


def name_of(index):
    return f"m{index}"


def step_to(level):
    before = LEVELS[LEVELS.index(level) - 1]
    return made.make_move(from_level=before, to_level=level)


def ask(policy, move, reports):
    evidence = made.make_evidence(policy, attestations=reports)
    (finding,) = votes(evidence, policy, move)
    return finding, tally_of(evidence, policy, move)


def approvals(policy, move, count):
    return [made.make_vote(policy, name_of(i), move=move) for i in range(count)]


def test_the_packaged_policy_asks_what_the_table_says_at_every_level():
    policy = load_policies(None).policy("fleet")
    assert policy.trust.council.approvals.model_dump() == DEPLOY
    assert policy.trust.council.threshold == "byzantine"
    for level in LEVELS[1:]:
        assert {"votes", "validation", "metrics", "rollback_target"} <= set(
            policy.gate_names(level)
        )


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_the_larger_of_threshold_and_table_counts(level, threshold):
    policy = fleet_policy(threshold=threshold)
    needed = max(threshold, DEPLOY[level])
    move = step_to(level)
    for count in range(5):
        finding, counted = ask(policy, move, approvals(policy, move, count))
        assert counted["needed"] == needed
        assert (finding.code == "QUORUM_REACHED") == (count >= needed)
        if count < needed:
            assert finding.detail.startswith("quorum_not_met: ")


@given(
    members=st.integers(4, 12),
    approved=st.integers(0, 12),
    asked=st.integers(0, 14),
    level=st.sampled_from(LEVELS[1:]),
)
def test_a_table_never_lowers_a_byzantine_quorum(members, approved, asked, level):
    approved = min(approved, members)
    council = Council(
        tuple(Member(name_of(i)) for i in range(members)), approvals={str(level): asked}
    )
    plain = Council(council.members)
    proposal = Proposal("fleet", made.RELEASE_ID, "x", str(level), made.RELEASE_ID, 0)
    cast = [
        Vote(name_of(i), "approve", "r", made.NOW, None, proposal.digest) for i in range(approved)
    ]
    with_table = tally(cast, council, proposal, made.NOW)
    without = tally(cast, plain, proposal, made.NOW)
    assert with_table.needed == max(byzantine_quorum(members)[0], asked)
    assert without.reached or not with_table.reached
    assert with_table.reached == (approved >= with_table.needed and asked <= members)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_fewer_than_four_members_escalate_whatever_they_say(members):
    policy, move = fleet_policy(members=members), step_to(Level.STAGING)
    finding, counted = ask(policy, move, approvals(policy, move, members))
    assert finding.code == "COUNCIL_TOO_SMALL"
    assert finding.detail.startswith("insufficient_bft_fleet_size: ")
    assert "higher body" in finding.remedy
    assert counted["outcome"] == "pending"


def test_a_quorum_without_a_required_role_has_too_little_clearance():
    policy = fleet_policy(required_roles=["sovereignty-authority"])
    move = step_to(Level.CANARY)
    finding, _ = ask(policy, move, approvals(policy, move, 4))
    assert finding.code == "QUORUM_PENDING"
    assert finding.detail.startswith("insufficient_clearance: ")


@pytest.mark.parametrize("level", LEVELS[1:])
def test_an_equivocator_counts_for_nothing_at_every_level(level):
    policy, move = fleet_policy(), step_to(level)
    liar = [made.make_vote(policy, "m2", choice, move=move) for choice in ("approve", "abstain")]
    finding, counted = ask(policy, move, [*approvals(policy, move, 2), *liar])
    assert finding.code == "QUORUM_PENDING"
    assert counted["equivocators"] == ["m2"]
    finding, _ = ask(policy, move, [*liar, *approvals(policy, move, 2), vote_of(policy, 3, move)])
    assert finding.code == "QUORUM_REACHED"


def vote_of(policy, index, move):
    return made.make_vote(policy, name_of(index), move=move)


def test_votes_on_one_step_count_for_no_other():
    policy = fleet_policy()
    cast = approvals(policy, step_to(Level.STAGING), 4)
    for level in (Level.CANARY, Level.PRODUCTION):
        assert ask(policy, step_to(level), cast)[0].code == "QUORUM_PENDING"


@pytest.mark.parametrize("twin", ["M0", " m0", "m0 ", "\uff4d\uff10"])
def test_one_name_written_twice_is_no_second_voter(twin):
    members = [made.trusted("m0"), {**made.trusted("m1"), "name": twin}]
    with pytest.raises(ValueError, match="a name appears twice"):
        fleet_policy_of(members)
    with pytest.raises(InputError, match="named twice"):
        Council((Member("m0"), Member(twin)))


def test_a_name_in_another_case_is_not_the_members_own():
    policy, move = fleet_policy(), step_to(Level.STAGING)
    posing = made.make_vote(policy, "m2", voter="M2", move=move)
    finding, counted = ask(policy, move, [*approvals(policy, move, 2), posing])
    assert (finding.code, counted["approving"]) == ("QUORUM_PENDING", ["m0", "m1"])


def test_a_table_that_nobody_can_fill_refuses_and_lint_says_so():
    policy = fleet_policy(approvals={**DEPLOY, "production": 5})
    move = step_to(Level.PRODUCTION)
    finding, _ = ask(policy, move, approvals(policy, move, 4))
    assert finding.code == "QUORUM_PENDING"
    assert "5 approvals are asked of 4 members" in finding.detail
    assert any("approvals.production is 5 of 4" in note for note in lint_policy(policy, made.NOW))
    climate = made.changed_policy(
        levels={"staging": ["integrity"]}, trust={"council": {"approvals": {"staging": 1}}}
    )
    assert any("does not ask gate votes" in note for note in lint_policy(climate, made.NOW))


def test_the_table_says_nothing_of_checkpoints():
    base = made.base_policy()
    asked = made.changed_policy(base, trust={"council": {"approvals": {"production": 4}}})
    assert council_of(asked).approvals["production"] == 4
    assert terms_digest(asked) == terms_digest(base)
