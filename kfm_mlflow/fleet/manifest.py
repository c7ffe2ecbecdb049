"""What providers say they have made: manifests read in full, whatever is wrong with them.

Rules kept here:

1. Reading is total: a manifest that is cut off, an entry that is wrong, an id that appears twice
   is a finding with its remedy, never an exception, and never a reason to drop its neighbours.
2. A provider makes one role, and has one manifest. Two of one provider are both refused: which
   of them counts would depend on their order.
3. A number is a finite number. A boolean, a text or NaN is a finding on that artifact.
4. Metrics are the provider's claims; nothing here believes them.

Format: docs/formats/fleet-manifest.md. Nothing is fetched here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.fleet.stores import uri_problem
from kfm_mlflow.metadata.schemas import load_schema
from kfm_mlflow.metadata.sentences import capped, schema_sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from jsonschema.protocols import Validator

SCHEMA = "fleet-manifest"
ROLE_OF_PROVIDER = {"aws": "runtime", "gcp": "embed", "hf": "textgen"}
TYPES_OF_ROLE = {
    "textgen": ("lora-adapter", "full-weights"),
    "embed": ("embedding-model",),
    "runtime": ("runtime-model",),
}
METRICS = ("quality", "safety", "latency_ms_p95", "cost_per_1k_tokens")
_FIELD_REMEDY = "correct the field as docs/formats/fleet-manifest.md says"


@dataclass(frozen=True)
class Metrics:
    """What an artifact does on its task.

    Attributes:
        quality: Share of the task that it does right (accuracy, BLEU or F1), 0 to 1.
        safety: Share of what governance asks that it complies with, 0 to 1.
        latency_ms_p95: 95th percentile of the time to answer, in milliseconds.
        cost_per_1k_tokens: US dollars per 1,000 tokens.
    """

    quality: float
    safety: float
    latency_ms_p95: float
    cost_per_1k_tokens: float

    def to_dict(self) -> dict[str, float]:
        """Return the metrics by name."""
        return {name: getattr(self, name) for name in METRICS}


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter was trained on: its id and the digest of its files."""

    id: str
    digest: str


@dataclass(frozen=True)
class Artifact:
    """One thing that a provider made.

    Attributes:
        provider: ``hf``, ``gcp`` or ``aws``.
        id: The provider's name for it, unique in its manifest.
        role: What it does in a release: ``textgen``, ``embed`` or ``runtime``.
        type: ``lora-adapter``, ``full-weights``, ``embedding-model`` or ``runtime-model``.
        uri: Where its files lie.
        digest: Release id of its files (:func:`kfm_mlflow.release.manifest.build_manifest`).
        metrics: What the provider claims of it.
        region: Where the provider made it; None when it does not say.
        license: SPDX expression, when stated.
        base: Of an adapter, the model below it.
        labels: Labels that its makers gave it; they follow it into releases.
        signature: URI of its signature, where that is not beside it.
    """

    provider: str
    id: str
    role: str
    type: str
    uri: str
    digest: str
    metrics: Metrics
    region: str | None = None
    license: str | None = None
    base: BaseModel | None = None
    labels: tuple[str, ...] = ()
    signature: str | None = None

    @property
    def signature_uri(self) -> str:
        """URI of the signature: the one stated, or the artifact's own with ``.sig``."""
        return self.signature or f"{self.uri.removesuffix('/')}.sig"

    def to_dict(self) -> dict[str, Any]:
        """Return the document ``artifact.json`` (docs/formats/fleet-artifact.md).

        Of a ``file:///`` URI only the last part is told: where a folder lies on somebody's machine
        is nobody's business, and the same artifact gives the same bytes wherever it was.
        """
        stated: dict[str, Any] = {
            "region": self.region,
            "license": self.license,
            "base": {"id": self.base.id, "digest": self.base.digest} if self.base else None,
            "labels": list(self.labels) or None,
            "signature": _placeless(self.signature) if self.signature else None,
        }
        return {
            "schema_version": "1",
            "provider": self.provider,
            "id": self.id,
            "role": self.role,
            "type": self.type,
            "uri": _placeless(self.uri),
            "digest": self.digest,
            "metrics": self.metrics.to_dict(),
            **{name: value for name, value in stated.items() if value is not None},
        }


