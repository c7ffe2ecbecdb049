"""Every bad release: one clear refusal, and registry, database and disk as they were."""

from __future__ import annotations

import pickle
import zipfile
from datetime import timedelta

import pytest
from registry.world import AT, GOOD_METRICS, NAME, claims_of, files_of, only_refused, told

from kfm_mlflow.policy.levels import Level


def tampered_byte(world, bundle):
    path = bundle.release_dir / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def added_file(world, bundle):
    (bundle.release_dir / "notes.bin").write_bytes(b"new")


def missing_file(world, bundle):
    (bundle.release_dir / "sbom.spdx.json").unlink()


def renamed_file(world, bundle):
    (bundle.release_dir / "model.onnx").rename(bundle.release_dir / "model2.onnx")


def symlink(world, bundle):
    (bundle.release_dir / "link").symlink_to("/etc/hostname")


def swapped_for_symlink(world, bundle):
    path = bundle.release_dir / "model.onnx"
    outside = bundle.release_dir.parent / "outside.onnx"
    path.rename(outside)
    path.symlink_to(outside)


def foreign_key(world, bundle):
    world.sign(bundle, "foreign")


def no_signature(world, bundle):
    bundle.signature_path.unlink()


def no_evidence(world, bundle):
    for path in bundle.evidence_dir.iterdir():
        path.unlink()
    bundle.evidence_dir.rmdir()


def missing_attestation(world, bundle):
    (bundle.evidence_dir / "validation.intoto.json").unlink()


def foreign_attestation(world, bundle):
    world.attest(bundle, key="foreign")


def self_validated(world, bundle):
    world.attest(bundle, key="trainer")


def expired_attestation(world, bundle):
    world.attest(bundle, expires_at=AT + timedelta(minutes=30))


def nan_metric(world, bundle):
    world.attest(bundle, metrics={**GOOD_METRICS, "nrmse": "NaN"})


def infinite_metric(world, bundle):
    world.attest(bundle, metrics={**GOOD_METRICS, "correlation": "Infinity"})


def bad_metric(world, bundle):
    world.attest(bundle, metrics={**GOOD_METRICS, "nrmse": 0.21})


def absent_metric(world, bundle):
    world.attest(bundle, metrics={"nrmse": 0.1})


def not_deterministic(world, bundle):
    world.attest(bundle, determinism={"identical": False, "digest": "sha256:" + "0" * 64})


def no_provenance(world, bundle):
    (bundle.evidence_dir / "provenance.intoto.json").unlink()


def replayed_provenance(world, bundle):
    theirs = world.releases[1].evidence_dir / "provenance.intoto.json"
    (bundle.evidence_dir / "provenance.intoto.json").write_bytes(theirs.read_bytes())


def replayed_screening(world, bundle):
    theirs = world.releases[1].evidence_dir / "care-screening.intoto.json"
    (bundle.evidence_dir / "care-screening.intoto.json").write_bytes(theirs.read_bytes())


def garbled_item(world, bundle):
    (bundle.evidence_dir / "stac-item.intoto.json").write_bytes(b"{}")


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


def pickle_file(world, bundle):
    (bundle.release_dir / "model.pkl").write_bytes(pickle.dumps(Evil()))
    world.sign(bundle)
    world.attest(bundle)


def pickle_in_the_checkpoint(world, bundle):
    path = bundle.release_dir / "model.pt"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, pickle.dumps(Evil()) if name.endswith("data.pkl") else data)
    world.sign(bundle)
    world.attest(bundle)


def garbled_envelope(world, bundle):
    (bundle.evidence_dir / "validation.intoto.json").write_bytes(b"\xff{")


def garbled_signature(world, bundle):
    bundle.signature_path.write_bytes(b"{}")


