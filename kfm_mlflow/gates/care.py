"""The CARE gate: a veto, computed with the policy's own regions and never read from the trainer.

Four things are asked: what the screening of the release found; what it tells when the release at
Production is subtracted from it; what a validator measured by running the model (only if the policy
asks for it, or somebody did); and the FAIR+CARE score, whose CARE part has a floor of its own. What
follows from releases alone was computed once; only consent, seasons, embargoes and signed
measurements are looked at again at every move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.care.score import FairCareScore, fair_checks, score
from kfm_mlflow.care.screening import Status
from kfm_mlflow.gates.evidence import care_subject
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import binding_of, newest
from kfm_mlflow.gates.ruling import ruling_of, settled
from kfm_mlflow.gates.verdict import Verdict

if TYPE_CHECKING:
    from kfm_mlflow.care.authority import Ruling
    from kfm_mlflow.care.screening import Check
    from kfm_mlflow.gates.content import ReleaseContent
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
    ruling = ruling_of(evidence, move)
    for check in settled(asked_checks(evidence, policy, move), ruling):
        findings += _findings_of(check)
    findings += _not_compared(evidence, move)
    return [*findings, *_scored(evidence, policy, ruling)]


def asked_checks(evidence: Evidence, policy: Policy, move: Move) -> tuple[Check, ...]:
    """Return every check that was made of a release; what authorities approved is still in them."""
    screened = evidence.screening.checks if evidence.screening is not None else ()
    return (
        *screened,
        *differencing_checks(evidence, policy, move),
        *measured_checks(evidence, policy, move),
    )


def differencing_checks(evidence: Evidence, policy: Policy, move: Move) -> tuple[Check, ...]:
    """Return the check of what a release and the one at Production tell together.

    Empty when there is nothing to compare with, for which :func:`care` has a finding that says so.
    """
    if evidence.screening is None or not evidence.screening.checks:
        return ()  # What was not screened is not made up for by this.
    if why_not_compared(evidence, move):
        return ()
    from kfm_mlflow.care.screen import screen_differencing

    subject, earlier = care_subject(evidence.content, policy), evidence.predecessor
    if earlier is None:
        return (screen_differencing(subject, None),)
    before = care_subject(earlier, policy)
    rules = f"{subject.regions.digest} {policy.digest}"
    return evidence.content.once(
        ("care differencing", f"{rules} {evidence.target_release_id}"),
        lambda: (screen_differencing(subject, before),),
    )


def why_not_compared(evidence: Evidence, move: Move) -> str:
    """Return why no two releases are compared; empty when they are."""
    if move.restores:
        return "both releases were public before"
    if move.production is None or move.production == move.version:
        return "no other release of this model is at Production"
    if not evidence.target_release_id:
        return f"v{move.production} was never frozen, so nobody knows what it told"
    return ""


def _not_compared(evidence: Evidence, move: Move) -> list[Finding]:
    why = why_not_compared(evidence, move)
    if evidence.screening is None or not evidence.screening.checks:
        why = ""  # No evidence is never a pass.
    said = Finding(
        "CARE_DIFFERENCING", Verdict.PASS, "CARE differencing not asked", f"not asked: {why}"
    )
    return [said] if why else []


def measured_checks(evidence: Evidence, policy: Policy, move: Move) -> tuple[Check, ...]:
    """Return the checks that read what a validator measured and signed.

    Empty when nobody measured any of it and the policy does not ask for it.
    """
    settings = policy.gates.care
    report, _ = newest(evidence, "validation", binding_of(evidence, move))
    claims = report.claims if report is not None else None
    required = settings is not None and (
        settings.require_invariance or settings.require_training_rows
    )
    if not required and "care" not in (claims or {}):
        return ()
    from kfm_mlflow.care.screen import screen_measurements

    subject = care_subject(evidence.content, policy)
    return screen_measurements(subject, claims, move.now)[0]


def _findings_of(check: Check) -> list[Finding]:
    verdict = _VERDICT.get(str(check.status), Verdict.ERROR)
    name = str(check.id).upper().replace("-", "_")
    found = check.findings if verdict is not Verdict.PASS else ()
    return [
        Finding(
            f"CARE_{name}",
            _VERDICT.get(str(one.status), Verdict.ERROR),
            f"CARE {check.id} {check.status}",
            str(one),
            observed=one.observed or str(one.status),
            limit=one.limit or "no-known-conflict",
            unit=one.unit,
            remedy=check.remedy,
        )
        for one in found
    ] or [
        Finding(
            f"CARE_{name}",
            verdict,
            f"CARE {check.id} {check.status}",
            check.id,
            observed=str(check.status),
            limit="no-known-conflict",
            remedy="" if verdict is Verdict.PASS else str(check.remedy),
        )
    ]


def fair_care_score(content: ReleaseContent, checks: tuple[Check, ...]) -> FairCareScore:
    """Return the FAIR+CARE score of a release, from its documents and its screening."""
    documents = {path: document.value for path, document in content.documents.items()}
    held = dict(content.once(("fair", ""), lambda: tuple(_fair(content, documents))))
    return score(
        {**held, **{check.id: check.status is Status.NO_KNOWN_CONFLICT for check in checks}}
    )


def _fair(content: ReleaseContent, documents: dict[str, object]) -> list[tuple[str, bool]]:
    return list(fair_checks(documents, content.problems).items())


def _scored(evidence: Evidence, policy: Policy, ruling: Ruling) -> list[Finding]:
    settings, screening = policy.gates.care, evidence.screening
    if settings is None or screening is None or not screening.checks:
        return []
    found = fair_care_score(evidence.content, settled(screening.checks, ruling))
    told = f"FAIR {found.fair_pct:.1f}, CARE {found.care_pct:.1f}"
    limits = (
        ("CARE_BELOW_FLOOR", "CARE", found.care_pct, settings.min_care_pct),
        ("FAIR_CARE_SCORE", "FAIR+CARE", found.score_pct, settings.min_score_pct),
    )
    findings = []
    for code, name, value, limit in limits:
        passed = value >= limit
        if passed and code == "CARE_BELOW_FLOOR":
            continue
        findings.append(
            Finding(
                code,
                Verdict.PASS if passed else Verdict.FAIL,
                f"{name} {value:.1f} of 100",
                f"FAIR+CARE score {found.score_pct:.1f}, {found.band} ({told})",
                observed=f"{value:.1f}",
                limit=f">= {limit:g}",
                unit="%",
                remedy="" if passed else f"mend what does not hold: {', '.join(found.failed)}",
            )
        )
    return findings
