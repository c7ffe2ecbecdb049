"""Gates on what was measured by somebody else than the trainer: validation, metrics, canary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kfm_mlflow.gates.evidence import keys_of_duty
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.attestation import binding_problems
from kfm_mlflow.trust.instants import format_instant
from kfm_mlflow.trust.model_key import split_key
from kfm_mlflow.trust.statement import Binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.gates.engine import Gate
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Limit, MetricsPolicy, Policy
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.signing import SignatureReport


def binding_of(evidence: Evidence, move: Move, *, policy_digest: str | None = None) -> Binding:
    """Return what a statement has to be bound to.

    Without a policy digest it is about the release, whose documents know no workspace.
    """
    key = move.model_name
    return Binding(
        model_name=key if policy_digest else split_key(key)[1],
        release_version=evidence.release_version,
        release_id=evidence.release_id,
        policy_digest=policy_digest,
        version=move.version,
    )


def newest(
    evidence: Evidence, kind: str, binding: Binding, *, epoch: int | None = None
) -> tuple[AttestationReport | None, list[str]]:
    """Return the newest good attestation of a kind about this release, and why others are not.

    Args:
        evidence: What is known about the release.
        kind: Kind of attestation.
        binding: What it must be bound to.
        epoch: Epoch that its claims must name; None takes any.
    """
    good: list[AttestationReport] = []
    problems: list[str] = []
    for report in evidence.of_kind(kind):
        wrong = [*report.problems, *binding_problems(report, binding)]
        if epoch is not None and not _is_of(epoch, report):
            wrong.append("is of an earlier epoch")
        if report.ok and not wrong:
            good.append(report)
        else:
            problems += wrong
    good.sort(key=lambda report: (report.issued_at, report.digest))
    return (good[-1] if good else None), problems


def _is_of(epoch: int, report: AttestationReport) -> bool:
    said = (report.claims or {}).get("epoch")
    return said == epoch and not isinstance(said, bool)


def absent(kind: str, problems: Sequence[str], remedy: str) -> list[Finding]:
    """Return that there is no good attestation of a kind: none at all, or why not those found."""
    label = kind.upper().replace("-", "_")
    if not problems:
        return [
            Finding(
                f"{label}_MISSING",
                Verdict.INCONCLUSIVE,
                f"{kind} missing",
                f"there is no {kind} attestation of a trusted party",
                remedy=remedy,
            )
        ]
    return [
        Finding(
            f"{label}_INVALID",
            Verdict.FAIL,
            f"{kind} invalid",
            f"{kind} attestation {problem}",
            remedy=remedy,
        )
        for problem in problems
    ]


def is_same_hand(signature: SignatureReport, report: AttestationReport, policy: Policy) -> bool:
    """Say whether the signer also validated: by name, or by a key that is trusted under two."""
    if signature.signer in report.signers:
        return True
    keys = keys_of_duty(policy.trust, "validators")
    return any(
        key.public_key.key_id == signature.key_id for key in keys if key.name in report.signers
    )


_VALIDATE = "validate it again: mlflow run . -e validate, under the validator's own key"


def validation(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether a validator, not the signer, signed a fresh result about exactly this release."""
    settings = policy.gates.validation
    report, problems = newest(evidence, "validation", binding_of(evidence, move))
    if report is None or settings is None:
        unsigned = [p for r in evidence.attestations if r.kind is None for p in r.problems]
        return absent("validation", problems or unsigned, _VALIDATE)
    findings: list[Finding] = []
    issued_at = report.issued_at
    age_s = (move.now - issued_at).total_seconds() if issued_at else math.inf
    if age_s > settings.max_age_s:
        findings.append(
            Finding(
                "VALIDATION_EXPIRED",
                Verdict.FAIL,
                "validation expired",
                f"validated at {format_instant(issued_at) if issued_at else 'no known time'}, "
                f"at most {settings.max_age_s:g} s ago is allowed",
                limit=f"<= {settings.max_age_s:g}",
                unit="s",
                remedy=_VALIDATE,
            )
        )
    claims = report.claims or {}
    determinism = claims.get("determinism")
    identical = isinstance(determinism, dict) and determinism.get("identical") is True
    if settings.require_deterministic and not identical:
        findings.append(
            Finding(
                "NOT_DETERMINISTIC",
                Verdict.FAIL,
                "inference not deterministic",
                "the validator ran inference twice and the answers differ, or did not say",
                remedy="seed and fix the model's operations, then validate again",
            )
        )
    if evidence.signature is not None and is_same_hand(evidence.signature, report, policy):
        findings.append(
            Finding(
                "SELF_VALIDATED",
                Verdict.FAIL,
                "validated by its own signer",
                f"{evidence.signature.signer} signed the release and its validation",
                remedy="let another party validate it",
            )
        )
    return findings or [
        Finding(
            "VALIDATED",
            Verdict.PASS,
            "validated",
            f"validated by {', '.join(report.signers)}",
            observed=format_instant(issued_at) if issued_at else "",
        )
    ]


