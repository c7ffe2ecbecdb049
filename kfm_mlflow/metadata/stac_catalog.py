"""STAC catalogs and collections of model items: items in, documents out.

Rules kept here:

1. The item that was signed is never changed: what is served or exported is a copy that says where
   the signed one lies and what its checksum is.
2. Version links follow Production, not numbers: before is what stood there when a release first
   came, after is what took its place when it last went.
3. Documents follow from their arguments alone, in one order.

It reads no files and signs nothing. Sources: STAC 1.1.0, the version extension 1.2.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.facts import utc_text
from kfm_mlflow.metadata.stac_assets import resolve_href
from kfm_mlflow.release.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kfm_mlflow.metadata.stac_search import Record

STAC_VERSION = "1.1.0"
GEOJSON = "application/geo+json"
JSON = "application/json"
CATALOG_ID = "kfm-models"
CATALOG_TITLE = "Governed model releases"
CATALOG_DESCRIPTION = (
    "Every release that was Production, as it was signed, one collection per registered model."
)
VERSION_RELS = ("predecessor-version", "successor-version", "latest-version")
REVERSION_REL = "kfm:reversion"
"""From a served item to the decision that took it back, or brought it back, in the ledger."""
STRUCTURE_RELS = ("self", "root", "parent", "collection", "item", "child", "items")
_SUMMARIES = ("mlm:architecture", "mlm:framework", "mlm:tasks", "care:masking", "care:scope")


# -- which release came before and after -----------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The releases around one; None where there is none.

    Attributes:
        predecessor: What was Production when it first became so.
        successor: What took its place when it last was.
        latest: What is Production now.
    """

    predecessor: int | None = None
    successor: int | None = None
    latest: int | None = None


def neighbours(reigns: Sequence[int], reigning: int | None) -> dict[int, Neighbours]:
    """Return what came before and after every version that ever was Production.

    Following successors from any version ends at the last of ``reigns``; following predecessors,
    at the first. A roll back makes the version that came back the successor of the one that went.

    Args:
        reigns: Versions in the order in which they became Production; one that came back is in it
            again.
        reigning: What is Production now.
    """
    order = [v for i, v in enumerate(reigns) if i == 0 or reigns[i - 1] != v]
    first = {v: i for i, v in reversed(list(enumerate(order)))}
    last = {v: i for i, v in enumerate(order)}
    return {
        v: Neighbours(
            order[first[v] - 1] if first[v] > 0 else None,
            order[last[v] + 1] if last[v] + 1 < len(order) else None,
            reigning,
        )
        for v in first
    }


# -- whether an item is the one that was signed ----------------------------------------------------


def manifest_from_item(item: Mapping[str, Any], data: bytes, item_path: str) -> Manifest:
    """Return the manifest of a release whose item lists every other file of it.

    Its release id is that of the release exactly if the item is the release's own, so that an item
    is proved by reading it alone.

    Args:
        item: The parsed item.
        data: Its bytes.
        item_path: Where it lies, relative to the release.

    Raises:
        EvidenceError: An asset is no file of the release, or has no size or checksum.
    """
    found = [FileEntry(item_path, len(data), digest_bytes(data))]
    for key, asset in item["assets"].items():
        path = resolve_href(asset.get("href"), item_path)
        checksum, size = asset.get("file:checksum"), asset.get("file:size")
        if path is None or not isinstance(checksum, str) or not isinstance(size, int):
            raise EvidenceError("is no file of the release", where=f"assets.{key}")
        found.append(FileEntry(path, size, f"sha256:{checksum.removeprefix('1220')}"))
    return Manifest(tuple(sorted(found)))


# -- documents -------------------------------------------------------------------------------------


def link(rel: str, href: str, media_type: str = JSON, **more: Any) -> dict[str, Any]:
    """Return a link."""
    return {"rel": rel, "href": href, "type": media_type, **more}


def absolute_href(href: str, base: str) -> str:
    """Resolve an href of an item against the item's own URL, of any scheme (RFC 3986)."""
    try:
        parts = urlsplit(href)
    except ValueError:  # brackets that hold no address
        return href
    if parts.scheme or parts.netloc:
        return href
    own = urlsplit(base)
    return urlunsplit((own.scheme, own.netloc, urljoin(own.path, href), "", ""))


def describe_item(
    item: Mapping[str, Any],
    collection: str,
    *,
    signed_url: str,
    original: Mapping[str, Any],
    links: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return an item as it is served: links added, hrefs absolute, all else as it was signed.

    Args:
        item: The signed item.
        collection: Registered model.
        signed_url: Where the signed item lies in its release; its hrefs are relative to it.
        original: Link to the signed bytes, with their checksum.
        links: To the item itself, its catalog, and the releases before and after.
    """
    kept = [
        {**each, "href": absolute_href(each["href"], signed_url)}
        for each in item.get("links", ())
        if each.get("rel") not in (*VERSION_RELS, *STRUCTURE_RELS)
    ]
    assets = {
        key: {**asset, "href": absolute_href(asset["href"], signed_url)}
        for key, asset in item["assets"].items()
    }
    return {
        **item,
        "collection": collection,
        "assets": assets,
        "links": [*map(dict, links), dict(original), *kept],
    }


def _whole_bbox(records: Sequence[Record]) -> list[float]:
    boxes = [record.bbox for record in records]
    crosses = any(box[0] > box[2] for box in boxes)
    west = -180.0 if crosses else min(box[0] for box in boxes)
    east = 180.0 if crosses else max(box[2] for box in boxes)
    return [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]


def collection_document(
    name: str, records: Sequence[Record], links: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the collection of a registered model.

    Args:
        name: Registered model.
        records: What is known of its items; at least one.
        links: Its links.
    """
    starts = [r.interval[0] for r in records if r.interval[0] is not None]
    ends = [r.interval[1] for r in records if r.interval[1] is not None]
    licenses = {record.license for record in records}
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": name,
        "title": name,
        "description": f"Releases of the registered model {name} that were Production.",
        "license": licenses.pop() if len(licenses) == 1 else "other",
        "extent": {
            "spatial": {"bbox": [_whole_bbox(records)]},
            "temporal": {"interval": [[utc_text(min(starts)), utc_text(max(ends))]]},
        },
        "summaries": _summaries(records),
        "links": [dict(each) for each in links],
    }


def _summaries(records: Sequence[Record]) -> dict[str, list[str]]:
    summaries = {}
    for name in _SUMMARIES:
        written = {r.properties[name] for r in records if name in r.properties}
        values: set[str] = set()
        for value in map(json.loads, written):
            listed = value if isinstance(value, list) else [value]
            values |= {each for each in listed if isinstance(each, str)}
        if values:
            summaries[name] = sorted(values)
    return summaries


def catalog_document(links: Iterable[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the root catalog."""
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": CATALOG_ID,
        "title": CATALOG_TITLE,
        "description": CATALOG_DESCRIPTION,
        "links": [dict(each) for each in links],
        **more,
    }
