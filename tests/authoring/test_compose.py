"""A composed release: complete, valid, loadable by others, the same again, and silent on places."""

import getpass
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from authoring import made_release as made
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.authoring.compose import compose_release
from kfm_mlflow.authoring.validation import load_predict
from kfm_mlflow.canonical import canonical_bytes, load_json, write_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.content import file_facts, read_content
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import EvidenceReader
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.prov import evaluate_prov
from kfm_mlflow.metadata.sbom import evaluate_sbom
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.metadata.stac import evaluate_item
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.release.texts import is_text

MOVE = Move(made.NAME, 1, Level.CANDIDATE, Level.STAGING, 0, None, made.AT)


def test_every_document_is_valid_against_its_own_schema(composed):
    schemas = load_policies(None).policy("climate").gates.completeness.schemas
    assert len(schemas) >= 7
    for path, schema in schemas.items():
        assert schema_problems(schema, load_json(composed.root / path)) == [], path
    facts = file_facts(composed.manifest)
    assert evaluate_item(load_json(composed.root / "stac" / "model-item.json"), facts) == []
    assert evaluate_sbom((composed.root / "sbom.spdx.json").read_bytes(), facts) == []
    prov = load_json(composed.root / "provenance" / "provenance.json")
    weights = composed.manifest.digests["model.pt"]
    data = ["sha256:" + "ab" * 32]
    assert evaluate_prov(prov, weights_sha256=weights, dataset_sha256s=data) == []


def test_json_that_we_write_is_canonical(composed):
    ours = [p for p in composed.root.rglob("*.json") if p.parent.name != "metadata"]
    assert len(ours) >= 9
    for path in ours:
        assert canonical_bytes(load_json(path)) == path.read_bytes(), path


def test_the_climate_policy_admits_it_to_staging(composed):
    policy = made.make_policy(composed.keys)
    evidence = EvidenceReader().read(composed.bundle, policy, now=made.AT)
    report = evaluate(evidence, policy, MOVE)
    assert report.verdict is Verdict.PASS, report.blocking
    assert report.release_id == composed.manifest.release_id


def test_the_torch_file_holds_weights_and_no_code(composed):
    found = torch.load(composed.root / "model.pt", weights_only=True)
    assert found["config"] == {"width": 4}
    model = made.TinyNet()
    model.load_state_dict(found["state_dict"], strict=True)
    rows = torch.from_numpy(made.make_rows(3))
    with torch.no_grad():
        assert torch.equal(model(rows), made.make_model()(rows))


