"""Sovereign regions: what a regions file says, and which H3 cells lie in it.

Invariants:

1. A resolution is a ceiling. A region that names none gets
   :data:`~kfm_mlflow.care.modes.DEFAULT_CEILING`; consent that nobody stated is ``unknown``.
2. A cell touches a region when any part of it may; see :mod:`kfm_mlflow.care.coverage`.
3. A region is never quietly dropped or weakened: a file that is wrong in one place is refused
   whole, with file, feature, field and remedy. Errors never quote restricted names or coordinates.

The packaged file holds **illustrative** boxes around the reservations in Kansas, from public-domain
Census extents rounded outward to 0.05 degree. They are no boundaries and state nobody's consent.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.care.cells import format_cells
from kfm_mlflow.care.coverage import Coverage, build_coverage, cover_cells
from kfm_mlflow.care.modes import find_mode
from kfm_mlflow.care.rules import Rule, rule_of
from kfm_mlflow.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.labels import Label
    from kfm_mlflow.care.rules import Seasonality

CONSENT_STATUSES = ("granted", "pending", "unknown", "denied", "withdrawn")
PUBLIC_SCOPE = "public-generalized"
_REMEMBERED_COVERAGES = 32


@dataclass(frozen=True)
class Consent:
    """What an authority has agreed to.

    Attributes:
        status: One of :data:`CONSENT_STATUSES`.
        scope: The ``care.scope`` that it covers; None covers any.
        expires_at: When it ends (aware, exclusive); a bare date ends with that day, in UTC.
    """

    status: str = "unknown"
    scope: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Region:
    """One region of one authority.

    Attributes:
        id: Unique in the file; what findings call it.
        name: For people who may see the file.
        authority: Who decides; None when the file does not say.
        consent: What was agreed to.
        ceiling: Finest H3 resolution that may be published, the strictest of what the file says;
            what time adds to it is in :meth:`rule_at`.
        k_min: Smallest number of records that one published cell may stand for.
        labels: Local Contexts labels, verbatim; a release has to carry them.
        restricted_names: Names that may not be published; never quoted anywhere.
        geometry: GeoJSON Polygon or MultiPolygon, WGS 84, longitude before latitude.
        label_records: The same labels with their types.
        sensitivity: A class of :data:`~kfm_mlflow.care.rules.SENSITIVITY_CEILINGS`.
        seasonality: When in the year more is closed.
        embargo_until: Nothing is published before (aware).
        authority_contact: How to reach the authority; for people who may see the file.
        authority_keys: PEM texts of the public keys whose signatures are the authority's.
    """

    id: str
    name: str
    authority: str | None
    consent: Consent
    ceiling: int
    k_min: int
    labels: tuple[str, ...]
    restricted_names: tuple[str, ...] = field(repr=False)
    geometry: Any = field(repr=False)
    label_records: tuple[Label, ...] = ()
    sensitivity: str | None = None
    seasonality: Seasonality | None = None
    embargo_until: datetime | None = None
    authority_contact: str | None = field(repr=False, default=None)
    authority_keys: tuple[str, ...] = field(repr=False, default=())

    @cached_property
    def shape(self) -> Any:
        """The geometry as a shapely shape."""
        from shapely.geometry import shape

        return shape(self.geometry)

    @cached_property
    def cover(self) -> Cells:
        """Every H3 cell that may touch the region, with one ring around, compacted and sorted."""
        return cover_cells(self.shape, self.ceiling)

    @cached_property
    def cells(self) -> frozenset[str]:
        """The cover as text."""
        return frozenset(format_cells(self.cover))

    @cached_property
    def _ancestors(self) -> frozenset[str]:
        import h3  # type: ignore[import-untyped]  # it ships no stubs

        return frozenset(
            h3.cell_to_parent(cell, coarser)
            for cell in self.cells
            for coarser in range(h3.get_resolution(cell))
        )

    def touches(self, cell: str) -> bool:
        """Return whether any part of an H3 cell may lie in the region.

        Raises:
            InputError: Not an H3 cell.
        """
        import h3

        if not h3.is_valid_cell(cell):
            raise InputError("not an H3 cell", where="cell")
        if cell in self._ancestors:
            return True
        own = h3.get_resolution(cell)
        return any(h3.cell_to_parent(cell, r) in self.cells for r in range(own + 1))

    def rule_at(self, now: datetime, scope: str = PUBLIC_SCOPE) -> Rule:
        """Return what holds here at an instant.

        Args:
            now: The instant (aware).
            scope: The ``care.scope`` under which something is to be published.
        """
        return rule_of(self, now, scope)


@dataclass(frozen=True)
class RegionSet:
    """All regions of a file.

    Attributes:
        regions: In the order of the file.
        digest: ``sha256:<hex>`` of the file's bytes.
        source: What to call the file.
    """

    regions: tuple[Region, ...]
    digest: str
    source: str
    _key: bytes = field(repr=False, default=b"", compare=False)
    _coverages: dict[tuple[Any, ...], Coverage] = field(
        repr=False, compare=False, default_factory=dict
    )

    def coverage(
        self,
        now: datetime,
        *,
        mode: str = "h3-generalized",
        scope: str = PUBLIC_SCOPE,
        k_min: int = 1,
    ) -> Coverage:
        """Return the rules of all regions at an instant, to generalise by.

        It is built once for the rules that hold, and again when time changes one.

        Args:
            now: The instant (aware).
            mode: Masking mode; see :data:`~kfm_mlflow.care.modes.MODES`.
            scope: The ``care.scope`` under which something is to be published.
            k_min: Smallest number of records of any published cell, outside regions too.

        Raises:
            InputError: The mode is unknown, ``now`` has no time zone, or ``k_min`` is below 1.
        """
        if now.tzinfo is None:
            raise InputError(
                "instant has no time zone", where="now", remedy="use datetime.now(UTC)"
            )
        if k_min < 1:
            raise InputError("is below 1", where="k_min")
        promised = find_mode(mode)
        rules = tuple(region.rule_at(now, scope) for region in self.regions)
        key = (rules, promised, k_min)
        if key not in self._coverages:
            if len(self._coverages) >= _REMEMBERED_COVERAGES:
                self._coverages.clear()
            self._coverages[key] = build_coverage(self.regions, rules, promised, k_min)
        return self._coverages[key]

    def touching(self, cell: str) -> tuple[Region, ...]:
        """Return the regions that an H3 cell may touch."""
        return tuple(region for region in self.regions if region.touches(cell))

    def ceiling_at(self, cell: str) -> int | None:
        """Return the finest resolution allowed where a cell lies; None outside every region."""
        return min((region.ceiling for region in self.touching(cell)), default=None)

    def overlapping(self, bbox: tuple[float, float, float, float] | None) -> tuple[Region, ...]:
        """Return the regions that an extent may touch; all of them when it is unknown.

        Args:
            bbox: West, south, east, north in degrees; west above east crosses the antimeridian.
        """
        if bbox is None:
            return self.regions
        from shapely.geometry import MultiPolygon, box

        west, south, east, north = bbox
        spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        extent = MultiPolygon([box(low, south, high, north) for low, high in spans])
        margin_deg = 0.02  # a little over one H3 r8 cell, like the ring around the cover
        return tuple(r for r in self.regions if r.shape.distance(extent) <= margin_deg)

    @cached_property
    def restricted_names(self) -> tuple[str, ...]:
        """Every restricted name of every region, once: a text may speak of any place."""
        names = (name for region in self.regions for name in region.restricted_names)
        return tuple(dict.fromkeys(names))

    def shown(self, text: str) -> str:
        """Return a text for people, or a keyed hash when it holds a restricted name."""
        from kfm_mlflow.care.passages import find_names

        hit = find_names(text, self.restricted_names)
        return f"#{self.keyed_hash(text)}" if hit else text

    def keyed_hash(self, text: str) -> str:
        """Return 16 hex digits that stand for a restricted name.

        Who holds the regions file can recompute them and see which name is meant; who does not,
        cannot try names out, as the key is derived from the whole file. A file may carry a random
        ``salt`` at its top level to make it unguessable.
        """
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16]


def build_region_set(regions: Iterable[Region], *, data: bytes, source: str) -> RegionSet:
    """Put regions together with the digest and the hash key of the file that they came from.

    Args:
        regions: In the order of the file.
        data: The file's bytes.
        source: What to call the file.
    """
    key = hashlib.sha256(b"kfm-mlflow restricted names\0" + data).digest()
    return RegionSet(tuple(regions), digest_bytes(data), source, key)


def parse_expiry(text: Any, *, where: str) -> datetime:
    """Read when consent ends: a date (it ends with that day) or an RFC 3339 instant.

    Raises:
        DataError: Neither of both.
    """
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError) as exc:
        raise DataError(
            f"{str(text)[:40]!r} is not a date",
            where=where,
            remedy="write YYYY-MM-DD or an RFC 3339 instant",
        ) from exc
    if "T" not in text and " " not in text:
        return datetime.combine(instant.date(), time(), UTC) + timedelta(days=1)
    if instant.tzinfo is None:
        raise DataError("instant has no time zone", where=where, remedy="end it with Z")
    return instant.astimezone(UTC)


def load_regions(path: Path | None, *, digest: str | None = None) -> RegionSet:
    """Read a regions file.

    Args:
        path: GeoJSON FeatureCollection of Polygons and MultiPolygons. Properties: ``id``,
            ``name``, ``authority``, ``consent`` {``status``, ``scope``, ``expires``},
            ``h3_max_resolution``, ``k_min``, ``labels``, ``restricted_names``, ``sensitivity``,
            ``sensitivity_score``, ``seasonality``, ``embargo``; all optional but one of ``id``
            and ``name``. None takes the packaged, illustrative extents.
        digest: Of the bytes that the file must still have; None takes any.

    Raises:
        DataError: The file is missing, has changed, is no such GeoJSON, or a feature is wrong;
            names the file, the feature, the field and what to do.
    """
    if path is None:
        data = (resources.files("kfm_mlflow.care") / "defaults" / "regions.geojson").read_bytes()
        return _parsed(data, "packaged regions.geojson")
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(
            f"cannot be read ({exc.strerror})",
            where=str(path),
            remedy="correct regions_file in the policy",
        ) from exc
    if digest is not None and digest_bytes(data) != digest:
        raise DataError(
            "has changed since the policy was loaded",
            where=path.name,
            remedy="start the server again, so that the policy's digest covers it",
        )
    return _parsed(data, path.name)


@lru_cache(maxsize=8)
def _parsed(data: bytes, where: str) -> RegionSet:
    # A value of a value: every move asks for the same file's regions again.
    from kfm_mlflow.care.geojson import parse_regions

    return parse_regions(data, where=where)
