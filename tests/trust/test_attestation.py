"""Signed statements: what an envelope proves, and every way in which it may not."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.co_signed import add_signature

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.attestation import binding_problems, verify_envelope
from kfm_mlflow.trust.keys import TrustedKey, load_private_key
from kfm_mlflow.trust.statement import KINDS, Binding, build_statement, sign_statement

ID = f"sha256:{'ab' * 32}"
POLICY = f"sha256:{'cd' * 32}"
BINDING = Binding("climate", "v1.0.0", ID, POLICY, 3)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def sign(key_dir, now):
    """Build and sign a statement in one go; ``change`` edits it before it is signed."""

    def make(kind="validation", who="alice", change=None, **options):
        options = {"at": now, "expires_at": now + DAY, **options}
        statement = build_statement(kind, BINDING, {"rmse": 0.5, "steps": 2048}, **options)
        if change:
            change(statement)
        return sign_statement(statement, load_private_key(key_dir / who))

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_comes_back(sign, trust, now, kind):
    report = verify_envelope(sign(kind), [trust("alice")], now, kind=kind)
    assert report.ok
    assert report.problems == ()
    assert (report.kind, report.signers, report.binding) == (kind, ("alice",), BINDING)
    assert report.claims == {"rmse": 0.5, "steps": 2048}
    assert (report.issued_at, report.expires_at) == (now, now + DAY)
    assert report.statement["predicateType"] == f"{NAMESPACE}attestations/{kind}/v1"


def test_payload_is_an_in_toto_statement_by_the_reference_library(sign):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    payload = base64.b64decode(json.loads(sign())["payload"])
    message = json_format.Parse(payload, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    assert message.subject[0].name == "climate@v1.0.0"
    assert message.subject[0].digest["sha256"] == "ab" * 32


def test_envelope_is_one_line_and_its_payload_canonical(sign):
    envelope = sign()
    assert b"\n" not in envelope
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assert canonical_bytes(json.loads(payload)) == payload


def test_the_reference_envelope_verifies_ours(sign, key_dir):
    from securesystemslib.dsse import Envelope

    signer = load_private_key(key_dir / "alice")
    accepted = Envelope.from_dict(json.loads(sign())).verify([signer.crypto_signer.public_key], 1)
    assert list(accepted) == [signer.public_key.key_id]


def test_openssl_verifies_the_signature_over_the_dsse_encoding(sign, key_dir, tmp_path):
    envelope = json.loads(sign())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (tmp_path / "pae").write_bytes(pae)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", key_dir / "alice.pub"]  # noqa: RUF005 - two lines
        + ["-signature", tmp_path / "sig", tmp_path / "pae"],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_foreign_signature_yields_no_statement(sign, trust, now):
    report = verify_envelope(sign(who="mallory"), [trust("alice")], now)
    assert not report.ok
    assert report.statement is None
    assert report.claims is None
    assert report.problems == ("signed by a key that the policy does not trust",)


def test_nobody_trusted_passes_nothing(sign, now):
    assert not verify_envelope(sign(), [], now).ok


def test_one_key_under_two_names_is_one_signer(sign, trust, now):
    twin = TrustedKey("alias", trust("alice").public_key_pem)
    assert verify_envelope(sign(), [trust("alice"), twin], now).signers == ("alice",)


def test_two_signers_are_both_named(sign, trust, key_dir, now):
    envelope = add_signature(sign(), load_private_key(key_dir / "bob"))
    report = verify_envelope(envelope, [trust("bob"), trust("alice")], now)
    assert report.ok
    assert report.signers == ("bob", "alice")
    assert verify_envelope(envelope, [trust("alice")], now).signers == ("alice",)


def test_bad_signature_under_a_trusted_key_spoils_a_good_one(sign, trust, key_dir, now):
    value = json.loads(add_signature(sign(), load_private_key(key_dir / "bob")))
    mallory = json.loads(sign(who="mallory"))["signatures"][0]["sig"]
    value["signatures"][1]["sig"] = mallory
    report = verify_envelope(json.dumps(value).encode(), [trust("alice"), trust("bob")], now)
    assert not report.ok
    assert report.signers == ("alice",)
    assert "'bob' does not verify" in report.problems[0]


def test_signature_moved_to_another_payload_does_not_verify(sign, trust, now):
    value = json.loads(sign())
    value["payload"] = json.loads(sign("decision"))["payload"]
    report = verify_envelope(json.dumps(value).encode(), [trust("alice")], now)
    assert not report.ok
    assert report.statement is None


def test_statement_expires_at_its_instant(sign, trust, now):
    envelope, keys = sign(), [trust("alice")]
    assert verify_envelope(envelope, keys, now + DAY - timedelta(microseconds=1)).ok
    report = verify_envelope(envelope, keys, now + DAY)
    assert not report.ok
    assert report.problems[0].startswith("expired at 2026-06-02T12:00:00")


def test_statement_without_expiry_holds_for_ever(sign, trust, now):
    assert verify_envelope(sign(expires_at=None), [trust("alice")], now + 9999 * DAY).ok


def test_statement_from_the_future_is_not_yet_valid_but_clocks_may_differ(sign, trust, now):
    envelope, keys = sign(), [trust("alice")]
    assert verify_envelope(envelope, keys, now - timedelta(seconds=60)).ok
    report = verify_envelope(envelope, keys, now - timedelta(seconds=61))
    assert report.problems[0].startswith("not yet valid")


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"not_after": timedelta(0)}, "expired"),
        ({"not_before": DAY}, "not valid before"),
        ({"revoked_at": -DAY}, "revoked"),
    ],
)
def test_key_out_of_its_time_does_not_count(sign, trust, now, bounds, reason):
    key = trust("alice", **{name: now + delta for name, delta in bounds.items()})
    report = verify_envelope(sign(), [key], now)
    assert not report.ok
    assert reason in report.problems[0]
    assert report.statement is None


def test_key_trusted_in_two_periods_counts_in_either(sign, trust, now):
    keys = [trust("alice", not_after=now), trust("alice", not_before=now)]
    assert verify_envelope(sign(), keys, now).ok


def test_other_kind_than_wanted_is_refused(sign, trust, now):
    report = verify_envelope(sign("vote"), [trust("alice")], now, kind="validation")
    assert report.problems == ("is a vote attestation, not validation",)


def test_asking_for_a_kind_that_does_not_exist_is_the_callers_mistake(sign, trust, now):
    with pytest.raises(InputError, match="'valdation' is no kind"):
        verify_envelope(sign(), [trust("alice")], now, kind="valdation")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda s: s.update(predicateType="https://slsa.dev/verification_summary/v1"),
            "unknown predicate",
        ),
        (lambda s: s.update(predicateType=7), "unknown predicate"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "not of type"),
        (lambda s: s.update(extra=1), "unknown 'extra'"),
        (lambda s: s.pop("subject"), "lacks subject"),
        (lambda s: s.update(subject=[]), "disagrees"),
        (lambda s: s["subject"][0].update(name="climate@v2.0.0"), "disagrees"),
        (lambda s: s["subject"][0]["digest"].update(sha256="00" * 32), "disagrees"),
        (lambda s: s["subject"].append(s["subject"][0]), "disagrees"),
        (lambda s: s.update(predicate=[]), "not an object"),
        (lambda s: s["predicate"].pop("binding"), "lacks binding"),
        (lambda s: s["predicate"].update(schema_version="2"), "schema_version"),
        (lambda s: s["predicate"].update(claims=None), "claims"),
        (lambda s: s["predicate"].update(issued_at="yesterday"), "not an instant"),
        (lambda s: s["predicate"].update(issued_at=None), "not an instant"),
        (lambda s: s["predicate"].update(issued_at="2026-06-01T12:00:00"), "time zone"),
        (lambda s: s["predicate"].update(expires_at=5), "not an instant"),
        (lambda s: s["predicate"]["binding"].update(release_id="x"), "not a SHA-256"),
        (lambda s: s["predicate"]["binding"].update(model_name=""), "model_name"),
        (lambda s: s["predicate"]["binding"].update(version="3"), "version"),
        (lambda s: s["predicate"]["binding"].update(version=True), "version"),
        (lambda s: s["predicate"]["binding"].update(policy_digest=1), "not a SHA-256"),
    ],
)
def test_malformed_statement_of_a_trusted_signer_is_a_problem(sign, trust, now, change, reason):
    report = verify_envelope(sign(change=change), [trust("alice")], now)
    assert not report.ok
    assert any(reason in problem for problem in report.problems), report.problems


def _edited(envelope, **fields):
    return json.dumps({**json.loads(envelope), **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payloadType": "application/json"}, "payload type"),
        ({"payload": "%%%"}, "not base64"),
        ({"payload": 5}, "not base64"),
        ({"signatures": []}, "no signatures"),
        ({"signatures": "x"}, "no signatures"),
        ({"signatures": [{"keyid": "a"}]}, "lacks sig"),
        ({"signatures": [{"keyid": 1, "sig": ""}]}, "keyid"),
        ({"more": 1}, "unknown 'more'"),
    ],
)
def test_malformed_envelope_is_a_problem(sign, trust, now, fields, reason):
    report = verify_envelope(_edited(sign(), **fields), [trust("alice")], now)
    assert not report.ok
    assert reason in report.problems[0]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_whatever_raise(data):
    moment = datetime.fromisoformat("2026-06-01T12:00:00Z")
    assert not verify_envelope(data, [], moment).ok


@pytest.fixture(scope="module")
def original(sign):
    """One envelope, signed once: ECDSA gives other bytes each time."""
    return sign()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changing_any_one_byte_of_an_envelope_is_found(original, trust, now, data):
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != original[at]))
    changed = original[:at] + bytes([byte]) + original[at + 1 :]
    assert not verify_envelope(changed, [trust("alice")], now).ok


def test_instants_without_time_zone_are_the_callers_mistake(sign, trust, now):
    naive = now.replace(tzinfo=None)
    with pytest.raises(InputError, match="no time zone"):
        verify_envelope(sign(), [trust("alice")], naive)
    with pytest.raises(InputError, match="no time zone"):
        build_statement("vote", BINDING, {}, naive)
    with pytest.raises(InputError, match="no time zone"):
        build_statement("vote", BINDING, {}, now, naive)


@pytest.mark.parametrize(
    ("kind", "binding", "claims", "expires"),
    [
        ("nonsense", BINDING, {}, DAY),
        ("vote", Binding("m", "v1", "not a digest"), {}, DAY),
        ("vote", Binding("m", "v1", ID, "not a digest"), {}, DAY),
        ("vote", BINDING, {"x": float("nan")}, DAY),
        ("vote", BINDING, {"x": object()}, DAY),
        ("vote", BINDING, {}, timedelta(0)),
    ],
)
def test_statement_that_could_never_verify_is_not_built(now, kind, binding, claims, expires):
    with pytest.raises(InputError):
        build_statement(kind, binding, claims, now, now + expires)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model_name", "focus", "model 'climate', not 'focus'"),
        ("release_version", "v2", "release version"),
        ("release_id", f"sha256:{'00' * 32}", "release id"),
        ("policy_digest", ID, "under policy"),
        ("version", 4, "version 3, not 4"),
    ],
)
def test_each_foreign_part_of_a_binding_is_named(sign, trust, field, value, reason):
    report = verify_envelope(
        sign(), [trust("alice")], datetime.fromisoformat("2026-06-01T12:00:00Z")
    )
    assert binding_problems(report, BINDING) == []
    assert binding_problems(report.statement, BINDING) == []
    expected = Binding(**{**BINDING.to_dict(), field: value})
    (problem,) = binding_problems(report, expected)
    assert reason in problem


def test_missing_policy_is_not_the_expected_policy():
    unbound = Binding("climate", "v1.0.0", ID, None, 3)
    assert "under policy None" in binding_problems(unbound, BINDING)[0]
    assert binding_problems(BINDING, unbound) == []


def test_statement_from_before_registration_is_bound_by_release_alone():
    early = Binding("climate", "v1.0.0", ID, POLICY, None)
    assert binding_problems(early, BINDING) == []


def test_nothing_verified_is_bound_to_nothing(sign, trust, now):
    report = verify_envelope(sign(who="mallory"), [trust("alice")], now)
    assert binding_problems(report, BINDING) == ["not bound to any release"]
    assert binding_problems({}, BINDING)
    assert binding_problems({"predicate": 1}, BINDING)
