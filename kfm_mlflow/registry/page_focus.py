"""Where a Focus Mode release's answers come from, on a map: ``xai/overlay.geojson`` of the release.

The overlay's own polygons are not drawn: cells are, from their index, and only those that the
policy's regions let be published now. What is finer than its ceiling, or stands for too few rows,
is left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import parse_cells, resolutions
from kfm_mlflow.errors import InputError
from kfm_mlflow.focus.columns import DOMAINS
from kfm_mlflow.registry.map_drawing import (
    KANSAS,
    KANSAS_OUTLINE,
    WIDTH,
    Projection,
    around,
    graticule,
    outline,
    overlap,
)
from kfm_mlflow.registry.page_mask import MAX_CELLS
from kfm_mlflow.registry.svg import drawing, element

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from markupsafe import Markup

    from kfm_mlflow.care.regions import RegionSet

OVERLAY_PATH = "xai/overlay.geojson"
EXPLAINED_PATH = "xai/domains.json"


@dataclass(frozen=True)
class DomainLine:
    """One domain.

    Attributes:
        name: Its name, which is also the class of what is drawn.
        importance_ratio: Share of all attribution, 0..1; None when the release does not say.
        cell_count: Cells that it leads in.
    """

    name: str
    importance_ratio: float | None
    cell_count: int


@dataclass(frozen=True)
class AttributionMap:
    """The map of a release's attribution, and the same as values.

    Attributes:
        picture: Cells, by the domain that leads in them.
        lines: The domains, in their order.
        left_out_count: Cells of the overlay that may not be shown.
    """

    picture: Markup
    lines: tuple[DomainLine, ...]
    left_out_count: int


def build_attribution_map(
    overlay: Mapping[str, Any],
    explained: Mapping[str, Any],
    *,
    masking: str,
    regions: RegionSet,
    now: datetime,
) -> AttributionMap | None:
    """Draw where a release's answers come from.

    Args:
        overlay: ``xai/overlay.geojson`` of the release.
        explained: ``xai/domains.json`` of the release; empty when it can not be read.
        masking: Masking mode of the release.
        regions: The policy's regions.
        now: When it is shown (aware).

    Returns:
        None when the overlay is none, or nothing of it may be shown.
    """
    try:
        said = [feature["properties"] for feature in overlay["features"]][:MAX_CELLS]
        names = [str(item["h3_cell"]) for item in said]
        cells, leading = parse_cells(names), [str(item["leading_domain"]) for item in said]
        counts = np.array([int(item["row_count"]) for item in said], dtype=np.int64)
        ceilings, k_mins = regions.coverage(now, mode=masking).lookup(cells)
    except (KeyError, TypeError, ValueError, InputError):
        return None
    may_be_shown = (resolutions(cells) <= ceilings) & (counts >= k_mins)
    led: dict[str, list[list[tuple[float, float]]]] = {
        domain: [
            outline(name)
            for name, other, shown in zip(names, leading, may_be_shown, strict=True)
            if shown and other == domain
        ]
        for domain in DOMAINS
    }
    if not any(led.values()):
        return None
    return AttributionMap(
        _picture(led),
        tuple(DomainLine(name, _ratio(explained, name), len(led[name])) for name in DOMAINS),
        int((~may_be_shown).sum()),
    )


def _picture(led: Mapping[str, list[list[tuple[float, float]]]]) -> Markup:
    shapes = [shape for found in led.values() for shape in found]
    to_xy = Projection(around(shapes, pad_ratio=0.04))
    children = []
    if overlap(to_xy.frame, KANSAS):
        children.append(element("path", d=to_xy.path([KANSAS_OUTLINE]), class_="state"))
    children += graticule(to_xy, to_xy.frame)
    children += [
        element("path", element("title", domain), d=to_xy.path(found), class_=f"led {domain}")
        for domain, found in led.items()
        if found
    ]
    told = ", ".join(f"{domain} in {len(found)}" for domain, found in led.items() if found)
    return drawing(
        "kfm-attribution",
        "Which domain answers come from, by place",
        f"H3 cells over a coarse outline of Kansas, by the domain that leads: {told}.",
        width=WIDTH,
        height=round(to_xy.height),
        children=children,
    )


def _ratio(explained: Mapping[str, Any], name: str) -> float | None:
    domains = explained.get("domains")
    for item in domains if isinstance(domains, list) else ():
        if isinstance(item, dict) and item.get("name") == name:
            ratio = item.get("importance_ratio")
            return float(ratio) if isinstance(ratio, int | float) else None
    return None
