"""Assets of a model item: one for every file, with size and multihash, and the check against them.

Keys that the source documents name (weights, xai, telemetry, provenance, model-card) stand for one
file each; every other file is an asset under its own path.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.metadata.facts import FileFact

_KEYS = {
    "model-card.json": "model-card",
    "model_metadata.json": "metadata",
    "model_summary.json": "summary",
    "care.json": "care",
    "sbom.spdx.json": "sbom",
    "fusion_weights.json": "fusion_weights",
    "context_router.pt": "context_router",
    "storynode_v3.pt": "storynode_v3",
    "storynode_lexicon.json": "storynode_lexicon",
}
_FOLDERS = {
    "xai": "xai/summary.json",
    "telemetry": "telemetry/training.json",
    "provenance": "provenance/provenance.json",
    "drift": "drift/baseline.json",
}
"""Folder -> the file that its bare name stands for; the others are assets under their own path."""

_RESERVED = frozenset({"weights", *_KEYS.values(), *_FOLDERS})
_NAMED_FOLDERS = ("provenance", "telemetry", "xai")
"""Folders that an item may not leave out when the release has them."""

_MEDIA_TYPES = {
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".pt": "application/octet-stream; application=pytorch",
    ".onnx": "application/octet-stream; application=onnx",
    ".png": "image/png",
    ".txt": "text/plain",
    ".ttl": "text/turtle",
    ".provn": "text/provenance-notation",
    ".yaml": "application/yaml",
}
_ARTIFACT_TYPES = {".pt": "torch.save", ".onnx": "onnx"}
_WEIGHTS_SUFFIXES = (".pt", ".safetensors", ".npz")


def asset_keys(files: Iterable[FileFact], weights_path: str) -> dict[str, str]:
    """Return asset key -> path for every file.

    Args:
        files: The files to list.
        weights_path: The file that ``weights`` stands for.
    """
    paths = sorted(file.path for file in files)
    keys: dict[str, str] = {}
    for path in paths:
        folder = path.split("/", 1)[0] if "/" in path else ""
        if path == weights_path:
            keys["weights"] = path
        elif path in _KEYS:
            keys[_KEYS[path]] = path
        elif folder in _FOLDERS:
            main = _FOLDERS[folder]
            first = next(p for p in paths if p.startswith(f"{folder}/"))
            keys[folder if path == (main if main in paths else first) else path] = path
        else:
            keys[f"./{path}" if path in _RESERVED else path] = path
    return keys


def relative_href(path: str, item_path: str) -> str:
    """Write a release path as an href relative to the item, percent-encoded."""
    relative = posixpath.relpath(path, posixpath.dirname(item_path) or ".")
    return quote(relative if relative.startswith("..") else f"./{relative}")


def _roles(key: str, path: str, suffix: str) -> list[str]:
    if key == "weights":
        return ["mlm:model", "mlm:weights", "data"]
    if suffix == ".onnx":
        return ["mlm:model", "data"]
    if suffix in _WEIGHTS_SUFFIXES:
        return ["mlm:weights", "data"]
    folder = path.split("/", 1)[0]
    return ["metadata", folder] if folder in _FOLDERS else ["metadata"]


def build_asset(key: str, file: FileFact, item_path: str) -> dict[str, Any]:
    """Build the asset of one file, with file and MLM extension fields."""
    suffix = posixpath.splitext(file.path)[1].lower()
    roles = _roles(key, file.path, suffix)
    asset: dict[str, Any] = {
        "href": relative_href(file.path, item_path),
        "title": file.path,
        "type": _MEDIA_TYPES.get(suffix, "application/octet-stream"),
        "roles": roles,
        "file:size": file.size_bytes,
        "file:checksum": file.multihash,
    }
    if "mlm:model" in roles:
        asset["mlm:artifact_type"] = _ARTIFACT_TYPES.get(suffix, "binary")
    return asset


def resolve_href(href: Any, item_path: str) -> str | None:
    """Return the release path that an href means; None when it leaves the release."""
    if not isinstance(href, str):
        return None
    try:
        parts = urlsplit(href)
    except ValueError:  # brackets that hold no address
        return None
    if parts.scheme or parts.netloc or parts.query or parts.fragment or href.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(item_path), unquote(parts.path)))
    return None if path == ".." or path.startswith(("../", "/")) else path


def asset_sentences(
    item: Mapping[str, Any], by_path: Mapping[str, FileFact], item_path: str
) -> list[str]:
    """Return where the assets of an item and the files of a release disagree.

    Args:
        item: Parsed JSON.
        by_path: Path -> fact, of every file of the release.
        item_path: Where the item lies, relative to the release.
    """
    assets = item.get("assets")
    found: list[str] = []
    meant: dict[str, str] = {}
    for key, asset in assets.items() if isinstance(assets, dict) else ():
        where = f"assets.{key}"
        if not isinstance(asset, dict):
            continue  # the core schema says so
        path = resolve_href(asset.get("href"), item_path)
        if path is None:
            found.append(f"{where}.href: points outside the release")
            continue
        if path in meant:
            found.append(f"{where}.href: is the same file as assets.{meant[path]}")
        meant.setdefault(path, key)
        file = by_path.get(path)
        if file is None:
            found.append(f"{where}.href: {path} is not in the release")
            continue
        if asset.get("file:checksum") != file.multihash:
            found.append(f"{where}.file:checksum: is not that of {path}")
        if asset.get("file:size") != file.size_bytes:
            found.append(f"{where}.file:size: is not that of {path}")
    folders = {path.split("/", 1)[0] for path in by_path if "/" in path}
    wanted = [folder for folder in _NAMED_FOLDERS if folder in folders]
    wanted += ["model-card"] if "model-card.json" in by_path else []
    listed = assets if isinstance(assets, dict) else {}
    found += [f"assets.{key}: is missing" for key in wanted if key not in listed]
    return found
