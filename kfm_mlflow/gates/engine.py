"""The engine: gates in order, each a pure function, none able to stop the others.

``evaluate`` lists every finding and never raises on bad evidence; ``enforce`` raises. A gate
that fails to answer is a refusal with its own reason code. Adding a gate can only refuse more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from kfm_mlflow.errors import RefusedError
from kfm_mlflow.gates import bytes_, care, documents, measured, people
from kfm_mlflow.gates.findings import Finding, GateReport, GateResult, Move, refusal_sentence
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    "prov": documents.prov,
    "stac": documents.stac,
    "sbom": documents.sbom,
    "telemetry": documents.telemetry,
    "xai": documents.xai,
    "validation": measured.validation,
    "metrics": measured.metrics,
    "canary": measured.canary,
    "rollback_target": people.rollback_target,
    "votes": people.votes,
}

RESTORE_GATES = ("care", "integrity", "signature")
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
        A report with every finding. Its verdict is PASS only if every enforced gate passed; a
        level without gates is INCONCLUSIVE.
    """
    names = policy.gate_names(move.to_level)
    if move.restores:
        names = tuple(name for name in RESTORE_GATES if name in names)
    results = [GateResult("path", "enforce", tuple(_path(move)))] if names else []
    results += [
        GateResult(name, _mode(policy, name), _run(name, evidence, policy, move)) for name in names
    ]
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
