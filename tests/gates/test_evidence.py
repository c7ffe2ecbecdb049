"""Reading evidence: who may attest what, and what is remembered of a directory."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from gates import made_evidence as made
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.co_signed import add_signature

from kfm_mlflow.errors import ManifestError
from kfm_mlflow.gates.content import ContentMemory, read_content
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import DUTY_OF_KIND, EvidenceReader, read_attestation
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import generate_key
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.statement import KINDS, build_statement, sign_statement

POLICY = made.base_policy()
HOLDERS = {
    "signers": "trainer",
    "validators": "validator",
    "controllers": "controller",
    "council": "ada",
}


def envelope(kind, who, *, claims=None, at=made.NOW, **changes):
    binding = made.make_binding(POLICY, **changes)
    statement = build_statement(kind, binding, claims or {"said": 1}, at, at + timedelta(days=1))
    return sign_statement(statement, made.signer(who))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duty", HOLDERS)
def test_each_duty_attests_only_its_own_kinds(kind, duty):
    report = read_attestation(envelope(kind, HOLDERS[duty]), POLICY.trust, made.NOW)
    assert report.ok == (DUTY_OF_KIND.get(kind) == duty)
    if not report.ok:
        assert report.problems == (f"is a {kind} attestation, which {duty} may not make",)


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_attest_nothing(kind):
    report = read_attestation(envelope(kind, "mallory"), POLICY.trust, made.NOW)
    assert not report.ok
    assert report.problems == ("signed by a key that the policy does not trust",)


def test_a_second_signature_of_another_duty_adds_nothing():
    both = add_signature(envelope("vote", "validator"), made.signer("controller"))
    assert not read_attestation(both, POLICY.trust, made.NOW).ok
    good = add_signature(envelope("validation", "ada"), made.signer("validator"))
    report = read_attestation(good, POLICY.trust, made.NOW)
    assert (report.ok, report.signers) == (True, ("validator",))


def test_a_council_key_cannot_make_the_validation_gate_pass():
    report = read_attestation(
        envelope("validation", "ada", claims=made.validation_claims(), release_id=made.RELEASE_ID),
        POLICY.trust,
        made.NOW,
    )
    verdict, codes = made.ask("validation", made.make_evidence(attestations=(report,)))
    assert (verdict, codes) == ("FAIL", ["VALIDATION_INVALID"])


def test_a_key_out_of_date_is_named_rather_than_called_foreign():
    old = made.trusted("validator", not_after="2020-01-01T00:00:00Z")
    policy = made.changed_policy(trust={"validators": [old]})
    report = read_attestation(envelope("validation", "validator"), policy.trust, made.NOW)
    assert not report.ok
    assert "expired" in report.problems[0]


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"payload": 1}', b"[" * 5000])
def test_bytes_that_are_no_envelope_are_a_report(data):
    assert not read_attestation(data, POLICY.trust, made.NOW).ok


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small signed release that no policy of ours would let pass, and envelopes beside it."""
    folder = tmp_path_factory.mktemp("evidence")
    generate_key(folder / "keys" / "trainer")
    found = bundle_at(folder / "release")
    (found.release_dir / "xai").mkdir(parents=True)
    (found.release_dir / "MLmodel").write_text("flavors: {}\n")
    metadata = {"model_name": made.MODEL, "release_version": made.RELEASE_VERSION}
    (found.release_dir / "model_metadata.json").write_text(json.dumps(metadata))
    (found.release_dir / "xai" / "summary.json").write_text(json.dumps(made.xai_document()))
    found.evidence_dir.mkdir()
    sign_release(found.release_dir, found.signature_path, folder / "keys" / "trainer")
    (found.evidence_dir / "one.intoto.json").write_bytes(envelope("validation", "validator"))
    return found


def policy_of(bundle):
    pem = (bundle.release_dir.parent / "keys" / "trainer.pub").read_text()
    return made.changed_policy(trust={"signers": [{"name": "trainer", "public_key": pem}]})


def test_what_lies_on_disk_is_read(bundle):
    policy = policy_of(bundle)
    votes = [envelope("vote", name) for name in made.PEOPLE]
    evidence = EvidenceReader().read(bundle, policy, now=made.NOW, envelopes=votes)
    assert evidence.release_id == build_manifest(bundle.release_dir).release_id
    assert evidence.release_version == made.RELEASE_VERSION
    assert evidence.signature.ok
    assert len(evidence.of_kind("vote")) == 4
    assert len(evidence.of_kind("validation")) == 1
    assert evidence.screening is not None


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_order_and_repetition_of_envelopes_change_no_digest(bundle, order, again):
    policy = policy_of(bundle)
    envelopes = [envelope_of(i) for i in range(6)]
    shuffled = [*(envelopes[i] for i in order), envelopes[again]]
    one, two = (
        evaluate(
            READER.read(bundle, policy, now=made.NOW, envelopes=given), policy, made.make_move()
        )
        for given in (envelopes, shuffled)
    )
    assert one.digest == two.digest


