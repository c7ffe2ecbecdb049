"""Where the places of JSON stand: keys that say latitude and longitude, and GeoJSON geometries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.generalise import (
    base_resolution,
    cells_of_area,
    cells_of_points,
    check_coordinates,
)
from kfm_mlflow.errors import DataError, InputError

if TYPE_CHECKING:
    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.coverage import Coverage

_LAT = re.compile(r"(?i)(.*?)_?(?:lat|latitude|decimallatitude)(?:_?(?:deg|degrees|dd|wgs84))?")
_LON = re.compile(
    r"(?i)(.*?)_?(?:lon|lng|long|longitude|decimallongitude)(?:_?(?:deg|degrees|dd|wgs84))?"
)
GEOMETRIES = frozenset(
    [
        "Point",
        "MultiPoint",
        "LineString",
        "MultiLineString",
        "Polygon",
        "MultiPolygon",
        "GeometryCollection",
    ]
)


def place_keys(value: Mapping[Any, Any]) -> dict[str, tuple[str, str]]:
    """Return prefix -> keys of latitude and longitude of an object or a table."""
    lats: dict[str, str] = {}
    lons: dict[str, str] = {}
    for key in value:
        # Most keys name no place, and a plain search says so sooner than a pattern.
        if not isinstance(key, str):
            continue
        small = key.lower()
        if "lat" not in small and "lon" not in small and "lng" not in small:
            continue
        for found, pattern in ((lats, _LAT), (lons, _LON)):
            match = pattern.fullmatch(key)
            if match is not None:
                found.setdefault(match.group(1).lower(), key)
    return {prefix: (lats[prefix], lons[prefix]) for prefix in lats if prefix in lons}


def cells_of_coordinates(lat: Any, lon: Any, path: str, coverage: Coverage) -> Cells:
    """Return the cells of latitudes and longitudes, no finer than the mode allows.

    Args:
        lat: Latitudes.
        lon: Longitudes, as many.
        path: What to name in an error.
        coverage: Whose mode holds.

    Raises:
        DataError: They are no places; names the path and the row.
    """
    try:
        lats, lons = (np.array(column, dtype=np.float64) for column in (lat, lon))
        check_coordinates(lats, lons)
    except (TypeError, ValueError) as exc:
        raise DataError("a latitude or longitude is no number", where=path) from exc
    except DataError as exc:
        raise DataError(str(exc), where=path) from exc
    return cells_of_points(lats, lons, base_resolution(coverage, None))


def cells_of_geometry(value: Mapping[Any, Any], path: str, coverage: Coverage) -> Cells:
    """Return the cells of a GeoJSON geometry, each once, no finer than the mode allows.

    Args:
        value: Of points and areas; a line has no cells.
        path: What to name in an error.
        coverage: Whose mode holds.

    Raises:
        DataError: It is no such geometry; names the path.
    """
    return np.unique(np.concatenate(_parts(value, path, coverage)))


def _parts(value: Mapping[Any, Any], path: str, coverage: Coverage) -> list[Cells]:
    kind, at = value.get("type"), value.get("coordinates")
    if kind == "GeometryCollection":
        members = value.get("geometries")
        if not isinstance(members, list) or not members:
            raise DataError("holds no geometries", where=path)
        return [c for m in members if isinstance(m, Mapping) for c in _parts(m, path, coverage)]
    if kind in {"Point", "MultiPoint"}:
        rows = [at] if kind == "Point" else at
        if not isinstance(rows, list) or not rows or any(not _is_position(p) for p in rows):
            raise DataError("is no position", where=path)
        return [cells_of_coordinates([p[1] for p in rows], [p[0] for p in rows], path, coverage)]
    if kind in {"Polygon", "MultiPolygon"}:
        try:
            return [cells_of_area({"type": kind, "coordinates": at}, 0, coverage)]
        except InputError as exc:
            raise DataError(str(exc).removeprefix("row 0: "), where=path) from exc
    raise DataError("is a line or nothing known, which has no cells", where=path)


def _is_position(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) >= 2  # noqa: PLR2004 - longitude, latitude
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )
