"""The CARE gate: a veto, computed with the policy's own regions and never read from the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.verdict import Verdict

if TYPE_CHECKING:
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy

_VERDICT = {
    "no-known-conflict": Verdict.PASS,
    "stale": Verdict.INCONCLUSIVE,
    "needs-authority": Verdict.INCONCLUSIVE,
    "conflict": Verdict.FAIL,
}


def care(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask what the screening says; anything but no-known-conflict refuses."""
    if evidence.screening is None:
        return [
            Finding(
                "CARE_UNSCREENED", Verdict.ERROR, "CARE not screened", "there was nothing to screen"
            )
        ]
    findings = [
        Finding(
            "TEXT_UNREADABLE",
            Verdict.FAIL,
            "text cannot be screened",
            sentence,
            remedy="write UTF-8 under 16 MiB",
        )
        for sentence in evidence.content.problems.get("texts", ())
    ]
    for check in evidence.screening.checks:
        verdict = _VERDICT.get(str(check.status), Verdict.ERROR)
        name = str(check.id).upper().replace("-", "_")
        details = check.findings if verdict is not Verdict.PASS and check.findings else (check.id,)
        findings += [
            Finding(
                f"CARE_{name}",
                verdict,
                f"CARE {check.id} {check.status}",
                str(detail),
                observed=str(check.status),
                limit="no-known-conflict",
                remedy="" if verdict is Verdict.PASS else str(check.remedy),
            )
            for detail in details
        ]
    return findings
