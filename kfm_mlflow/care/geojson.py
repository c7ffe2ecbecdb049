"""Reading a regions file: GeoJSON becomes regions, or one error that names file, feature and field.

Unknown properties are kept out of the way, because such files come from others; one that looks like
a misspelt property of ours is refused, because it would leave a region unprotected. No error quotes
a restricted name or a coordinate.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.care.modes import DEFAULT_CEILING, MAX_H3_RESOLUTION
from kfm_mlflow.care.regions import (
    CONSENT_STATUSES,
    Consent,
    Region,
    RegionSet,
    build_region_set,
    parse_expiry,
)
from kfm_mlflow.errors import DataError, EvidenceError

_KNOWN = (
    "id",
    "name",
    "authority",
    "consent",
    "h3_max_resolution",
    "k_min",
    "labels",
    "restricted_names",
)
_CONSENT_FIELDS = ("status", "scope", "expires")
_POSITION_SIZE = 2


def parse_regions(data: bytes, *, where: str) -> RegionSet:
    """Read regions from the bytes of a GeoJSON file.

    Raises:
        DataError: See :func:`~kfm_mlflow.care.regions.load_regions`.
    """
    try:
        value = parse_json(data, where=where)
    except EvidenceError as exc:
        raise DataError(str(exc), remedy="give a GeoJSON file") from exc
    if not isinstance(value, dict) or value.get("type") != "FeatureCollection":
        raise DataError("not a GeoJSON FeatureCollection", where=where)
    if "crs" in value and "CRS84" not in str(value["crs"]) and "4326" not in str(value["crs"]):
        raise DataError(
            "is not in WGS 84", where=f"{where}: crs", remedy="convert it to longitude, latitude"
        )
    features = value.get("features")
    if not isinstance(features, list) or not features:
        raise DataError(
            "holds no features",
            where=where,
            remedy="leave regions_file out to take the packaged regions",
        )
    regions = [_region(f, where=f"{where}: feature {index}") for index, f in enumerate(features)]
    twice = [id_ for id_, count in Counter(region.id for region in regions).items() if count > 1]
    if twice:
        first = [region.id for region in regions].index(twice[0])
        raise DataError(
            "another feature has the same id",
            where=f"{where}: feature {first}: id",
            remedy="give every region its own id",
        )
    return build_region_set(regions, data=data, source=where)


def _region(feature: Any, *, where: str) -> Region:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise DataError("is not a GeoJSON Feature", where=where)
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        raise DataError("lacks properties", where=where, remedy="give at least a name")
    _refuse_misspelt(properties, _KNOWN, where=where)
    name = _text(properties, "name", where=where)
    given_id = _text(properties, "id", where=where)
    region_id = given_id or _slug(name or "")
    if not region_id:
        raise DataError("has neither id nor name", where=where, remedy="give it an id")
    geometry = _geometry(feature.get("geometry"), where=f"{where}: geometry")
    return Region(
        id=region_id,
        name=name or region_id,
        authority=_text(properties, "authority", where=where),
        consent=_consent(properties.get("consent"), where=f"{where}: consent"),
        ceiling=_integer(
            properties, "h3_max_resolution", DEFAULT_CEILING, (0, MAX_H3_RESOLUTION), where=where
        ),
        k_min=_integer(properties, "k_min", 1, (1, 10**9), where=where),
        labels=_texts(properties, "labels", where=where),
        restricted_names=_texts(properties, "restricted_names", where=where),
        geometry=geometry,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _refuse_misspelt(fields: dict[str, Any], known: tuple[str, ...], *, where: str) -> None:
    for name in fields.keys() - set(known):
        close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.85)
        if close:
            raise DataError(
                f"unknown property {name!r}", where=where, remedy=f"did you mean {close[0]!r}?"
            )


def _text(fields: dict[str, Any], name: str, *, where: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, int) and name == "id":
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError("is not text", where=f"{where}: {name}")
    return value.strip()


def _texts(fields: dict[str, Any], name: str, *, where: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise DataError("is not a list of texts", where=f"{where}: {name}")
    return tuple(item.strip() for item in value)


def _integer(
    fields: dict[str, Any], name: str, default: int, bounds: tuple[int, int], *, where: str
) -> int:
    value = fields.get(name)
    if value is None:
        return default
    low, high = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"is not a whole number from {low} to {high}", where=f"{where}: {name}")
    return value


def _consent(value: Any, *, where: str) -> Consent:
    if value is None:
        return Consent()
    if not isinstance(value, dict):
        raise DataError("is not an object", where=where, remedy='write {"status": "unknown"}')
    _refuse_misspelt(value, _CONSENT_FIELDS, where=where)
    status = value.get("status", "unknown")
    if status not in CONSENT_STATUSES:
        raise DataError(
            "is no known status",
            where=f"{where}.status",
            remedy=f"use one of {', '.join(CONSENT_STATUSES)}",
        )
    expires = value.get("expires")
    return Consent(
        status=status,
        scope=_text(value, "scope", where=where),
        expires_at=None if expires is None else parse_expiry(expires, where=f"{where}.expires"),
    )


_AREAS = ("Polygon", "MultiPolygon")  # no set: what is asked for may be a list


def _geometry(value: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") not in _AREAS:
        raise DataError(
            "is not a Polygon or MultiPolygon", where=where, remedy="draw the region as an area"
        )
    kind, coordinates = value["type"], value.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise DataError("is empty", where=where, remedy="draw the region or remove the feature")
    plain = [_polygon(polygon, where=where) for polygon in polygons]
    geometry = {"type": kind, "coordinates": plain[0] if kind == "Polygon" else plain}
    _check_shape(geometry, where=where)
    return geometry


def _polygon(rings: Any, *, where: str) -> list[list[list[float]]]:
    if not isinstance(rings, list) or not rings:
        raise DataError("is empty", where=where, remedy="draw the region or remove the feature")
    return [_ring(ring, where=where) for ring in rings]


def _ring(ring: Any, *, where: str) -> list[list[float]]:
    closed = 4
    if not isinstance(ring, list) or len(ring) < closed:
        raise DataError("has a ring of fewer than four positions", where=where)
    positions = []
    for item in ring:
        if not isinstance(item, list) or len(item) < _POSITION_SIZE or not all(map(_number, item)):
            raise DataError("has a position that is not two numbers", where=where)
        positions.append([float(item[0]), float(item[1])])
    if any(abs(lat) > 90.0 for _, lat in positions):  # noqa: PLR2004 - the poles
        raise DataError(
            "has latitudes beyond the poles", where=where, remedy="write longitude before latitude"
        )
    if any(abs(lon) > 180.0 for lon, _ in positions):  # noqa: PLR2004 - the antimeridian
        raise DataError(
            "has longitudes beyond 180", where=where, remedy="use longitudes from -180 to 180"
        )
    if positions[0] != positions[-1]:
        raise DataError(
            "has an open ring", where=where, remedy="repeat the first position at the end"
        )
    return positions


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_shape(geometry: dict[str, Any], *, where: str) -> None:
    from shapely.geometry import shape
    from shapely.validation import explain_validity

    area = shape(geometry)
    if not area.is_valid:
        # Shapely appends the place in brackets, which may be one that must not be shown.
        reason = explain_validity(area).split("[")[0].strip().lower() or "invalid"
        raise DataError(
            f"is not a valid area ({reason})", where=where, remedy="repair it, e.g. with buffer(0)"
        )
    if area.is_empty or area.area == 0.0:
        raise DataError("has no area", where=where, remedy="draw the region or remove the feature")
