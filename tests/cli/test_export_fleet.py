"""``kfm export`` of a release that was made of files from other makers, and ``kfm verify`` of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from authoring import made_imported as made
from registry.world import AT, COUNCIL

from kfm_mlflow.authoring.attestations import provenance_of, write_attestations
from kfm_mlflow.authoring.imported_compose import compose_imported
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

pytestmark = pytest.mark.server
NAME = "fleet"


def released(server, world, folder):
    """Register a fused release, have its way to Staging voted, and return its version."""
    spec = made.make_spec(folder / "units")
    found = bundle_at(folder / "release")
    manifest = compose_imported(spec, found.release_dir)
    found.evidence_dir.mkdir()
    sign_release(found.release_dir, found.signature_path, world.key("trainer"))
    binding = Binding(NAME, spec.version, manifest.release_id)
    write_attestations(found, binding, provenance_of(spec), world.signer("trainer"), AT)
    claims = {
        "metrics": made.measured(NAME),
        "determinism": {"identical": True, "digest": manifest.release_id},
    }
    statement = build_statement("validation", binding, claims, AT)
    signed = sign_statement(statement, world.signer("validator"))
    (found.evidence_dir / "validation.intoto.json").write_bytes(signed)
    version = server.register(found, NAME)
    remote = RemoteRegistry(server.url)
    now = datetime.now(UTC)
    for member in COUNCIL[:3]:
        remote.cast_vote(
            NAME,
            version,
            "staging",
            key=world.key(member),
            choice="approve",
            reason="measured",
            now=now,
            expires_at=now + timedelta(days=1),
        )
    remote.request_move(NAME, version, "staging")
    return version


def test_a_fused_release_is_exported_and_verified_without_a_server(exports, kfm, tmp_path):
    version = released(exports.server, exports.world, tmp_path)
    out = tmp_path / "out"
    said = kfm("export", f"models:/{NAME}/{version}", "-o", out, "--server", exports.server.url)
    assert said.code == 0, said.err
    checked = kfm("verify", out)
    assert checked.code == 0, checked.err
    assert "PASS" in checked.out
    # Weights of a unit are what other makers made: a byte of them counts as one of ours does.
    weights = max(out.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights.chmod(0o644)
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = kfm("verify", out)
    assert found.code == 1
    assert weights.name in found.out + found.err
