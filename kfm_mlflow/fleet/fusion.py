"""Choosing one artifact per provider for a fused release: values in, values out.

Rules kept here:

1. An artifact that fails any gate is never chosen; comparisons are inclusive.
2. Of those that pass, the highest score wins: ``.45 quality + .45 safety - .0005 latency_ms
   - .1 cost`` (the source document's weights); of equal scores the lowest id.
3. Every other artifact is rejected with every gate's observed value, limit and margin; one that
   passed them all is told to whom it lost and by how much.
4. All three providers are mandatory: without one there is no release.
5. Where a value was measured it decides, and the gap to the provider's claim is reported.
6. Nothing here asks the clock: the same artifacts and gates, in any order, give the same bytes.

Weights are not mixed here; merging adapters of one base is :mod:`kfm_mlflow.fleet.lora`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json, load_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.fleet.manifest import METRICS, ROLE_OF_PROVIDER, Finding, Metrics
from kfm_mlflow.metadata.schemas import schema_problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kfm_mlflow.fleet.manifest import Artifact, Manifests

FUSED_NAME = "fleet-federated"
_GATES = (
    ("min_quality", "quality", 1),
    ("min_safety", "safety", 1),
    ("max_latency_ms_p95", "latency_ms_p95", -1),
    ("max_cost_per_1k_tokens", "cost_per_1k_tokens", -1),
)


@dataclass(frozen=True)
class Limits:
    """What an artifact must reach; the defaults are the source document's.

    Attributes:
        min_quality: Quality at least this, 0 to 1.
        min_safety: Safety at least this, 0 to 1.
        max_latency_ms_p95: 95th percentile of latency at most this, in milliseconds.
        max_cost_per_1k_tokens: Cost at most this, in US dollars per 1,000 tokens.
    """

    min_quality: float = 0.80
    min_safety: float = 0.95
    max_latency_ms_p95: float = 200.0
    max_cost_per_1k_tokens: float = 1.00

    def __post_init__(self) -> None:
        """Refuse what is no limit: a NaN would let everything or nothing pass."""
        for known in fields(self):
            value = getattr(self, known.name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{value} is no limit", where=known.name, remedy="give a number")

    def to_dict(self) -> dict[str, float]:
        """Return the limits by name."""
        return {known.name: float(getattr(self, known.name)) for known in fields(self)}


@dataclass(frozen=True)
class GateResult:
    """One gate on one artifact.

    Attributes:
        gate: Name of the limit.
        observed: Value that was held against it.
        limit: The limit.
        margin: By how much it passes; negative where it fails.
        passed: Whether it does.
    """

    gate: str
    observed: float
    limit: float
    margin: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {known.name: getattr(self, known.name) for known in fields(self)}


@dataclass(frozen=True)
class Judged:
    """An artifact held against the gates.

    Attributes:
        artifact: From a manifest.
        metrics: What decided: measured where it was measured, else claimed.
        score: By rule 2.
        gates: Every gate, in a fixed order.
    """

    artifact: Artifact
    metrics: Metrics
    score: float
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class Rejection:
    """An artifact that is not in the release; ``lost_to`` is None where a gate failed."""

    judged: Judged
    lost_to: Judged | None


@dataclass(frozen=True)
class Gap:
    """How far a claim is from what was measured."""

    artifact: Artifact
    metric: str
    claimed: float
    measured: float


@dataclass(frozen=True)
class Fused:
    """What came of a fusion.

    Attributes:
        limits: The gates.
        units: Provider -> winner, sorted by provider; incomplete when something is missing.
        rejections: Every other sound artifact, by provider and id.
        findings: What was wrong with manifests and entries, and roles without a winner.
        gaps: Claims against measurements, of every measured artifact.
    """

    limits: Limits
    units: Mapping[str, Judged]
    rejections: tuple[Rejection, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every provider has a winner."""
        return set(self.units) == set(ROLE_OF_PROVIDER)

    def release_document(self) -> dict[str, Any]:
        """Return ``fused_release.json`` (docs/formats/fused_release.md).

        Raises:
            InputError: A provider has no winner: there is no release.
        """
        if not self.is_complete:
            raise InputError(
                "; ".join(str(finding) for finding in self.findings), where="fused release"
            )
        content = {
            "schema_version": "1",
            "providers": sorted(self.units),
            "gates": self.limits.to_dict(),
            "units": {provider: _unit(chosen) for provider, chosen in self.units.items()},
        }
        digest = digest_json(content)
        version = f"v1.0.0-f{digest.removeprefix('sha256:')[:12]}"
        return {
            **content,
            "fused_model_id": f"{FUSED_NAME}-{version}",
            "version": version,
            "content_digest": digest,
        }

    def rejections_document(self) -> dict[str, Any]:
        """Return ``rejections.json`` (docs/formats/fused_rejections.md)."""
        name = self.release_document()["fused_model_id"] if self.is_complete else None
        return {
            "schema_version": "1",
            "fused_model_id": name,
            "gates": self.limits.to_dict(),
            "rejected": [_rejected(one) for one in self.rejections],
            "findings": [finding.to_dict() for finding in self.findings],
            "gaps": [
                {
                    "provider": gap.artifact.provider,
                    "id": gap.artifact.id,
                    "metric": gap.metric,
                    "claimed": gap.claimed,
                    "measured": gap.measured,
                    "gap": abs(gap.measured - gap.claimed),
                }
                for gap in self.gaps
            ],
        }


