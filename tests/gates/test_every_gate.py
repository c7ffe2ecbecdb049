"""What holds for all gates alike."""

from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.content import Document, ReleaseContent
from kfm_mlflow.gates.engine import GATES
from kfm_mlflow.policy.models import LIMIT_GATES, GatesPolicy


def test_every_gate_that_a_policy_can_name_exists():
    assert set(GATES) == set(GatesPolicy.model_fields)


@pytest.mark.parametrize("gate", made.GATE_NAMES)
def test_good_evidence_passes(gate):
    verdict, codes = made.ask(gate, made.make_evidence())
    assert verdict == "PASS"
    assert codes


@pytest.mark.parametrize("gate", made.GATE_NAMES)
def test_no_evidence_never_passes(gate):
    verdict, codes = made.ask(gate, made.nothing())
    assert verdict != "PASS"
    assert codes


_FOREIGN = [None, True, 3, "text", [], [1, "x"], {}, {"care": 1, "metrics": [], "properties": 5}]


@pytest.mark.parametrize("gate", sorted({"completeness", "stac", "telemetry", "xai"}))
@pytest.mark.parametrize("value", _FOREIGN, ids=repr)
def test_documents_of_a_foreign_shape_are_findings_and_not_exceptions(gate, value):
    content = made.make_content()
    paths = ("telemetry/training.json", "xai/summary.json")
    foreign = ReleaseContent(
        {path: Document(value) if path in paths else d for path, d in content.documents.items()},
        {},
        content.problems,
    )
    verdict, _ = made.ask(gate, made.make_evidence(content=foreign))
    assert verdict == ("PASS" if gate == "stac" else "FAIL")


@pytest.mark.parametrize("gate", ["validation", *LIMIT_GATES, "drift", "canary", "votes"])
@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"drift": 5},
        {"drift": {"inputs": []}},
        {"metrics": 5},
        {"metrics": [0.1]},
        {"determinism": "yes", "epoch": "1"},
    ],
    ids=repr,
)
def test_claims_of_a_foreign_shape_are_findings_and_not_exceptions(gate, claims):
    kind, by = {
        "validation": ("validation", "validator"),
        **dict.fromkeys(LIMIT_GATES, ("validation", "validator")),
        "drift": ("validation", "validator"),
        "canary": ("canary-verdict", "controller"),
        "votes": ("vote", "ada"),
    }[gate]
    report = made.attest(kind, claims, made.make_binding(made.base_policy()), by)
    assert made.ask(gate, made.make_evidence(attestations=(report,)))[0] != "PASS"


@pytest.mark.parametrize("gate", ["validation", *LIMIT_GATES, "drift", "canary", "votes"])
def test_an_envelope_that_did_not_verify_counts_for_nothing(gate):
    broken = tuple(
        replace(report, ok=False, problems=("signature does not verify",))
        for report in made.make_evidence().attestations
    )
    assert made.ask(gate, made.make_evidence(attestations=broken))[0] != "PASS"


OTHER = {
    "model": {"model_name": "climate-other"},
    "release version": {"release_version": "v9.9.9"},
    "release id": {"release_id": f"sha256:{'0' * 64}"},
    "version": {"version": made.VERSION + 1},
}


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("gate", ["validation", *LIMIT_GATES, "drift", "canary", "votes"])
def test_an_attestation_of_something_else_is_refused(gate, field):
    policy = made.base_policy()
    binding = made.make_binding(policy, **OTHER[field])
    attestations = (
        made.make_validation(binding=binding),
        made.make_canary(policy, binding=binding),
        *(made.make_vote(policy, name, binding=binding) for name in made.PEOPLE),
    )
    assert made.ask(gate, made.make_evidence(attestations=attestations))[0] != "PASS"


@pytest.mark.parametrize("gate", ["canary", "votes"])
@pytest.mark.parametrize("digest", [None, f"sha256:{'1' * 64}"])
def test_an_attestation_under_another_policy_is_refused(gate, digest):
    policy = made.base_policy()
    binding = made.make_binding(policy, policy_digest=digest)
    attestations = (
        made.make_canary(policy, binding=binding),
        *(made.make_vote(policy, name, binding=binding) for name in made.PEOPLE),
    )
    assert made.ask(gate, made.make_evidence(attestations=attestations))[0] != "PASS"


@pytest.mark.parametrize("gate", ["canary", "votes"])
@pytest.mark.parametrize("epoch", [made.EPOCH - 1, made.EPOCH + 1])
def test_an_attestation_of_another_epoch_is_refused(gate, epoch):
    assert made.ask(gate, made.make_evidence(), move=made.make_move(epoch=epoch))[0] != "PASS"
