"""The H3 mask on a map: what a release covers, and how coarsely it must show whose land.

Regions are drawn as H3 cells at their ceiling or coarser, never by the polygons of the regions
file, and are called by their ids only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.screen_subject import OutputGrid
from kfm_mlflow.registry.map_drawing import (
    KANSAS,
    KANSAS_OUTLINE,
    WIDTH,
    Box,
    Projection,
    around,
    corners,
    graticule,
    outline,
    overlap,
)
from kfm_mlflow.registry.page_mask import MAX_CELLS, MaskedRegion, generalised
from kfm_mlflow.registry.svg import drawing, element

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from markupsafe import Markup

    from kfm_mlflow.care.regions import RegionSet

_LEAST_CELLS = 60


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
    masked = [outline(cell) for region in touched for cell in region.cells]
    whole = around([corners(extent or KANSAS), *masked], pad_ratio=0.04)
    resolution = care.get("h3_max_resolution")
    named = ", ".join(f"{region.number} {region.id}" for region in touched) or "no region"
    near = around(masked, pad_ratio=0.08) if masked else None
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
    if not isinstance(value, list) or len(value) != len(KANSAS):
        return None
    if not all(isinstance(item, int | float) and math.isfinite(item) for item in value):
        return None
    west, south, east, north = (float(item) for item in value)
    inside = -180 <= west < east <= 180 and -90 <= south < north <= 90  # noqa: PLR2004 - the globe
    return (west, south, east, north) if inside else None


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
    to_xy = Projection(frame)
    frame = to_xy.frame
    children = []
    if overlap(frame, KANSAS):
        children.append(element("path", d=to_xy.path([KANSAS_OUTLINE]), class_="state"))
    children += graticule(to_xy, frame)
    if inset is not None and overlap(frame, KANSAS):
        x, y = to_xy((-98.4, 38.4))
        children.append(element("text", "Kansas", x=x, y=y, class_="state"))
    if extent is not None:
        children.append(element("path", d=to_xy.path([corners(extent)]), class_="extent"))
    for region in regions:
        if not region.cells:
            continue
        shapes = [outline(cell) for cell in region.cells]
        children.append(element("path", d=to_xy.path(shapes), class_="masked"))
    if inset is not None:
        children.append(element("path", d=to_xy.path([corners(inset)]), class_="inset"))
    else:
        seen = (region for region in regions if region.cells)
        children += [mark for region in seen for mark in _number(region, to_xy)]
    return drawing(
        name, title, description, width=WIDTH, height=round(to_xy.height), children=children
    )


def _number(region: MaskedRegion, to_xy: Projection) -> list[Markup]:
    x, y = _middle([to_xy(point) for cell in region.cells for point in outline(cell)])
    return [
        element("circle", cx=x, cy=y, r=10.0, class_="number"),
        element("text", str(region.number), x=x, y=y + 5.0, class_="number"),
    ]


def _middle(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
