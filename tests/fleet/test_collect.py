"""Collecting and registering: good artifacts are kept whatever is wrong with others."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fleet import made_release
from fleet.made_manifests import entry, manifest
from safetensors.numpy import save_file

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.cli.fleet_collect import collect as collect_command
from kfm_mlflow.cli.fleet_fuse import fuse as fuse_command
from kfm_mlflow.errors import ConflictError, StorageError
from kfm_mlflow.fleet.collect import _alone, collect, signed_digests
from kfm_mlflow.fleet.fused import build_fused, fused_parts, measure_artifacts
from kfm_mlflow.fleet.fusion import Limits, fuse
from kfm_mlflow.fleet.manifest import combine_manifests, load_manifests, parse_manifest
from kfm_mlflow.fleet.stores_fetch import FetchLimits, Trust, place_of
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import TrustedKey, generate_key
from kfm_mlflow.trust.signing import sign_release

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FORMATS = {"hf": "some-writer", "gcp": "some-embedder", "aws": "some-heads"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three signed artifacts of formats that nobody here can run, and their manifests."""
    root = tmp_path_factory.mktemp("fleet")
    pem = generate_key(root / "key.pem").pem
    for provider, name in FORMATS.items():
        folder = root / "store" / provider
        folder.mkdir(parents=True)
        write_json(folder / "unit.json", {"schema_version": "1", "format": name})
        save_file({"w": np.full(3, len(name), dtype="float32")}, folder / "model.safetensors")
        sign_release(folder, folder.with_suffix(".sig"), root / "key.pem")
        digest = build_manifest(folder).release_id
        stated = entry(provider, uri=f"file://{folder}", digest=digest, license="MIT")
        stated["labels"] = ["tk_attribution"] if provider == "hf" else []
        write_json(root / f"{provider}_manifest.json", manifest(provider, stated))
    write_json(root / "probes.json", made_release.PROBES)
    return root, (TrustedKey("provider", pem),)


def run(made, into, *documents):
    root, trusted = made
    if documents:
        read = combine_manifests(parse_manifest(d, where="m.json") for d in documents)
    else:
        read = load_manifests(root.glob("*_manifest.json"))
    return collect(read, (f"file://{root}/store",), into, Trust(trusted, NOW), FetchLimits())


def stated(made, provider, **changed):
    document = load_json(made[0] / f"{provider}_manifest.json")
    document["artifacts"][0].update(changed)
    return document


def test_all_artifacts_are_collected_and_again_changes_nothing(made, tmp_path):
    first = run(made, tmp_path)
    assert first.findings == ()
    assert [one.signer for one in first.fetched] == ["provider"] * 3
    listed = (tmp_path / "collected.json").read_bytes()
    assert schema_problems("fleet-collected", json.loads(listed)) == []
    again = run(made, tmp_path)
    assert [one.is_new for one in again.fetched] == [False] * 3
    assert (tmp_path / "collected.json").read_bytes() == listed


def test_refused_artifact_is_a_finding_with_remedy_and_the_good_ones_are_kept(made, tmp_path):
    wrong = stated(made, "hf", digest="sha256:" + "ab" * 32)
    outside = stated(made, "gcp", uri="file:///etc")
    found = run(made, tmp_path, wrong, outside, stated(made, "aws"))
    assert [one.artifact.provider for one in found.fetched] == ["aws"]
    by_artifact = {finding.artifact: finding for finding in found.findings}
    assert "nothing of it was kept" in by_artifact["spiralverse/textgen-lora-v1"].remedy
    assert "no store that is allowed" in by_artifact["spiralverse/embedder-v2"].detail
    assert len(load_json(tmp_path / "collected.json")["collected"]) == 1


def test_only_artifacts_whose_signature_held_count_as_signed(made, tmp_path):
    run(made, tmp_path, *(stated(made, provider) for provider in FORMATS))
    assert len(signed_digests(tmp_path)) == 3
    listed = load_json(tmp_path / "collected.json")
    listed["collected"][0].update(signer=None, unsafe_unsigned=True)
    write_json(tmp_path / "collected.json", listed)
    assert len(signed_digests(tmp_path)) == 2


def test_what_a_killed_process_had_begun_is_cleared(made, tmp_path):
    (tmp_path / ".fetch-abc").mkdir()
    (tmp_path / ".fetch-abc" / "half").write_text("x")
    run(made, tmp_path)
    assert not (tmp_path / ".fetch-abc").exists()


def test_two_at_once_in_one_folder_are_kept_apart(made, tmp_path):
    with _alone(tmp_path), pytest.raises(ConflictError, match="somebody else"):
        run(made, tmp_path)


def test_fused_release_has_the_units_choice_rejections_and_probes(made, tmp_path):
    root, _ = made
    run(made, tmp_path / "artifacts")
    fused = fuse(load_manifests(root.glob("*_manifest.json")), Limits())
    parts = fused_parts(fused, tmp_path / "artifacts", root / "probes.json")
    build_fused(parts, tmp_path / "release")
    names = {
        p.relative_to(tmp_path / "release").as_posix()
        for p in (tmp_path / "release").rglob("*")
        if p.is_file()
    }
    units = {
        f"units/{role}/{name}"
        for role in ("embed", "runtime", "textgen")
        for name in ("unit.json", "model.safetensors")
    }
    assert names == {*units, "fused_release.json", "rejections.json", "probes/probes.json"}
    for unit in fused.release_document()["units"].values():
        folder = tmp_path / "release" / "units" / unit["role"]
        assert build_manifest(folder).release_id == unit["digest"]
        assert str(root) not in unit["uri"]


