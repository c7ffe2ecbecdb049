"""The engine: gates in order, each a pure function, none able to stop the others.

``evaluate`` lists every finding and never raises on bad evidence; ``enforce`` raises. A gate
that fails to answer is a refusal with its own reason code. Adding a gate can only refuse more:
what lets more pass is an exemption or break-glass, which are asked for by name, stay in the report,
and never pass over bytes, signatures, CARE, authorities, a veto, the way, or who asks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from kfm_mlflow.errors import RefusedError
from kfm_mlflow.gates import (
    attestations,
    authority,
    bytes_,
    care,
    checkpoints,
    documents,
    drift,
    lineage,
    measured,
    people,
)
from kfm_mlflow.gates.access import access, break_glass, breakers
from kfm_mlflow.gates.findings import (
    Finding,
    GateReport,
    GateResult,
    Move,
    Waiver,
    refusal_sentence,
)
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.exemptions import Subject, exemption_for, may_be_waived
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.models import LIMIT_GATES
from kfm_mlflow.trust.instants import format_instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import GatePolicy, Mode, Policy


class Gate(Protocol):
    """A pure question to the evidence under a policy."""

    def __call__(self, evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
        """Return findings; never raise on bad evidence."""


GATES: Mapping[str, Gate] = {
    "integrity": bytes_.integrity,
    "completeness": bytes_.completeness,
    "signature": bytes_.signature,
    "care": care.care,
    "authority": authority.authority,
    "prov": documents.prov,
    "lineage": lineage.lineage,
    "stac": documents.stac,
    "sbom": documents.sbom,
    "attestations": attestations.attestations,
    "telemetry": documents.telemetry,
    "xai": documents.xai,
    "validation": measured.validation,
    **{name: measured.limits(name) for name in LIMIT_GATES},
    "checkpoints": checkpoints.checkpoints,
    "drift": drift.drift,
    "canary": measured.canary,
    "rollback_target": people.rollback_target,
    "votes": people.votes,
}

RESTORE_GATES = ("care", "authority", "integrity", "signature")
"""What a release that was Production before must still pass to come back on a rollback."""


def _path(move: Move) -> list[Finding]:
    if move.restores and move.to_level is Level.PRODUCTION:
        return [Finding("PATH_RESTORE", Verdict.PASS, "rollback", "comes back on a rollback")]
    if move.to_level.rank == move.from_level.rank + 1:
        return [
            Finding(
                "PATH_NEXT",
                Verdict.PASS,
                "next level",
                f"{move.from_level} is followed by {move.to_level}",
            )
        ]
    following = list(Level)[move.from_level.rank + 1 :][:1]
    return [
        Finding(
            "LEVEL_SKIPPED",
            Verdict.FAIL,
            f"{move.from_level} cannot become {move.to_level}",
            f"a version at {move.from_level} may not move to {move.to_level}",
            observed=str(move.from_level),
            limit=str(move.to_level),
            remedy=f"move it to {following[0]} first" if following else "it is there already",
        )
    ]


def _mode(policy: Policy, name: str) -> Mode:
    settings: GatePolicy | None = getattr(policy.gates, name, None)
    # What nobody configured refuses: a level may only ask for gates that there are.
    return settings.mode if settings is not None else "enforce"


def _run(name: str, evidence: Evidence, policy: Policy, move: Move) -> tuple[Finding, ...]:
    gate = GATES.get(name)
    if gate is None or getattr(policy.gates, name, None) is None:
        problem = "unknown" if gate is None else "not configured"
        return (
            Finding(
                f"GATE_{problem.upper().replace(' ', '_')}",
                Verdict.ERROR,
                f"gate {name} {problem}",
                f"level {move.to_level} asks for gate {name!r}, which is {problem}",
                remedy="correct the policy: kfm policy lint",
            ),
        )
    try:
        return tuple(gate(evidence, policy, move))
    except Exception as exc:  # noqa: BLE001 - whatever a gate trips over is a refusal
        return (
            Finding(
                "GATE_ERROR",
                Verdict.ERROR,
                f"gate {name} failed",
                f"gate {name} could not answer: {type(exc).__name__}: {exc}",
                remedy="this is a defect or evidence of an unforeseen shape; report it",
            ),
        )


def judge_asker(policy: Policy, move: Move) -> tuple[GateResult, ...]:
    """Ask who asks: may they make the move, may they break the glass.

    Returns:
        Nothing when only the release is judged.
    """
    results = []
    if move.asker is not None:
        results.append(GateResult("access", "enforce", tuple(access(policy, move, move.asker))))
    if move.break_glass is not None:
        results.append(GateResult("break_glass", "enforce", tuple(break_glass(policy, move))))
    return tuple(results)


def _exempted(result: GateResult, evidence: Evidence, policy: Policy, move: Move) -> GateResult:
    """Return a gate's result with the findings waived that an exemption holds for now."""

    def waived(finding: Finding) -> Finding:
        if finding.verdict is Verdict.PASS:
            return finding
        subject = Subject(
            result.gate, finding.code, move.model_name, move.version, evidence.release_id
        )
        found = exemption_for(policy.exemptions, subject, move.now)
        if found is None:
            return finding
        until = format_instant(found.expires_at)
        return replace(finding, waiver=Waiver("exemption", found.owner, found.reason, until))

    return replace(result, findings=tuple(waived(finding) for finding in result.findings))


