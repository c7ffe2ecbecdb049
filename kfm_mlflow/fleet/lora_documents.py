"""What is said about a merge of adapters: the report with its self-tests, and the lineage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.fleet.licences import MergeLicences
    from kfm_mlflow.fleet.lora import Adapter

MAX_DIFFERENCE = 1e-5
"""Of logits, as a share of the largest: float32 keeps about 1e-6 over a few layers."""


@dataclass(frozen=True)
class Check:
    """One self-test: the largest difference that it found, as a share of the largest logit."""

    name: str
    max_difference: float


def build_report(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    base_digest: str,
    result_digest: str,
    checks: Sequence[Check],
    *,
    licences: MergeLicences,
) -> dict[str, Any]:
    """Return ``merge.json`` (docs/formats/lora-merge.md).

    Args:
        adapters: As merged.
        weights: Of each.
        base_digest: Release id of the base's folder.
        result_digest: Of the merged weights file.
        checks: What the self-tests found.
        licences: Of each adapter, of the base where it is known, and of the merge.
    """
    from importlib.metadata import version

    return {
        "schema_version": "1",
        "license": licences.whole,
        "base": {
            "digest": base_digest,
            **({} if licences.base is None else {"license": licences.base}),
        },
        "adapters": [
            {
                "name": adapter.directory.name,
                "digest": adapter.digest,
                "license": licence,
                "weight": float(weight),
                "rank": adapter.settings.rank,
                "lora_alpha": adapter.settings.lora_alpha,
                "target_modules": list(adapter.settings.target_modules),
            }
            for adapter, weight, licence in zip(adapters, weights, licences.adapters, strict=True)
        ],
        "combination": "cat",
        "library": {"name": "peft", "version": version("peft")},
        "result_digest": result_digest,
        "checks": [
            {"name": c.name, "max_difference": c.max_difference, "limit": MAX_DIFFERENCE}
            for c in checks
        ],
    }


def build_lineage(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge as W3C PROV (PROV-JSON): derived from every adapter and the base."""
    from prov.model import PROV, ProvDocument

    document = ProvDocument()
    kfm = document.add_namespace("kfm", f"{NAMESPACE}ns#")
    files = document.add_namespace("file", f"{NAMESPACE}file/")

    def entity(digest: str, kind: str, label: str, licence: str | None) -> Any:
        described = {"prov:type": kfm[kind], "prov:label": label, "kfm:sha256": digest}
        if licence is not None:
            described["kfm:license"] = licence
        return document.entity(files[digest.removeprefix("sha256:")], described)

    library = report["library"]
    merging = document.activity(files["merging"], None, None, {"prov:type": kfm["Merging"]})
    software = document.agent(
        files[library["name"]],
        {"prov:type": PROV["SoftwareAgent"], "kfm:version": library["version"]},
    )
    document.wasAssociatedWith(merging, software)
    merged = entity(report["result_digest"], "Adapter", "merged adapter", report["license"])
    document.wasGeneratedBy(merged, merging)
    base = report["base"]
    parents = {a["digest"]: ("Adapter", a["name"], a["license"]) for a in report["adapters"]}
    parents[base["digest"]] = ("Weights", "base", base.get("license"))
    for digest, (kind, label, licence) in parents.items():
        parent = entity(digest, kind, label, licence)
        document.used(merging, parent)
        document.wasDerivedFrom(merged, parent, merging)
    values: dict[str, Any] = json.loads(document.serialize(format="json"))
    return values