@pytest.mark.parametrize("count", [1, 2, 33])
def test_onnx_agrees_with_torch(composed, count):
    rows = made.make_rows(count)
    with torch.no_grad():
        ours = made.make_model()(torch.from_numpy(rows)).numpy()
    session = onnxruntime.InferenceSession(
        composed.root / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (theirs,) = session.run(None, {"input": rows})
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_plain_mlflow_loads_and_answers(composed):
    rows = made.make_rows(5)
    with torch.no_grad():
        ours = made.make_model()(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(load_predict(composed.root)(rows), ours, rtol=1e-5)


def test_the_vendors_own_command_accepts_the_signature(composed):
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(composed.root)]
    command += ["--signature", str(composed.bundle.signature_path), "--no-ignore-git-paths"]
    good = [*command, "--public_key", str(composed.keys / "trainer.pub")]
    done = subprocess.run(good, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    foreign = [*command, "--public_key", str(composed.keys / "validator.pub")]
    assert subprocess.run(foreign, capture_output=True, check=False).returncode != 0


def test_the_same_specification_gives_the_same_bytes(composed, tmp_path):
    # Elsewhere, from a specification and a model that were made anew.
    again = compose_release(made.make_spec(), tmp_path / "another" / "place")
    assert again == composed.manifest


def _leaks() -> set[str]:
    here = {str(Path.cwd()), str(Path.home()), sys.prefix, sys.base_prefix, socket.gethostname()}
    here |= {str(Path(torch.__file__).parent), str(Path(made.__file__).parent)}
    # "root" is a word of XML, PROV and many packages, not a leak.
    return {text for text in here | {getpass.getuser()} if len(text) > 1} - {"root", "/root"}


def test_no_file_names_this_machine_its_paths_or_its_user(composed):
    assert len(_leaks()) >= 4
    for path in sorted(p for p in composed.root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for leak in {*_leaks(), str(composed.root.parent), "/home/", "/root/", "/tmp/"}:
            assert leak.encode() not in data, f"{path.name} holds {leak}"


def test_it_holds_what_the_specification_lists_and_nothing_else(composed):
    assert set(composed.manifest.digests) == {
        "MLmodel",
        "care.json",
        "conda.yaml",
        "drift/baseline.json",
        "model-card.json",
        "model.onnx",
        "model.pt",
        "model_metadata.json",
        "model_summary.json",
        "provenance/provenance.json",
        "provenance/provenance.provn",
        "provenance/provenance.ttl",
        "python_env.yaml",
        "requirements.txt",
        "sbom.spdx.json",
        "stac/model-item.json",
        "telemetry/training.json",
        "xai/summary.json",
    }
    assert all(is_text(p) or p in {"model.pt", "model.onnx"} for p in composed.manifest.digests)


@pytest.fixture(scope="module")
def copy(composed, tmp_path_factory):
    """A copy of release and evidence that tests may harm, if they heal it."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(composed.root, folder / "release")
    bundle = bundle_at(folder / "release")
    shutil.copytree(composed.bundle.evidence_dir, bundle.evidence_dir)
    return bundle


READER = EvidenceReader()


def verdict_of(bundle, composed, **known):
    policy = made.make_policy(composed.keys)
    evidence = READER.read(bundle, policy, now=made.AT, **known)
    return evaluate(evidence, policy, MOVE)


@settings(max_examples=48, deadline=None)
@given(st.data())
def test_one_flipped_byte_anywhere_is_refused(copy, composed, data):
    files = sorted(composed.manifest.digests)
    path = copy.release_dir / data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    mask = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
        report = verdict_of(copy, composed)
    finally:
        path.write_bytes(whole)
    assert report.verdict is Verdict.FAIL
    assert report.release_id != composed.manifest.release_id
    refused = {(gate, finding.code) for gate, finding in report.blocking}
    assert ("signature", "SIGNATURE_INVALID") in refused
    assert ("validation", "VALIDATION_INVALID") in refused


def test_the_unharmed_copy_passes(copy, composed):
    assert build_manifest(copy.release_dir) == composed.manifest
    assert verdict_of(copy, composed).verdict is Verdict.PASS


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_one_flipped_byte_in_signature_or_attestation_is_refused(copy, composed, data):
    path = data.draw(st.sampled_from(sorted(copy.evidence_dir.iterdir())))
    whole = path.read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    mask = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
        assert verdict_of(copy, composed).verdict is not Verdict.PASS
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("change", ["added", "missing", "renamed", "link", "empty folder"])
def test_a_changed_set_of_files_is_refused(copy, composed, change):
    root = copy.release_dir
    card, other = root / "model-card.json", root / "other.json"
    if change == "added":
        other.write_text("{}")
    elif change in {"missing", "renamed"}:
        card.rename(copy.evidence_dir.parent / "card" if change == "missing" else other)
    elif change == "link":
        other.symlink_to(card)
    else:
        other.mkdir()
    try:
        report = verdict_of(copy, composed, recorded_release_id=composed.manifest.release_id)
    finally:
        moved = copy.evidence_dir.parent / "card"
        if moved.exists():
            moved.rename(card)
        elif change == "renamed":
            other.rename(card)
        elif change == "empty folder":
            other.rmdir()
        else:
            other.unlink()
    # Folders are in no manifest and in no signature: only files are a release.
    expected = Verdict.PASS if change == "empty folder" else Verdict.FAIL
    assert report.verdict is expected, report.blocking


def _edge(prov):
    next(iter(prov["wasDerivedFrom"].values()))["prov:generatedEntity"] = {"$": 1, "type": 3}


def _no_checksum(sbom):
    del sbom["files"][3]["checksums"][0]


def _odd_exclusion(sbom):
    code = sbom["packages"][0]["packageVerificationCode"]
    code["packageVerificationCodeExcludedFiles"][1] = {"a": 1}


# Each of these made a judge of documents raise once.
@pytest.mark.parametrize(
    ("path", "kind", "harm"),
    [
        ("provenance/provenance.json", "prov", _edge),
        ("sbom.spdx.json", "sbom", _no_checksum),
        ("sbom.spdx.json", "sbom", _odd_exclusion),
    ],
)
def test_a_document_that_trips_its_judge_is_refused(composed, tmp_path, path, kind, harm):
    document = load_json(composed.root / path)
    harm(document)
    write_json(tmp_path / path, document)
    content = read_content(tmp_path, build_manifest(tmp_path))
    assert content.problems[f"{kind}:{path}"]


def test_a_checkpoint_that_cannot_be_opened_is_refused(composed, tmp_path):
    whole = (composed.root / "model.pt").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    encrypted = whole[: entry + 8] + b"\x01" + whole[entry + 9 :]
    (tmp_path / "model.pt").write_bytes(encrypted)
    content = read_content(tmp_path, build_manifest(tmp_path))
    assert content.problems["pickles"]


class NotForOnnx(torch.nn.Module):
    """Answers otherwise while it is exported."""

    def forward(self, rows):
        """Answer."""
        return rows * 2 if torch.compiler.is_exporting() else rows * 2.001


class Undefined(torch.nn.Module):
    def forward(self, rows):
        """Answer."""
        return torch.log(-rows.abs())


class Broken(torch.nn.Module):
    def forward(self, rows):
        """Answer."""
        return rows @ rows.new_zeros(1, 1, 1, 5)


class Two(torch.nn.Module):
    def forward(self, rows):
        """Answer."""
        return rows, rows


class Whole(torch.nn.Module):
    def forward(self, rows):
        """Answer."""
        return rows.mean().reshape(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NotForOnnx(), "ONNX differs from torch"),
        (Undefined(), "NaN or infinity"),
        (Broken(), "cannot answer"),
        (Two(), "cannot answer"),
        (Whole(), "not float32"),
    ],
)
def test_a_model_that_cannot_be_released_is_refused(tmp_path, model, message):
    with pytest.raises(EvidenceError, match=message):
        compose_release(made.make_spec(model=model), tmp_path / "release")


@pytest.mark.parametrize(
    "version", ["1.0.0", "v1.0", "v1.0.0 ", "v01.0.0", "", "latest", "v1.0.0\n"]
)
def test_a_version_that_is_none_is_refused_before_any_work(version):
    with pytest.raises(InputError, match=r"write v1\.2\.3"):
        made.make_spec(version=version)


def test_too_few_rows_are_refused_before_any_work():
    assert made.make_spec(inputs=made.make_rows(30))
    with pytest.raises(InputError, match="29 rows are too few"):
        made.make_spec(inputs=made.make_rows(29))
