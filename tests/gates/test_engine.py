"""The engine: nothing stops it, nothing slips by it, and asking for more only refuses more."""

from dataclasses import replace
from datetime import timedelta

import pytest
from gates import made_evidence as made
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kfm_mlflow.care.screen import CareFinding, Check, Status
from kfm_mlflow.errors import RefusedError
from kfm_mlflow.gates import engine
from kfm_mlflow.gates.engine import GATES, RESTORE_GATES, enforce, evaluate
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level

POLICY = made.base_policy()


def verdict_of(policy=POLICY, *, move=None, **changes):
    return evaluate(made.make_evidence(policy, **changes), policy, move or made.make_move()).verdict


def codes_of(report):
    return {finding.code for _, finding in report.blocking}


def with_levels(*gates, policy=POLICY):
    """Return a policy whose levels ask these gates, even ones that no valid policy could name."""
    levels = policy.levels.model_copy(
        update=dict.fromkeys(("staging", "canary", "production"), gates)
    )
    return policy.model_copy(update={"levels": levels})


def test_good_evidence_is_allowed_and_every_gate_answers():
    report = evaluate(made.make_evidence(), POLICY, made.make_move())
    assert report.verdict is Verdict.PASS
    assert [result.gate for result in report.gates] == ["path", *made.GATE_NAMES]
    assert all(result.findings for result in report.gates)
    enforce(report)


@pytest.mark.parametrize("gate", made.GATE_NAMES)
def test_a_gate_that_raises_is_an_error_and_the_others_still_answer(monkeypatch, gate):
    def broken(evidence, policy, move):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(engine, "GATES", {**GATES, gate: broken})
    report = evaluate(made.make_evidence(), POLICY, made.make_move())
    assert report.verdict is Verdict.ERROR
    assert codes_of(report) == {"GATE_ERROR"}
    assert "ZeroDivisionError: on purpose" in report.blocking[0][1].detail
    assert len(report.gates) == len(GATES) + 1


def test_a_council_that_cannot_be_counted_is_an_error_too():
    council = POLICY.trust.council
    twice = council.model_copy(update={"members": council.members[:1] * 2})
    policy = POLICY.model_copy(update={"trust": POLICY.trust.model_copy(update={"council": twice})})
    report = evaluate(made.make_evidence(), policy, made.make_move())
    assert "GATE_ERROR" in codes_of(report)
    assert report.votes == {}


def test_a_gate_that_finds_nothing_does_not_pass(monkeypatch):
    monkeypatch.setattr(engine, "GATES", {**GATES, "stac": lambda *_: []})
    assert verdict_of() is Verdict.INCONCLUSIVE


def test_an_unknown_gate_is_an_error():
    report = evaluate(made.make_evidence(), with_levels("integrity", "moon"), made.make_move())
    assert report.verdict is Verdict.ERROR
    assert codes_of(report) == {"GATE_UNKNOWN"}


@pytest.mark.parametrize("gate", made.GATE_NAMES)
def test_a_gate_that_is_not_configured_is_an_error(gate):
    gates = POLICY.gates.model_copy(update={gate: None})
    policy = with_levels("integrity", gate, policy=POLICY.model_copy(update={"gates": gates}))
    report = evaluate(made.make_evidence(), policy, made.make_move())
    assert report.verdict is Verdict.ERROR
    assert codes_of(report) == {"GATE_NOT_CONFIGURED"}


@pytest.mark.parametrize("level", ["staging", "canary", "production"])
def test_no_policy_has_a_level_without_gates_or_with_an_unknown_one(level):
    for gates in ([], ["moon"], ["care", "care"]):
        with pytest.raises(ValidationError):
            made.changed_policy(levels={level: gates})


def test_a_level_without_gates_would_be_inconclusive():
    report = evaluate(made.make_evidence(), with_levels(), made.make_move())
    assert report.verdict is Verdict.INCONCLUSIVE
    with pytest.raises(RefusedError, match="no gate passed"):
        enforce(report)


_PAIRS = [(a, b) for a in Level for b in Level if b is not Level.CANDIDATE]


@pytest.mark.parametrize(("start", "end"), _PAIRS)
def test_no_level_is_skipped(start, end):
    report = evaluate(
        made.make_evidence(),
        with_levels("integrity"),
        made.make_move(from_level=start, to_level=end),
    )
    if end.rank == start.rank + 1:
        assert report.verdict is Verdict.PASS
    else:
        assert codes_of(report) == {"LEVEL_SKIPPED"}