READER = EvidenceReader()
_ENVELOPES: dict[int, bytes] = {}


def envelope_of(index):
    # ECDSA signatures differ from one to the next, so each is made once.
    kinds = ("vote", "validation", "canary-verdict", "decision", "rollback", "vote")
    whose = ("ada", "validator", "controller", "ben", "ada", "mallory")
    if index not in _ENVELOPES:
        _ENVELOPES[index] = envelope(kinds[index], whose[index])
    return _ENVELOPES[index]


def test_a_place_that_holds_no_release_is_evidence_of_nothing(tmp_path):
    for name in ("missing", "empty"):
        folder = tmp_path / name
        if name == "empty":
            folder.mkdir()
        evidence = EvidenceReader().read(bundle_at(folder), POLICY, now=made.NOW)
        assert evidence.manifest is None
        assert evidence.screening is None
        assert evidence.signature is None
        report = evaluate(evidence, POLICY, made.make_move(to_level=Level.PRODUCTION))
        assert report.verdict is Verdict.FAIL
        assert report.release_id == ""


def test_an_envelope_that_cannot_be_read_is_an_error(bundle, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    bundle_at(folder).evidence_dir.mkdir()
    (bundle_at(folder).evidence_dir / "x.intoto.json").symlink_to(folder / "a.txt")
    evidence = EvidenceReader().read(bundle_at(folder), POLICY, now=made.NOW)
    assert made.ask("integrity", evidence) == ("ERROR", ["EVIDENCE_UNREADABLE"])


def test_bytes_that_change_while_they_are_read_are_not_remembered_as_the_release(tmp_path):
    good, bad = json.dumps(made.telemetry_document()), json.dumps({"energy_wh": 1})
    path = tmp_path / "telemetry" / "training.json"
    path.parent.mkdir()
    path.write_text(bad)
    manifest = build_manifest(tmp_path)
    path.write_text(good)  # between hashing and reading
    memory = ContentMemory()
    with pytest.raises(ManifestError, match="changed while it was read"):
        memory.read(tmp_path, manifest)
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        memory.read(tmp_path, manifest)
    path.write_text(bad)
    assert memory.read(tmp_path, manifest).mapping("telemetry/training.json") == {"energy_wh": 1}


def test_a_release_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "care.json").write_text("{}")
    real = build_manifest

    def then_changed(root, *memory):
        manifest = real(root)
        (folder / "care.json").write_text('{"care": {}}')
        return manifest

    monkeypatch.setattr("kfm_mlflow.gates.evidence.build_manifest", then_changed)
    evidence = EvidenceReader().read(bundle_at(folder), POLICY, now=made.NOW)
    assert made.ask("integrity", evidence) == ("ERROR", ["EVIDENCE_UNREADABLE"])
    assert "care.json" in evidence.manifest_problem


def test_content_is_read_once_per_release_id(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    memory = ContentMemory(size=1)
    first = build_manifest(tmp_path)
    kept = memory.read(tmp_path, first)
    assert memory.read(tmp_path / "gone", first) is kept
    (tmp_path / "a.json").write_text("[]")
    memory.read(tmp_path, build_manifest(tmp_path))
    (tmp_path / "a.json").write_text("{}")
    assert memory.read(tmp_path, first) is not kept, "the oldest is forgotten"


def test_content_that_cannot_be_judged_is_a_problem_and_no_exception(tmp_path):
    (tmp_path / "stac").mkdir()
    (tmp_path / "provenance").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "twice.json").write_text('{"a": 1, "a": 2}')
    (tmp_path / "stac" / "item.json").write_text('{"assets": 5, "stac_extensions": [7]}')
    (tmp_path / "provenance" / "p.json").write_text('{"entity": [], "prefix": 3}')
    (tmp_path / "sbom.spdx.json").write_text('{"packages": 1}')
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 and nothing")
    content = read_content(tmp_path, build_manifest(tmp_path))
    assert "UTF-8" in content.problems["texts"][0]
    assert "twice" in content.document("twice.json").problem
    assert content.document("absent.json").problem == "absent.json: missing"
    for name in ("stac:stac/item.json", "prov:provenance/p.json", "sbom:sbom.spdx.json", "pickles"):
        assert content.problems[name], name


def test_a_text_too_large_to_screen_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("kfm_mlflow.gates.content.MAX_JSON_BYTES", 10)
    (tmp_path / "care.json").write_text('{"care": {"masking": "none"}}')
    content = read_content(tmp_path, build_manifest(tmp_path))
    assert content.problems["texts"]
    assert content.document("care.json").problem
    evidence = replace(made.make_evidence(), content=content)
    assert made.ask("care", evidence)[0] == "FAIL"
