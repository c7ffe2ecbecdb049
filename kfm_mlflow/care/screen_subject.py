"""What checks ask about: block, published grid, texts, regions; made once per screening."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.modes import MAX_H3_RESOLUTION
from kfm_mlflow.care.passages import KM_PER_DEGREE
from kfm_mlflow.care.passages_fold import readings
from kfm_mlflow.care.passages_names import NameIndex

if TYPE_CHECKING:
    from kfm_mlflow.care.regions import Region, RegionSet
    from kfm_mlflow.policy.models import CarePolicy


@dataclass(frozen=True)
class OutputGrid:
    """The grid on which a model's outputs are published.

    Attributes:
        bbox: West, south, east, north in degrees.
        cell_size_deg: Step in longitude and latitude; None for an H3 grid.
        h3_resolution: Resolution of an H3 grid; None for a latitude-longitude grid.
    """

    bbox: tuple[float, float, float, float]
    cell_size_deg: tuple[float, float] | None = None
    h3_resolution: int | None = None

    @classmethod
    def from_mapping(cls, value: Any) -> OutputGrid | None:
        """Read ``{"bbox": […], "cell_size_deg": d | [dlon, dlat]}`` or ``{…, "h3_resolution": r}``.

        Returns:
            None when it is missing or malformed; a screening takes that for unknown.
        """
        if not isinstance(value, Mapping):
            return None
        bbox = _numbers(value.get("bbox"), 4)
        size, resolution = value.get("cell_size_deg"), value.get("h3_resolution")
        if bbox is None or not _is_extent(bbox) or (size is None) == (resolution is None):
            return None
        west, south, east, north = bbox
        extent = (west, south, east, north)
        if resolution is not None:
            return cls(extent, h3_resolution=resolution) if is_resolution(resolution) else None
        sides = _numbers([size, size] if isinstance(size, int | float) else size, 2)
        if sides is None or min(sides) <= 0:
            return None
        return cls(extent, cell_size_deg=(sides[0], sides[1]))

    @property
    def finest_km(self) -> float:
        """Shorter side of the smallest cell, in km; for H3, the side of a square of equal area."""
        if self.h3_resolution is not None:
            return cell_side_km(self.h3_resolution)
        lon_deg, lat_deg = self.cell_size_deg or (0.0, 0.0)
        furthest = max(abs(self.bbox[1]), abs(self.bbox[3]))
        return min(lat_deg, lon_deg * math.cos(math.radians(furthest))) * KM_PER_DEGREE


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
        return None
    if any(
        isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in value
    ):
        return None
    return tuple(float(v) for v in value)


def _is_extent(bbox: tuple[float, ...]) -> bool:
    west, south, east, north = bbox
    return abs(west) <= 180 and abs(east) <= 180 and -90 <= south <= north <= 90  # noqa: PLR2004 - the Earth


def is_resolution(value: Any) -> bool:
    """Return whether a value is an H3 resolution."""
    return (
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_H3_RESOLUTION
    )


@dataclass(frozen=True)
class Subject:
    """All that checks ask about.

    Attributes:
        care: The block, as somebody wrote it.
        outputs: Published grid; None when unknown.
        texts: Path -> text of everything readable, the block among it.
        regions: Whose rules hold.
        touched: Those of them that the outputs may touch.
        policy: The limits that people set.
    """

    care: Mapping[str, Any]
    outputs: OutputGrid | None
    texts: Mapping[str, str]
    regions: RegionSet
    touched: tuple[Region, ...]
    policy: CarePolicy

    @property
    def scope(self) -> str:
        """The scope that the block names; empty when it names none."""
        scope = self.care.get("scope")
        return scope.strip() if isinstance(scope, str) else ""

    def called(self, region: Region) -> str:
        """Return what findings call a region: its id, unless that would give a name away."""
        hidden = region.id in self._telling_ids
        return f"#{self.regions.keyed_hash(region.id)}" if hidden else region.id

    @cached_property
    def _telling_ids(self) -> frozenset[str]:
        """Ids of regions that would give a restricted name away; all looked up at once."""
        ids = [region.id for region in self.regions.regions]
        index = NameIndex([readings(one) for one in ids])
        return frozenset(
            ids[at] for name in self.regions.restricted_names for at in index.find(name)
        )

    @cached_property
    def documents(self) -> Mapping[str, Any]:
        """Path -> value of every text that is JSON."""
        found = {}
        for path, text in self.texts.items():
            if text.lstrip()[:1] in {"{", "["}:
                try:
                    found[path] = json.loads(text)
                except (ValueError, RecursionError):
                    continue  # read as text all the same
        return found

    @cached_property
    def _owners(self) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
        """Cells of the regions' covers, and cells above them -> numbers of the regions."""
        import h3

        inside: dict[str, list[int]] = {}
        above: dict[str, list[int]] = {}
        for number, region in enumerate(self.regions.regions):
            parents: set[str] = set()
            for cell in region.cells:
                inside.setdefault(cell, []).append(number)
                for resolution in range(h3.get_resolution(cell) - 1, -1, -1):
                    parent = h3.cell_to_parent(cell, resolution)
                    if parent in parents:
                        break
                    parents.add(parent)
            for parent in parents:
                above.setdefault(parent, []).append(number)
        return inside, above

    def touching(self, cell: str) -> tuple[Region, ...]:
        """Return the regions that an H3 cell may touch; made for many questions."""
        import h3

        inside, above = self._owners
        found = set(above.get(cell, ()))
        for resolution in range(h3.get_resolution(cell) + 1):
            found.update(inside.get(h3.cell_to_parent(cell, resolution), ()))
        return tuple(self.regions.regions[number] for number in sorted(found))
