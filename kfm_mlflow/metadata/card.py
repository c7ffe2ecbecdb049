"""The model card of a release: what people must know before they use it.

The sections are those of the KFM model card template v11.2.2. What nobody measured is null, and a
reference names a file of the release.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.facts import find_file, utc_text
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.metadata.stac import sorted_datasets
from kfm_mlflow.release.bundle import ITEM_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.metadata.facts import DatasetFact, FileFact, ReleaseFact, RunFact

_CARE_DEFAULTS: dict[str, Any] = {
    "notes": [],
    "authority": None,
    "labels": [],
    "h3_max_resolution": None,
}


def _identity(release: ReleaseFact) -> dict[str, Any]:
    name = f"{NAMESPACE}release/{release.model_name}/{release.release_version}"
    return {
        "name": release.model_name,
        "version": release.release_version,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "family": release.family,
        # Where a release stands is the registry's to say; every release begins here.
        "release_stage": "candidate",
        "released_at": utc_text(release.released_at),
        "license": release.license,
        "description": release.description,
    }


def _training(datasets: Sequence[DatasetFact], run: RunFact, lineage_ref: str) -> dict[str, Any]:
    return {
        "data": [
            {
                "name": dataset.name,
                "role": dataset.role,
                "uri": dataset.uri,
                "digest": dataset.sha256,
                "license": dataset.license,
                "selection": dataset.selection or None,
            }
            for dataset in sorted_datasets(datasets)
        ],
        "lineage_ref": lineage_ref,
        "environment_digest": run.environment_lock_sha256,
        "seed": run.seed,
        "run_id": run.run_id,
        "code": {
            "git_commit": run.git_commit,
            "git_url": run.git_url,
            "entry_point": run.entry_point,
        },
    }


def _architecture(release: ReleaseFact) -> dict[str, Any]:
    return {
        "name": release.architecture,
        "framework": release.framework,
        "framework_version": release.framework_version,
        "parameter_count": release.parameter_count,
        "hyperparameters": dict(release.hyperparameters),
        "inputs": [fact.to_dict() for fact in release.inputs],
        "outputs": [fact.to_dict() for fact in release.outputs],
    }


def _fair_care(release: ReleaseFact) -> dict[str, Any]:
    return {
        "care": {**_CARE_DEFAULTS, **release.care},
        "screening_status": release.screening_status,
        "sovereignty": list(release.sovereignty_notes),
        "intended_uses": list(release.intended_uses),
        "forbidden_uses": list(release.forbidden_uses),
        "limitations": list(release.limitations),
    }


def build_card(
    release: ReleaseFact,
    files: Sequence[FileFact],
    datasets: Sequence[DatasetFact],
    run: RunFact,
    *,
    item_path: str = ITEM_PATH,
    sbom_path: str = "sbom.spdx.json",
    prov_path: str = "provenance/provenance.json",
) -> dict[str, Any]:
    """Build the model card of a release.

    Args:
        release: What the release says about itself.
        files: Every file that exists by now.
        datasets: What was trained and validated on.
        run: The training run.
        item_path: Where the STAC item will lie.
        sbom_path: Where the bill of materials will lie.
        prov_path: Where the lineage will lie.

    Returns:
        The card as JSON values, valid against schema ``model-card``.

    Raises:
        InputError: The weights are not among the files.
        EvidenceError: The facts do not make a valid card.
    """
    weights = find_file(tuple(files), release.weights_path)
    paths = {fact.path for fact in files}

    def reference(path: str) -> str | None:
        return path if path in paths else None

    splits: dict[str, list[str]] = {"training": [], "validation": []}
    for dataset in sorted_datasets(datasets):
        splits.setdefault(dataset.role, []).append(dataset.sha256)
    card = {
        "schema_version": "1",
        "identity": _identity(release),
        "training_provenance": _training(datasets, run, prov_path),
        "architecture": _architecture(release),
        "evaluation": {
            "metrics": dict(release.metrics),
            "splits": splits,
            "drift_ref": reference("drift/baseline.json"),
            "golden_record": None,
            "confidence": None,
        },
        "explainability": {
            "method": release.explainability.get("method"),
            "summary_ref": reference("xai/summary.json"),
            "facts": dict(release.explainability),
        },
        "fair_care": _fair_care(release),
        "energy_carbon": {
            "energy_wh": release.energy_wh,
            "carbon_gco2e": release.carbon_gco2e,
            "telemetry_ref": reference("telemetry/training.json"),
        },
        "publishing": {
            "weights_ref": weights.path,
            "stac_ref": item_path,
            "sbom_ref": sbom_path,
            "metadata_ref": reference("model_metadata.json"),
            "predecessor": release.predecessor,
        },
    }
    problems = schema_problems("model-card", card)
    if problems:
        raise EvidenceError("; ".join(problems[:3]), where="model-card.json")
    return card
