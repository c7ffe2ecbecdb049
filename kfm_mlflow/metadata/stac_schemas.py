"""The STAC schemas that an item is held against, all from disk: pystac's, the vendored, our own.

Nothing is ever fetched. A schema that is not at hand is a problem of the item that asks for it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE
from kfm_mlflow.metadata.sentences import schema_sentences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonschema.protocols import Validator
    from referencing import Registry

KFM_URI = f"{NAMESPACE}stac/kfm-model/v1.0.0/schema.json"
MLM_URI = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE_URI = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
VERSION_URI = "https://stac-extensions.github.io/version/v1.2.0/schema.json"
CORE_URI = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
EXTENSIONS = (KFM_URI, FILE_URI, MLM_URI, VERSION_URI)
"""What a model item declares, sorted."""

_VENDORED = {
    KFM_URI: "kfm-model-v1.0.0",
    MLM_URI: "mlm-v1.4.0",
    FILE_URI: "file-v2.1.0",
    VERSION_URI: "version-v1.2.0",
    "https://stac-extensions.github.io/processing/v1.1.0/schema.json": "processing-v1.1.0",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json": "raster-v1.1.0",
}


@cache
def _schemas() -> Mapping[str, dict[str, Any]]:
    from pystac.validation.local_validator import get_local_schema_cache

    known: dict[str, dict[str, Any]] = dict(get_local_schema_cache())
    folder = files("kfm_mlflow.metadata").joinpath("schemas", "stac")
    for uri, name in _VENDORED.items():
        text = folder.joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
        known[uri] = json.loads(text)
    return known


@cache
def _registry() -> Registry[Any]:
    from referencing import Registry, Resource

    contents = [(uri, Resource.from_contents(value)) for uri, value in _schemas().items()]
    registry: Registry[Any] = Registry().with_resources(contents)
    return registry


@cache
def _validator(uri: str) -> Validator:
    from jsonschema import Draft7Validator

    return Draft7Validator(_schemas()[uri], registry=_registry())


def stac_schema_sentences(item: Mapping[str, Any]) -> list[str]:
    """Return what the core schema and every declared extension's schema find wrong.

    Args:
        item: Parsed JSON.

    Returns:
        Sentences; one of them for each extension whose schema is not at hand or which a model
        item must declare and this one does not.
    """
    from referencing.exceptions import Unresolvable

    declared = item.get("stac_extensions")
    uris = [uri for uri in declared if isinstance(uri, str)] if isinstance(declared, list) else []
    found = [f"stac_extensions: {uri} is missing" for uri in EXTENSIONS if uri not in uris]
    for uri in (CORE_URI, *dict.fromkeys(uris)):
        if uri not in _schemas():
            found.append(f"stac_extensions: {uri} is unknown here and cannot be checked offline")
            continue
        try:
            found += schema_sentences(_validator(uri), item)
        except Unresolvable as exc:
            found.append(f"stac_extensions: {uri} needs {exc.ref}, which is not at hand offline")
    return found
