"""Exemptions and broken glass: what passes over a finding, what never does, what is left to see."""

from dataclasses import replace
from datetime import timedelta

import pytest
from gates import made_evidence as made
from gates.test_access import ACCESS, GLASS, OPERATOR, TRAINER
from gates.test_engine import FLAWS, flawed, heard, policies
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.findings import refusal_sentence
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.models import Policy

WAIVABLE = sorted(set(made.GATE_NAMES) - {"integrity", "signature", "care", "authority"})
NEVER = {"path", "access", "break_glass", "integrity", "signature", "care", "authority"}


def with_exemptions(policy, *gates, **changes):
    raw = policy.model_dump(mode="json", by_alias=True)
    fields = {
        "models": made.MODEL,
        "owner": "ada",
        "reason": "known and accepted",
        "expires_at": (made.NOW + timedelta(days=1)).isoformat(),
        **changes,
    }
    return Policy.model_validate(
        {**raw, "access": ACCESS, "exemptions": [{"gate": gate, **fields} for gate in gates]}
    )


POLICY = with_exemptions(made.base_policy())


def judged(policy, flaws=(), **move):
    return evaluate(flawed(policy, flaws), policy, made.make_move(**move))


def test_an_exempted_finding_passes_and_stays_in_the_report_with_owner_reason_and_end():
    policy = with_exemptions(POLICY, "telemetry")
    report = judged(policy, {"energy"})
    assert report.verdict is Verdict.PASS
    assert report.outcome == "allowed"
    assert report.blocking == ()
    (shown,) = [gate for gate in report.to_dict()["gates"] if gate["gate"] == "telemetry"]
    finding = next(f for f in shown["findings"] if "waiver" in f)
    assert (shown["verdict"], finding["verdict"]) == ("PASS", "FAIL")
    assert finding["waiver"] == {
        "by": "exemption",
        "owner": "ada",
        "reason": "known and accepted",
        "until": "2026-06-02T12:00:00.000000Z",
    }


def test_an_expired_exemption_refuses_as_if_there_were_none():
    lasting = with_exemptions(POLICY, "telemetry")
    expired = with_exemptions(POLICY, "telemetry", expires_at=made.NOW.isoformat())
    with_none, with_expired = judged(POLICY, {"energy"}), judged(expired, {"energy"})
    assert with_expired.gates == with_none.gates
    assert refusal_sentence(with_expired) == refusal_sentence(with_none)
    later = made.make_move(now=made.NOW + timedelta(days=1))
    assert evaluate(flawed(lasting, {"energy"}), lasting, later).gates[-1].verdict is Verdict.PASS
    assert "telemetry" in {
        gate for gate, _ in evaluate(flawed(lasting, {"energy"}), lasting, later).blocking
    }


def test_a_waived_finding_is_part_of_the_digest():
    evidence = flawed(POLICY, {"energy"})
    move = made.make_move(policy_digest=POLICY.digest)
    one, two = (
        evaluate(evidence, with_exemptions(POLICY, "telemetry", reason=why), move)
        for why in ("this", "that")
    )
    assert one.verdict is two.verdict is Verdict.PASS
    same_policy = replace(two, policy_digest=one.policy_digest)
    assert same_policy.digest != one.digest


def test_a_veto_is_not_exempted_with_the_votes():
    policy = with_exemptions(POLICY, "votes")
    evidence = made.make_evidence(policy)
    few = replace(evidence, attestations=evidence.attestations[:-2])
    assert evaluate(few, policy, made.make_move()).verdict is Verdict.PASS
    denied = (*evidence.attestations[:-4], made.make_vote(policy, "ada", "deny"))
    vetoed = evaluate(replace(evidence, attestations=denied), policy, made.make_move())
    assert [finding.code for _, finding in vetoed.blocking] == ["VETOED"]


def test_broken_glass_passes_over_what_is_left_and_says_so():
    report = judged(POLICY, {"energy", "no votes"}, asker=OPERATOR, break_glass=GLASS)
    assert report.verdict is Verdict.PASS
    assert report.outcome == "allowed-break-glass"
    assert {(gate, finding.waiver.by) for gate, finding in report.waived} == {
        ("telemetry", "break-glass"),
        ("votes", "break-glass"),
    }
    assert report.waived[0][1].waiver.owner == "operator"
    assert report.to_dict()["break_glass"] == {
        "reason": GLASS.reason,
        "ticket": GLASS.ticket,
        "hours": GLASS.hours,
    }


def test_broken_glass_that_was_not_needed_is_still_called_so():
    report = judged(POLICY, asker=OPERATOR, break_glass=GLASS)
    assert report.waived == ()
    assert report.outcome == "allowed-break-glass"


