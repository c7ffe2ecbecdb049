"""Every mismatch of a checkpoint directory is found, under its own code, and nothing else is."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile

import pytest
from checkpoints.trainings import save_all

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    CHECKSUMS,
    MANIFEST,
    METRICS,
    CheckpointsManifest,
    parse_record,
)

LAST = "checkpoint_003_final"
# The example of the checkpoint documentation, letter for letter but for the two digests, which
# stand for files that it does not give.
DOCUMENTED = {
    "model_id": "focus_transformer_v2",
    "version": "v10.0.0",
    "checkpoints": [
        {
            "id": "checkpoint_001_pretrain",
            "epoch": 5,
            "auc": 0.94,
            "faircare_score": 99.2,
            "checksum_sha256": "sha256:"
            "8e3b1a25f9b2c8f6e44d2d15f9b8c9a6e3fa2a9b74c6f4d5c1a1d2a3e4f7b8d9",
            "energy_wh": 1650.4,
        },
        {
            "id": "checkpoint_003_final",
            "epoch": 15,
            "auc": 0.987,
            "faircare_score": 99.6,
            "checksum_sha256": "sha256:"
            "b47a3c2d5f9c7e8f6e43d2c14f9a9b8a6d7e3a1b8c6e2f4a5d3c1b2f3e8a6d9f",
            "energy_wh": 4100.2,
        },
    ],
    "reviewed_by": "@faircare-council",
    "auditor": "@kfm-governance",
    "approved": True,
    "telemetry_ref": "../../../../../../releases/v10.0.0/focus-telemetry.json",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    save_all(root)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoints")


def edit(path, change):
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def codes(root, **more):
    return sorted({finding.code for finding in verify_directory(root, **more).findings})


def _row(name, **fields):
    def change(value):
        rows = value.get("checkpoints", value.get("files"))
        next(row for row in rows if name in (row.get("id"), row.get("file"))).update(fields)

    return change


def _drop(name):
    def change(value):
        key = "checkpoints" if "checkpoints" in value else "files"
        value[key] = [r for r in value[key] if name not in (r.get("id"), r.get("file"))]

    return change


EDITS = {
    "CHECKSUM_WRONG": (MANIFEST, _row(LAST, checksum_sha256="sha256:" + "0" * 64)),
    "CHECKSUM_UNPARSABLE": (MANIFEST, _row(LAST, checksum_sha256="sha256:short")),
    "EPOCHS_OUT_OF_ORDER": (MANIFEST, lambda v: v["checkpoints"].reverse()),
    "METRICS_UNKNOWN": (METRICS, lambda v: v["checkpoints"].append(
        {**v["checkpoints"][0], "id": "checkpoint_004_extra"})),
    "METRICS_MISSING": (METRICS, _drop(LAST)),
    "METRICS_DISAGREE": (METRICS, _row(LAST, auc=0.99)),
    "CHECKSUM_UNREGISTERED": (CHECKSUMS, _drop(f"{LAST}.pt")),
    "NOT_CERTIFIED": (MANIFEST, lambda v: v.update(approved=True)),
    "DOCUMENT_INVALID": (MANIFEST, lambda v: v.update(checkpoints={})),
}  # fmt: skip


@pytest.mark.parametrize("code", EDITS)
def test_an_edited_document_is_found_under_its_code(code, root):
    name, change = EDITS[code]
    edit(root / name, change)
    found = codes(root)
    assert code in found
    also = {
        # Reversing the list turns the energies round, too; a manifest that cannot be read lists
        # nothing.
        "EPOCHS_OUT_OF_ORDER": {"ENERGY_FALLS"},
        "DOCUMENT_INVALID": {"FILE_UNLISTED"},
        # A row that cannot be read is not listed for the other documents.
        "CHECKSUM_UNPARSABLE": {"CHECKSUM_UNREGISTERED", "METRICS_UNKNOWN"},
    }
    assert set(found) - {code} <= also.get(code, set())


def test_energy_that_falls_is_found_alone(root):
    def change(value):
        value["checkpoints"][-1]["energy_wh"] = 0.25

    edit(root / MANIFEST, change)
    edit(root / METRICS, change)
    assert codes(root) == ["ENERGY_FALLS"]


def test_a_missing_and_an_unlisted_file_are_told_apart(root):
    (root / f"{LAST}.pt").rename(root / "somebodys.pt")
    found = {f.code: f.sentence for f in verify_directory(root).findings}
    assert set(found) == {"FILE_MISSING", "FILE_UNLISTED"}
    assert f"{LAST}.pt" in found["FILE_MISSING"]


def test_a_truncated_file_is_found_by_digest_and_by_reading(root):
    path = root / f"{LAST}.pt"
    path.write_bytes(path.read_bytes()[:-40])
    assert codes(root) == ["CHECKSUM_WRONG", "UNSAFE"]


class _Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_with_code_is_named_even_when_its_digest_is_listed(root, capsys):
    path, buffer = root / f"{LAST}.pt", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Evil(), protocol=2))
        archive.writestr("archive/version", "3\n")
    path.write_bytes(buffer.getvalue())
    for name in (MANIFEST, CHECKSUMS):
        key = LAST if name == MANIFEST else f"{LAST}.pt"
        edit(root / name, _row(key, checksum_sha256=digest_file(path)))
    findings = verify_directory(root).findings
    assert {f.code for f in findings} == {"UNSAFE"}
    assert "print" in findings[0].sentence
    assert capsys.readouterr().out == ""


def test_two_manifests_that_disagree_are_both_named(root):
    shutil.copy(root / MANIFEST, root / "old_manifest.json")
    assert codes(root) == []
    edit(root / "old_manifest.json", _row(LAST, energy_wh=7.5))
    (finding,) = verify_directory(root).findings
    assert finding.code == "MANIFESTS_DISAGREE"
    assert finding.where == f"old_manifest.json: {LAST}.energy_wh"


def test_the_documentations_own_example_is_reported_as_incomplete(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(DOCUMENTED))
    for name in ("001_pretrain", "002_finetune", "003_final"):
        (tmp_path / f"checkpoint_{name}.pt").write_bytes(b"weights")
    # Its training configuration says 12 epochs.
    found = verify_directory(tmp_path, planned_epochs=12)
    by_code = {}
    for finding in found.findings:
        by_code.setdefault(finding.code, []).append(finding)
    assert "checkpoint_002" in by_code["SEQUENCE_GAP"][0].sentence
    assert "incomplete" in by_code["SEQUENCE_GAP"][0].sentence
    assert by_code["FILE_UNLISTED"][0].where == "checkpoint_002_finetune.pt"
    assert "epoch 15 of a training of 12" in by_code["EPOCH_BEYOND_PLAN"][0].sentence
    assert set(by_code) == {
        *("SEQUENCE_GAP", "FILE_UNLISTED", "EPOCH_BEYOND_PLAN", "CHECKSUM_WRONG"),
        *("NOT_CERTIFIED", "DOCUMENT_MISSING", "UNSAFE"),
    }


@pytest.mark.parametrize("written", ["sha256:{}", "sha256-{}", "{}"])
def test_all_three_notations_of_a_digest_are_read(written, root):
    def change(value):
        for row in value["checkpoints"]:
            row["checksum_sha256"] = written.format(row["checksum_sha256"].removeprefix("sha256:"))

    edit(root / MANIFEST, change)
    assert codes(root) == []


def test_what_is_written_has_one_notation(root):
    rows = json.loads((root / MANIFEST).read_bytes())["checkpoints"]
    assert all(row["checksum_sha256"].startswith("sha256:") for row in rows)


@pytest.mark.parametrize("certified", [True, False])
def test_approval_stands_and_falls_with_a_certificate(certified, root):
    edit(root / MANIFEST, lambda v: v.update(approved=True))
    assert codes(root) == ["NOT_CERTIFIED"]
    entry = verify_directory(root).entries[-1]
    digest = entry.checksum_sha256 if certified else "sha256:" + "1" * 64
    (root / CERTIFICATE).write_text(json.dumps({"checksum_sha256": digest}))
    assert codes(root) == ([] if certified else ["NOT_CERTIFIED"])
    assert codes(root, certified=lambda *_: ["2 of 3 votes"]) == ["NOT_CERTIFIED"]


def test_a_manifest_that_names_a_path_is_refused(root):
    edit(root / MANIFEST, _row(LAST, file="../elsewhere.pt"))
    assert "DOCUMENT_INVALID" in codes(root)


def test_a_record_names_the_first_wrong_field():
    data = json.dumps({"model_id": "m", "version": "v1", "checkpoints": [{"id": "a"}]}).encode()
    with pytest.raises(Exception, match=r"m\.json: checkpoints\.0\.epoch: Field required"):
        parse_record(CheckpointsManifest, data, where="m.json")
