"""Gate on what the authorities of sovereign regions signed: approvals that are needed, and vetoes.

Who may speak for a region is in the regions file, and nobody's quorum stands above it: a veto that
counts refuses whatever else passed, and neither exemption nor broken glass passes over this gate.
How statements are weighed is in :mod:`kfm_mlflow.care.authority`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.care.authority import Ignored, Statement, needs_of
from kfm_mlflow.care.screening import Status
from kfm_mlflow.gates.care import asked_checks
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.ruling import ruling_of
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.instants import format_instant

if TYPE_CHECKING:
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy

_WORDS = {
    "EXPIRED": "expired",
    "OUT_OF_SCOPE": "out of scope",
    "FOREIGN_KEY": "by a foreign key",
    "REGION_UNKNOWN": "over an unknown region",
    "REGION_CHANGED": "outdated",
    "INVALID": "invalid",
}


def authority(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether every authority that must decide approved, and whether none vetoed."""
    if evidence.screening is None:
        return [
            Finding(
                "AUTHORITY_UNKNOWN",
                Verdict.ERROR,
                "no authority was asked",
                "there was nothing to screen, so nobody knows whose land is touched",
            )
        ]
    ruling = ruling_of(evidence, move)
    needs = needs_of(needs_authority(evidence, policy, move), ruling.approved)
    shown = evidence.regions.shown if evidence.regions is not None else str
    vetoes = [_vetoed(name, said, shown(said.reason)) for name, said in ruling.vetoed.items()]
    needed = [
        _needed(name, what, move) for name, what in needs.items() if name not in ruling.vetoed
    ]
    ignored = [_ignored(item, needs) for item in ruling.ignored]
    approved = [_approved(name, said) for name, said in ruling.approved.items()]
    found = [*vetoes, *needed, *ignored, *approved]
    return found or [
        Finding("AUTHORITY_NOT_NEEDED", Verdict.PASS, "no authority needed", "nobody must decide")
    ]


def needs_authority(
    evidence: Evidence, policy: Policy, move: Move
) -> tuple[tuple[str, str, str], ...]:
    """Return (region, check, rule code) of everything that only an authority can settle."""
    return tuple(
        (finding.region, check.id, finding.rule)
        for check in asked_checks(evidence, policy, move)
        for finding in check.findings
        if finding.status is Status.NEEDS_AUTHORITY and finding.region
    )


def _vetoed(region: str, said: Statement, reason: str) -> Finding:
    return Finding(
        "AUTHORITY_VETOED",
        Verdict.FAIL,
        f"vetoed for region {region}",
        f"region {region}: its authority vetoed on {format_instant(said.issued_at)} "
        f"({said.scope}){_until(said)}: {reason}",
        observed="veto",
        limit="no veto",
        remedy="only the same authority can lift it: kfm care approve",
    )


def _until(said: Statement) -> str:
    return f", until {format_instant(said.expires_at)}" if said.expires_at else ""


def _needed(region: str, what: list[str], move: Move) -> Finding:
    return Finding(
        "AUTHORITY_NEEDED",
        Verdict.INCONCLUSIVE,
        f"region {region} needs its authority",
        f"region {region}: its authority must approve: {', '.join(what)}",
        observed="no approval",
        limit="approval",
        remedy=f"kfm care approve models:/{move.model_name}/{move.version} "
        f"--region '{region}' --key KEY --reason WHY",
    )


def _ignored(item: Ignored, needs: dict[str, list[str]]) -> Finding:
    """Return that a statement does not count; that refuses only where it is missed."""
    said = item.statement
    missed = said.choice == "approve" and (
        said.region in needs or (item.code == "REGION_UNKNOWN" and bool(needs))
    )
    word = "approval" if said.choice == "approve" else "veto"
    return Finding(
        f"AUTHORITY_{item.code}",
        Verdict.INCONCLUSIVE if missed else Verdict.PASS,
        f"{word} {_WORDS[item.code]}",
        f"region {said.region}: {word} of {format_instant(said.issued_at)} does not count: "
        f"{item.why}",
        observed=said.digest,
    )


def _approved(region: str, said: Statement) -> Finding:
    return Finding(
        "AUTHORITY_APPROVED",
        Verdict.PASS,
        f"approved for region {region}",
        f"region {region}: its authority signed an approval on {format_instant(said.issued_at)} "
        f"({said.scope}){_until(said)}",
        observed=said.digest,
    )