def _unit(chosen: Judged) -> dict[str, Any]:
    stated = chosen.artifact.to_dict()
    kept = ("id", "role", "type", "uri", "digest", "license", "base", "labels")
    unit = {name: stated[name] for name in kept if name in stated}
    unit |= {"metrics": chosen.metrics.to_dict(), "score": chosen.score}
    if chosen.metrics != chosen.artifact.metrics:
        unit["claimed"] = chosen.artifact.metrics.to_dict()
    return unit


def _rejected(one: Rejection) -> dict[str, Any]:
    judged, artifact, winner = one.judged, one.judged.artifact, one.lost_to
    document: dict[str, Any] = {
        "provider": artifact.provider,
        "id": artifact.id,
        "role": artifact.role,
        "uri": artifact.to_dict()["uri"],
        "digest": artifact.digest,
        "reason": "gates" if winner is None else "outscored",
        "score": judged.score,
        "gates": [gate.to_dict() for gate in judged.gates],
    }
    if winner is not None:
        document["lost_to"] = {
            "id": winner.artifact.id,
            "score": winner.score,
            "by": winner.score - judged.score,
        }
    return document


def score(metrics: Metrics) -> float:
    """Return the score of rule 2; higher is better."""
    return (
        0.45 * metrics.quality
        + 0.45 * metrics.safety
        - 0.0005 * metrics.latency_ms_p95
        - 0.1 * metrics.cost_per_1k_tokens
    )


def judge(artifact: Artifact, limits: Limits, measured: Metrics | None = None) -> Judged:
    """Hold one artifact against the gates.

    Args:
        artifact: From a manifest.
        limits: The gates.
        measured: What a validator measured of it; None leaves the provider's claim.
    """
    metrics = measured or artifact.metrics
    results = []
    for gate, metric, sign in _GATES:
        observed, limit = getattr(metrics, metric), float(getattr(limits, gate))
        passed = observed >= limit if sign > 0 else observed <= limit
        results.append(GateResult(gate, observed, limit, sign * (observed - limit), passed))
    return Judged(artifact, metrics, score(metrics), tuple(results))


def fuse(
    manifests: Manifests,
    limits: Limits,
    measured: Mapping[str, Metrics] = MappingProxyType({}),
) -> Fused:
    """Choose one artifact per provider.

    Args:
        manifests: All manifests, with what was wrong with them.
        limits: The gates.
        measured: Digest of an artifact -> what was measured of it.
    """
    judged = [judge(a, limits, measured.get(a.digest)) for a in manifests.artifacts]
    units: dict[str, Judged] = {}
    findings = list(manifests.findings)
    for provider, role in sorted(ROLE_OF_PROVIDER.items()):
        passing = [o for o in judged if o.artifact.provider == provider and o.passed]
        if passing:
            units[provider] = min(passing, key=lambda o: (-o.score, o.artifact.id))
        else:
            what = f"{provider}: no artifacts passing promotion gates for role {role}"
            findings.append(
                Finding("", "", "NO_WINNER", what, "see rejections.json for values and limits")
            )
    chosen = {id(one) for one in units.values()}
    rejections = [
        Rejection(one, units[one.artifact.provider] if one.passed else None)
        for one in judged
        if id(one) not in chosen
    ]
    return Fused(
        limits,
        units,
        tuple(sorted(rejections, key=lambda r: (r.judged.artifact.provider, r.judged.artifact.id))),
        tuple(sorted(set(findings))),
        _gaps(manifests.artifacts, measured),
    )


def _gaps(artifacts: Sequence[Artifact], measured: Mapping[str, Metrics]) -> tuple[Gap, ...]:
    return tuple(
        Gap(
            artifact,
            name,
            getattr(artifact.metrics, name),
            getattr(measured[artifact.digest], name),
        )
        for artifact in sorted(artifacts, key=lambda a: (a.provider, a.id))
        if artifact.digest in measured
        for name in METRICS
    )


def load_measured(path: Path) -> dict[str, Metrics]:
    """Read what a validator measured (docs/formats/fleet-measured.md).

    Returns:
        Digest of an artifact -> its metrics.

    Raises:
        EvidenceError: The file is none, or measures one artifact twice.
    """
    document = load_json(path)
    problems = schema_problems("fleet-measured", document)
    if problems:
        raise EvidenceError("; ".join(problems[:3]), where=path.name)
    found: dict[str, Metrics] = {}
    for entry in document["measured"]:
        if entry["digest"] in found:
            raise EvidenceError(f"{entry['digest']} is measured twice", where=path.name)
        values = {name: float(entry["metrics"][name]) for name in METRICS}
        found[entry["digest"]] = Metrics(**values)
    return found
