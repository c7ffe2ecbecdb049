"""Integrity, completeness and signature."""

from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.content import Document, ReleaseContent
from kfm_mlflow.trust.signing import SignatureReport

OTHER_ID = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({}, "PASS", "BYTES_WHOLE"),
        ({"recorded_release_id": made.RELEASE_ID}, "PASS", "BYTES_WHOLE"),
        ({"recorded_release_id": OTHER_ID}, "FAIL", "BYTES_CHANGED"),
        ({"manifest": made.make_manifest("MLmodel")}, "PASS", "BYTES_WHOLE"),
        (
            {"manifest": made.make_manifest("MLmodel"), "recorded_release_id": made.RELEASE_ID},
            "FAIL",
            "BYTES_CHANGED",
        ),
        ({"manifest": None, "manifest_problem": "x: is a symbolic link"}, "FAIL", "NOT_A_RELEASE"),
        ({"manifest": None}, "FAIL", "NOT_A_RELEASE"),
        ({"manifest_problem": "more than 1000 attestations"}, "ERROR", "EVIDENCE_UNREADABLE"),
    ],
)
def test_integrity(changes, verdict, code):
    assert made.ask("integrity", made.make_evidence(**changes)) == (verdict, [code])


def _with_files(*added: str, without: tuple[str, ...] = ()):
    paths = [path for path in (*made.PATHS, *added) if path not in without]
    return made.make_evidence(manifest=made.make_manifest(*paths))


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        (_with_files(), "FILES_COMPLETE"),
        (_with_files(without=("MLmodel",)), "FILE_MISSING"),
        (_with_files("xai.json", without=("xai/summary.json",)), "FILE_MISSING"),
        (_with_files("mlmodel", without=("MLmodel",)), "FILE_MISSING"),
        (_with_files("extra/model.pt", without=("model.pt",)), "FILE_MISSING"),
        (_with_files("notes.txt"), "FILES_COMPLETE"),
        (_with_files("model.pkl"), "FILE_EXECUTABLE"),
        (_with_files("deep/down/MODEL.PKL"), "FILE_EXECUTABLE"),
        (_with_files("load.py"), "FILE_EXECUTABLE"),
        (_with_files("model.pkl.txt"), "FILES_COMPLETE"),
    ],
)
def test_completeness_of_files(evidence, code):
    expected = "PASS" if code == "FILES_COMPLETE" else "FAIL"
    assert made.ask("completeness", evidence) == (expected, [code])


def _content(**changes):
    content = made.make_content()
    documents = {**content.documents, **changes.pop("documents", {})}
    return made.make_evidence(content=replace(content, documents=documents, **changes))


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        (_content(problems={"pickles": ("model.pt: would call os.system",)}), "PICKLE_EXECUTES"),
        (_content(problems={"formats": ("MLmodel: would import os",)}), "FORMAT_UNSAFE"),
        (_content(documents={"xai/summary.json": Document({})}), "DOCUMENT_INVALID"),
        (
            _content(documents={"xai/summary.json": Document(problem="not valid JSON")}),
            "DOCUMENT_INVALID",
        ),
        (
            _content(documents={"model_metadata.json": Document({"model_name": "other"})}),
            "FOREIGN_RELEASE",
        ),
        (
            _content(documents={"model_metadata.json": Document({"model_name": 3})}),
            "FOREIGN_RELEASE",
        ),
    ],
)
def test_completeness_of_content(evidence, code):
    verdict, codes = made.ask("completeness", evidence)
    assert (verdict, set(codes)) == ("FAIL", {code})


def test_every_missing_file_is_named_at_once():
    empty = made.make_evidence(manifest=made.make_manifest("a.txt"), content=ReleaseContent({}, {}))
    verdict, codes = made.ask("completeness", empty)
    assert verdict == "FAIL"
    assert codes == ["FILE_MISSING"] * 3 + ["DOCUMENT_INVALID"]


def sig(signer, problems, *, ok):
    return SignatureReport(ok, signer, problems)


@pytest.mark.parametrize(
    ("report", "verdict", "code"),
    [
        (sig("trainer", (), ok=True), "PASS", "SIGNATURE_VALID"),
        (None, "FAIL", "SIGNATURE_MISSING"),
        (sig(None, ("release.sig: foreign",), ok=False), "FAIL", "SIGNATURE_INVALID"),
        (sig("trainer", ("model.pt: differs",), ok=False), "FAIL", "SIGNATURE_INVALID"),
        (sig("trainer", (), ok=False), "FAIL", "SIGNATURE_INVALID"),
    ],
)
def test_signature(report, verdict, code):
    assert made.ask("signature", made.make_evidence(signature=report)) == (verdict, [code])
