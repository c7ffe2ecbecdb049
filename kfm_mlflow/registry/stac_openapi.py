"""The description of the STAC API in OpenAPI 3.0: its paths, parameters and media types."""

from __future__ import annotations

from typing import Any

from kfm_mlflow.metadata.stac_catalog import CATALOG_TITLE, GEOJSON, JSON
from kfm_mlflow.metadata.stac_search import DEFAULT_LIMIT, MAX_LIMIT, SEARCH_FIELDS

OPENAPI_TYPE = "application/vnd.oai.openapi+json;version=3.0"
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "bbox": (
        {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 6},
        "West, south, east, north in degrees; west above east crosses the antimeridian.",
    ),
    "collections": (_TEXTS, "Registered models."),
    "datetime": (_TEXT, "RFC 3339 instant, or two with a slash between, of which one may be `..`."),
    "ids": (_TEXTS, "Item ids."),
    "intersects": ({"type": "object"}, "GeoJSON geometry; not together with bbox."),
    "limit": (
        {"type": "integer", "minimum": 1, "default": DEFAULT_LIMIT},
        f"Most items in one answer; more than {MAX_LIMIT} is taken for {MAX_LIMIT}.",
    ),
    "query": (
        {"type": "object", "additionalProperties": {"type": "object"}},
        'Properties of `mlm:` or `care:` and what they must equal: {"mlm:framework": {"eq": …}}.',
    ),
    "token": (_TEXT, "Where to go on from; the link `next` has it."),
}


def _parameters(names: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for name in names:
        schema, text = _FIELDS[name]
        parameter: dict[str, Any] = {"name": name, "in": "query", "description": text}
        if schema["type"] == "object":
            parameter["content"] = {JSON: {"schema": schema}}
        else:
            parameter |= {"schema": schema, "style": "form", "explode": False}
        found.append(parameter)
    return found


def _in_path(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]


def _answer(media_type: str, summary: str, **more: Any) -> dict[str, Any]:
    error = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/error"}}}}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {media_type: {"schema": {}}}},
            "4XX": {"description": "What is wrong with the question.", **error},
        },
        **more,
    }


def describe(server_url: str) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        server_url: URL of the landing page, without a slash at its end.
    """
    body = {name: {**schema, "description": text} for name, (schema, text) in _FIELDS.items()}
    posted = {"content": {JSON: {"schema": {"type": "object", "properties": body}}}}
    one, item = "/collections/{collectionId}", _in_path("collectionId", "itemId")
    of_items = [*_in_path("collectionId"), *_parameters(SEARCH_FIELDS)]
    return {
        "openapi": "3.0.3",
        "info": {"title": f"{CATALOG_TITLE}: STAC API", "version": "1.0.0"},
        "servers": [{"url": server_url}],
        "paths": {
            "/": {"get": _answer(JSON, "Landing page")},
            "/api": {"get": _answer(OPENAPI_TYPE, "This description")},
            "/conformance": {"get": _answer(JSON, "What the API conforms to")},
            "/collections": {"get": _answer(JSON, "All collections")},
            one: {"get": _answer(JSON, "A collection", parameters=_in_path("collectionId"))},
            f"{one}/items": {"get": _answer(GEOJSON, "Items", parameters=of_items)},
            f"{one}/items/{{itemId}}": {"get": _answer(GEOJSON, "An item", parameters=item)},
            f"{one}/signed/{{itemId}}": {
                "get": _answer(GEOJSON, "An item as it was signed", parameters=item)
            },
            "/search": {
                "get": _answer(GEOJSON, "Search", parameters=_parameters(SEARCH_FIELDS)),
                "post": _answer(GEOJSON, "Search", requestBody=posted),
            },
        },
        "components": {
            "schemas": {
                "error": {
                    "type": "object",
                    "required": ["code", "description"],
                    "properties": {"code": _TEXT, "description": _TEXT},
                }
            }
        },
    }
