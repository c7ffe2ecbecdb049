"""The area of a region: from GeoJSON to one that H3 and shapely read alike, or a refusal.

1. A ring that jumps by three quarters of the globe or more crosses the antimeridian: it is cut
   there, as RFC 7946 section 3.1.9 asks. One that goes once around holds the nearer pole. A jump
   between a half and three quarters may be meant either way, and is refused.
2. An area that intersects itself is refused, never mended: mending has to guess which part of the
   land was meant, and a wrong guess leaves some of it open.
3. No error quotes a coordinate.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

_AREAS = ("Polygon", "MultiPolygon")  # no set: what is asked for may be a list
_POSITION_SIZE = 2
_CLOSED_RING_SIZE = 4
_HALF_DEG, _CROSSING_DEG, _WHOLE_DEG, _POLE_DEG = 180.0, 270.0, 360.0, 90.0

Ring = list[list[float]]


def parse_area(value: Any, *, where: str) -> dict[str, Any]:
    """Read a GeoJSON Polygon or MultiPolygon.

    Args:
        value: The geometry, WGS 84, longitude before latitude.
        where: What to name in an error.

    Returns:
        A GeoJSON geometry within -180 to 180, valid, with an area.

    Raises:
        DataError: It is no such geometry; says what is wrong and what to do.
    """
    if not isinstance(value, dict) or value.get("type") not in _AREAS:
        raise DataError(
            "is not a Polygon or MultiPolygon", where=where, remedy="draw the region as an area"
        )
    coordinates = value.get("coordinates")
    polygons = [coordinates] if value["type"] == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise DataError("is empty", where=where, remedy="draw the region or remove the feature")
    plain = [_polygon(polygon, where=where) for polygon in polygons]
    if any(_jumps(ring) for polygon in plain for ring in polygon):
        plain = [part for polygon in plain for part in _cut(polygon, where=where)]
    kind = "Polygon" if len(plain) == 1 and value["type"] == "Polygon" else "MultiPolygon"
    geometry = {"type": kind, "coordinates": plain[0] if kind == "Polygon" else plain}
    _check_shape(geometry, where=where)
    return geometry


def _polygon(rings: Any, *, where: str) -> list[Ring]:
    if not isinstance(rings, list) or not rings:
        raise DataError("is empty", where=where, remedy="draw the region or remove the feature")
    return [_ring(ring, where=where) for ring in rings]


def _ring(ring: Any, *, where: str) -> Ring:
    if not isinstance(ring, list) or len(ring) < _CLOSED_RING_SIZE:
        raise DataError("has a ring of fewer than four positions", where=where)
    positions = []
    for item in ring:
        if not isinstance(item, list) or len(item) < _POSITION_SIZE or not all(map(_number, item)):
            raise DataError("has a position that is not two numbers", where=where)
        positions.append([float(item[0]), float(item[1])])
    if any(abs(lat) > _POLE_DEG for _, lat in positions):
        raise DataError(
            "has latitudes beyond the poles", where=where, remedy="write longitude before latitude"
        )
    if any(abs(lon) > _HALF_DEG for lon, _ in positions):
        raise DataError(
            "has longitudes beyond 180",
            where=where,
            remedy="use longitudes from -180 to 180; across the antimeridian 181 is -179",
        )
    if positions[0] != positions[-1]:
        raise DataError(
            "has an open ring", where=where, remedy="repeat the first position at the end"
        )
    if any(_HALF_DEG < abs(step) < _CROSSING_DEG for step in _steps(positions)):
        raise DataError(
            "has an edge longer than half the globe",
            where=where,
            remedy="add positions along it, or cut it at the antimeridian",
        )
    return positions


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _steps(ring: Ring) -> Sequence[float]:
    return [second[0] - first[0] for first, second in pairwise(ring)]


def _jumps(ring: Ring) -> bool:
    # A step of exactly the whole globe is the edge of a belt around it, drawn plainly.
    return any(_CROSSING_DEG <= abs(step) < _WHOLE_DEG for step in _steps(ring))


def _unrolled(ring: Ring, *, where: str) -> Ring:
    """Follow a ring across the antimeridian with longitudes that go on beyond 180."""
    lon = ring[0][0]
    followed = [[lon, ring[0][1]]]
    for step, (_, lat) in zip(_steps(ring), ring[1:], strict=True):
        lon += step - _WHOLE_DEG * round(step / _WHOLE_DEG)
        followed.append([lon, lat])
    if abs(lon - ring[0][0]) > _HALF_DEG:
        mean_lat = sum(lat for _, lat in ring) / len(ring)
        if min(lat for _, lat in ring) <= 0.0 <= max(lat for _, lat in ring):
            raise DataError(
                "goes around the globe across the equator, so which pole it holds is unclear",
                where=where,
                remedy="cut it at the antimeridian",
            )
        pole = _POLE_DEG if mean_lat > 0 else -_POLE_DEG
        followed += [[lon, pole], [ring[0][0], pole], followed[0]]
    return followed


def _cut(polygon: list[Ring], *, where: str) -> list[list[Ring]]:
    from shapely import get_parts
    from shapely.affinity import translate
    from shapely.geometry import Polygon, box
    from shapely.ops import unary_union

    rings = [_unrolled(ring, where=where) for ring in polygon]
    shell = Polygon(rings[0])
    _refuse_invalid(shell, where=where)
    for ring in rings[1:]:
        hole = Polygon(ring)
        shifts = (-_WHOLE_DEG, 0.0, _WHOLE_DEG)
        for moved in (translate(hole, shift) for shift in shifts):
            if shell.covers(moved):
                shell = shell.difference(moved)
                break
        else:
            raise DataError("has a hole outside of it", where=where, remedy="draw it inside")
    parts = []
    for turn in range(-2, 3):
        middle = _WHOLE_DEG * turn
        window = box(middle - _HALF_DEG, -_POLE_DEG, middle + _HALF_DEG, _POLE_DEG)
        parts.append(translate(shell.intersection(window), -middle))
    areas = [p for p in get_parts(unary_union(parts)) if p.geom_type == "Polygon" and p.area]
    return [
        [[list(map(float, at)) for at in ring.coords] for ring in (area.exterior, *area.interiors)]
        for area in areas
    ]


def _check_shape(geometry: dict[str, Any], *, where: str) -> None:
    from shapely.geometry import shape

    area = shape(geometry)
    _refuse_invalid(area, where=where)
    if area.is_empty or area.area == 0.0:
        raise DataError("has no area", where=where, remedy="draw the region or remove the feature")


def _refuse_invalid(area: Any, *, where: str) -> None:
    from shapely.validation import explain_validity

    if area.is_valid:
        return
    # Shapely appends the place in brackets, which may be one that must not be shown.
    reason = explain_validity(area).split("[")[0].strip().lower() or "invalid"
    raise DataError(
        f"is not a valid area ({reason})",
        where=where,
        remedy="redraw it: three corners or more, holes inside, and no edge across another",
    )
