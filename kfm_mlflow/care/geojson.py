"""Reading a regions file: GeoJSON becomes regions, or one error that names file, feature and field.

Unknown properties are kept out of the way, because such files come from others; one that looks like
a misspelt property of ours is refused, because it would leave a region unprotected. No error quotes
a restricted name or a coordinate.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.care.authority import parse_authority
from kfm_mlflow.care.labels import Label, parse_label
from kfm_mlflow.care.modes import MAX_H3_RESOLUTION
from kfm_mlflow.care.regions import (
    CONSENT_STATUSES,
    Consent,
    Region,
    RegionSet,
    build_region_set,
    parse_expiry,
)
from kfm_mlflow.care.rules import (
    EMBARGO_DAYS,
    SENSITIVITY_CEILINGS,
    Seasonality,
    static_ceiling,
    static_k_min,
)
from kfm_mlflow.care.shapes import parse_area
from kfm_mlflow.errors import DataError, EvidenceError

PROPERTIES = (
    "id",
    "name",
    "authority",
    "consent",
    "h3_max_resolution",
    "k_min",
    "labels",
    "restricted_names",
    "sensitivity",
    "sensitivity_score",
    "seasonality",
    "embargo",
)
"""What a feature's properties may say to us."""
_CONSENT_FIELDS = ("status", "scope", "expires")
_SEASON_FIELDS = ("starts", "ends", "h3_max_resolution")
_EMBARGO_FIELDS = ("until", "since")
_MAX_SCORE = 100
_LEAP_YEAR = 2024


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
    _refuse_misspelt(properties, PROPERTIES, where=where)
    name = _text(properties, "name", where=where)
    given_id = _text(properties, "id", where=where)
    region_id = given_id or _slug(name or "")
    if not region_id:
        raise DataError("has neither id nor name", where=where, remedy="give it an id")
    geometry = parse_area(feature.get("geometry"), where=f"{where}: geometry")
    sensitivity = _sensitivity(properties, where=where)
    score = _score(properties, where=where)
    stated = _integer(properties, "h3_max_resolution", (0, MAX_H3_RESOLUTION), where=where)
    k_min = _integer(properties, "k_min", (1, 10**9), where=where)
    labels = _labels(properties.get("labels"), where=f"{where}: labels")
    authority = parse_authority(properties.get("authority"), where=f"{where}: authority")
    return Region(
        id=region_id,
        name=name or region_id,
        authority=authority.name,
        consent=_consent(properties.get("consent"), where=f"{where}: consent"),
        ceiling=static_ceiling(stated, sensitivity, score),
        k_min=static_k_min(k_min or 1, sensitivity, score),
        labels=tuple(label.name for label in labels),
        restricted_names=_texts(properties, "restricted_names", where=where),
        geometry=geometry,
        label_records=labels,
        sensitivity=sensitivity,
        seasonality=_seasonality(properties.get("seasonality"), where=f"{where}: seasonality"),
        embargo_until=_embargo(properties.get("embargo"), where=f"{where}: embargo"),
        authority_contact=authority.contact,
        authority_keys=authority.keys,
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
    fields: dict[str, Any], name: str, bounds: tuple[int, int], *, where: str
) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    low, high = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"is not a whole number from {low} to {high}", where=f"{where}: {name}")
    return value


def _sensitivity(fields: dict[str, Any], *, where: str) -> str | None:
    value = fields.get("sensitivity")
    if value is not None and value not in tuple(SENSITIVITY_CEILINGS):
        raise DataError(
            "is no known class",
            where=f"{where}: sensitivity",
            remedy=f"use one of {', '.join(SENSITIVITY_CEILINGS)}",
        )
    return value  # type: ignore[no-any-return]  # one of the keys, or None


def _score(fields: dict[str, Any], *, where: str) -> float | None:
    value = fields.get("sensitivity_score")
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= _MAX_SCORE
    ):
        raise DataError("is not a number from 0 to 100", where=f"{where}: sensitivity_score")
    return float(value)


def _labels(value: Any, *, where: str) -> tuple[Label, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str | dict) for v in value):
        raise DataError("is not a list of texts or objects", where=where)
    return tuple(parse_label(label, where=f"{where}.{row}") for row, label in enumerate(value))


def _seasonality(value: Any, *, where: str) -> Seasonality | None:
    if value is None:
        return None
    remedy = 'write {"starts": "MM-DD", "ends": "MM-DD"}'
    if not isinstance(value, dict):
        raise DataError("is not an object", where=where, remedy=remedy)
    _refuse_misspelt(value, _SEASON_FIELDS, where=where)
    days = []
    for name in ("starts", "ends"):
        try:
            day = datetime.fromisoformat(f"{_LEAP_YEAR}-{value.get(name)}").date()
        except ValueError as exc:
            raise DataError("is not a day", where=f"{where}.{name}", remedy=remedy) from exc
        days.append((day.month, day.day))
    ceiling = _integer(value, "h3_max_resolution", (0, MAX_H3_RESOLUTION), where=where)
    return Seasonality(days[0], days[1], ceiling)


def _embargo(value: Any, *, where: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, dict) or (value.get("until") is None) == (value.get("since") is None):
        raise DataError(
            "gives neither its end nor its beginning, or both",
            where=where,
            remedy='write {"until": "YYYY-MM-DD"} or {"since": "YYYY-MM-DD"}',
        )
    _refuse_misspelt(value, _EMBARGO_FIELDS, where=where)
    if value.get("until") is not None:
        return parse_expiry(value["until"], where=f"{where}.until")
    return parse_expiry(value["since"], where=f"{where}.since") + timedelta(days=EMBARGO_DAYS)


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
