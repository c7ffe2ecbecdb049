"""The gate on the checkpoints that a release was made from: complete, certified, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    GOVERNANCE,
    METRICS,
    SUFFIX,
)
from kfm_mlflow.checkpoints.verify import Held, judge_checkpoints
from kfm_mlflow.gates.certificates import Candidate, certificate_problems
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import judge_limit
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.models import Limit

if TYPE_CHECKING:
    from kfm_mlflow.checkpoints.records import ManifestEntry
    from kfm_mlflow.checkpoints.verify import VerifiedCheckpoints
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import CheckpointsPolicy, Policy

_CERTIFY = "let the council vote, then kfm checkpoints certify DIR, and release what it certified"


def held_in(evidence: Evidence, folder: str) -> Held:
    """Return what a release holds of its training's checkpoints.

    Digests are those of its manifest, whose bytes gate integrity checked; what the files would run
    is asked by gate completeness.
    """
    prefix = f"{folder.rstrip('/')}/"
    documents, problems = {}, {}
    for path, document in evidence.content.documents.items():
        name = path.removeprefix(prefix)
        if path.startswith(prefix) and "/" not in name:
            if document.problem:
                problems[name] = document.problem
            else:
                documents[name] = document.value
    entries = evidence.manifest.files if evidence.manifest else ()
    digests = {
        entry.path.removeprefix(prefix): entry.digest
        for entry in entries
        if entry.path.startswith(prefix) and entry.path.endswith(SUFFIX)
    }
    return Held(documents, problems, digests)


def checkpoints(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the release's checkpoints are complete, and its last one is certified."""
    settings = policy.gates.checkpoints
    if settings is None:
        return []
    held = held_in(evidence, settings.path)
    certificate = held.documents.get(CERTIFICATE)
    known = certificate if isinstance(certificate, dict) else None

    def why_not(found: VerifiedCheckpoints, entry: ManifestEntry) -> tuple[str, ...]:
        candidate = Candidate(found.model_id, found.version, entry.id, entry.checksum_sha256)
        return certificate_problems(known, candidate, policy, move.now)

    found = judge_checkpoints(held, certified=why_not)
    findings = [
        Finding(
            f"CHECKPOINTS_{wrong.code}",
            Verdict.FAIL,
            f"checkpoints: {wrong.code.lower().replace('_', ' ')}",
            f"{wrong.where}: {wrong.sentence}",
            remedy=wrong.remedy,
        )
        for wrong in found.findings
    ]
    if not found.entries:
        return findings
    findings += _certified(found, why_not(found, found.entries[-1]))
    findings += _limits(held, found, settings)
    return findings


def _certified(found: VerifiedCheckpoints, problems: tuple[str, ...]) -> list[Finding]:
    last = found.entries[-1]
    if problems or not found.approved:
        why = "; ".join(problems) or "the manifest does not say approved"
        return [
            Finding(
                "CHECKPOINT_NOT_CERTIFIED",
                Verdict.FAIL if problems else Verdict.INCONCLUSIVE,
                f"{last.id} not certified",
                f"{last.id} is not certified: {why}",
                remedy=_CERTIFY,
            )
        ]
    return [
        Finding(
            "CHECKPOINT_CERTIFIED",
            Verdict.PASS,
            f"{last.id} certified",
            f"the council certified {last.id}",
            observed=last.checksum_sha256,
        )
    ]


def _limits(held: Held, found: VerifiedCheckpoints, settings: CheckpointsPolicy) -> list[Finding]:
    last = found.entries[-1]
    rows = held.documents.get(METRICS, {}).get("checkpoints", [])
    row = next((r for r in rows if isinstance(r, dict) and r.get("id") == last.id), {})
    governance = held.documents.get(GOVERNANCE)
    violations = governance.get("violations") if isinstance(governance, dict) else None
    asked = (
        ("energy_wh", last.energy_wh, None, settings.max_energy_wh, "Wh"),
        ("carbon_gco2e", row.get("carbon_gco2e"), None, settings.max_carbon_gco2e, "gCO2e"),
        ("faircare_score", last.faircare_score, settings.min_faircare_score, None, ""),
        ("bias_index", row.get("bias_index"), None, settings.max_bias_index, ""),
        ("auc", last.auc, settings.min_auc, None, ""),
        (
            "ethics_violation_count",
            len(violations) if isinstance(violations, list) else None,
            None,
            0,
            "",
        ),
    )
    return [
        judge_limit(
            Limit(metric=name, min=low, max=high, unit=unit),
            value,
            code="CHECKPOINT",
            missing="resume the training, which writes it",
        )
        for name, value, low, high, unit in asked
        if low is not None or high is not None
    ]
