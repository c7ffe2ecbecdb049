"""The bill of materials of a release as CycloneDX 1.6 (ML-BOM): a second view of the same facts.

Packages and their licences come from the release's SPDX document, model card and data sets from
its model card, files and digests from its manifest. Nothing is asked of the environment or the
clock, so equal releases give equal bytes: the serial number follows from the release id, and the
time is that of the release.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.packages import spdx_expression
from kfm_mlflow.metadata.sbom import evaluate_sbom
from kfm_mlflow.metadata.schemas import schema_problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.metadata.facts import FileFact

_MODEL_REF = "model"
_WH_PER_KWH = 1000.0
_G_PER_T = 1e6
_IRI = re.compile(r"[^\s<>\"{}|\\^`\x00-\x20]+")
_SHOWN = 3


def serial_number(release_id: str) -> str:
    """Return the serial number of a release's bill: a UUIDv5 of its release id."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{NAMESPACE}cyclonedx/{release_id}')}"


def _hashes(digest: str, sha1: str | None = None) -> list[dict[str, str]]:
    found = [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]
    return [{"alg": "SHA-1", "content": sha1}, *found] if sha1 else found


def _licensed(text: str | None) -> dict[str, Any]:
    """Return the licence of a component; nothing when nobody stated one."""
    expression = spdx_expression(text)
    return {"licenses": [{"expression": expression}]} if expression else {}


def _property(name: str, value: Any) -> dict[str, str]:
    text = value if isinstance(value, str) else canonical_bytes(value).decode()
    return {"name": f"kfm:{name}", "value": text}


def _dataset(number: int, fact: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "type": "dataset",
        "name": fact["name"],
        "description": f"{fact['role']} data"
        + (f": {fact['selection']}" if fact.get("selection") else ""),
    }
    if _IRI.fullmatch(fact["uri"]):
        about["contents"] = {"url": fact["uri"]}
    return {
        "type": "data",
        "bom-ref": f"data-{number}",
        "name": fact["name"],
        "hashes": _hashes(fact["digest"]),
        "data": [about],
        **_licensed(fact.get("license")),
    }


