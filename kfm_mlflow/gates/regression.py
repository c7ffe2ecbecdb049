"""Whether a newer validation finds bad what was admitted: metrics, determinism, explanation. Pure.

Rules kept here:

1. What counts is the newest validation of another party than the signer, and only if no decision
   that moved the version up had read it and it was made after those that such a decision had read:
   neither a policy that changed nor an old statement that is sent again takes anything down.
2. It is judged by the policy in force, by the gates that the policy asks and enforces, exemptions
   included.
3. A limit must be broken. What was not measured, or is merely old, is a question of the next move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kfm_mlflow.gates.engine import ask_gates
from kfm_mlflow.gates.measured import binding_of, is_same_hand, newest
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.models import LIMIT_GATES
from kfm_mlflow.trust.attestation import binding_problems

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.gates.findings import Finding, Move
    from kfm_mlflow.policy.models import Policy

KIND = "validation"
_GATES = (KIND, "xai", *LIMIT_GATES)
_BROKEN = frozenset(
    {"METRIC_OUTSIDE", "NOT_DETERMINISTIC", "XAI_NOW_UNCONVERGED", "XAI_NOW_UNSTABLE"}
)


@dataclass(frozen=True)
class Regression:
    """What a newer validation found bad.

    Attributes:
        statement: Digest of the signed validation.
        findings: (gate, finding) of each limit that it breaks; at least one.
    """

    statement: str
    findings: tuple[tuple[str, Finding], ...]


def find_regression(
    evidence: Evidence, policy: Policy, move: Move, read_before: Collection[str]
) -> Regression | None:
    """Return what the newest validation of a served release breaks; None without a newer one.

    Args:
        evidence: What is known about the release now.
        policy: The policy in force.
        move: Any move of the version at the instant of the question.
        read_before: Digests of the statements that decisions to move the version up had read.
    """
    heard = _of_others(evidence, policy)
    binding = binding_of(heard, move)
    report, _ = newest(heard, KIND, binding)
    if report is None or report.issued_at is None or report.digest in read_before:
        return None
    before: list[datetime] = [
        known.issued_at
        for known in evidence.of_kind(KIND)
        if known.digest in read_before
        and known.issued_at is not None
        and not binding_problems(known, binding)
    ]
    if any(report.issued_at <= instant for instant in before):
        return None
    asked = {name for level in Level for name in policy.gate_names(level)}
    names = [name for name in _GATES if name in asked and policy.gate(name).mode == "enforce"]
    found = tuple(
        (result.gate, finding)
        for result in ask_gates(names, heard, policy, move)
        for finding in result.findings
        if finding.code in _BROKEN and finding.effect is Verdict.FAIL
    )
    return Regression(report.digest, found) if found else None


def _of_others(evidence: Evidence, policy: Policy) -> Evidence:
    """Return the evidence without what the signer of the release validated."""
    signature = evidence.signature
    if signature is None:
        return evidence
    kept = tuple(
        report
        for report in evidence.attestations
        if report.kind != KIND or not is_same_hand(signature, report, policy)
    )
    return replace(evidence, attestations=kept)
