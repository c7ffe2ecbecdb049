"""Extents on Earth: boxes in degrees, their geometry, and whether a stated pair of both agrees.

The core schema of STAC accepts an empty polygon and any four numbers as its box.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Bbox: TypeAlias = tuple[float, float, float, float]
"""West, south, east, north in degrees of WGS 84; west is above east across the antimeridian."""

_TOLERANCE_DEG = 1e-9
_BBOX_LENGTH = 4
_FULL_TURN = 360.0
_HALF_TURN = 180.0
_POLE = 90.0


def wgs84_bbox(west: float, south: float, east: float, north: float) -> Bbox:
    """Build an extent from longitudes in either convention (-180..180 or 0..360).

    Args:
        west: Western edge in degrees.
        south: Southern edge in degrees.
        east: Eastern edge in degrees, above ``west`` in the data's own convention.
        north: Northern edge in degrees.

    Returns:
        Edges within -180..180 and -90..90. West is above east when the extent crosses the
        antimeridian (RFC 7946, section 5.2).
    """
    if east - west >= _FULL_TURN:
        return (-_HALF_TURN, south, _HALF_TURN, north)

    def wrapped(longitude: float) -> float:
        inside = -_HALF_TURN <= longitude <= _HALF_TURN
        return longitude if inside else (longitude + _HALF_TURN) % _FULL_TURN - _HALF_TURN

    # An extent that ends on the antimeridian ends at +180, one that begins there begins at -180.
    left, right = wrapped(west), wrapped(east)
    left = -_HALF_TURN if left == _HALF_TURN else left
    right = _HALF_TURN if right == -_HALF_TURN else right
    return (left, south, right, north)


def check_bbox(bbox: Bbox, where: str) -> None:
    """Refuse four numbers that are no extent on Earth.

    Raises:
        InputError: An edge is out of range or not a number, or the extent has no area.
    """
    west, south, east, north = bbox
    # Written so that NaN fails every comparison.
    placed = all(-_HALF_TURN <= x <= _HALF_TURN for x in (west, east))
    wide = west not in {east, _HALF_TURN} and east != -_HALF_TURN
    if not (placed and wide and -_POLE <= south < north <= _POLE):
        raise InputError(
            "not an extent of west, south, east, north in degrees",
            where=where,
            remedy="use wgs84_bbox() for longitudes in 0..360",
        )


def _ring(west: float, south: float, east: float, north: float) -> list[list[list[float]]]:
    # Counter-clockwise, as RFC 7946 section 3.1.6 asks of an outer ring.
    return [[[west, south], [east, south], [east, north], [west, north], [west, south]]]


def bbox_geometry(bbox: Bbox) -> dict[str, Any]:
    """Return the geometry of an extent; two polygons when it crosses the antimeridian.

    Args:
        bbox: West, south, east, north in degrees.
    """
    west, south, east, north = bbox
    if west < east:
        return {"type": "Polygon", "coordinates": _ring(west, south, east, north)}
    halves = [_ring(west, south, _HALF_TURN, north), _ring(-_HALF_TURN, south, east, north)]
    return {"type": "MultiPolygon", "coordinates": halves}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _box(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list | tuple) and len(value) == _BBOX_LENGTH and all(map(_number, value)):
        return tuple(float(edge) for edge in value)
    return None


def _bounds(shape: Any, box: tuple[float, ...]) -> tuple[float, ...]:
    """Return the box around a shape, cut at the antimeridian when the stated box crosses it."""
    if box[0] < box[2] or not hasattr(shape, "geoms"):
        return tuple(shape.bounds)
    parts = [part.bounds for part in shape.geoms]
    middle = (box[0] + box[2]) / 2
    east_of, west_of = [b for b in parts if b[0] > middle], [b for b in parts if b[0] <= middle]
    if not east_of or not west_of:
        return tuple(shape.bounds)
    whole = shape.bounds
    return (min(b[0] for b in east_of), whole[1], max(b[2] for b in west_of), whole[3])


def extent_sentences(geometry: Any, bbox: Any) -> list[str]:
    """Return what is wrong with a geometry and the box that claims to enclose it.

    Args:
        geometry: GeoJSON geometry, or whatever stands in its place.
        bbox: Four numbers, or whatever stands in their place.
    """
    import shapely
    from shapely.geometry import shape as to_shape

    if not isinstance(geometry, dict):
        return ["geometry: is missing"]
    try:
        shape = to_shape(_plain(geometry))
    except (
        shapely.errors.ShapelyError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
    ):
        return ["geometry: is not a GeoJSON geometry"]
    if shape.is_empty:
        return ["geometry: is empty"]
    found: list[str] = []
    if not shape.is_valid:
        found.append("geometry: crosses or touches itself")
    west, south, east, north = shape.bounds
    inside = -_HALF_TURN <= west <= east <= _HALF_TURN and -_POLE <= south <= north <= _POLE
    if not inside:
        found.append("geometry: has a place outside -180..180, -90..90 degrees")
    box = _box(bbox)
    if box is None:
        return [*found, "bbox: is not four finite numbers"]
    pairs = zip(_bounds(shape, box), box, strict=True)
    if not all(abs(edge - stated) <= _TOLERANCE_DEG for edge, stated in pairs):
        found.append("bbox: is not the box around geometry")
    return found


def _plain(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only what makes a geometry, so that a GeometryCollection or a feature is refused."""
    return {"type": geometry["type"], "coordinates": geometry["coordinates"]}
