"""Certificates of checkpoints: counted again by the registry, one row each, for who may send them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from checkpoints.trainings import NAMES, save_all
from registry.asking import repolicy, request_of, with_roles
from registry.loopback import listening
from registry.world import COUNCIL, claims_of, run_cli, told

from kfm_mlflow.canonical import digest_json, load_json
from kfm_mlflow.checkpoints.records import CERTIFICATE, MANIFEST, CheckpointsManifest, read_record
from kfm_mlflow.gates.certificates import Candidate, build_certificate, sign_vote
from kfm_mlflow.registry import records
from kfm_mlflow.registry.checkpoint_certificates import record_certificate
from kfm_mlflow.trust.ledger_rows import verify_rows

FAMILY, MODEL = "focus-transformer", "focus-transformer-v2"
LAST = NAMES[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    save_all(root)
    return root


@pytest.fixture
def policy(registry):
    """Give the family the world's council."""
    council = registry.store.admission.policy("climate").trust.council.model_dump(mode="json")
    return repolicy(registry, FAMILY, trust={"council": council})


def certificate_of(registry, policy, trained, *, digest=None, version=None):
    """Return a certificate of the last checkpoint, with everybody's vote."""
    manifest = read_record(CheckpointsManifest, trained / MANIFEST)
    entry = manifest.entry(LAST)
    candidate = Candidate(
        manifest.model_id,
        version or manifest.version,
        LAST,
        digest or entry.checksum_sha256,
    )
    now = registry.now - timedelta(minutes=1)
    votes = [
        sign_vote(
            candidate,
            policy,
            registry.world.signer(member),
            choice="approve",
            reason="read the audit",
            now=now,
            expires_at=None,
        )
        for member in COUNCIL
    ]
    return build_certificate(votes, candidate, policy, now, auditor="@auditor")


def rows(registry):
    with registry.store.ManagedSessionMaker(read_only=True) as session:
        return [row for row in records.read_ledger(session) if row.kind != "policy"]


def test_a_certificate_is_one_signed_row_with_the_councils_record(registry, policy, trained):
    certificate = certificate_of(registry, policy, trained)
    kept = record_certificate(registry.store, MODEL, certificate)
    assert (kept["digest"], kept["recorded"]) == (digest_json(certificate), True)
    assert record_certificate(registry.store, MODEL, certificate) == {**kept, "recorded": False}
    (row,) = rows(registry)
    assert (row.kind, row.model, row.version) == ("checkpoint-certificate", MODEL, 0)
    claims = claims_of(row.body)
    assert {key: claims[key] for key in certificate["record"]} == certificate["record"]
    assert claims["checksum_sha256"] == certificate["checksum_sha256"]
    with registry.store.ManagedSessionMaker(read_only=True) as session:
        whole = [{**row.__dict__} for row in records.read_ledger(session)]
    key = registry.world.signer("registry").public_key
    assert verify_rows(whole, keys=[key]).finding is None


def test_what_does_not_hold_here_is_refused_and_nothing_is_written(registry, policy, trained):
    good = certificate_of(registry, policy, trained)
    record = good["record"]
    for status, changed, words in (
        (403, {"votes": good["votes"][:2]}, "2 of 3 approvals"),
        (403, {"checkpoint_id": NAMES[0], "checksum_sha256": "sha256:" + "1" * 64}, "0 of 3"),
        (403, {"terms_digest": "sha256:" + "1" * 64}, "another council, or of other limits"),
        (403, {"version": "v9.9.9"}, "0 of 3"),
        (400, {"record": {**record, "reviewed_by": "everybody"}}, "names others"),
        (400, {"votes": []}, "votes"),
        (400, {"record": None}, "record"),
    ):
        with told(status, words):
            record_certificate(registry.store, MODEL, {**good, **changed})
    for name in ("", "policy:climate", "a/b", "a\nb", "n" * 201):
        with told(400, "no name of a registered model"):
            record_certificate(registry.store, name, good)
    with told(403):  # Of another family, whose council did not vote on these terms.
        record_certificate(registry.store, "climate-other", good)
    assert rows(registry) == []


def test_one_checkpoint_of_a_version_has_one_digest(registry, policy, trained):
    record_certificate(registry.store, MODEL, certificate_of(registry, policy, trained))
    other = certificate_of(registry, policy, trained, digest="sha256:" + "2" * 64)
    with told(409, f"certifies {LAST} of v10.0.0 with other bytes"):
        record_certificate(registry.store, MODEL, other)
    next_one = certificate_of(
        registry, policy, trained, digest="sha256:" + "2" * 64, version="v11.0.0"
    )
    assert record_certificate(registry.store, MODEL, next_one)["recorded"]


def test_who_may_vote_or_operate_sends_certificates_and_nobody_else(registry, policy, trained):
    roles = with_roles(registry).access.model_dump(mode="json")["roles"]
    changed = repolicy(registry, FAMILY, access={"unauthenticated": "never", "roles": roles})
    assert changed.trust == policy.trust
    certificate = certificate_of(registry, changed, trained)
    for user in ("", "tom", "val"):
        with request_of(user), told(403):
            record_certificate(registry.store, MODEL, certificate)
    assert rows(registry) == []
    for user in ("cora", "aki", "olga"):
        with request_of(user):
            record_certificate(registry.store, MODEL, certificate)
    (row,) = rows(registry)
    assert claims_of(row.body)["actor"] == "cora"


@pytest.mark.usefixtures("policy")
def test_the_command_line_certifies_sends_and_shows_it(
    registry, trained, tmp_path, monkeypatch, capsys
):
    registry.now = datetime.now(UTC) + timedelta(minutes=5)
    root = shutil.copytree(trained, tmp_path / "run")
    folder = tmp_path / "policies"
    keys = ("--keys", registry.world.keys)
    run_cli("policy", "init", "--family", FAMILY, *keys, "-o", folder)
    file = ("--policy", folder / f"{FAMILY}.yaml")
    for member in COUNCIL:
        key = ("--key", registry.world.key(member))
        run_cli("checkpoints", "vote", root, LAST, *file, *key, "--approve", "--reason", "read")
    with listening(registry, monkeypatch) as url:
        for _ in range(2):
            run_cli("checkpoints", "certify", root, LAST, *file, "--server", url)
        (row,) = rows(registry)
        assert f"was row {row.seq} of the ledger of {url}, model {MODEL}" in capsys.readouterr().out
        run_cli("ledger", "show", row.seq, "--server", url)
        shown = capsys.readouterr().out
        run_cli("ledger", "list", MODEL, "--server", url)
        assert f"{MODEL} {LAST} of v10.0.0 certified" in capsys.readouterr().out
    certificate = load_json(root / CERTIFICATE)
    for value in (*certificate["record"].values(), digest_json(certificate)):
        assert value in shown
