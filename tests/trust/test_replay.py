"""A statement of any kind about one release is worth nothing for another, whoever signed it."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import timedelta

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.trust.attestation import binding_problems, verify_envelope
from kfm_mlflow.trust.dsse import IN_TOTO_PAYLOAD_TYPE, STATEMENT_TYPE
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.slsa import SLSA_KIND, Provenance, UsedData, build_predicate
from kfm_mlflow.trust.statement import (
    KINDS,
    Binding,
    build_slsa_statement,
    build_statement,
    sign_statement,
)

ID, OTHER = (f"sha256:{pair * 32}" for pair in ("ab", "ef"))
POLICY = f"sha256:{'cd' * 32}"
BOUND = Binding("climate", "v1.0.0", ID, POLICY, 3)
ALL_KINDS = (*KINDS, SLSA_KIND)
NAMED = {
    "model_name": "focus",
    "release_version": "v1.0.1",
    "release_id": OTHER,
    "policy_digest": OTHER,
    "version": 4,
}


@pytest.fixture(scope="module")
def signed(key_dir, now):
    """Return an envelope of every kind; SLSA's own predicate has no room for policy or number."""
    signer = load_private_key(key_dir / "alice")
    ran = Provenance(
        entry_point="release",
        parameters={"size": "small"},
        seed=42,
        started_at=now - timedelta(hours=1),
        finished_at=now,
        git_commit="deadbeef" * 5,
        environment_lock=OTHER,
        data=(UsedData("fields", OTHER, "fields.nc", "training"),),
    )
    alone = dataclasses.replace(BOUND, policy_digest=None, version=None)
    found = {
        kind: sign_statement(build_statement(kind, BOUND, {"said": 1}, now), signer)
        for kind in KINDS
    }
    provenance = build_slsa_statement(alone, build_predicate(ran))
    return {**found, SLSA_KIND: sign_statement(provenance, signer)}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_is_a_canonical_in_toto_statement_in_dsse(signed, trust, now, kind):
    envelope = json.loads(signed[kind])
    assert canonical_bytes(envelope) == signed[kind]
    assert envelope["payloadType"] == IN_TOTO_PAYLOAD_TYPE
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    assert canonical_bytes(statement) == payload
    assert statement["_type"] == STATEMENT_TYPE
    Statement.copy_from_pb(json_format.Parse(payload, statement_pb2.Statement())).validate()
    assert statement["subject"] == [{"name": "climate@v1.0.0", "digest": {"sha256": "ab" * 32}}]
    report = verify_envelope(signed[kind], [trust("alice")], now, kind=kind)
    assert (report.ok, report.kind) == (True, kind)
    expected = BOUND if kind != SLSA_KIND else Binding("climate", "v1.0.0", ID)
    assert binding_problems(report, expected) == []


# The predicate of SLSA has no policy and no number: release version and id bind it.
NAMING = [(k, f) for k in ALL_KINDS for f in NAMED if k != SLSA_KIND or f.startswith(("r", "mod"))]


@pytest.mark.parametrize(("kind", "field"), NAMING)
def test_no_kind_is_replayed_under_another_name_number_release_or_policy(
    signed, trust, now, kind, field
):
    report = verify_envelope(signed[kind], [trust("alice")], now)
    expected = dataclasses.replace(BOUND, **{field: NAMED[field]})
    if kind == SLSA_KIND:
        expected = dataclasses.replace(expected, policy_digest=None, version=None)
    (problem,) = binding_problems(report, expected)
    assert str(NAMED[field]) in problem


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_kind_is_taken_for_another(signed, trust, now, kind):
    for wanted in ALL_KINDS:
        report = verify_envelope(signed[kind], [trust("alice")], now, kind=wanted)
        assert report.ok == (wanted == kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_payload_is_moved_under_the_signature_of_another_kind(signed, trust, now, kind):
    other = ALL_KINDS[ALL_KINDS.index(kind) - 1]
    mixed = {**json.loads(signed[kind]), "payload": json.loads(signed[other])["payload"]}
    report = verify_envelope(canonical_bytes(mixed), [trust("alice")], now)
    assert (report.ok, report.statement) == (False, None)