def test_fused_release_is_not_made_of_what_was_not_collected_or_was_changed(made, tmp_path):
    root, _ = made
    found = run(made, tmp_path)
    fused = fuse(load_manifests(root.glob("*_manifest.json")), Limits())
    (found.fetched[0].directory / "unit.json").write_text("{}")
    with pytest.raises(Exception, match="collect it again"):
        fused_parts(fused, tmp_path, None)
    with pytest.raises(StorageError, match="not among the collected"):
        fused_parts(fused, tmp_path / "elsewhere", None)


def test_measuring_measures_what_can_be_run_and_the_rest_cannot_win(made, tmp_path):
    root, _ = made
    run(made, tmp_path)
    unit = made_release.write_heads(tmp_path / "heads")
    digest = build_manifest(unit).release_id
    unit.rename(place_of(tmp_path, digest))
    documents = [stated(made, "aws", digest=digest), stated(made, "gcp")]
    documents.append(stated(made, "hf", digest="sha256:" + "cd" * 32))
    read = combine_manifests(parse_manifest(d, where="m.json") for d in documents)
    kept, measured = measure_artifacts(read, tmp_path, root / "probes.json", 0.05)
    assert [artifact.provider for artifact in kept.artifacts] == ["aws"]
    assert measured[digest].safety == 1.0
    details = {finding.artifact: finding.detail for finding in kept.findings}
    assert "some-embedder" in details["spiralverse/embedder-v2"]
    assert "not among the collected" in details["spiralverse/textgen-lora-v1"]
    assert set(fuse(kept, Limits(), measured).units) <= {"aws"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A plain MLflow store; its gates are tested elsewhere."""
    with warnings.catch_warnings():
        # Creating the tables warns about the vendor's own migrations.
        warnings.simplefilter("ignore")
        import mlflow
        from mlflow.tracking import MlflowClient

        folder = tmp_path_factory.mktemp("tracking")
        uri = f"sqlite:///{folder}/mlflow.db"
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.create_experiment("fleet", artifact_location=(folder / "artifacts").as_uri())
    before = mlflow.get_tracking_uri()
    yield client, uri
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def policies(made):
    """A policy that trusts the providers' key."""
    root, trusted = made
    folder = root / "policies"
    folder.mkdir()
    (folder / "provider.pub").write_text(trusted[0].public_key_pem)
    (folder / "fleet.yaml").write_text(
        'schema_version: "1"\nextends: fleet\nfamily: fleet\n'
        "trust: {signers: [{name: provider, public_key_file: provider.pub}]}\n"
    )
    return folder


def invoke(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)
    assert result.exception is None, result.output
    return result.return_value, result.output


def test_signature_that_nobody_trusts_does_not_hold(made, tmp_path):
    root, _ = made
    status, output = invoke(
        *(collect_command, "--manifests", root / "*_manifest.json", "--into", tmp_path),
        *("--store", f"file://{root}/store", "--unsafe-unsigned"),
    )
    assert status == 1
    assert output.count("trust its signer") == 3


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::FutureWarning:mlflow")
def test_commands_register_an_artifact_and_a_fusion_once(made, policies, tracking, tmp_path):
    root, _ = made
    client, uri = tracking
    where = ["--into", tmp_path / "in", "--store", f"file://{root}/store", "--policy-dir", policies]
    assert invoke(collect_command, "--manifests", root / "*_manifest.json", *where)[0] == 0
    given = ["--register", "--server", uri, "--bbox", "-102,37,-94.6,40", "--probes"]
    given += [root / "probes.json", "--key", root / "key.pem", "--manifests"]
    for verb in ("registered", "is"):
        status, text = invoke(collect_command, *given, root / "aws_manifest.json", *where)
        # Two providers are missing, which is said; what is good is registered all the same.
        assert (status, text.count("refused: ")) == (1, 2)
        assert f"{verb} fleet-runtime v1" in text
    # A shell that expands the pattern leaves all names but the first behind the option.
    given += [*sorted(root.glob("*_manifest.json")), "--artifacts", tmp_path / "in"]
    output = tmp_path / "fused_release.json"
    for verb in ("registered", "is there already:"):
        status, text = invoke(fuse_command, *given, "--output", output)
        assert (status, f"{verb} fleet v1" in text) == (0, True)
    (version,) = client.search_model_versions("name='fleet'")
    assert "fleet.unsafe_unsigned" not in version.tags
    assert version.tags["fleet.digest"] == load_json(output)["content_digest"]
    release = Path(client.download_artifacts(version.run_id, "release", str(tmp_path)))
    assert load_json(release / "care.json")["care"]["labels"] == ["tk_attribution"]
    prov = load_json(release / "provenance" / "provenance.json")
    parents = {unit["digest"] for unit in load_json(output)["units"].values()}
    assert parents <= {one.get("kfm:sha256") for one in prov["entity"].values()}
    assert load_json(release / "fused_release.json") == load_json(output)
