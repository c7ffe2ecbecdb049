"""The gate on drift: what the validator's own process found, signed and bound to this release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import absent, binding_of, newest
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.monitor.drift_baseline import BASELINE_PATH

if TYPE_CHECKING:
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy

_CHECK = "validate it again with current inputs: log_validation(…, current=CurrentInputs(…))"
_VERDICTS = {
    "PASS": ("DRIFT_NONE", Verdict.PASS, "no drift"),
    "INCONCLUSIVE": ("DRIFT_INCONCLUSIVE", Verdict.INCONCLUSIVE, "drift inconclusive"),
    "FAIL": ("DRIFT_FOUND", Verdict.FAIL, "inputs drift"),
}
_UNCLEAR = ("DRIFT_UNCLEAR", Verdict.INCONCLUSIVE, "drift unclear")


def _missing(summary: str, detail: str) -> list[Finding]:
    return [Finding("DRIFT_MISSING", Verdict.INCONCLUSIVE, summary, detail, remedy=_CHECK)]


def _baseline_digest(evidence: Evidence) -> str:
    return evidence.manifest.digests.get(BASELINE_PATH, "") if evidence.manifest else ""


def _rank(found: Any) -> str:
    """Return the worst verdict that a summary's parts allow; a whole is never better."""
    verdicts = [check.get("verdict") for check in found if isinstance(check, dict)]
    if len(verdicts) != len(found) or not any(c.get("check") == "distribution" for c in found):
        return ""
    for verdict in ("FAIL", "INCONCLUSIVE"):
        if verdict in verdicts:
            return verdict
    return "PASS" if set(verdicts) == {"PASS"} else ""


def drift(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the validator checked current inputs by this policy's plan, and found no drift.

    The check counts only with the baseline whose digest is in the release that is judged.
    """
    settings = policy.gates.drift
    report, problems = newest(evidence, "validation", binding_of(evidence, move))
    if report is None or settings is None:
        return absent("validation", problems, _CHECK)
    summary = (report.claims or {}).get("drift")
    inputs = summary.get("inputs") if isinstance(summary, dict) else None
    if not isinstance(summary, dict) or not isinstance(inputs, dict):
        return _missing("drift not checked", "the validation says nothing about drift")
    digest = _baseline_digest(evidence)
    if not digest or inputs.get("baseline_digest") != digest:
        return _missing(
            "drift checked elsewhere", f"drift was not checked against this {BASELINE_PATH}"
        )
    if inputs.get("plan") != settings.plan.model_dump(mode="json"):
        return _missing("drift plan differs", "drift was checked by another plan than the policy's")
    checks = inputs.get("checks")
    said = summary.get("verdict")
    parts = _rank(checks) if isinstance(checks, list) else ""
    # FAIL needs no proof; anything better must agree with its parts.
    known = said if said in ("FAIL", parts) else ""
    code, verdict, words = _VERDICTS.get(str(known), _UNCLEAR)
    return [
        Finding(
            code,
            verdict,
            words,
            f"{', '.join(report.signers)}: {summary.get('reason') or 'gave no reason'}",
            observed=str(said),
            limit="PASS",
            remedy="" if verdict is Verdict.PASS else _CHECK,
        )
    ]
