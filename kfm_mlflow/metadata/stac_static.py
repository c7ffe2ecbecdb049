"""A static STAC catalog: what a STAC API serves, as files that lead to each other.

Rules kept here:

1. Links between the catalog's own documents are relative, so that it may lie anywhere; no document
   says where.
2. The same documents give the same paths and the same files.

It reads no files and writes none. Source: STAC 1.1.0, best practices for self-contained catalogs.
"""

from __future__ import annotations

import posixpath
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kfm_mlflow.metadata.stac_catalog import (
    GEOJSON,
    JSON,
    REVERSION_REL,
    STRUCTURE_RELS,
    VERSION_RELS,
    catalog_document,
    link,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LONGEST_NAME = 120
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-~ ")

CATALOG_FILE, COLLECTION_FILE, ORIGINAL_FILE = "catalog.json", "collection.json", "signed-item.json"
REVERSION_FILE = "reversion.json"
_REVERSION_FIELDS = ("row", "at", "rollback_of", "restored", "restored_hash", "cause")


def file_name(text: str) -> str:
    """Return a name for a file or folder that stands for a text, on any file system.

    Different texts have different names, also where case is not told apart.
    """
    plain = "".join(c if c in _SAFE else "-" for c in text).strip(". ")
    if text and plain == text and len(text) <= _LONGEST_NAME:
        return text
    return f"{plain[:_LONGEST_NAME]}-{sha256(text.encode()).hexdigest()[:12]}"


def item_folder(collection: str, item_id: str) -> str:
    """Return where an item lies, relative to the root of a static catalog."""
    return f"{file_name(collection)}/{file_name(item_id)}"


def item_path(collection: str, item_id: str) -> str:
    """Return the path of an item, relative to the root of a static catalog."""
    return f"{item_folder(collection, item_id)}/{file_name(item_id)}.json"


def _relative(path: str, start: str) -> str:
    found = posixpath.relpath(path, posixpath.dirname(start) or ".")
    return quote(found if found.startswith("..") else f"./{found}")


def _own_links(
    document: Mapping[str, Any], path: str, paths: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the links of a served item that a static one keeps, relative where they can be."""
    kept = []
    for each in document["links"]:
        if each["rel"] in STRUCTURE_RELS:
            continue
        if each["rel"] == REVERSION_REL:
            # The ledger is on the server, and a static catalog does not say where that is.
            told = _relative(f"{posixpath.dirname(posixpath.dirname(path))}/{REVERSION_FILE}", path)
            kept.append({**each, "href": told, "type": JSON})
        elif each["rel"] == "via":
            target = f"{posixpath.dirname(path)}/{ORIGINAL_FILE}"
            kept.append({**each, "href": _relative(target, path)})
        elif each["rel"] in VERSION_RELS:
            if each["href"] in paths:
                kept.append({**each, "href": _relative(paths[each["href"]], path)})
        else:
            kept.append(dict(each))
    return kept


def _reversion_document(collection: str, reversion: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a link of a served item says of a reversion, as a document of its own."""
    return {
        "schema_version": "1",
        "model_name": collection,
        **{name: reversion[f"kfm:{name}"] for name in _REVERSION_FIELDS},
    }


def static_documents(
    collections: Iterable[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return path -> document of a static catalog, from the documents of a STAC API.

    Args:
        collections: As served.
        items: As served, of all of them; their links ``self`` are what others point to.
    """
    paths = {self_href(item): item_path(item["collection"], item["id"]) for item in items}
    documents: dict[str, dict[str, Any]] = {}
    folders = []
    for collection in sorted(collections, key=lambda each: str(each["id"])):
        name = collection["id"]
        own = f"{file_name(name)}/{COLLECTION_FILE}"
        folders.append(link("child", _relative(own, CATALOG_FILE), title=name))
        listed = sorted(path for path in paths.values() if path.startswith(f"{file_name(name)}/"))
        up = _relative(CATALOG_FILE, own)
        links = [link("root", up), link("parent", up)]
        links += [link("item", _relative(path, own), GEOJSON) for path in listed]
        documents[own] = {**collection, "links": links}
    for item in items:
        path = paths[self_href(item)]
        own = _relative(f"{file_name(item['collection'])}/{COLLECTION_FILE}", path)
        for each in item["links"]:
            if each["rel"] == REVERSION_REL:
                told = f"{file_name(item['collection'])}/{REVERSION_FILE}"
                documents[told] = _reversion_document(item["collection"], each)
        links = [link("root", _relative(CATALOG_FILE, path)), link("parent", own)]
        links += [link("collection", own), *_own_links(item, path, paths)]
        documents[path] = {**item, "links": links}
    documents[CATALOG_FILE] = catalog_document([link("root", f"./{CATALOG_FILE}"), *folders])
    return documents


def self_href(document: Mapping[str, Any]) -> str:
    """Return where a served document says that it lies."""
    return next(str(each["href"]) for each in document["links"] if each["rel"] == "self")