def judge_limit(
    limit: Limit, value: object, *, code: str = "METRIC", missing: str = _VALIDATE
) -> Finding:
    """Hold one number against a limit; inclusive, NaN never keeps it.

    Args:
        limit: What is asked.
        value: What was measured; anything but a number counts as not measured.
        code: Reason codes begin with it.
        missing: What to do when nothing was measured.
    """
    asked = " and ".join(
        text
        for text in (
            f">= {limit.min:g}" if limit.min is not None else "",
            f"<= {limit.max:g}" if limit.max is not None else "",
        )
        if text
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Finding(
            f"{code}_MISSING",
            Verdict.INCONCLUSIVE,
            f"{limit.metric} missing",
            f"{limit.metric} was not measured",
            limit=asked,
            unit=limit.unit,
            remedy=missing,
        )
    passed = (
        math.isfinite(value)
        and (limit.min is None or value >= limit.min)
        and (limit.max is None or value <= limit.max)
    )
    return Finding(
        f"{code}_WITHIN" if passed else f"{code}_OUTSIDE",
        Verdict.PASS if passed else Verdict.FAIL,
        f"{limit.metric} {value:.3g}, asked {asked}",
        f"{limit.metric} is {value:.6g}, asked is {asked}",
        observed=f"{value:.6g}",
        limit=asked,
        unit=limit.unit,
        remedy=""
        if passed
        else "train a better model, or measure on the data that the policy means",
    )


def limits(gate: str) -> Gate:
    """Return the gate that asks whether the validator's signed metrics keep its limits.

    Limits are inclusive, and NaN keeps none.

    Args:
        gate: One of :data:`~kfm_mlflow.policy.models.LIMIT_GATES`.
    """

    def asked(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
        settings: MetricsPolicy | None = getattr(policy.gates, gate)
        report, problems = newest(evidence, "validation", binding_of(evidence, move))
        if report is None or settings is None:
            return absent("validation", problems, _VALIDATE)
        measured = (report.claims or {}).get("metrics")
        values = measured if isinstance(measured, dict) else {}
        found = settings.limits_of(split_key(move.model_name)[1])
        return [judge_limit(limit, _value(values.get(limit.metric))) for limit in found]

    return asked


def _value(value: object) -> object:
    # JSON has no NaN: a validator writes it, and the infinities, as text.
    if isinstance(value, str) and value in {"NaN", "Infinity", "-Infinity"}:
        return float(value)
    return value


def number_of(value: object) -> float:
    """Return a number that a validator wrote; NaN for what is none."""
    found = _value(value)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number else math.nan  # type: ignore[arg-type]  # by the line before


def canary(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether a controller measured the canary under this policy and found it no worse."""
    binding = binding_of(evidence, move, policy_digest=move.policy_digest or policy.digest)
    report, problems = newest(evidence, "canary-verdict", binding, epoch=move.epoch)
    if report is None:
        return absent("canary-verdict", problems, "let the rollout controller finish the canary")
    claims = report.claims or {}
    verdict = str(claims.get("verdict", ""))
    passed = verdict == Verdict.PASS
    return [
        Finding(
            "CANARY_PASSED" if passed else "CANARY_NOT_PASSED",
            Verdict.PASS if passed else Verdict.FAIL,
            "canary passed" if passed else f"canary {verdict or 'unclear'}",
            f"{', '.join(report.signers)} measured {claims.get('sample_count', 0)} requests",
            observed=verdict,
            limit="PASS",
        )
    ]


_SPAN_COUNTS = ("request_count", "span_count")
_KEEP_SPANS = "run the controller with --telemetry-dir, or with a collector that takes every span"


def span_coverage(evidence: Evidence, policy: Policy, move: Move, min_ratio: float) -> Finding:
    """Ask whether the controller's verdict says that enough of the canary's answers have a span.

    Args:
        evidence: What is known about the release.
        policy: What is asked.
        move: The move.
        min_ratio: Least share of answers with a span, 0..1.
    """
    binding = binding_of(evidence, move, policy_digest=move.policy_digest or policy.digest)
    report, _ = newest(evidence, "canary-verdict", binding, epoch=move.epoch)
    said = (report.claims or {}).get("telemetry") if report else None
    counts = [said.get(name) if isinstance(said, dict) else None for name in _SPAN_COUNTS]
    known = [n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    limit = f">= {min_ratio:g}"
    if len(known) != len(counts) or not known[0]:
        return Finding(
            "SPANS_UNKNOWN",
            Verdict.INCONCLUSIVE,
            "canary spans unknown",
            "no good canary-verdict says how many of the canary's answers have a span",
            limit=limit,
            remedy=_KEEP_SPANS,
        )
    request_count, span_count = known
    ratio = span_count / request_count
    passed = min_ratio <= ratio <= 1
    return Finding(
        "SPANS_COMPLETE" if passed else "SPANS_INCOMPLETE",
        Verdict.PASS if passed else Verdict.FAIL,
        f"canary spans {ratio:.3g}, asked {limit}",
        f"a span was kept of {span_count} of the canary's {request_count} answers",
        observed=f"{ratio:.6g}",
        limit=limit,
        remedy="" if passed else _KEEP_SPANS,
    )
