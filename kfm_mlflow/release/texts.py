"""Which files of a release are text, and therefore screened for names and places."""

from __future__ import annotations

TEXT_SUFFIXES = (
    ".json", ".geojson", ".md", ".txt", ".yaml", ".yml", ".provn", ".ttl", ".html", ".csv",
)  # fmt: skip
_TEXT_NAMES = frozenset({"MLmodel"})


def is_text(path: str) -> bool:
    """Return whether a file of a release is text, by its name."""
    return path.endswith(TEXT_SUFFIXES) or path.rsplit("/", 1)[-1] in _TEXT_NAMES
