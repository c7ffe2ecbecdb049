"""Drawing maps offline and without tiles: a projection, a graticule, and where Kansas lies.

The outline of Kansas is a generalised one of our own (the state's extent, and a line for the
Missouri's corner).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from kfm_mlflow.registry.svg import element

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from markupsafe import Markup

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""

KANSAS_OUTLINE = (
    (-102.05, 37.0),
    (-94.62, 37.0),
    (-94.61, 39.1),
    (-95.1, 39.6),
    (-95.3, 40.0),
    (-102.05, 40.0),
)
"""The state in six corners, good to about 10 km; drawn for orientation, no boundary."""

KANSAS: Box = (-102.05, 37.0, -94.61, 40.0)
WIDTH = 480.0
_MARGIN = 14.0
_MAX_HEIGHT = 380.0
_POLE_DEG = 89.0


def corners(box: Box) -> list[tuple[float, float]]:
    """Return the corners of a box, longitude first."""
    west, south, east, north = box
    return [(west, south), (east, south), (east, north), (west, north)]


def outline(cell: str) -> list[tuple[float, float]]:
    """Return the boundary of an H3 cell, longitude first."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    return [(lon, lat) for lat, lon in h3.cell_to_boundary(cell)]


def around(shapes: Iterable[Iterable[tuple[float, float]]], *, pad_ratio: float) -> Box:
    """Return a box around shapes, padded by a share of its larger side."""
    points = [point for shape in shapes for point in shape]
    west, east = min(x for x, _ in points), max(x for x, _ in points)
    south, north = min(y for _, y in points), max(y for _, y in points)
    pad = pad_ratio * max(east - west, north - south, 0.1)
    return (west - pad, max(south - pad, -_POLE_DEG), east + pad, min(north + pad, _POLE_DEG))


class Projection:
    """Longitude and latitude to the drawing: equirectangular, true at the middle latitude."""

    def __init__(self, frame: Box) -> None:
        """Fit a box into a drawing of :data:`WIDTH` by at most 380."""
        west, south, east, north = frame
        squeeze = math.cos(math.radians((south + north) / 2))
        self.west, self.north = west, north
        self.scale_y = (WIDTH - 2 * _MARGIN) / ((east - west) * squeeze)
        height = (north - south) * self.scale_y
        if height > _MAX_HEIGHT:
            # Too tall: everything becomes smaller, and stands in the middle.
            self.scale_y *= _MAX_HEIGHT / height
        self.scale_x = self.scale_y * squeeze
        self.west -= ((WIDTH - 2 * _MARGIN) / self.scale_x - (east - west)) / 2
        self.height = (north - south) * self.scale_y + 2 * _MARGIN

    @property
    def frame(self) -> Box:
        """What is seen, in degrees."""
        south = self.north - (self.height - 2 * _MARGIN) / self.scale_y
        east = self.west + (WIDTH - 2 * _MARGIN) / self.scale_x
        return (self.west, south, east, self.north)

    def __call__(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where a longitude and latitude lie in the drawing."""
        lon, lat = point
        return _MARGIN + (lon - self.west) * self.scale_x, _MARGIN + (
            self.north - lat
        ) * self.scale_y

    def path(self, shapes: Iterable[Sequence[tuple[float, float]]]) -> str:
        """Return the ``d`` of closed shapes, each later point relative to the one before."""
        parts = []
        for shape in shapes:
            points = [(round(x, 1), round(y, 1)) for x, y in map(self, shape)]
            steps = [f"{x1 - x0:.1f} {y1 - y0:.1f}" for (x0, y0), (x1, y1) in pairwise(points)]
            parts.append(f"M{points[0][0]:.1f} {points[0][1]:.1f}l{' '.join(steps)}z")
        return "".join(parts)


def graticule(to_xy: Projection, frame: Box) -> list[Markup]:
    """Return lines of whole degrees, or of round parts of one, with their names."""
    west, south, east, north = frame
    span = max(east - west, north - south)
    step = next((s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30) if span / s <= 8), 45)  # noqa: PLR2004 - lines
    drawn = []
    for index in range(math.ceil(west / step), math.floor(east / step) + 1):
        x, _ = to_xy((index * step, south))
        drawn += [
            element("line", x1=x, x2=x, y1=0, y2=to_xy.height, class_="grid"),
            element(
                "text", _degrees(index * step, "EW"), x=x + 3, y=to_xy.height - 4, class_="grid"
            ),
        ]
    for index in range(math.ceil(south / step), math.floor(north / step) + 1):
        _, y = to_xy((west, index * step))
        drawn += [
            element("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="grid"),
            element("text", _degrees(index * step, "NS"), x=3, y=y - 3, class_="grid"),
        ]
    return drawn


def _degrees(value: float, sides: str) -> str:
    return f"{abs(value):g}°{sides[0] if value >= 0 else sides[1]}"


def overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes have an area in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
