"""Gates on documents (PROV, STAC, SBOM, telemetry, XAI): valid, and true of the bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kfm_mlflow.gates.explained import explained_again, judge_explanation
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import span_coverage
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level

if TYPE_CHECKING:
    from kfm_mlflow.gates.content import ReleaseContent
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy


def _from_problems(evidence: Evidence, kind: str, path: str) -> list[Finding]:
    label = kind.upper()
    document = evidence.content.document(path)
    problems = evidence.content.problems.get(f"{kind}:{path}")
    if document.problem or problems is None:
        detail = document.problem or f"{path}: not recognised as {label}"
        code = f"{label}_MISSING" if "missing" in detail else f"{label}_INVALID"
        return [
            Finding(
                code,
                Verdict.FAIL,
                f"{label} {'missing' if code.endswith('MISSING') else 'invalid'}",
                detail,
            )
        ]
    if problems:
        return [
            Finding(f"{label}_INVALID", Verdict.FAIL, f"{label} invalid", f"{path}: {sentence}")
            for sentence in problems
        ]
    return [
        Finding(
            f"{label}_VALID",
            Verdict.PASS,
            f"{label} valid",
            f"{path} is valid and agrees with the files",
        )
    ]


def prov(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the lineage is valid and leads from the release to every data set by digest."""
    settings = policy.gates.prov
    return _from_problems(
        evidence, "prov", settings.path if settings else "provenance/provenance.json"
    )


def stac(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the STAC item is valid, describes these files, and is of this version."""
    settings = policy.gates.stac
    path = settings.path if settings else "stac/model-item.json"
    findings = _from_problems(evidence, "stac", path)
    properties = evidence.content.mapping(path).get("properties")
    said = properties.get("model:version") if isinstance(properties, dict) else None
    if said is not None and said != evidence.release_version:
        findings.append(
            Finding(
                "STAC_DISAGREES",
                Verdict.FAIL,
                "STAC names another version",
                f"{path}: model:version is {said!r}, "
                f"model_metadata.json says {evidence.release_version!r}",
                observed=str(said),
                limit=evidence.release_version,
            )
        )
    del move
    return findings


def sbom(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the bill of materials is valid SPDX and lists these files."""
    settings = policy.gates.sbom
    return _from_problems(evidence, "sbom", settings.path if settings else "sbom.spdx.json")


def _checked(content: ReleaseContent, schema: str, path: str, label: str) -> list[Finding]:
    return [
        Finding(f"{label}_INVALID", Verdict.FAIL, f"{label.lower()} invalid", f"{path}: {sentence}")
        for sentence in content.schema_problems(path, schema)
    ]


def _number(value: Any) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    )


def _at_most(label: str, name: str, value: float, limit: float | None, unit: str) -> list[Finding]:
    if limit is None:
        return []
    passed = value <= limit
    shown = "" if unit == "1" else f" {unit}"
    return [
        Finding(
            f"{label}_WITHIN" if passed else f"{label}_EXCEEDED",
            Verdict.PASS if passed else Verdict.FAIL,
            f"{name} {value:g}{shown} of {limit:g}",
            f"{name} is {value:g}{shown}, at most {limit:g}{shown} is allowed",
            observed=f"{value:g}",
            limit=f"<= {limit:g}",
            unit=unit,
        )
    ]


def telemetry(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether energy and carbon are complete, consistent and within the policy's limits."""
    settings = policy.gates.telemetry
    if settings is None:
        return []
    document = evidence.content.document(settings.path)
    findings = _checked(evidence.content, "telemetry-training", settings.path, "TELEMETRY")
    if findings:
        return findings
    value = document.value
    energy, carbon = _number(value["energy_wh"]), _number(value["carbon_gco2e"])
    implied = energy / 1000 * _number(value["carbon"]["intensity_g_per_kwh"])
    if not math.isclose(carbon, implied, rel_tol=0.01, abs_tol=1e-6):
        findings.append(
            Finding(
                "TELEMETRY_INCONSISTENT",
                Verdict.FAIL,
                "carbon does not follow from energy",
                f"{settings.path}: carbon_gco2e is not energy_wh times the stated intensity",
                observed=f"{carbon:g}",
                limit=f"{implied:g}",
                unit="gCO2e",
            )
        )
    findings += _at_most("ENERGY", "energy", energy, settings.max_energy_wh, "Wh")
    findings += _at_most("CARBON", "carbon", carbon, settings.max_carbon_gco2e, "gCO2e")
    if settings.min_span_ratio is not None and move.to_level is Level.PRODUCTION:
        findings.append(span_coverage(evidence, policy, move, settings.min_span_ratio))
    return findings or [
        Finding("TELEMETRY_COMPLETE", Verdict.PASS, "telemetry complete", settings.path)
    ]


def xai(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the explanation is complete, converged and stable over seeds.

    Asked of the release's own, and of what the validator measured again.
    """
    settings = policy.gates.xai
    if settings is None:
        return []
    document = evidence.content.document(settings.path)
    findings = _checked(evidence.content, "xai-summary", settings.path, "XAI")
    if findings:
        return findings
    delta = _number(document.value["convergence_delta"])
    stability = _number(document.value["stability"]["min_correlation"])
    own = judge_explanation(settings, delta, stability)
    return own + explained_again(evidence, policy, move)