def test_who_may_not_break_the_glass_is_refused_even_what_would_have_passed():
    report = judged(POLICY, asker=replace(TRAINER, roles=("trainer",)), break_glass=GLASS)
    assert report.outcome == "refused"
    assert {"access", "break_glass"} == {gate for gate, _ in report.blocking}
    assert report.waived == ()


def test_a_gate_that_the_policy_keeps_is_not_passed_over():
    content = made.with_problem(made.make_content(), "prov:provenance/provenance.json", "wrong")
    evidence = made.make_evidence(POLICY, content=content)
    move = made.make_move(asker=OPERATOR, break_glass=GLASS)
    assert {gate for gate, _ in evaluate(evidence, POLICY, move).blocking} == {"prov"}


def test_a_warning_that_is_enforced_by_nobody_makes_the_outcome_warned():
    raw = made.changed_policy(gates={"telemetry": {"mode": "warn"}})
    report = judged(with_exemptions(raw), {"energy"})
    assert report.outcome == "warned"
    assert {gate for gate, _ in report.warnings} == {"telemetry"}
    assert judged(with_exemptions(raw)).outcome == "allowed"
    audited = made.changed_policy(gates={"telemetry": {"mode": "audit"}})
    assert judged(with_exemptions(audited), {"energy"}).outcome == "allowed"


_FLAWS = st.sets(st.sampled_from(sorted(FLAWS)), max_size=4)
_EXEMPT = st.lists(st.sampled_from(WAIVABLE), max_size=4, unique=True)
_GLASS = st.sampled_from([None, GLASS])


def allows(policy, flaws, glass):
    report = judged(policy, flaws, asker=OPERATOR, break_glass=glass)
    return report.verdict is Verdict.PASS


@settings(max_examples=40, deadline=None)
@given(policies(), _EXEMPT, _FLAWS, _GLASS, st.data())
def test_one_more_gate_widens_nothing_under_any_exemption_and_any_glass(
    policy, exempt, flaws, glass, data
):
    policy = with_exemptions(policy, *exempt)
    asked = policy.levels.production
    others = [name for name in made.GATE_NAMES if name not in asked]
    if not others:
        return
    more = (*asked, data.draw(st.sampled_from(others)))
    stricter = made.changed_policy(policy, levels={"production": heard(more)})
    assert allows(policy, flaws, glass) or not allows(stricter, flaws, glass)


@settings(max_examples=60, deadline=None)
@given(policies(), _EXEMPT, _FLAWS, _GLASS)
def test_only_a_named_waiver_lets_more_pass_and_never_bytes_signature_care_or_the_way(
    policy, exempt, flaws, glass
):
    plain = with_exemptions(policy)
    widened = with_exemptions(policy, *exempt)
    before = judged(plain, flaws, asker=OPERATOR)
    after = judged(widened, flaws, asker=OPERATOR, break_glass=glass)
    enforced = {gate: finding.code for gate, finding in before.blocking}
    kept = {gate for gate in enforced if gate in NEVER | {"prov"} - set(exempt)}
    assert kept <= {gate for gate, _ in after.blocking}
    for gate, finding in after.waived:
        assert gate not in NEVER
        assert finding.verdict is not Verdict.PASS
        assert finding.waiver.by == "break-glass" or gate in exempt
    if before.verdict is not Verdict.PASS and after.verdict is Verdict.PASS:
        assert after.waived


@settings(max_examples=40, deadline=None)
@given(policies(), _EXEMPT, _FLAWS, _GLASS, st.integers(0, 3600))
def test_asked_twice_within_the_hour_the_digest_is_the_same(policy, exempt, flaws, glass, seconds):
    """A dry run and the real move differ in their instant alone."""
    policy = with_exemptions(policy, *exempt)
    evidence = flawed(policy, flaws)
    one = made.make_move(asker=OPERATOR, break_glass=glass)
    two = replace(one, now=one.now + timedelta(seconds=seconds))
    assert evaluate(evidence, policy, one).digest == evaluate(evidence, policy, two).digest


@pytest.mark.parametrize("gate", WAIVABLE)
def test_a_gate_that_could_not_answer_is_neither_exempt_nor_passed_over(monkeypatch, gate):
    from kfm_mlflow.gates import engine

    def broken(evidence, policy, move):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(engine, "GATES", {**engine.GATES, gate: broken})
    report = judged(with_exemptions(POLICY, gate), asker=OPERATOR, break_glass=GLASS)
    assert {name for name, _ in report.blocking} == {gate}
