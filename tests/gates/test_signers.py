"""The signature gate under policies that name certificates and identities, from file to finding."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import yaml
from gates import made_evidence as made
from trust.made_pki import SUBJECT, Pki
from trust.made_sigstore import Instance

from kfm_mlflow.errors import PolicyError
from kfm_mlflow.gates.evidence import EvidenceReader, trusted_signers
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policy
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.trust.signing import sign_release_with_certificate, sign_release_with_sigstore

WORKFLOW = "https://ci.kfm.test/release"


@pytest.fixture(scope="module")
def instance():
    with Instance() as found:
        yield found


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"), made.NOW)


@pytest.fixture
def bundle(tmp_path):
    found = bundle_at(tmp_path / "release")
    found.release_dir.mkdir()
    (found.release_dir / "MLmodel").write_text("flavors: {}\n")
    (found.release_dir / "model_metadata.json").write_text(json.dumps({"model_name": made.MODEL}))
    found.evidence_dir.mkdir()
    return found


@pytest.fixture
def load(tmp_path, pki, instance):
    """Write a policy file with this trust section and read it."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "root.pem").write_text(pki.root.text)
    (tmp_path / "keys" / "sigstore.json").write_text(instance.trust_config())

    def run(**trust):
        path = tmp_path / "climate.yaml"
        raw = {"schema_version": "1", "extends": "climate", "trust": trust}
        path.write_text(yaml.safe_dump(raw))
        return load_policy(path)

    return run


def _certificate(**changes):
    return {"name": "bot", "roots_file": "keys/root.pem", "subject": SUBJECT, **changes}


def _identity(instance, **changes):
    entry = {"name": "ci", "identity": WORKFLOW, "issuer": instance.url}
    return {**entry, "trust_config_file": "keys/sigstore.json", **changes}


def _gate(bundle, policy):
    report = EvidenceReader().read(bundle, policy, now=made.NOW).signature
    verdict, codes = made.ask("signature", made.make_evidence(signature=report))
    return verdict, codes, report.problems


def _sign(bundle, pki):
    sign_release_with_certificate(
        bundle.release_dir,
        bundle.signature_path,
        pki.leaf.key_path,
        certificate_path=pki.leaf.pem,
        chain_paths=[pki.middle.pem],
        now=made.NOW,
    )


def test_a_certificate_signature_passes_under_a_policy_that_names_its_root(bundle, load, pki):
    _sign(bundle, pki)
    policy = load(certificate_signers=[_certificate()])
    assert _gate(bundle, policy) == ("PASS", ["SIGNATURE_VALID"], ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": "CN=other"}, "is not 'CN=other'"),
        ({"revoked_at": made.NOW + timedelta(days=1)}, "was revoked"),
        ({"not_after": made.NOW - timedelta(days=1)}, "expired"),
        ({"not_before": made.NOW + timedelta(days=1)}, "is not valid before"),
    ],
)
def test_a_certificate_that_the_policy_does_not_mean_is_refused(bundle, load, pki, changes, reason):
    _sign(bundle, pki)
    verdict, codes, problems = _gate(bundle, load(certificate_signers=[_certificate(**changes)]))
    assert (verdict, codes) == ("FAIL", ["SIGNATURE_INVALID"])
    assert reason in problems[0]


def test_a_single_certificate_can_be_revoked(bundle, load, pki):
    _sign(bundle, pki)
    revoked = _certificate(revoked_certificates=[pki.leaf.digest])
    assert "was revoked" in _gate(bundle, load(certificate_signers=[revoked]))[2][0]


def test_a_sigstore_signature_passes_under_a_policy_that_names_identity_and_issuer(
    bundle, load, instance, tmp_path
):
    policy = load(sigstore_signers=[_identity(instance)])
    sign_release_with_sigstore(
        bundle.release_dir,
        bundle.signature_path,
        tmp_path / "keys" / "sigstore.json",
        token=instance.token(WORKFLOW),
        now=made.NOW,
    )
    assert _gate(bundle, policy) == ("PASS", ["SIGNATURE_VALID"], ())
    other = load(sigstore_signers=[_identity(instance, identity="https://ci.kfm.test/evil")])
    assert _gate(bundle, other)[:2] == ("FAIL", ["SIGNATURE_INVALID"])
    revoked = load(sigstore_signers=[_identity(instance, revoked_at=made.NOW)])
    assert "was revoked" in _gate(bundle, revoked)[2][0]


def test_files_that_a_policy_names_are_in_its_digest(load, tmp_path, pki):
    before = load(certificate_signers=[_certificate()])
    assert before.trust.certificate_signers[0].roots == pki.root.text
    (tmp_path / "keys" / "root.pem").write_text(pki.root.text * 2)
    assert load(certificate_signers=[_certificate()]).digest != before.digest


def test_a_policy_without_the_new_sections_trusts_its_keys_only(load):
    policy = made.base_policy()
    assert {type(one).__name__ for one in trusted_signers(policy.trust)} == {"TrustedKey"}
    assert trusted_signers(load().trust) == ()


def test_a_signer_of_any_kind_makes_the_signature_gate_passable(load, instance):
    empty = "trust.signers is empty: gate signature can never pass"
    assert empty in lint_policy(load(), made.NOW)
    assert empty not in lint_policy(load(certificate_signers=[_certificate()]), made.NOW)
    assert empty not in lint_policy(load(sigstore_signers=[_identity(instance)]), made.NOW)


@pytest.mark.parametrize(
    ("trust", "reason"),
    [
        ({"certificate_signers": [_certificate(subject=None)]}, "give subject, alternative_name"),
        ({"certificate_signers": [{"name": "x", "subject": "*"}]}, "either roots or roots_file"),
        ({"certificate_signers": [_certificate(roots="x")]}, "either roots or roots_file"),
        ({"certificate_signers": [_certificate(roots_file="no.pem")]}, "'no.pem' of 'bot'"),
        ({"certificate_signers": [_certificate(revoked_certificates=["ab"])]}, "pattern"),
        ({"certificate_signers": [_certificate(sbject="x")]}, "not permitted"),
        ({"certificate_signers": [_certificate(), _certificate()]}, "a name appears twice"),
        (
            {
                "signers": [{"name": "bot", "public_key": "x"}],
                "certificate_signers": [_certificate()],
            },
            "a name appears twice",
        ),
        ({"sigstore_signers": [{"name": "x", "identity": "i", "issuer": "u"}]}, "trust_config"),
        ({"sigstore_signers": [{"name": "x", "trust_config": "{}"}]}, "identity"),
    ],
)
def test_a_wrong_signer_is_refused_when_the_policy_is_read(load, trust, reason):
    with pytest.raises(PolicyError, match=r"climate\.yaml") as caught:
        load(**trust)
    assert reason in str(caught.value)
