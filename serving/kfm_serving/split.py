"""The deterministic split: which arm a request goes to, from its key alone.

Laws: the same key and share give the same arm on every router and after every restart; a key
that is in the canary stays in it when the share grows; every key has exactly one arm. The keys
whose requests are copied at a share are those that the canary would get at that share.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.rollout.plane import Split

BUCKET_COUNT = 10_000
KEY_HEADER = "x-kfm-key"
"""``X-Request-Id`` cannot serve as a key: Serve's proxy writes a random one into every request that
has none, so the router cannot tell the client's own from it."""


def request_key(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return what a request is split by.

    Args:
        headers: Request headers, names in lower case.
        body: Request body.

    Returns:
        The value of ``X-KFM-Key``, else the SHA-256 of the body.
    """
    value = headers.get(KEY_HEADER)
    return value.encode() if value else hashlib.sha256(body).digest()


def bucket(key: bytes) -> int:
    """Return the bucket 0..9999 of a key: the first 8 bytes of its SHA-256, modulo 10000."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % BUCKET_COUNT


def canary_bucket_count(ratio: float) -> int:
    """Return how many buckets a share is; the buckets below this number are the canary's."""
    return round(ratio * BUCKET_COUNT)


def choose_version(split: Split, key: bytes) -> int | None:
    """Return the version that answers a request.

    Args:
        split: The split in force.
        key: The request's key.

    Returns:
        The canary for its share, else the stable version; None when there is no stable version
        and the key is outside the canary's share.
    """
    if split.canary is not None and bucket(key) < canary_bucket_count(split.canary_ratio):
        return split.canary
    return split.stable


def wants_copy(split: Split, key: bytes) -> bool:
    """Tell whether a request is also sent to the canary, its answer thrown away.

    Args:
        split: The split in force.
        key: The request's key.
    """
    # The ratio first: where nothing is copied, nothing is hashed.
    return split.mirror_ratio > 0 and bucket(key) < canary_bucket_count(split.mirror_ratio)