def test_every_step_of_the_way_is_refused_without_evidence():
    for start, end in zip(list(Level)[:-1], list(Level)[1:], strict=True):
        move = made.make_move(from_level=start, to_level=end, production=2)
        report = evaluate(made.nothing(), POLICY, move)
        assert report.verdict is Verdict.FAIL
        assert {gate for gate, _ in report.blocking} == set(GATES)


def test_a_restore_asks_for_bytes_signature_and_care_only():
    move = made.make_move(from_level=Level.CANDIDATE, restores=True)
    evidence = made.make_evidence(attestations=())
    report = evaluate(evidence, POLICY, move)
    assert report.verdict is Verdict.PASS
    assert {result.gate for result in report.gates} == {"path", *RESTORE_GATES}
    for broken in ({"signature": None}, {"screening": None}, {"recorded_release_id": "other"}):
        assert evaluate(replace(evidence, **broken), POLICY, move).verdict is not Verdict.PASS


def test_a_restore_of_what_nothing_can_vouch_for_is_refused():
    move = made.make_move(restores=True)
    report = evaluate(made.make_evidence(), with_levels("votes"), move)
    assert report.verdict is Verdict.INCONCLUSIVE


def test_a_restore_leads_to_production_only():
    move = made.make_move(from_level=Level.CANDIDATE, to_level=Level.CANARY, restores=True)
    assert codes_of(evaluate(made.make_evidence(), POLICY, move)) == {"LEVEL_SKIPPED"}


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_warn_and_audit_do_not_block_and_are_reported(mode):
    policy = made.changed_policy(gates={"signature": {"mode": mode}})
    report = evaluate(made.make_evidence(policy, signature=None), policy, made.make_move())
    assert report.verdict is Verdict.PASS
    assert report.blocking == ()
    (shown,) = [gate for gate in report.to_dict()["gates"] if gate["gate"] == "signature"]
    assert (shown["mode"], shown["verdict"]) == (mode, "FAIL")
    assert shown["findings"][0]["code"] == "SIGNATURE_MISSING"


def test_enforce_raises_with_the_report():
    report = evaluate(made.make_evidence(signature=None), POLICY, made.make_move())
    with pytest.raises(RefusedError, match="signature missing") as caught:
        enforce(report)
    assert caught.value.report is report


FOUND = CareFinding(Status.CONFLICT, "x")
FLAWS = {
    "unsigned": {"signature": None},
    "changed": {"recorded_release_id": "sha256:other"},
    "unscreened": {"screening": None},
    "conflict": {"screening": made.make_screening(Check("masking", Status.CONFLICT, (FOUND,)))},
    "no target": {"target_release_id": ""},
    "broken target": {"target_problems": ("v2 has changed",)},
    "no attestations": {"attestations": ()},
    "no provenance": {"attestations": "validation canary votes"},
    "no validation": {"attestations": "signer canary votes"},
    "no canary": {"attestations": "signer validation votes"},
    "no votes": {"attestations": "signer validation canary"},
    "energy": {"content": made.make_content(telemetry=made.telemetry_document(energy_wh=99.0))},
    "unstable": {"content": made.make_content(xai=made.xai_document(stability=0.1))},
    "no stac": {"content": made.without_document(made.make_content(), "stac/model-item.json")},
    "no files": {"manifest": made.make_manifest("a.txt")},
}


def flawed(policy, names):
    changes = {}
    for name in sorted(names):
        changes.update(FLAWS[name])
    kinds = changes.pop("attestations", None)
    evidence = made.make_evidence(policy, **changes)
    if kinds is None:
        return evidence
    words = {"validation": "validation", "canary-verdict": "canary", "vote": "votes"}
    kept = tuple(r for r in evidence.attestations if words.get(r.kind, "signer") in kinds)
    return replace(evidence, attestations=kept)


_LENIENT = [name for name in made.GATE_NAMES if name not in {"care", "authority"}]
"""Gates that may do otherwise than enforce."""


def heard(gates):
    """Return gates of a level with ``authority`` where ``care`` is asked, as a policy must."""
    return [*gates, "authority"] if "care" in gates and "authority" not in gates else gates


