"""Which places artifacts may come from: URIs and the allow list, as text only.

Rules kept here:

1. Only ``hf://``, ``gs://``, ``s3://`` and ``file:///`` name an artifact.
2. A URI is plain: no credentials, no ``..``, no query, no pattern, no escape, no chaining of file
   systems. What a client could read in two ways is refused.
3. Nothing is allowed that no store prefix allows; a prefix ends at the end of a path segment.

Fetching, and what only a look at the disk can tell, is in :mod:`kfm_mlflow.fleet.stores_fetch`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES = ("hf", "gs", "s3", "file")
_SEGMENT = re.compile(r"[A-Za-z0-9._=+,@~-]{1,255}")
_MAX_URI_CHARACTERS = 1024
_HF_SEGMENTS = 2
_HF_KINDS = {"datasets", "spaces", "buckets"}


def split_uri(uri: str) -> tuple[str, tuple[str, ...]]:
    """Return scheme and path segments of an artifact's URI.

    Args:
        uri: For example ``s3://bucket/runtime/v3``; one trailing slash is ignored.

    Raises:
        InputError: It is none that may name an artifact; says why.
    """
    scheme, separator, rest = uri.partition("://")
    shown = uri[:80]
    if not separator or scheme not in SCHEMES:
        raise InputError(
            f"{shown!r} is of no known store",
            where="uri",
            remedy=f"use {', '.join(f'{known}://' for known in SCHEMES)}",
        )
    if scheme == "file":
        if not rest.startswith("/"):
            raise InputError(
                f"{shown!r} names another machine", where="uri", remedy="write file:///FOLDER"
            )
        rest = rest[1:]
    segments = tuple(rest.removesuffix("/").split("/"))
    if "@" in segments[0] and scheme != "file":
        # What stands before the @ may be a password: it is not repeated.
        raise InputError(
            "carries credentials", where="uri", remedy="give them to the client's environment"
        )
    if len(uri) > _MAX_URI_CHARACTERS:
        raise InputError(f"is longer than {_MAX_URI_CHARACTERS} characters", where="uri")
    for segment in segments:
        if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
            raise InputError(
                f"{shown!r} is not plain at {segment[:40]!r}",
                where="uri",
                remedy="use letters, digits and . _ = + , @ ~ - between single slashes, and no ..",
            )
    needed = _HF_SEGMENTS + (segments[0] in _HF_KINDS) if scheme == "hf" else 1
    if len(segments) < needed:
        raise InputError(
            f"{shown!r} names no repository", where="uri", remedy="write hf://OWNER/REPOSITORY"
        )
    return scheme, segments


def uri_problem(uri: str) -> str | None:
    """Return why a text may not be an artifact's URI; None when it may."""
    try:
        split_uri(uri)
    except InputError as exc:
        return str(exc)
    return None


def parse_stores(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return an allow list, checked, each prefix without a trailing slash.

    Args:
        prefixes: For example ``s3://bucket/released`` or ``hf://owner`` (every repository of it).

    Raises:
        InputError: A prefix is no plain URI of a store, or there is none.
    """
    if not prefixes:
        raise InputError(
            "no store is allowed", where="--store", remedy="name each, as --store s3://BUCKET/PATH"
        )
    found = []
    for prefix in prefixes:
        plain = prefix.removesuffix("/")
        # An owner alone is a prefix, though it is no artifact.
        split_uri(f"{plain}/any" if plain.startswith("hf://") else plain)
        found.append(plain)
    return tuple(sorted(set(found)))


def find_store(uri: str, stores: Sequence[str]) -> str:
    """Return the longest store prefix that allows a URI.

    Args:
        uri: An artifact's URI.
        stores: From :func:`parse_stores`.

    Raises:
        InputError: The URI is not plain, or lies in no store that is allowed.
    """
    scheme, segments = split_uri(uri)
    plain = f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(segments)}"
    # hf://owner/repository allows its revisions, hf://owner/repository@v2/….
    ends = ("/", "@") if scheme == "hf" else ("/",)
    fitting = [
        store
        for store in stores
        if plain == store or any(plain.startswith(f"{store}{end}") for end in ends)
    ]
    if not fitting:
        raise InputError(
            "lies in no store that is allowed",
            where=plain,
            remedy="allow its store with --store PREFIX, or correct the manifest",
        )
    return max(fitting, key=len)
