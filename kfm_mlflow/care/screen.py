"""Screening a release for CARE and sovereignty conflicts: pure checks with one worst-of status.

A screening never approves. ``no-known-conflict`` says that these checks found nothing with these
regions; approval is a signature of the authority. Where something cannot be known, the check says
``needs-authority``. Findings name files, regions by id, and precisions; never a restricted name
(a keyed hash stands for it) nor a place.

What each check asks:

======================  ==========================================================================
``care-block``          masking, scope and notes are there and well formed (C-F01)
``masking``             the mode is known and no finer than any region that is touched
``declared-resolution`` ``h3_max_resolution`` holds the ceilings and agrees with the mode
``output-grid``         the published grid is no finer than the regions that it overlaps
``consent``             nothing that depends on consent goes without it, refused or expired (C-F05)
``labels``              labels of the regions are carried on
``restricted-names``    no text holds one, also misspelt
``coordinates``         no text fixes a place in a region more closely than its ceiling
======================  ==========================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.modes import MAX_H3_RESOLUTION, is_known_mode, mode_resolution
from kfm_mlflow.care.passages import KM_PER_DEGREE, find_names, find_places
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from kfm_mlflow.care.regions import Region, RegionSet

PUBLIC_SCOPES = ("public-generalized", "public-stream")
GENERALISED_SCOPE = "public-generalized"
_BLOCK = "care block"


class Status(StrEnum):
    """What a check concludes, from best to worst."""

    NO_KNOWN_CONFLICT = "no-known-conflict"
    STALE = "stale"
    NEEDS_AUTHORITY = "needs-authority"
    CONFLICT = "conflict"


_ORDER = tuple(Status)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        id: Name of the check.
        status: Worst of its findings.
        findings: What is wrong, without names and places; empty when nothing is.
        remedy: What to do; empty when nothing is wrong.
    """

    id: str
    status: Status
    findings: tuple[str, ...] = ()
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "status": str(self.status),
            "findings": list(self.findings),
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Screening:
    """What all checks say together.

    Attributes:
        status: The worst of the checks.
        checks: Always all of them, in one order.
        regions_digest: Regions file that was screened against.
        care: The block that was screened.
    """

    status: Status
    checks: tuple[Check, ...]
    regions_digest: str
    care: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, care: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON form of ``care.json``.

        Args:
            care: The block to show; None takes the one that was screened.
        """
        return {
            "schema_version": "1",
            "care": dict(self.care if care is None else care),
            "screening": {
                "status": str(self.status),
                "checks": [check.to_dict() for check in self.checks],
                "regions_digest": self.regions_digest,
            },
        }


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
            return cls(extent, h3_resolution=resolution) if _is_resolution(resolution) else None
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


def _is_resolution(value: Any) -> bool:
    return (
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_H3_RESOLUTION
    )


def cell_side_km(resolution: int) -> float:
    """Return the side of a square with the average area of an H3 cell, in km (r7: 2.27)."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    return math.sqrt(h3.average_hexagon_area(resolution, unit="km^2"))


@dataclass(frozen=True)
class _Subject:
    """All that checks ask about."""

    care: Mapping[str, Any]
    outputs: OutputGrid | None
    texts: Mapping[str, str]
    regions: RegionSet
    touched: tuple[Region, ...]
    now: datetime

    def call(self, region: Region) -> str:
        """Return what findings call a region: its id, unless that would give a name away."""
        return f"region {self.shown(region.id)}"

    def shown(self, text: str) -> str:
        """Return a text, or a keyed hash when it holds a restricted name."""
        names = [name for region in self.regions.regions for name in region.restricted_names]
        return f"#{self.regions.keyed_hash(text)}" if find_names(text, names) else text


Problems = list[tuple[Status, str]]


def _care_block(subject: _Subject) -> Problems:
    care, found = subject.care, Problems()
    if not care:
        return [(Status.CONFLICT, "C-F01: CARE block missing")]
    for name in ("masking", "scope"):
        if not isinstance(care.get(name), str) or not care[name].strip():
            found.append((Status.CONFLICT, f"C-F01: {name} missing"))
    notes = care.get("notes")
    if (
        not isinstance(notes, list)
        or not notes
        or not all(isinstance(n, str) and n.strip() for n in notes)
    ):
        found.append((Status.CONFLICT, "C-F01: notes missing"))
    scope = care.get("scope")
    if isinstance(scope, str) and scope.strip() and scope not in PUBLIC_SCOPES:
        found.append((Status.NEEDS_AUTHORITY, "scope is none that the standards name"))
    return found


def _masking(subject: _Subject) -> Problems:
    mode = subject.care.get("masking")
    if not isinstance(mode, str) or not is_known_mode(mode):
        return [(Status.NEEDS_AUTHORITY, "masking mode is unknown, so taken for none")]
    resolution = mode_resolution(mode)
    return [
        (
            Status.CONFLICT,
            f"{subject.call(region)}: mode masks {_finer(resolution)}, ceiling r{region.ceiling}",
        )
        for region in subject.touched
        if resolution is None or resolution > region.ceiling
    ]


def _finer(resolution: int | None) -> str:
    return "nothing" if resolution is None else f"to r{resolution}"


def _declared_resolution(subject: _Subject) -> Problems:
    declared = subject.care.get("h3_max_resolution")
    if declared is None:
        return []
    if not _is_resolution(declared):
        return [(Status.CONFLICT, "h3_max_resolution is not a whole number from 0 to 15")]
    found: Problems = [
        (
            Status.CONFLICT,
            f"{subject.call(region)}: declares r{declared}, ceiling r{region.ceiling}",
        )
        for region in subject.touched
        if declared > region.ceiling
    ]
    mode = subject.care.get("masking")
    promised = mode_resolution(mode) if isinstance(mode, str) else None
    if promised is not None and declared > promised:
        found.append(
            (Status.CONFLICT, f"declares r{declared}, its masking mode promises r{promised}")
        )
    return found