def ask_gates(
    names: Iterable[str], evidence: Evidence, policy: Policy, move: Move
) -> list[GateResult]:
    """Return what gates find, exemptions applied."""
    return [
        _exempted(
            GateResult(name, _mode(policy, name), _run(name, evidence, policy, move)),
            evidence,
            policy,
            move,
        )
        for name in names
    ]


def _passed_over(result: GateResult, policy: Policy, move: Move) -> GateResult:
    """Return a gate's result with everything waived that broken glass may pass over."""
    asked, settings = move.break_glass, policy.access.break_glass
    if asked is None or result.mode != "enforce" or result.gate in settings.keep:
        return result
    waiver = Waiver(
        "break-glass",
        ", ".join(breakers(policy, move.asker)),
        f"{asked.reason} (ticket {asked.ticket})",
        f"{asked.hours:g} h after the decision",
    )
    return replace(
        result,
        findings=tuple(
            replace(finding, waiver=waiver)
            if finding.effect is not Verdict.PASS and may_be_waived(result.gate, finding.code)
            else finding
            for finding in result.findings
        ),
    )


def _votes(evidence: Evidence, policy: Policy, move: Move) -> dict[str, Any]:
    try:
        return people.tally_of(evidence, policy, move)
    except Exception:  # noqa: BLE001 - gate votes counts the same way and reports the reason
        return {}


def evaluate(evidence: Evidence, policy: Policy, move: Move) -> GateReport:
    """Ask every gate on the way into a level.

    Args:
        evidence: What is known about the release.
        policy: The family's policy.
        move: From where to where, and when.

    Returns:
        A report with every finding. Its verdict is PASS only if every enforced gate passed, or
        what it found is waived; a level without gates is INCONCLUSIVE.
    """
    names = policy.gate_names(move.to_level)
    if move.restores:
        names = tuple(name for name in RESTORE_GATES if name in names)
    asked = judge_asker(policy, move)
    results = ask_gates(names, evidence, policy, move)
    if move.break_glass is not None and all(who.verdict is Verdict.PASS for who in asked):
        results = [_passed_over(result, policy, move) for result in results]
    if results and move.restores and policy.trust.rollback_approvers:
        approval = tuple(people.rollback_approval(evidence, policy, move))
        results.append(GateResult("rollback_approval", "enforce", approval))
    if results:
        results = [GateResult("path", "enforce", tuple(_path(move))), *asked, *results]
    return GateReport(
        move=move,
        family=policy.family,
        policy_digest=policy.digest,
        release_id=evidence.release_id,
        release_version=evidence.release_version,
        evidence=evidence.envelope_digests,
        gates=tuple(results),
        rollback_target=evidence.target_release_id,
        votes=_votes(evidence, policy, move) if "votes" in names else {},
    )


def enforce(report: GateReport) -> None:
    """Raise unless a report passed.

    Raises:
        RefusedError: With the one-sentence refusal as its text and the report attached.
    """
    if report.verdict is not Verdict.PASS:
        raise RefusedError(refusal_sentence(report), report=report)