def emptied(world, bundle):
    for path in sorted(bundle.release_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def gone(world, bundle):
    emptied(world, bundle)
    bundle.release_dir.rmdir()


CASES = [
    (tampered_byte, "signature invalid"),
    (added_file, "signature invalid"),
    (missing_file, "sbom.spdx.json missing"),
    (renamed_file, "model.onnx missing"),
    (symlink, "not a release"),
    (swapped_for_symlink, "not a release"),
    (foreign_key, "signature invalid"),
    (no_signature, "signature missing"),
    (no_evidence, "signature missing; validation missing"),
    (missing_attestation, "validation missing"),
    (foreign_attestation, "validation invalid"),
    (self_validated, "validation invalid"),
    (expired_attestation, "validation invalid"),
    (nan_metric, "nrmse nan"),
    (infinite_metric, "correlation inf"),
    (bad_metric, "nrmse 0.21, asked <= 0.2"),
    (absent_metric, "nmae missing"),
    (not_deterministic, "not deterministic"),
    (no_provenance, "slsa-provenance missing"),
    (replayed_provenance, "slsa-provenance invalid"),
    (replayed_screening, "care-screening invalid"),
    (garbled_item, "stac-item missing"),
    (pickle_file, "model.pkl can run code"),
    (pickle_in_the_checkpoint, "pickle can run code"),
    (garbled_envelope, "validation invalid"),
    (garbled_signature, "signature invalid"),
    (emptied, "not a release"),
]


@pytest.mark.parametrize(
    ("spoil", "words"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_bad_release_is_refused_and_changes_nothing(registry, world, tmp_path, spoil, words):
    bundle = world.copy(tmp_path / "source")
    spoil(world, bundle)
    registry.register(bundle)
    before, source = registry.state(), files_of(tmp_path / "source")
    with told(
        403, "KFM refused Staging for climate-tiny v1", words, "see /kfm/models/climate-tiny/1"
    ):
        registry.store.transition_model_version_stage(
            NAME, "1", "Staging", archive_existing_versions=False
        )
    only_refused(before, registry.state())
    assert files_of(tmp_path / "source") == source


def test_a_source_that_is_gone_is_refused_with_its_reason(registry, world, tmp_path):
    bundle = world.copy(tmp_path / "source")
    registry.register(bundle)
    gone(world, bundle)
    before = registry.state()
    with told(403, "KFM refused Staging", "not a release", "see /kfm/models/climate-tiny/1"):
        registry.store.move(NAME, 1, Level.STAGING)
    body = only_refused(before, registry.state())["body"]
    assert "cannot be read" in str(claims_of(body))


@pytest.mark.parametrize(
    "source", ["runs:/0123456789abcdef/release", "s3://nowhere/release", "mlflow-artifacts:/../x"]
)
def test_a_source_that_cannot_be_read_is_refused_at_once(registry, monkeypatch, source, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry.database}")
    registry.store.create_registered_model(NAME)
    registry.store.create_model_version(NAME, source, "run")
    before = registry.state()
    with told(403, "KFM refused Staging", "not a release"):
        registry.store.move(NAME, 1, Level.STAGING)
    only_refused(before, registry.state())


def test_a_replay_under_another_name_is_refused(registry, world):
    registry.register(world.releases[0], "climate-other")
    before = registry.state()
    with told(403, "release of another model"):
        registry.store.move("climate-other", 1, Level.STAGING)
    only_refused(before, registry.state())


def test_a_release_that_holds_for_its_attestation_is_refused_when_that_expires(registry, world):
    registry.register(world.releases[0])
    assert registry.store.check(NAME, 1, Level.STAGING).allowed
    registry.now = AT + timedelta(days=31)
    with told(403, "validation expired"):
        registry.store.move(NAME, 1, Level.STAGING)
    registry.now = AT + timedelta(days=61)
    with told(403, "validation invalid"):
        registry.store.move(NAME, 1, Level.STAGING)


def test_a_release_version_used_twice_is_a_conflict_that_freezes_nothing(registry, world, tmp_path):
    registry.register(world.releases[0])
    registry.store.move(NAME, 1, Level.STAGING)
    # Other bytes under the same release version, properly signed and validated.
    bundle = world.copy(tmp_path / "source")
    (bundle.release_dir / "notes.bin").write_bytes(b"more")
    world.sign(bundle)
    world.attest(bundle)
    registry.register(bundle)
    registry.register(world.releases[0])
    before = registry.state()
    with told(409, "release version v1.0.0 of climate-tiny is taken by v1"):
        registry.store.move(NAME, 3, Level.STAGING)
    with told(409, "release version v1.0.0 of climate-tiny is taken by v1"):
        registry.store.check(NAME, 3, Level.STAGING)
    assert registry.state() == before


def test_a_validator_who_is_also_a_signer_cannot_validate_what_they_signed(
    registry, world, tmp_path, monkeypatch
):
    bundle = world.copy(tmp_path / "source")
    registry.register(bundle)
    policy = registry.store.admission.policies.policies["climate"]
    both = policy.model_copy(
        update={
            "trust": policy.trust.model_copy(
                update={
                    "validators": (
                        *policy.trust.validators,
                        policy.trust.signers[0].model_copy(),
                    )
                }
            )
        }
    )
    monkeypatch.setitem(registry.store.admission.policies.policies, "climate", both)
    world.attest(bundle, key="trainer")
    with told(403, "validated by its own signer"):
        registry.store.move(NAME, 1, Level.STAGING)


def test_a_frozen_release_whose_bytes_change_goes_no_further(registry, world):
    registry.register(world.releases[0])
    registry.store.move(NAME, 1, Level.STAGING)
    (path,) = (registry.area / "kfm-frozen").glob("*/release/model.onnx")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    before = registry.state()
    with told(403, "bytes changed"):
        registry.store.move(NAME, 1, Level.CANARY)
    only_refused(before, registry.state())
