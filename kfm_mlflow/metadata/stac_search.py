"""Searching STAC items in memory: what is known of each, what is asked, and whether they agree.

Rules kept here:

1. Boxes and geometries are compared as the items state them; nothing finer is ever derived.
2. What is not understood is refused, never left out of the question: no answer is wider than what
   was asked for.
3. Properties that can be asked for are those of ``mlm:`` and ``care:`` that hold a plain value or
   a list of plain values, and only whether they are equal.

It reads no files and knows no server. Sources: STAC API 1.0.0, item-search and its query extension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Interval: TypeAlias = tuple[datetime | None, datetime | None]
"""First and last instant (aware), both included; None is open."""

DEFAULT_LIMIT = 10
MAX_LIMIT = 1000
SEARCH_FIELDS = (
    *("bbox", "collections", "datetime", "ids"),
    *("intersects", "limit", "query", "token"),
)
PREFIXES = ("care:", "mlm:")
"""What a property that can be asked for begins with."""

_MAX_VALUES = 1000
_FLAT, _SOLID = 4, 6
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Record:
    """What a search must know of an item.

    Attributes:
        collection: Registered model.
        version: Model version.
        id: Item id.
        bbox: West, south, east, north in degrees; west is above east across the antimeridian.
        geometry: GeoJSON, as the item states it.
        interval: First and last instant.
        properties: Name -> canonical JSON of every property that can be asked for.
        license: SPDX expression, or ``other``.
    """

    collection: str
    version: int
    id: str
    bbox: tuple[float, ...]
    geometry: Mapping[str, Any]
    interval: Interval
    properties: Mapping[str, bytes]
    license: str = "other"

    @property
    def key(self) -> tuple[str, int]:
        """What answers are sorted by."""
        return (self.collection, self.version)


@dataclass(frozen=True)
class SearchQuery:
    """What is asked; an empty field asks for nothing in particular.

    Attributes:
        bbox: West, south, east, north in degrees.
        interval: First and last instant.
        shape: A shapely geometry that items must intersect.
        ids: Item ids.
        collections: Registered models.
        equal: Property -> canonical JSON of the value that it must have.
        limit: Most items in one answer.
        after: Key of the last item of the answer before.
    """

    bbox: tuple[float, ...] | None = None
    interval: Interval | None = None
    shape: Any = None
    ids: frozenset[str] | None = None
    collections: frozenset[str] | None = None
    equal: Mapping[str, bytes] = field(default_factory=dict)
    limit: int = DEFAULT_LIMIT
    after: tuple[str, int] | None = None


# -- items -----------------------------------------------------------------------------------------


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, list) and all(isinstance(each, _PLAIN) for each in value)
    )


def build_record(item: Any, collection: str, version: int) -> Record:
    """Return what a search must know of an item.

    Args:
        item: Parsed JSON.
        collection: Registered model.
        version: Model version.

    Raises:
        EvidenceError: It has no id, box, geometry or instant.
    """
    where = f"{collection} v{version}: STAC item"
    try:
        properties = dict(item["properties"])
        identity, geometry = item["id"], dict(item["geometry"])
        bbox = parse_bbox(item["bbox"])
        first = properties.get("start_datetime") or properties["datetime"]
        last = properties.get("end_datetime") or first
        interval = (_instant(first), _instant(last))
    except (KeyError, TypeError, ValueError, InputError) as exc:
        raise EvidenceError(f"cannot be listed ({exc})", where=where) from exc
    if not isinstance(identity, str) or not identity:
        raise EvidenceError("has no id", where=where)
    asked = {
        name: canonical_bytes(value)
        for name, value in properties.items()
        if name.startswith(PREFIXES) and _is_plain(value)
    }
    licence = str(properties.get("license") or "other")
    return Record(collection, version, identity, bbox, geometry, interval, asked, licence)


# -- questions -------------------------------------------------------------------------------------


def _refuse(name: str, problem: str, remedy: str = "") -> InputError:
    return InputError(problem, where=name, remedy=remedy)


def parse_bbox(value: Any) -> tuple[float, ...]:
    """Read a box of four numbers, or of six, of which the heights are dropped.

    Returns:
        West, south, east, north in degrees; west is above east across the antimeridian.

    Raises:
        InputError: It is something else.
    """
    numbers = isinstance(value, list | tuple) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value
    )
    if not numbers or len(value) not in {_FLAT, _SOLID}:
        raise _refuse("bbox", "is not four or six numbers")
    edges = tuple(float(x) for x in value)
    if len(edges) == _SOLID:
        edges = (edges[0], edges[1], edges[3], edges[4])
    if edges[1] > edges[3]:
        raise _refuse("bbox", "has its south above its north")
    return edges


def _instant(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found


def parse_interval(text: Any) -> Interval:
    """Read an instant, or two with a slash between, of which one may be open (``..`` or empty).

    Raises:
        InputError: It is something else, or its end comes before its beginning.
    """
    parts = text.split("/") if isinstance(text, str) else []
    try:
        ends = [None if part in {"", ".."} else _instant(part) for part in parts]
    except ValueError as exc:
        raise _refuse("datetime", str(exc), "write RFC 3339, as 2026-01-31T00:00:00Z/..") from exc
    if len(ends) == 1:
        ends *= 2
    if len(ends) != 2 or ends == [None, None]:  # noqa: PLR2004 - a beginning and an end
        raise _refuse("datetime", "is neither an instant nor an interval")
    first, last = ends
    if first is not None and last is not None and last < first:
        raise _refuse("datetime", "ends before it begins")
    return (first, last)


def _shape(value: Any) -> Any:
    import shapely
    from shapely.geometry import shape

    try:
        found = shape(value)
        if not found.is_empty and found.is_valid:
            return found
    except (shapely.errors.ShapelyError, ValueError, TypeError, LookupError, AttributeError):
        pass
    raise _refuse("intersects", "is not a valid GeoJSON geometry")


def _texts(name: str, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _refuse(name, "is not a list of texts")
    if len(value) > _MAX_VALUES:
        raise _refuse(name, f"has more than {_MAX_VALUES} values")
    return frozenset(value)


def _equal(value: Any) -> dict[str, bytes]:
    if not isinstance(value, dict):
        raise _refuse("query", "is not an object")
    found = {}
    for name, asked in value.items():
        if not name.startswith(PREFIXES):
            raise _refuse("query", f"{name[:80]!r} cannot be asked for", "ask for mlm: or care:")
        if not isinstance(asked, dict) or list(asked) != ["eq"] or not _is_plain(asked["eq"]):
            raise _refuse("query", f"asks {name[:80]!r} for more than one plain `eq`")
        found[name] = canonical_bytes(asked["eq"])
    return found


def _limit(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refuse("limit", "is not a number from 1")
    return min(value, MAX_LIMIT)


def write_token(record: Record) -> str:
    """Return what asks for the items behind one."""
    return f"{record.version}:{record.collection}"


def _after(value: Any) -> tuple[str, int]:
    version, colon, collection = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and version.isascii() and version.isdigit() and len(version) <= 10):  # noqa: PLR2004 - beyond any version
        raise _refuse("token", "is none that was given", "follow the link `next`")
    return (collection, int(version))


def parse_search(asked: Mapping[str, Any]) -> SearchQuery:
    """Read a question, as the body of a POST holds it.

    Args:
        asked: Field -> JSON value.

    Raises:
        InputError: A field is unknown or its value is not what it should be; ``where`` names it.
    """
    foreign = sorted(set(asked) - set(SEARCH_FIELDS))
    if foreign:
        raise _refuse(foreign[0][:80], "is not known here", f"ask for {', '.join(SEARCH_FIELDS)}")
    given = {name: value for name, value in asked.items() if value is not None}
    if "bbox" in given and "intersects" in given:
        raise _refuse("intersects", "cannot be asked for together with bbox")
    return SearchQuery(
        bbox=parse_bbox(given["bbox"]) if "bbox" in given else None,
        interval=parse_interval(given["datetime"]) if "datetime" in given else None,
        shape=_shape(given["intersects"]) if "intersects" in given else None,
        ids=_texts("ids", given["ids"]) if "ids" in given else None,
        collections=_texts("collections", given["collections"]) if "collections" in given else None,
        equal=_equal(given["query"]) if "query" in given else {},
        limit=_limit(given.get("limit", DEFAULT_LIMIT)),
        after=_after(given["token"]) if "token" in given else None,
    )


def read_arguments(arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a GET as a POST would hold them.

    Raises:
        InputError: A value cannot be read.
    """
    found: dict[str, Any] = dict(arguments)
    try:
        for name in ("ids", "collections"):
            if name in found:
                found[name] = found[name].split(",")
        if "bbox" in found:
            found["bbox"] = [float(edge) for edge in found["bbox"].split(",")]
        if "limit" in found:
            found["limit"] = int(found["limit"])
    except ValueError as exc:
        raise _refuse("bbox" if isinstance(found.get("bbox"), str) else "limit", str(exc)) from exc
    for name in ("query", "intersects"):
        if name in found:
            try:
                found[name] = parse_json(found[name].encode(), where=name)
            except EvidenceError as exc:
                raise InputError(str(exc), where="") from exc
    return found


