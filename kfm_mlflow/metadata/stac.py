"""The STAC item of a release: STAC 1.1 with MLM, file, version and our own extension.

Rules kept here:

1. The item follows from its arguments alone: same facts, same bytes, whatever the clock, the
   locale, the time zone or the order in which files were found.
2. Every file is an asset with its size and multihash; hrefs are relative to the item.
3. :func:`evaluate_item` judges an item by schemas on disk and by the files of the release, and
   reports every problem. It raises nothing.

It reads no files and signs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kfm_mlflow.metadata.extent import bbox_geometry, extent_sentences
from kfm_mlflow.metadata.facts import find_file, utc_text
from kfm_mlflow.metadata.sentences import capped, finite_sentences
from kfm_mlflow.metadata.stac_assets import (
    asset_keys,
    asset_sentences,
    build_asset,
    relative_href,
)
from kfm_mlflow.metadata.stac_schemas import EXTENSIONS, stac_schema_sentences
from kfm_mlflow.release.bundle import ITEM_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kfm_mlflow.metadata.facts import DatasetFact, FileFact, ReleaseFact, RunFact, TensorFact

_DATA_TYPES = {"string": "other", "boolean": "other"}
"""Element types that the vocabulary of STAC, made for rasters, has no word for."""
_CARE_FIELDS = ("masking", "scope", "notes", "authority", "labels", "h3_max_resolution")


def _structure(tensor: TensorFact) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "dim_order": list(tensor.dim_order),
        "data_type": _DATA_TYPES.get(tensor.dtype, tensor.dtype),
    }


def _mlm(release: ReleaseFact, datasets: Sequence[DatasetFact]) -> dict[str, Any]:
    parents = [d.uri for d in sorted_datasets(datasets) if d.role == "parent"]
    return {
        "mlm:name": release.model_name,
        "mlm:architecture": release.architecture,
        "mlm:tasks": [release.task],
        "mlm:framework": release.framework,
        "mlm:framework_version": release.framework_version,
        "mlm:total_parameters": release.parameter_count,
        "mlm:pretrained": bool(parents),
        "mlm:pretrained_source": " ".join(parents) or None,
        "mlm:input": [
            {
                "name": tensor.name,
                "bands": [],
                "input": _structure(tensor),
                **({"description": "May be left out."} if tensor.optional else {}),
            }
            for tensor in release.inputs
        ],
        "mlm:output": [
            {"name": tensor.name, "tasks": [release.task], "result": _structure(tensor)}
            for tensor in release.outputs
        ],
        "mlm:hyperparameters": dict(release.hyperparameters),
    }


def _training_data(dataset: DatasetFact) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": dataset.name,
        "href": dataset.uri,
        "role": dataset.role,
        "license": dataset.license,
        "file:checksum": f"1220{dataset.sha256.removeprefix('sha256:')}",
    }
    if dataset.bbox is not None:
        found["bbox"] = list(dataset.bbox)
    if dataset.start_at is not None:
        found["start_datetime"] = utc_text(dataset.start_at)
    if dataset.end_at is not None:
        found["end_datetime"] = utc_text(dataset.end_at)
    if dataset.variables:
        found["variables"] = list(dataset.variables)
    if dataset.selection:
        found["selection"] = dataset.selection
    return found


def _own(
    release: ReleaseFact, datasets: Sequence[DatasetFact], run: RunFact, keys: Mapping[str, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model:version": release.release_version,
        "model:family": release.family,
        "model:seed": run.seed,
        "model:architecture": release.architecture,
        "model:training_data": [_training_data(d) for d in sorted_datasets(datasets)],
        "model:hyperparameters": dict(release.hyperparameters),
        "model:metrics": dict(release.metrics),
        "model:explainability": dict(release.explainability),
        "model:provenance": {
            "entry_point": run.entry_point,
            "run_id": run.run_id,
            "git_commit": run.git_commit,
            "git_url": run.git_url,
            "started_at": utc_text(run.started_at),
            "ended_at": utc_text(run.ended_at),
        },
        "care:status": release.screening_status,
        "care:sovereignty": list(release.sovereignty_notes),
        "energy:wh": release.energy_wh,
        "carbon:gco2e": release.carbon_gco2e,
    }
    found.update(
        {f"care:{name}": release.care[name] for name in _CARE_FIELDS if name in release.care}
    )
    found["care:notes"] = list(release.care.get("notes", ()))
    if "xai" in keys:
        found["xai:assets"] = ["xai/"]
    if isinstance(release.explainability.get("method"), str):
        found["xai:method"] = release.explainability["method"]
    if release.domains:
        found["model:domains"] = list(release.domains)
    if release.fusion_dimension is not None:
        found["focus:version"] = release.release_version
        found["fusion:dimension"] = release.fusion_dimension
    return found


def sorted_datasets(datasets: Iterable[DatasetFact]) -> list[DatasetFact]:
    """Return data sets in the one order that documents list them in."""
    return sorted(datasets, key=lambda d: (d.role, d.name, d.sha256, d.uri, d.selection))


def build_item(
    release: ReleaseFact,
    files: Sequence[FileFact],
    datasets: Sequence[DatasetFact],
    run: RunFact,
    *,
    item_path: str = ITEM_PATH,
) -> dict[str, Any]:
    """Build the STAC item of a release (climate deployment section 4, focus deployment section 4).

    Args:
        release: What the release says about itself.
        files: Every file that exists by now; the item itself is left out if it is among them.
        datasets: What was trained and validated on.
        run: The training run.
        item_path: Where the item will lie, relative to the release; hrefs are relative to it.

    Returns:
        The item as JSON values, ready for ``canonical_bytes``.

    Raises:
        InputError: The weights are not among the files.
    """
    import pystac

    find_file(tuple(files), release.weights_path)
    by_path = {file.path: file for file in files if file.path != item_path}
    keys = asset_keys(by_path.values(), release.weights_path)
    item = pystac.Item(
        id=f"{release.model_name}-{release.release_version}",
        geometry=dict(release.geometry) if release.geometry else bbox_geometry(release.bbox),
        bbox=list(release.bbox),
        datetime=release.released_at,
        properties={
            "title": f"{release.model_name} {release.release_version}",
            "description": release.description,
            "license": release.license,
            "created": utc_text(release.released_at),
            "version": release.release_version,
            "deprecated": False,
            **_mlm(release, datasets),
            **_own(release, datasets, run, keys),
        },
        stac_extensions=list(EXTENSIONS),
    )
    if "provenance" in keys:
        href = relative_href(keys["provenance"], item_path)
        item.properties["model:provenance"]["href"] = href
    found: dict[str, Any] = item.to_dict(include_self_link=False, transform_hrefs=False)
    found["assets"] = {
        key: build_asset(key, by_path[path], item_path) for key, path in sorted(keys.items())
    }
    found["links"] = _links(release, datasets, keys, item_path)
    return found


def _links(
    release: ReleaseFact,
    datasets: Sequence[DatasetFact],
    keys: Mapping[str, str],
    item_path: str,
) -> list[dict[str, Any]]:
    links = [
        {"rel": "derived_from", "href": dataset.uri, "title": dataset.name}
        for dataset in sorted_datasets(datasets)
    ]
    if "model-card" in keys:
        href = relative_href(keys["model-card"], item_path)
        links.append({"rel": "model-card", "href": href, "type": "application/json"})
    if release.predecessor is not None:
        name = f"urn:kfm:release:{quote(release.model_name)}:{release.predecessor}"
        links.append({"rel": "predecessor-version", "href": name, "title": release.predecessor})
    return links


_MIRRORS = (
    ("model:version", "version"),
    ("model:architecture", "mlm:architecture"),
    ("model:hyperparameters", "mlm:hyperparameters"),
)


def _mirror_sentences(properties: Mapping[str, Any]) -> list[str]:
    return [
        f"properties.{own}: is not what properties.{other} says"
        for own, other in _MIRRORS
        if properties.get(own) != properties.get(other)
    ]


def evaluate_item(
    item: Mapping[str, Any], files: Iterable[FileFact], *, item_path: str = ITEM_PATH
) -> list[str]:
    """Return everything that is wrong with a model item, as sentences that name the field.

    Args:
        item: Parsed JSON.
        files: The files of the release, from its manifest.
        item_path: Where the item lies, relative to the release.

    Returns:
        Problems in a fixed order: schema, numbers, extent, mirrored fields, assets against files.
        Empty when there are none.
    """
    if not isinstance(item, dict):
        return ["the document: must be an object"]
    properties = item.get("properties")
    found = stac_schema_sentences(item)
    numbers = finite_sentences(item)
    # A geometry with a number that is none has no place to compare.
    found += numbers or extent_sentences(item.get("geometry"), item.get("bbox"))
    found += _mirror_sentences(properties if isinstance(properties, dict) else {})
    found += asset_sentences(item, {file.path: file for file in files}, item_path)
    return capped(list(dict.fromkeys(found)))
