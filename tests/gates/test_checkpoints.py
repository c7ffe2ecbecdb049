"""A release is made from complete checkpoints, of which a quorum certified the last, in limits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from gates import made_checkpoints
from gates import made_evidence as made

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.certificates import (
    Candidate,
    build_certificate,
    certificate_problems,
    count_votes,
)

DIGEST = f"sha256:{'c' * 64}"
CANDIDATE = Candidate("tiny_transformer", "v1.2.0", "checkpoint_003_final", DIGEST)
HOUR = timedelta(hours=1)


def votes(*names, policy=None, candidate=CANDIDATE, at=made.NOW, **more):
    signers = [made.signer(name) for name in names]
    return made_checkpoints.make_votes(candidate, policy or made.base_policy(), signers, at, **more)


def certificate(*names, policy=None, **more):
    policy = policy or made.base_policy()
    return build_certificate(votes(*names, policy=policy, **more), CANDIDATE, policy, made.NOW,
                             auditor="@auditor")  # fmt: skip


def ask(documents):
    return made.ask("checkpoints", made.make_evidence(content=made.make_content(**documents)))


def test_three_of_four_with_the_required_role_are_a_certificate():
    made_one = certificate("ada", "ben", "cas")
    assert made_one["checksum_sha256"] == DIGEST
    assert made_one["record"] == {
        "ledger_id": "ledger_2026q2_tiny_transformer_checkpoints",
        "auditor": "@auditor",
        "reviewed_by": "ada, ben, cas",
        "status": "approved",
        "timestamp": "2026-06-01T12:00:00Z",
    }
    assert certificate_problems(made_one, CANDIDATE, made.base_policy(), made.NOW) == ()


@pytest.mark.parametrize(
    ("names", "why"),
    [(("ada", "ben"), "2 of 3 approvals"), (("ben", "cas", "dee"), "no approval of indigenous")],
)
def test_too_few_or_without_the_required_role_is_none(names, why):
    with pytest.raises(EvidenceError, match=why):
        certificate(*names)


def test_one_veto_of_a_veto_role_stops_it():
    cast = [*votes("ben", "cas", "dee"), *votes("ada", choice="veto")]
    with pytest.raises(EvidenceError, match="vetoed by ada"):
        build_certificate(cast, CANDIDATE, made.base_policy(), made.NOW, auditor="@auditor")


def test_a_vote_needs_a_members_key():
    with pytest.raises(InputError, match="no member"):
        votes("trainer")


def test_votes_on_other_bytes_count_for_nothing():
    other = Candidate(CANDIDATE.model_id, CANDIDATE.version, CANDIDATE.checkpoint_id,
                      f"sha256:{'d' * 64}")  # fmt: skip
    counted, ignored = count_votes(
        votes(*made.PEOPLE, candidate=other), CANDIDATE, made.base_policy(), made.NOW
    )
    assert not counted.reached
    assert len(ignored) == len(made.PEOPLE)


def test_a_certificate_outlives_its_votes_but_not_the_terms():
    policy = made.base_policy()
    made_one = certificate("ada", "ben", "cas", expires_at=made.NOW + HOUR)
    later = made.NOW + 1000 * HOUR
    assert certificate_problems(made_one, CANDIDATE, policy, later) == ()
    stricter = made.changed_policy(gates={"checkpoints": {"min_faircare_score": 99.5}})
    assert "other limits" in certificate_problems(made_one, CANDIDATE, stricter, later)[0]
    other_gate = made.changed_policy(gates={"telemetry": {"max_energy_wh": 11}})
    assert certificate_problems(made_one, CANDIDATE, other_gate, later) == ()


def test_a_vote_that_ran_out_before_the_last_was_cast_does_not_count():
    early = votes("ada", expires_at=made.NOW + HOUR)
    late = votes("ben", "cas", at=made.NOW + 2 * HOUR)
    forged = {**certificate(*made.PEOPLE), "votes": []}
    from kfm_mlflow.canonical import parse_json

    forged["votes"] = [parse_json(vote, where="vote") for vote in (*early, *late)]
    problems = certificate_problems(forged, CANDIDATE, made.base_policy(), made.NOW + 3 * HOUR)
    assert problems[0] == "2 of 3 approvals"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"checksum_sha256": f"sha256:{'d' * 64}"}, "another checkpoint"),
        ({"terms_digest": f"sha256:{'d' * 64}"}, "another council"),
        ({"votes": []}, "no votes"),
        ({"votes": [{"payload": "x"}]}, "signed by a member"),
    ],
)
def test_a_forged_certificate_does_not_hold(change, why):
    forged = {**certificate(*made.PEOPLE), **change}
    problems = certificate_problems(forged, CANDIDATE, made.base_policy(), made.NOW)
    assert why in problems[0]


def test_what_a_certificate_says_of_its_count_is_not_believed():
    honest = certificate("ada", "ben", "cas")
    forged = {**honest, "votes": honest["votes"][:2]}
    assert forged["tally"]["outcome"] == "reached"
    assert certificate_problems(forged, CANDIDATE, made.base_policy(), made.NOW)


# -- the gate --------------------------------------------------------------------------------------


LIMITS = [
    ("energy_wh", 4500.0, 4500.1),
    ("carbon_gco2e", 1800.0, 1800.1),
    ("faircare_score", 95.0, 94.9),
    ("bias_index", 0.1, 0.11),
    ("auc", 0.7, 0.69),
]


@pytest.mark.parametrize(("name", "inside", "outside"), LIMITS)
def test_each_limit_holds_on_both_sides(name, inside, outside):
    verdict, codes = ask({"checkpoints": made.checkpoint_documents(**{name: inside})})
    assert (verdict, set(codes)) == ("PASS", {"CHECKPOINT_CERTIFIED", "CHECKPOINT_WITHIN"})
    verdict, codes = ask({"checkpoints": made.checkpoint_documents(**{name: outside})})
    assert verdict == "FAIL"
    assert codes.count("CHECKPOINT_OUTSIDE") == 1


def test_one_ethics_violation_refuses():
    found = ask({"checkpoints": made.checkpoint_documents(violations=["restricted rows"])})
    assert found[0] == "FAIL"
    assert "CHECKPOINT_OUTSIDE" in found[1]


def _without(name):
    def change(documents):
        del documents[f"checkpoints/{name}"]

    return change


def _unapproved(documents):
    path = "checkpoints/checkpoints_manifest.json"
    documents[path] = {**documents[path], "approved": False}


BROKEN = {
    "no certificate": (_without("quorum_certificate.json"), "CHECKPOINT_NOT_CERTIFIED"),
    "no manifest": (
        _without("checkpoints_manifest.json"),
        "CHECKPOINTS_MANIFEST_MISSING",
    ),
    "no metrics": (_without("checkpoint_metrics.json"), "CHECKPOINTS_DOCUMENT_MISSING"),
    "not approved": (_unapproved, "CHECKPOINT_NOT_CERTIFIED"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_never_passes(name):
    change, code = BROKEN[name]
    documents = made.checkpoint_documents()
    change(documents)
    verdict, codes = ask({"checkpoints": documents})
    assert verdict != "PASS"
    assert code in codes


def test_other_bytes_under_a_certified_name_are_refused():
    evidence = made.make_evidence()
    last = f"checkpoints/{made_checkpoints.IDS[-1]}.pt"
    files = tuple(
        entry.__class__(entry.path, entry.size_bytes, DIGEST) if entry.path == last else entry
        for entry in evidence.manifest.files
    )
    changed = made.make_evidence(manifest=evidence.manifest.__class__(files))
    verdict, codes = made.ask("checkpoints", changed)
    assert verdict == "FAIL"
    assert "CHECKPOINTS_CHECKSUM_WRONG" in codes
