"""What the authorities of regions signed about a release, as the CARE gate and theirs weigh it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.care.authority import Ruling, Statement, parse_claims, region_digest, rule_on
from kfm_mlflow.care.screening import Check, Status, worst_status
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.gates.evidence import region_keys
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.attestation import binding_problems

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.gates.findings import Finding, Move
    from kfm_mlflow.trust.attestation import AttestationReport

KIND = "care-authority"
SOVEREIGNTY_GATES = ("care", "authority")
"""Gates whose findings of today take down what is served, and need nobody's decision for it."""
Standing = Literal["ok", "regressed", "stale", "vetoed"]
_NO_CONFLICT = frozenset(
    {
        "AUTHORITY_UNKNOWN",
        "CARE_DIFFERENCING",
        "CARE_UNSCREENED",
        "FAIR_CARE_SCORE",
        "TEXT_UNREADABLE",
    }
)
"""What these gates find that is no conflict with serving: bytes that can not be read now, or what
two releases tell together, which is public whether one of them is taken back or not."""


def against_serving(findings: Iterable[tuple[str, Finding]]) -> tuple[tuple[str, Finding], ...]:
    """Return those of (gate, finding) for which a release may no longer be served."""
    return tuple(
        (gate, finding)
        for gate, finding in findings
        if gate in SOVEREIGNTY_GATES
        and finding.effect is not Verdict.PASS
        and finding.code not in _NO_CONFLICT
    )


def standing_of(findings: Iterable[tuple[str, Finding]]) -> Standing:
    """Return whether a release may still be served: ``ok``, ``stale``, or ``vetoed``."""
    codes = [finding.code for _, finding in against_serving(findings)]
    if "AUTHORITY_VETOED" in codes:
        return "vetoed"
    return "stale" if codes else "ok"


def door_problem(report: AttestationReport, version: int, regions: RegionSet) -> str:
    """Return why a registry does not keep what an authority signed; empty when it does.

    Args:
        report: What verifying it with the regions' keys gave.
        version: Model version that it was sent for.
        regions: The regions as they are now.
    """
    try:
        _, name, digest, _, reason = parse_claims(report.claims or {})
    except EvidenceError as exc:
        return str(exc)
    found = {regions.shown(region.id): region for region in regions.regions}.get(name)
    if found is None:
        return f"names region {name[:80]!r}, which there is not"
    binding = report.binding
    faults = {
        "is signed by no key that the region names": not set(report.signers)
        & region_keys(regions)[found.id],
        "is about another version": binding is None or binding.version != version,
        "gives a reason in which a restricted name stands, and statements are shown": regions.shown(
            reason
        )
        != reason,
        "was made for other rules of the region; read them again": digest != region_digest(found),
    }
    return next((fault for fault, holds in faults.items() if holds), "")


def statements_of(evidence: Evidence, move: Move) -> list[Statement]:
    """Return what authorities signed about a release or its model, whether it counts or not."""
    found = []
    for report in evidence.of_kind(KIND):
        said = _statement(report)
        if said is not None and _is_about(report, said, evidence, move):
            found.append(said)
    return found


def ruling_of(evidence: Evidence, move: Move) -> Ruling:
    """Return what the authorities of all regions say of a release now."""
    if evidence.regions is None:
        return Ruling({}, {})
    block = evidence.content.mapping("care.json").get("care")
    return rule_on(
        statements_of(evidence, move),
        evidence.regions,
        region_keys(evidence.regions),
        block if isinstance(block, dict) else {},
    )


def settled(checks: Iterable[Check], ruling: Ruling) -> tuple[Check, ...]:
    """Return checks without what an authority had to decide, and approved.

    Nothing but ``needs-authority`` over a region is an authority's to settle.
    """
    return tuple(_settled(check, ruling) for check in checks)


def _settled(check: Check, ruling: Ruling) -> Check:
    left = tuple(
        finding
        for finding in check.findings
        if finding.status is not Status.NEEDS_AUTHORITY or finding.region not in ruling.approved
    )
    if len(left) == len(check.findings):
        return check
    status = worst_status(finding.status for finding in left)
    return replace(check, status=status, findings=left, remedy=check.remedy if left else "")


def _statement(report: AttestationReport) -> Statement | None:
    """Return an authority's statement; None of what nobody who may speak signed."""
    if report.claims is None or report.issued_at is None:
        return None
    try:
        choice, region, digest, scope, reason = parse_claims(report.claims)
    except EvidenceError:
        return None  # signed nonsense decides nothing, and the door keeps none
    return Statement(
        choice=choice,
        region=region,
        region_digest=digest,
        scope=scope,
        reason=reason,
        key_ids=frozenset(report.signers),
        issued_at=report.issued_at,
        expires_at=report.expires_at,
        digest=report.digest,
        fault="; ".join(report.problems),
    )


def _is_about(report: AttestationReport, said: Statement, evidence: Evidence, move: Move) -> bool:
    """Return whether a statement is about this release, or about every release of its model."""
    bound = report.binding
    if bound is None or bound.model_name != move.model_name:
        return False
    if said.scope.covers == "model":
        return True
    expected = replace(bound, release_id=evidence.release_id, version=move.version)
    return not binding_problems(bound, expected)
