"""Regions from outside: Local Contexts Hub projects and boundary files, to our regions file.

Labels and notices are copied as their communities and the Hub wrote them; nothing is added. The Hub
states no consent and no H3 ceiling, so what comes from it has ``unknown`` consent, and the defaults
of :mod:`kfm_mlflow.care.rules` hold until the authority says otherwise. A project whose labels name
no community has no authority, which fails closed.

Shapes are those of the Hub's API v2 (``GET /api/v2/projects/{unique_id}/`` and
``/projects/multi/{id},{id}/``, ``X-Api-Key``). ``project_boundary_geojson`` is free JSON there: a
geometry, a Feature or a FeatureCollection is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import MAX_JSON_BYTES, canonical_bytes, digest_bytes, parse_json
from kfm_mlflow.care.geojson import PROPERTIES, parse_regions
from kfm_mlflow.care.labels import parse_label
from kfm_mlflow.care.shapes import parse_area
from kfm_mlflow.errors import DataError, EvidenceError, InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA_VERSION = "1"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REMEDIES = {
    401: "give the Hub's API key by --api-key-file or LOCAL_CONTEXTS_API_KEY",
    403: "the key's account may not read this project; ask who made it",
    404: "check the project's unique id",
}


def fetch_document(url: str, *, api_key: str | None = None, timeout_s: float = 30.0) -> bytes:
    """Fetch a project or a boundary file.

    Args:
        url: HTTPS; plain HTTP only to this machine.
        api_key: Sent as ``X-Api-Key``; redirects are not followed, so nobody else gets it.
        timeout_s: For the connection and between bytes.

    Raises:
        InputError: The URL is none of these.
        StorageError: No answer, another status than 200, or more than 16 MiB.
    """
    from urllib.parse import urlsplit

    import requests

    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise InputError("is not an https URL", where=url[:200])
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    headers = {"Accept": "application/json"} | ({"X-Api-Key": api_key} if api_key else {})
    try:
        with requests.get(
            url, headers=headers, timeout=timeout_s, allow_redirects=False, stream=True
        ) as answer:
            if answer.status_code != requests.codes.ok:
                raise StorageError(
                    f"answers {answer.status_code}",
                    where=where,
                    remedy=_REMEDIES.get(answer.status_code, "try again later"),
                )
            found = bytearray()
            for chunk in answer.iter_content(2**16):
                found += chunk
                if len(found) > MAX_JSON_BYTES:
                    raise StorageError(f"is larger than {MAX_JSON_BYTES} bytes", where=where)
    except requests.RequestException as exc:
        raise StorageError(f"gives no answer ({type(exc).__name__})", where=where) from exc
    return bytes(found)


def load_document(path: Path) -> bytes:
    """Read a project or a boundary file that was saved before.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", where=path.name) from exc


def build_regions(
    data: bytes,
    *,
    where: str,
    salt: str,
    authority: str | None = None,
    id_property: str = "id",
    name_property: str = "name",
) -> bytes:
    """Make a regions file of a Hub project, several of them, or a GeoJSON FeatureCollection.

    Args:
        data: The document.
        where: What to call it.
        salt: Random text that makes the hashes of restricted names unguessable.
        authority: Who has authority where the document names nobody.
        id_property: Property of a feature that becomes its ``id``.
        name_property: Property of a feature that becomes its ``name``.

    Returns:
        The file's bytes (canonical JSON); it has been read back.

    Raises:
        DataError: The document is none of these or a region of it is wrong; names it.
    """
    try:
        value = parse_json(data, where=where)
    except EvidenceError as exc:
        raise DataError(str(exc), remedy="give a Hub project or a GeoJSON file") from exc
    if isinstance(value, dict) and value.get("type") == "FeatureCollection":
        features = _plain_features(value, where, id_property, name_property)
    else:
        projects = value if isinstance(value, list) else [value]
        features = [_project_feature(project, where=where) for project in projects]
    for feature in features:
        if feature["properties"].get("authority") is None and authority is not None:
            feature["properties"]["authority"] = authority
    collection = {
        "schema_version": SCHEMA_VERSION,
        "type": "FeatureCollection",
        "salt": salt,
        "source": {"document": where, "digest": digest_bytes(data)},
        "features": features,
    }
    crs = value.get("crs") if isinstance(value, dict) else None
    written = canonical_bytes(collection | ({} if crs is None else {"crs": crs}))
    parse_regions(written, where=where)
    return written