def _library(package: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a package of the SPDX document that has a package URL; None for any other."""
    references = package.get("externalRefs", [])
    purls = [one["referenceLocator"] for one in references if one["referenceType"] == "purl"]
    if not purls:
        return None
    return {
        "type": "library",
        "bom-ref": purls[0],
        "name": package["name"],
        "version": package["versionInfo"],
        "purl": purls[0],
        **_licensed(package.get("licenseDeclared")),
    }


def _file(fact: FileFact) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{fact.path}",
        "name": fact.path,
        "hashes": _hashes(fact.sha256, fact.sha1),
        "properties": [_property("size_bytes", fact.size_bytes)],
    }


def _energy(card: Mapping[str, Any]) -> dict[str, Any]:
    measured = card["energy_carbon"]
    energy = {"value": measured["energy_wh"] / _WH_PER_KWH, "unit": "kWh"}
    return {
        "activity": "training",
        # CodeCarbon knows the mix of a grid, not who fed it.
        "energyProviders": [
            {
                "organization": {"name": "unknown"},
                "energySource": "unknown",
                "energyProvided": energy,
            }
        ],
        "activityEnergyCost": energy,
        "co2CostEquivalent": {"value": measured["carbon_gco2e"] / _G_PER_T, "unit": "tCO2eq"},
    }


def _model_card(card: Mapping[str, Any], data_refs: Sequence[str]) -> dict[str, Any]:
    architecture, fair_care = card["architecture"], card["fair_care"]

    def tensors(kind: str) -> list[dict[str, str]]:
        return [
            {"format": f"{one['dtype']} {one['shape']} ({one['name']})"}
            for one in architecture[kind]
        ]

    care = fair_care["care"]
    return {
        "modelParameters": {
            "modelArchitecture": architecture["name"],
            "datasets": [{"ref": ref} for ref in data_refs],
            "inputs": tensors("inputs"),
            "outputs": tensors("outputs"),
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": canonical_bytes(value).decode()}
                for name, value in sorted(card["evaluation"]["metrics"].items())
            ]
        },
        "considerations": {
            "useCases": fair_care["intended_uses"],
            "technicalLimitations": fair_care["limitations"],
            "ethicalConsiderations": [
                {
                    "name": f"CARE and sovereignty: {fair_care['screening_status']}",
                    "mitigationStrategy": f"masking {care['masking']}, scope {care['scope']}",
                },
                *({"name": f"must not be used for {use}"} for use in fair_care["forbidden_uses"]),
            ],
            "environmentalConsiderations": {"energyConsumptions": [_energy(card)]},
        },
        "properties": [
            _property(f"hyperparameter:{name}", value)
            for name, value in sorted(architecture["hyperparameters"].items())
        ],
    }


def _model(
    release_id: str, card: Mapping[str, Any], weights: FileFact, data_refs: Sequence[str]
) -> dict[str, Any]:
    identity = card["identity"]
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL_REF,
        "name": identity["name"],
        "version": identity["version"],
        "description": identity["description"],
        "hashes": _hashes(weights.sha256, weights.sha1),
        "modelCard": _model_card(card, data_refs),
        "properties": [
            _property("release_id", release_id),
            _property("family", identity["family"]),
            _property("weights", weights.path),
            _property("framework", card["architecture"]["framework"]),
            _property("framework_version", card["architecture"]["framework_version"]),
            _property("parameter_count", card["architecture"]["parameter_count"]),
        ],
        **_licensed(identity["license"]),
    }


def _read(bill: bytes, card: bytes, files: Sequence[FileFact]) -> tuple[Any, Any, FileFact]:
    """Return the SPDX document, the card and the weights, all of one release."""
    problems = evaluate_sbom(bill, files)
    if problems:
        raise EvidenceError("; ".join(problems[:_SHOWN]), where="sbom.spdx.json")
    described = parse_json(card, where="model-card.json")
    problems = schema_problems("model-card", described)
    if problems:
        raise EvidenceError("; ".join(problems[:_SHOWN]), where="model-card.json")
    path = described["publishing"]["weights_ref"]
    weights = next((fact for fact in files if fact.path == path), None)
    if weights is None:
        raise EvidenceError(f"names weights {path!r}, which are not there", where="model-card.json")
    return parse_json(bill, where="sbom.spdx.json"), described, weights


def build_cyclonedx(
    release_id: str, files: Sequence[FileFact], *, bill: bytes, card: bytes
) -> bytes:
    """Build the CycloneDX 1.6 document of a release from what the release says.

    Args:
        release_id: ``sha256:<hex>`` of its manifest.
        files: Every file of the release, from its manifest.
        bill: Its ``sbom.spdx.json``.
        card: Its ``model-card.json``.

    Returns:
        Canonical JSON. The serial number follows from the release id, ``timestamp`` is the time
        of the release.

    Raises:
        EvidenceError: Bill or card is not valid, or is not of these files.
    """
    spdx, described, weights = _read(bill, card, files)
    listed = described["training_provenance"]["data"]
    data = [_dataset(number, fact) for number, fact in enumerate(listed)]
    libraries = [found for package in spdx["packages"] if (found := _library(package))]
    inside = [_file(fact) for fact in sorted(files, key=lambda fact: fact.path)]
    refs = [one["bom-ref"] for one in (*data, *libraries)]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial_number(release_id),
        "version": 1,
        "metadata": {
            "timestamp": spdx["creationInfo"]["created"],
            "tools": {"components": [{"type": "application", "name": "kfm-mlflow"}]},
            "component": _model(release_id, described, weights, refs[: len(data)]),
        },
        "components": [*data, *libraries, *inside],
        "dependencies": [
            {"ref": _MODEL_REF, "dependsOn": refs},
            *({"ref": ref} for ref in refs),
        ],
        "compositions": [{"aggregate": "complete", "assemblies": [_MODEL_REF]}],
    }
    return canonical_bytes(document)
