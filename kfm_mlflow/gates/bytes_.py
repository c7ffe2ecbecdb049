"""Gates on the bytes themselves: integrity, completeness, signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy


def integrity(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the bytes are a release, and the one that was recorded before."""
    if evidence.manifest is None:
        return [
            Finding(
                "NOT_A_RELEASE",
                Verdict.FAIL,
                "not a release",
                evidence.manifest_problem or "the source holds no release",
                remedy="log it with kfm_mlflow.log_release",
            )
        ]
    if evidence.manifest_problem:
        return [
            Finding(
                "EVIDENCE_UNREADABLE",
                Verdict.ERROR,
                "evidence unreadable",
                evidence.manifest_problem,
            )
        ]
    if evidence.recorded_release_id and evidence.recorded_release_id != evidence.release_id:
        return [
            Finding(
                "BYTES_CHANGED",
                Verdict.FAIL,
                "bytes changed",
                "the bytes are not those that were admitted before",
                observed=evidence.release_id,
                limit=evidence.recorded_release_id,
                remedy="register the changed release as a new version",
            )
        ]
    return [
        Finding(
            "BYTES_WHOLE",
            Verdict.PASS,
            "bytes whole",
            f"{len(evidence.manifest.files)} files",
            observed=evidence.release_id,
        )
    ]


def completeness(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether every required file is there, valid, and nothing executable is among them."""
    settings = policy.gates.completeness
    asked = settings.files_of(split_key(move.model_name)[1]) if settings else None
    paths = set(evidence.manifest.digests) if evidence.manifest else set()
    findings: list[Finding] = []
    for wanted in asked.required if asked else ():
        present = (
            any(p.startswith(wanted) for p in paths) if wanted.endswith("/") else wanted in paths
        )
        if not present:
            findings.append(
                Finding(
                    "FILE_MISSING",
                    Verdict.FAIL,
                    f"{wanted} missing",
                    f"{wanted}: required and not in the release",
                    remedy="log the release again with it",
                )
            )
    findings += [
        Finding(
            "FILE_EXECUTABLE",
            Verdict.FAIL,
            f"{path} can run code",
            f"{path}: this format can run code when it is opened",
            remedy="store tensors as .pt (weights only), .onnx or safetensors",
        )
        for path in sorted(paths)
        if settings and path.lower().endswith(settings.forbidden_suffixes)
    ]
    findings += [
        Finding(
            "PICKLE_EXECUTES",
            Verdict.FAIL,
            "pickle can run code",
            sentence,
            remedy="save a state_dict",
        )
        for sentence in evidence.content.problems.get("pickles", ())
    ]
    findings += [
        Finding(
            "FORMAT_UNSAFE",
            Verdict.FAIL,
            "model can load code",
            sentence,
            remedy="store arithmetic alone: ONNX with standard operators, loaded by mlflow.onnx",
        )
        for sentence in evidence.content.problems.get("formats", ())
    ]
    for path, schema in (asked.schemas if asked else {}).items():
        findings += [
            Finding("DOCUMENT_INVALID", Verdict.FAIL, f"{path} invalid", f"{path}: {sentence}")
            for sentence in evidence.content.schema_problems(path, schema)
        ]
    findings += _identity(evidence, move)
    return findings or [
        Finding("FILES_COMPLETE", Verdict.PASS, "files complete", f"{len(paths)} files")
    ]


def _identity(evidence: Evidence, move: Move) -> list[Finding]:
    named = evidence.content.mapping("model_metadata.json").get("model_name")
    own = split_key(move.model_name)[1]
    if named is not None and named != own:
        return [
            Finding(
                "FOREIGN_RELEASE",
                Verdict.FAIL,
                "release of another model",
                f"model_metadata.json: model_name is {named!r}",
                observed=str(named),
                limit=own,
                remedy="register it under its own name",
            )
        ]
    return []


def signature(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether a trusted signer signed exactly these bytes."""
    report = evidence.signature
    if report is None:
        return [
            Finding(
                "SIGNATURE_MISSING",
                Verdict.FAIL,
                "signature missing",
                "there is no signature beside the release",
                remedy="sign it: kfm sign DIR --key KEY, or log_release(..., signing_key=KEY)",
            )
        ]
    if not report.ok:
        return [
            Finding("SIGNATURE_INVALID", Verdict.FAIL, "signature invalid", problem)
            for problem in report.problems or ("it does not verify",)
        ]
    return [
        Finding(
            "SIGNATURE_VALID",
            Verdict.PASS,
            "signed",
            f"signed by {report.signer}",
            observed=str(report.signer),
        )
    ]