@st.composite
def policies(draw):
    gates = draw(st.lists(st.sampled_from(made.GATE_NAMES), min_size=1, unique=True))
    modes = {
        name: {"mode": draw(st.sampled_from(["enforce", "warn", "audit"]))} for name in _LENIENT
    }
    return made.changed_policy(gates=modes, levels={"production": heard(gates)})


_FLAWS = st.sets(st.sampled_from(sorted(FLAWS)), max_size=3)


def allows(policy, names):
    # Evidence is made again under each policy: votes and verdicts always name the right one.
    return evaluate(flawed(policy, names), policy, made.make_move()).verdict is Verdict.PASS


@settings(max_examples=40, deadline=None)
@given(policies(), _FLAWS, st.data())
def test_one_more_gate_never_turns_a_refusal_into_an_allowance(policy, flaws, data):
    asked = policy.levels.production
    others = [name for name in made.GATE_NAMES if name not in asked]
    if not others:
        return
    more = list(asked)
    more.insert(data.draw(st.integers(0, len(asked))), data.draw(st.sampled_from(others)))
    stricter = made.changed_policy(policy, levels={"production": heard(more)})
    assert allows(policy, flaws) or not allows(stricter, flaws)


@settings(max_examples=40, deadline=None)
@given(policies(), _FLAWS, st.sampled_from(_LENIENT))
def test_enforcing_what_was_a_warning_never_allows_more(policy, flaws, gate):
    stricter = made.changed_policy(policy, gates={gate: {"mode": "enforce"}})
    assert allows(policy, flaws) or not allows(stricter, flaws)


@pytest.mark.parametrize("flaw", sorted(FLAWS))
def test_every_single_flaw_refuses(flaw):
    assert not allows(POLICY, {flaw})


@settings(max_examples=25, deadline=None)
@given(_FLAWS, st.randoms())
def test_the_order_of_attestations_does_not_matter(flaws, random):
    evidence = flawed(POLICY, flaws)
    extra = (
        made.make_validation(at=made.NOW - timedelta(seconds=60)),
        replace(made.make_vote(POLICY, "dee", "deny"), ok=False, problems=("expired",)),
        made.make_vote(POLICY, "cas", "abstain"),
    )
    before = replace(evidence, attestations=(*evidence.attestations, *extra))
    shuffled = list(before.attestations)
    random.shuffle(shuffled)
    after = replace(before, attestations=tuple(shuffled))
    one, two = (evaluate(found, POLICY, made.make_move()) for found in (before, after))
    assert one.verdict is two.verdict
    assert codes_of(one) == codes_of(two)
    assert one.votes == two.votes


def test_the_digest_does_not_know_what_time_it_is():
    evidence = made.make_evidence()
    soon = made.make_move(now=made.NOW + timedelta(minutes=5))
    one, two = (evaluate(evidence, POLICY, move) for move in (made.make_move(), soon))
    assert one.digest == two.digest


def _reports_that_differ():
    evidence, move = made.make_evidence(), made.make_move()
    yield "model", evidence, POLICY, replace(move, model_name="climate-other")
    yield "version", evidence, POLICY, replace(move, version=4)
    yield "from", evidence, POLICY, replace(move, from_level=Level.STAGING)
    yield "to", evidence, POLICY, replace(move, to_level=Level.STAGING)
    yield "epoch", evidence, POLICY, replace(move, epoch=2)
    yield "restore", evidence, POLICY, replace(move, restores=True)
    yield "limit", evidence, made.changed_policy(gates={"xai": {"min_stability": 0.7}}), move
    yield "mode", evidence, made.changed_policy(gates={"xai": {"mode": "warn"}}), move
    yield "bytes", replace(evidence, manifest=made.make_manifest("MLmodel")), POLICY, move
    yield "signature", replace(evidence, signature=None), POLICY, move
    yield "attestation", replace(evidence, attestations=evidence.attestations[:-1]), POLICY, move
    yield "envelope", replace(evidence, envelope_digests=("sha256:x",)), POLICY, move
    yield "target", replace(evidence, target_release_id="sha256:y"), POLICY, move
    texts = made.with_problem(made.make_content(), "texts", "a.txt: is not UTF-8")
    yield "content", replace(evidence, content=texts), POLICY, move


def test_the_digest_changes_with_everything_that_decides():
    found = {"good": evaluate(made.make_evidence(), POLICY, made.make_move()).digest}
    for name, evidence, policy, move in _reports_that_differ():
        found[name] = evaluate(evidence, policy, move).digest
    assert len(set(found.values())) == len(found), found
