"""The H3 mask on a map: what a release covers, and how coarsely it must show whose land.

Offline and without tiles. The outline of Kansas is a generalised one of our own (the state's
extent, and a line for the Missouri's corner); regions are drawn as H3 cells at their ceiling or
coarser, never by the polygons of the regions file, and are called by their ids only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.screen_subject import OutputGrid
from kfm_mlflow.registry.page_mask import MAX_CELLS, MaskedRegion, generalised
from kfm_mlflow.registry.svg import drawing, element

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from markupsafe import Markup

    from kfm_mlflow.care.regions import RegionSet

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

_KANSAS: Box = (-102.05, 37.0, -94.61, 40.0)
_WIDTH = 480.0
_MARGIN = 14.0
_LEAST_CELLS = 60
_MAX_HEIGHT = 380.0
_POLE_DEG = 89.0


@dataclass(frozen=True)
class MaskMap:
    """The map of a release, and the same as values.

    Attributes:
        overview: The whole extent.
        detail: The masked part, so near that cells can be seen; None when nothing is masked.
        regions: Every region that the release may touch.
        extent: The release's extent; None when it does not say.
        masking: Masking mode of the release.
        resolution: Finest H3 resolution that the release promises; None when it does not say.
    """

    overview: Markup
    detail: Markup | None
    regions: tuple[MaskedRegion, ...]
    extent: Box | None
    masking: str
    resolution: int | None


def build_map(care: dict[str, Any], regions: RegionSet, now: datetime) -> MaskMap:
    """Draw the mask of a release.

    Args:
        care: The ``care`` block of the release.
        regions: The policy's regions.
        now: When it is shown (aware).
    """
    extent = parse_box((care.get("output_grid") or {}).get("bbox"))
    found = regions.overlapping(extent)
    grid = OutputGrid.from_mapping(care.get("output_grid"))
    share = max(_LEAST_CELLS, MAX_CELLS // max(1, len(found)))
    touched = tuple(
        generalised(region, index, regions, now, grid=grid, max_cells=share)
        for index, region in enumerate(found, 1)
    )
    masked = [_outline(cell) for region in touched for cell in region.cells]
    whole = _around([_corners(extent or _KANSAS), *masked], pad_ratio=0.04)
    resolution = care.get("h3_max_resolution")
    named = ", ".join(f"{region.number} {region.id}" for region in touched) or "no region"
    near = _around(masked, pad_ratio=0.08) if masked else None
    overview = _draw(
        "kfm-map",
        "Where the release is masked",
        f"Extent of the release over a coarse outline of Kansas, with {named} as H3 cells.",
        frame=whole,
        extent=extent,
        regions=touched,
        inset=near,
    )
    detail = None
    if near is not None:
        detail = _draw(
            "kfm-map-detail",
            "The masked area, nearer",
            f"H3 cells, each the finest that may be published, of {named}.",
            frame=near,
            extent=extent,
            regions=touched,
            inset=None,
        )
    return MaskMap(
        overview,
        detail,
        touched,
        extent,
        str(care.get("masking", "")),
        resolution if isinstance(resolution, int) else None,
    )


def parse_box(value: Any) -> Box | None:
    """Read an extent; None when it is none, or crosses the antimeridian, where we do not draw."""
    if not isinstance(value, list) or len(value) != len(_KANSAS):
        return None
    if not all(isinstance(item, int | float) and math.isfinite(item) for item in value):
        return None
    west, south, east, north = (float(item) for item in value)
    inside = -180 <= west < east <= 180 and -90 <= south < north <= 90  # noqa: PLR2004 - the globe
    return (west, south, east, north) if inside else None


def _corners(box: Box) -> list[tuple[float, float]]:
    west, south, east, north = box
    return [(west, south), (east, south), (east, north), (west, north)]


def _outline(cell: str) -> list[tuple[float, float]]:
    import h3

    return [(lon, lat) for lat, lon in h3.cell_to_boundary(cell)]


def _around(shapes: Iterable[Iterable[tuple[float, float]]], *, pad_ratio: float) -> Box:
    points = [point for shape in shapes for point in shape]
    west, east = min(x for x, _ in points), max(x for x, _ in points)
    south, north = min(y for _, y in points), max(y for _, y in points)
    pad = pad_ratio * max(east - west, north - south, 0.1)
    return (west - pad, max(south - pad, -_POLE_DEG), east + pad, min(north + pad, _POLE_DEG))


class _Projection:
    """Longitude and latitude to the drawing: equirectangular, true at the middle latitude."""

    def __init__(self, frame: Box) -> None:
        west, south, east, north = frame
        squeeze = math.cos(math.radians((south + north) / 2))
        self.west, self.north = west, north
        self.scale_y = (_WIDTH - 2 * _MARGIN) / ((east - west) * squeeze)
        height = (north - south) * self.scale_y
        if height > _MAX_HEIGHT:
            # Too tall: everything becomes smaller, and stands in the middle.
            self.scale_y *= _MAX_HEIGHT / height
        self.scale_x = self.scale_y * squeeze
        self.west -= ((_WIDTH - 2 * _MARGIN) / self.scale_x - (east - west)) / 2
        self.height = (north - south) * self.scale_y + 2 * _MARGIN

    @property
    def frame(self) -> Box:
        """What is seen, in degrees."""
        south = self.north - (self.height - 2 * _MARGIN) / self.scale_y
        east = self.west + (_WIDTH - 2 * _MARGIN) / self.scale_x
        return (self.west, south, east, self.north)

    def __call__(self, point: tuple[float, float]) -> tuple[float, float]:
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


def _graticule(to_xy: _Projection, frame: Box) -> list[Markup]:
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
            element("line", x1=0, x2=_WIDTH, y1=y, y2=y, class_="grid"),
            element("text", _degrees(index * step, "NS"), x=3, y=y - 3, class_="grid"),
        ]
    return drawn


def _degrees(value: float, sides: str) -> str:
    return f"{abs(value):g}°{sides[0] if value >= 0 else sides[1]}"


def _draw(
    name: str,
    title: str,
    description: str,
    *,
    frame: Box,
    extent: Box | None,
    regions: Sequence[MaskedRegion],
    inset: Box | None,
) -> Markup:
    to_xy = _Projection(frame)
    frame = to_xy.frame
    children = []
    if _overlap(frame, _KANSAS):
        children.append(element("path", d=to_xy.path([KANSAS_OUTLINE]), class_="state"))
    children += _graticule(to_xy, frame)
    if inset is not None and _overlap(frame, _KANSAS):
        x, y = to_xy((-98.4, 38.4))
        children.append(element("text", "Kansas", x=x, y=y, class_="state"))
    if extent is not None:
        children.append(element("path", d=to_xy.path([_corners(extent)]), class_="extent"))
    for region in regions:
        if not region.cells:
            continue
        shapes = [_outline(cell) for cell in region.cells]
        children.append(element("path", d=to_xy.path(shapes), class_="masked"))
    if inset is not None:
        children.append(element("path", d=to_xy.path([_corners(inset)]), class_="inset"))
    else:
        seen = (region for region in regions if region.cells)
        children += [mark for region in seen for mark in _number(region, to_xy)]
    return drawing(
        name, title, description, width=_WIDTH, height=round(to_xy.height), children=children
    )


def _number(region: MaskedRegion, to_xy: _Projection) -> list[Markup]:
    x, y = _middle([to_xy(point) for cell in region.cells for point in _outline(cell)])
    return [
        element("circle", cx=x, cy=y, r=10.0, class_="number"),
        element("text", str(region.number), x=x, y=y + 5.0, class_="number"),
    ]


def _middle(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
