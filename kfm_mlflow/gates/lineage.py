"""Gate on the way from a model back to its data: walked by digest, and told the same everywhere.

Gate ``prov`` asks whether the lineage is a valid document; this one starts at every file that holds
weights, as it lies in the release, and asks where it comes from. The digests of the data sets in
``model_metadata.json`` are what the lineage must lead to, and what the signed provenance and the
bill of materials must name, too. Whether those two are there is for their own gates to ask.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import parse_digest
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import binding_of, newest
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.facts import MODEL_SUFFIXES
from kfm_mlflow.metadata.prov_trace import Break, trace_release
from kfm_mlflow.trust.slsa import SLSA_KIND, parse_predicate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.gates.content import ReleaseContent
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.release.manifest import Manifest

_METADATA = "model_metadata.json"
_SBOM = "sbom.spdx.json"
_REMEDY = "log it with kfm_mlflow.log_release, which writes the lineage"
_SUMMARIES = {
    "unreadable": "lineage unreadable",
    "broken": "lineage broken",
    "undigested": "lineage without digest",
    "disagrees": "lineage disagrees",
    "cycle": "lineage in a circle",
}


def lineage(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether every model file leads by digest to exactly the data sets that are known."""
    settings = policy.gates.lineage
    if settings is None:
        return []
    content, manifest = evidence.content, evidence.manifest
    document = content.document(settings.path)
    if document.problem or manifest is None:
        detail = document.problem or evidence.manifest_problem
        return [_finding("missing", "lineage missing", detail)]
    bill = policy.gates.sbom.path if policy.gates.sbom else _SBOM
    breaks = content.once(
        (settings.path, f"lineage:{bill}"), partial(_breaks, content, manifest, settings.path, bill)
    )
    findings = [_finding(item.kind, _SUMMARIES[item.kind], item.sentence) for item in breaks]
    findings += _signed(evidence, move)
    if findings:
        return findings
    count = len(_datasets(content))
    detail = f"every model file leads to its data sets by digest; the release names {count}"
    return [Finding("LINEAGE_TRACED", Verdict.PASS, "lineage traced", detail)]


def _finding(word: str, summary: str, detail: str) -> Finding:
    return Finding(f"LINEAGE_{word.upper()}", Verdict.FAIL, summary, detail, remedy=_REMEDY)


def _datasets(content: ReleaseContent) -> dict[str, frozenset[str]]:
    """Return digest -> roles of every data set in ``model_metadata.json``."""
    listed = content.mapping(_METADATA).get("data")
    found: dict[str, frozenset[str]] = {}
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict):
            digest = _normal(item.get("digest"))
            found[digest] = found.get(digest, frozenset()) | {str(item.get("role", ""))}
    return found


def _normal(digest: Any) -> str:
    try:
        return parse_digest(digest)
    except InputError:
        return str(digest)


def _breaks(content: ReleaseContent, manifest: Manifest, path: str, bill: str) -> tuple[Break, ...]:
    metadata, known = content.mapping(_METADATA), _datasets(content)
    weights = metadata.get("weights")
    named = weights.get("path") if isinstance(weights, dict) else None
    model_files = {
        entry.path: entry.digest
        for entry in manifest.files
        if entry.path.endswith(MODEL_SUFFIXES) or entry.path == named
    }
    found = trace_release(content.document(path).value, model_files=model_files, datasets=known)
    return (*found, *_billed(content.mapping(bill), bill, known))


def _billed(bill: Mapping[str, Any], where: str, known: Iterable[str]) -> tuple[Break, ...]:
    """Compare the data sets of a bill of materials, if there is one, with those that are known."""
    if not bill:
        return ()
    data = {
        str(item.get("spdxElementId"))
        for item in _objects(bill.get("relationships"))
        if item.get("relationshipType") == "DATA_FILE_OF"
    }
    listed = {
        _normal(checksum.get("checksumValue")): str(item.get("name"))
        for item in _objects(bill.get("packages"))
        if str(item.get("SPDXID")) in data
        for checksum in _objects(item.get("checksums"))
        if checksum.get("algorithm") == "SHA256"
    }
    missing = [f"{where}: lists no data set {digest}" for digest in sorted({*known} - {*listed})]
    more = [
        f"{where}: data set {listed[digest]!r} has {digest}, which {_METADATA} does not name"
        for digest in sorted({*listed} - {*known})
    ]
    return tuple(Break("disagrees", where, sentence) for sentence in (*missing, *more))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _signed(evidence: Evidence, move: Move) -> list[Finding]:
    """Compare the data sets of the signed provenance, if there is one, with the release's."""
    report, _ = newest(evidence, SLSA_KIND, binding_of(evidence, move))
    if report is None:
        return []
    try:
        signed = parse_predicate(report.claims).data_digests
    except EvidenceError:
        return []  # Gate attestations says what is wrong with it.
    known = _datasets(evidence.content).keys()
    return [
        _finding("disagrees", "lineage disagrees", f"the signed provenance {text} {digest}")
        for text, digests in (("names no data set", known - signed), ("used", signed - known))
        for digest in sorted(digests)
    ]