# -- answers ---------------------------------------------------------------------------------------


def _spans(bbox: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    west, east = bbox[0], bbox[2]
    return ((west, east),) if west <= east else ((west, 180.0), (-180.0, east))


def boxes_meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether two boxes have a point in common; their edges belong to them."""
    if one[1] > other[3] or other[1] > one[3]:
        return False
    return any(a[0] <= b[1] and b[0] <= a[1] for a in _spans(one) for b in _spans(other))


def _intervals_meet(one: Interval, other: Interval) -> bool:
    def begins_by(first: datetime | None, last: datetime | None) -> bool:
        return first is None or last is None or first <= last

    return begins_by(one[0], other[1]) and begins_by(other[0], one[1])


def matches(record: Record, query: SearchQuery) -> bool:
    """Return whether an item is what is asked for, wherever the answer goes on from."""
    named = (query.ids is None or record.id in query.ids) and (
        query.collections is None or record.collection in query.collections
    )
    if not named or any(record.properties.get(k) != v for k, v in query.equal.items()):
        return False
    if query.interval is not None and not _intervals_meet(record.interval, query.interval):
        return False
    if query.bbox is not None and not boxes_meet(record.bbox, query.bbox):
        return False
    if query.shape is None:
        return True
    from shapely.geometry import shape

    return bool(query.shape.intersects(shape(dict(record.geometry))))