def _placeless(uri: str) -> str:
    return f"file:///{uri.rstrip('/').rpartition('/')[2]}" if uri.startswith("file:") else uri


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong with a manifest or with an artifact in it.

    Attributes:
        manifest: File name of the manifest; empty for what concerns all of them.
        artifact: Its id, or ``artifacts[2]`` where it has no usable one; empty for the manifest.
        code: Reason code, for example ``FIELD`` or ``DUPLICATE_ID``.
        detail: What is wrong.
        remedy: What to do about it.
    """

    manifest: str
    artifact: str
    code: str
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON."""
        return {
            "manifest": self.manifest,
            "artifact": self.artifact,
            "code": self.code,
            "detail": self.detail,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        """Return the finding as one line."""
        place = ": ".join(part for part in (self.manifest, self.artifact) if part)
        text = f"{place}: {self.detail}" if place else self.detail
        return f"{text}; {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class ProviderManifest:
    """One manifest as read: its sound artifacts, and what was wrong.

    Attributes:
        where: Its file name.
        provider: Whose it is; None when it could not be told.
        artifacts: The entries in which nothing is wrong, by id.
        findings: Everything else.
    """

    where: str
    provider: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Manifests:
    """All manifests together.

    Attributes:
        artifacts: The sound artifacts of the manifests that count, by provider and id.
        findings: What is wrong, in a fixed order.
    """

    artifacts: tuple[Artifact, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that have a sound artifact, sorted."""
        return tuple(sorted({artifact.provider for artifact in self.artifacts}))


@cache
def _validators() -> tuple[Validator, Validator]:
    """Return what judges a manifest without its entries, and what judges one entry.

    Apart, so that no entry can crowd the faults of another out of a capped list.
    """
    from jsonschema import Draft202012Validator

    head = load_schema(SCHEMA)
    entry = head["properties"]["artifacts"].pop("items")
    return Draft202012Validator(head), Draft202012Validator(entry)


def parse_manifest(document: Any, *, where: str) -> ProviderManifest:
    """Read a provider's manifest from JSON; never raises.

    Args:
        document: Parsed JSON, of whatever shape.
        where: File name, for findings.
    """
    head, _ = _validators()
    problems = capped(schema_sentences(head, document))
    if problems:
        found = tuple(Finding(where, "", "MANIFEST", text, _FIELD_REMEDY) for text in problems)
        return ProviderManifest(where, findings=found)
    provider, region = document["provider"], document.get("region")
    entries = document["artifacts"]
    ids = Counter(_id_of(entry, k) for k, entry in enumerate(entries))
    artifacts: list[Artifact] = []
    findings: list[Finding] = []
    for k, entry in enumerate(entries):
        name = _id_of(entry, k)
        faults = _entry_faults(entry, provider)
        if ids[name] > 1:
            faults.append(("DUPLICATE_ID", f"{ids[name]} entries have this id", "name each apart"))
        findings += [Finding(where, name, *fault) for fault in faults]
        if not faults:
            artifacts.append(_artifact(entry, provider, region))
    return ProviderManifest(
        where,
        provider,
        tuple(sorted(artifacts, key=lambda artifact: artifact.id)),
        tuple(sorted(set(findings))),
    )


def _id_of(entry: Any, position: int) -> str:
    stated = entry.get("id") if isinstance(entry, dict) else None
    return stated[:200] if isinstance(stated, str) and stated else f"artifacts[{position}]"


def _entry_faults(entry: Any, provider: str) -> list[tuple[str, str, str]]:
    """Return (code, what, remedy) of everything that is wrong with one entry alone."""
    _, validator = _validators()
    sentences = capped(schema_sentences(validator, entry))
    if sentences:
        return [("FIELD", text, _FIELD_REMEDY) for text in sentences]
    faults = []
    role = ROLE_OF_PROVIDER[provider]
    if entry["role"] != role:
        what = f"role is {entry['role']}, and provider {provider} makes {role}"
        faults.append(("ROLE", what, "put it into the manifest of the role's provider"))
    elif entry["type"] not in TYPES_OF_ROLE[role]:
        what = f"type {entry['type']} does not do role {role}"
        faults.append(("TYPE", what, f"use {' or '.join(TYPES_OF_ROLE[role])}"))
    if entry["type"] == "lora-adapter" and "base" not in entry:
        faults.append(("BASE", "an adapter names no base", "state id and digest of its base"))
    for name in ("uri", "signature"):
        problem = uri_problem(entry[name]) if name in entry else None
        if problem:
            what = problem if problem.startswith(name) else f"{name}: {problem}"
            faults.append(("URI", what, ""))
    return faults


def _artifact(entry: Mapping[str, Any], provider: str, region: str | None) -> Artifact:
    base = entry.get("base")
    return Artifact(
        provider=provider,
        id=entry["id"],
        role=entry["role"],
        type=entry["type"],
        uri=entry["uri"],
        digest=entry["digest"],
        metrics=Metrics(**{name: float(entry["metrics"][name]) for name in METRICS}),
        region=region,
        license=entry.get("license"),
        base=BaseModel(base["id"], base["digest"]) if base else None,
        labels=tuple(sorted(set(entry.get("labels", ())))),
        signature=entry.get("signature"),
    )


def parse_artifact(document: Any, *, where: str) -> Artifact:
    """Read an ``artifact.json``: one entry of a manifest with its provider.

    Raises:
        EvidenceError: It is none; says what is wrong.
    """
    body = document if isinstance(document, dict) else {}
    head = {name: body[name] for name in ("schema_version", "provider", "region") if name in body}
    read = parse_manifest({**head, "artifacts": [document]}, where=where)
    if read.findings:
        raise EvidenceError("; ".join(finding.detail for finding in read.findings), where=where)
    return read.artifacts[0]


def combine_manifests(manifests: Iterable[ProviderManifest]) -> Manifests:
    """Put the manifests of all providers together; their order does not matter.

    Args:
        manifests: As read. A provider without a manifest, or with two, becomes a finding.
    """
    known = list(manifests)
    findings = [finding for one in known for finding in one.findings]
    counts = Counter(one.provider for one in known)
    for one in known:
        if one.provider is not None and counts[one.provider] > 1:
            what = f"{counts[one.provider]} manifests are of provider {one.provider}"
            findings.append(Finding(one.where, "", "DUPLICATE_PROVIDER", what, "give only one"))
    for provider, role in sorted(ROLE_OF_PROVIDER.items()):
        if not counts[provider]:
            what = f"no manifest is of provider {provider}, which makes {role}"
            findings.append(Finding("", "", "MISSING_PROVIDER", what, "add its manifest"))
    artifacts = [a for one in known if counts[one.provider] == 1 for a in one.artifacts]
    return Manifests(
        tuple(sorted(artifacts, key=lambda artifact: (artifact.provider, artifact.id))),
        tuple(sorted(set(findings))),
    )


def load_manifests(paths: Iterable[Path]) -> Manifests:
    """Read manifests from files; what cannot be read is a finding.

    Args:
        paths: JSON files, in any order.
    """
    found: list[ProviderManifest] = []
    for path in paths:
        try:
            found.append(parse_manifest(load_json(path), where=path.name))
        except EvidenceError as exc:
            detail = str(exc).removeprefix(f"{path.name}: ")
            fault = Finding(path.name, "", "UNREADABLE", detail, "ask its provider for it again")
            found.append(ProviderManifest(path.name, findings=(fault,)))
    return combine_manifests(found)