def _output_grid(subject: _Subject) -> Problems:
    grid = subject.outputs
    if grid is None:
        return [
            (
                Status.NEEDS_AUTHORITY,
                "published grid is unknown, so taken for finer than any ceiling",
            )
        ]
    finest_km = grid.finest_km
    found = Problems()
    for region in subject.touched:
        least_km = cell_side_km(region.ceiling)
        if finest_km < least_km:
            limit = f"ceiling r{region.ceiling} allows none under {least_km:.2f} km"
            cells = f"published cells of {finest_km:.2f} km"
            found.append((Status.CONFLICT, f"{subject.call(region)}: {cells}, {limit}"))
    return found


def _consent(subject: _Subject) -> Problems:
    """Ask for consent where it matters.

    What keeps to the ceiling and the generalised scope needs none, so ``unknown`` is then no
    finding. A refusal or withdrawal always holds.
    """
    found = Problems()
    scope = subject.care.get("scope")
    for region in subject.touched:
        consent, name = region.consent, subject.call(region)
        if consent.status in {"denied", "withdrawn"}:
            found.append((Status.CONFLICT, f"C-F05: {name}: consent {consent.status}"))
        elif consent.status == "granted":
            if consent.expires_at is not None and consent.expires_at <= subject.now:
                found.append((Status.STALE, f"{name}: consent expired"))
            if consent.scope is not None and consent.scope != scope:
                found.append((Status.NEEDS_AUTHORITY, f"{name}: consent covers another scope"))
        elif scope != GENERALISED_SCOPE:
            found.append(
                (Status.NEEDS_AUTHORITY, f"{name}: consent {consent.status} for this scope")
            )
    return found


def _labels(subject: _Subject) -> Problems:
    carried = subject.care.get("labels")
    carried = carried if isinstance(carried, list) else []
    return [
        (
            Status.CONFLICT,
            f"{subject.call(region)}: label {subject.shown(label)!r} is not carried on",
        )
        for region in subject.touched
        for label in region.labels
        if label not in carried
    ]


def _restricted_names(subject: _Subject) -> Problems:
    names = list(
        dict.fromkeys(name for r in subject.regions.regions for name in r.restricted_names)
    )
    if not names:
        return []
    found = Problems()
    for path, text in sorted(subject.texts.items()):
        for name in find_names(f"{path}\n{text}", names):
            hidden = subject.regions.keyed_hash(name)
            found.append(
                (Status.CONFLICT, f"{subject.shown(path)}: holds restricted name #{hidden}")
            )
    return found


def _coordinates(subject: _Subject) -> Problems:
    from shapely.geometry import Point

    # Every region counts: a text may speak of places that the outputs do not cover.
    bounds = [(region, region.shape.bounds) for region in subject.regions.regions]
    found: dict[tuple[str, str], None] = {}
    for path, text in sorted(subject.texts.items()):
        for place in find_places(text):
            for region, (west, south, east, north) in bounds:
                inside = west <= place.lon_deg <= east and south <= place.lat_deg <= north
                if not inside or place.precision_km >= cell_side_km(region.ceiling):
                    continue
                if region.shape.covers(Point(place.lon_deg, place.lat_deg)):
                    found[subject.shown(path), subject.call(region)] = None
    return [
        (Status.CONFLICT, f"{path}: coordinates in {region} finer than its ceiling")
        for path, region in found
    ]


_CHECKS = (
    ("care-block", _care_block, "give care.masking, care.scope and care.notes"),
    ("masking", _masking, "use a known masking mode that is no finer than the regions"),
    ("declared-resolution", _declared_resolution, "lower h3_max_resolution to the ceiling"),
    ("output-grid", _output_grid, "give care.output_grid; publish coarser cells over the regions"),
    ("consent", _consent, "ask the authority that the regions file names"),
    ("labels", _labels, "copy the labels of the regions into care.labels, verbatim"),
    ("restricted-names", _restricted_names, "remove the name, or the file, from the release"),
    ("coordinates", _coordinates, "round or remove the coordinates"),
)


def screen_release(
    care_block: Mapping[str, Any],
    outputs: OutputGrid | None,
    texts: Mapping[str, str],
    regions: RegionSet,
    now: datetime,
) -> Screening:
    """Screen a release.

    Args:
        care_block: Its ``care`` object, as somebody wrote it; anything may be wrong with it.
        outputs: Grid on which its outputs are published; None when unknown, which is then taken
            for finer than any ceiling and over every region.
        texts: Path -> text of everything readable in it.
        regions: Whose ceilings, consent, labels and names hold.
        now: The instant at which consent must hold (aware).

    Returns:
        The screening; bad content is in its findings, never an exception.

    Raises:
        InputError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise InputError("instant has no time zone", where="now", remedy="use datetime.now(UTC)")
    care = care_block if isinstance(care_block, Mapping) else {}
    touched = regions.overlapping(outputs.bbox if outputs else None)
    # The block is screened too: at authoring time it is in no file yet.
    texts = {**texts, _BLOCK: json.dumps(care, default=str, ensure_ascii=False)}
    subject = _Subject(care, outputs, texts, regions, touched, now.astimezone(UTC))
    checks = []
    for check_id, ask, remedy in _CHECKS:
        found = ask(subject)
        status = max((s for s, _ in found), key=_ORDER.index, default=Status.NO_KNOWN_CONFLICT)
        checks.append(
            Check(check_id, status, tuple(text for _, text in found), remedy if found else "")
        )
    worst = max((check.status for check in checks), key=_ORDER.index)
    return Screening(worst, tuple(checks), regions.digest, care)