def _plain_features(
    value: Mapping[str, Any], where: str, id_property: str, name_property: str
) -> list[dict[str, Any]]:
    features = value.get("features")
    if not isinstance(features, list) or not features:
        raise DataError("holds no features", where=where)
    found = []
    for row, feature in enumerate(features):
        properties = feature.get("properties") if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            raise DataError("lacks properties", where=f"{where}: feature {row}")
        kept = {name: properties[name] for name in PROPERTIES if properties.get(name) is not None}
        for ours, theirs in (("id", id_property), ("name", name_property)):
            if properties.get(theirs) is not None:
                kept[ours] = str(properties[theirs])
        found.append({"type": "Feature", "properties": kept, "geometry": feature.get("geometry")})
    return found


def _project_feature(project: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(project, Mapping) or not isinstance(project.get("unique_id"), str):
        raise DataError(
            "is neither a Local Contexts Hub project nor a GeoJSON FeatureCollection", where=where
        )
    unique_id = project["unique_id"]
    at = f"{where}: project {unique_id[:64]}"
    labels = [
        label for name in ("bc_labels", "tk_labels") for label in _objects(project, name, where=at)
    ]
    properties: dict[str, Any] = {
        "id": f"local-contexts-{unique_id}",
        "name": _text(project, "title") or unique_id,
        "consent": {"status": "unknown"},
        "labels": [_label(label, where=f"{at}: label {row}") for row, label in enumerate(labels)],
        "local_contexts": {
            name: project[name]
            for name in ("unique_id", "project_page", "project_privacy", "date_modified")
            if isinstance(project.get(name), str)
        },
    }
    notices = [
        {name: notice[name] for name in ("notice_type", "name") if name in notice}
        for notice in _objects(project, "notice", where=at)
    ]
    if notices:
        properties["local_contexts_notices"] = notices
    communities = sorted({c for c in _communities(project, labels) if c})
    if communities:
        properties["authority"] = " and ".join(communities)
    boundary = project.get("project_boundary_geojson")
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": _boundary(boundary, where=f"{at}: project_boundary_geojson"),
    }


def _objects(project: Mapping[str, Any], name: str, *, where: str) -> list[Mapping[str, Any]]:
    value = project.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DataError("is not a list of objects", where=f"{where}: {name}")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value.strip() or None if isinstance(value, str) else None


def _label(label: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    parse_label(label, where=where)
    names = ("unique_id", "name", "label_type", "community", "language_tag", "label_text")
    return {name: label[name] for name in names if label.get(name) is not None}


def _communities(
    project: Mapping[str, Any], labels: Iterable[Mapping[str, Any]]
) -> Iterable[str | None]:
    for label in labels:
        yield _text(label, "community")
    creators = project.get("created_by")
    for creator in creators if isinstance(creators, list) else []:
        community = creator.get("community") if isinstance(creator, Mapping) else None
        if isinstance(community, Mapping):
            yield _text(community, "name")


def _boundary(value: Any, *, where: str) -> dict[str, Any]:
    """Bring whatever area a project gives to one geometry; the union of several."""
    from shapely.geometry import mapping, shape
    from shapely.ops import unary_union

    if isinstance(value, str):
        try:
            value = parse_json(value.encode(), where=where)
        except EvidenceError as exc:
            raise DataError(str(exc)) from exc
    areas = [parse_area(geometry, where=where) for geometry in _geometries(value)]
    if not areas:
        raise DataError(
            "is empty", where=where, remedy="ask the community for the boundary of its project"
        )
    if len(areas) == 1:
        return areas[0]
    union: dict[str, Any] = json.loads(json.dumps(mapping(unary_union([*map(shape, areas)]))))
    return union


def _geometries(value: Any) -> Iterable[Any]:
    if not isinstance(value, Mapping):
        return
    kind = value.get("type")
    if kind in {"FeatureCollection", "GeometryCollection"}:
        name = "features" if kind == "FeatureCollection" else "geometries"
        for part in value.get(name) or ():
            yield from _geometries(part)
    elif kind == "Feature":
        yield from _geometries(value.get("geometry"))
    elif kind is not None:
        yield dict(value)
