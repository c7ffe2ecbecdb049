"""Format ``hashed-embedder``: a text becomes a vector by signed feature hashing of its tokens.

Rules kept here:

1. A token is a run of letters and digits of the text in NFKC, case folded.
2. A token's bucket and sign come from its 8-byte BLAKE2b digest: the first four bytes, little
   endian, modulo the dimension; the sign is minus where the fifth byte is odd.
3. A masked term is folded to one token before anything else sees it, so two texts that differ only
   in which masked term they name have one vector.
4. The sum of signs, times the bucket's weight, is scaled to length 1; no tokens give zeros.

Terms are kept as digests, so a unit's files do not name what they mask.
Source of the method: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning",
ICML 2009.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from kfm_mlflow.canonical import digest_bytes, parse_digest
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.unit_files import (
    UNIT_FILE,
    read_count,
    read_object,
    read_safetensors,
    read_texts,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

DIMENSION = 320
MASK = "masked"
"""What a masked term is folded to."""
MAX_TERM_TOKENS = 4
_MAX_DIMENSION = 2**16
_TOKEN = re.compile(r"[^\W_]+")


def text_tokens(text: str) -> list[str]:
    """Return the tokens of a text, in order."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def term_digest(term: str) -> str:
    """Return how a unit or probe file names a term without showing it.

    It keeps a term from being read, not from being guessed.

    Args:
        term: One to four words.

    Raises:
        InputError: It has no words, or more.
    """
    tokens = text_tokens(term)
    if not 1 <= len(tokens) <= MAX_TERM_TOKENS:
        raise InputError(f"a term has 1 to {MAX_TERM_TOKENS} words", where="masked_terms")
    return digest_bytes(" ".join(tokens).encode())


def parse_terms(digests: Sequence[str], *, where: str) -> frozenset[str]:
    """Return digests of terms as :func:`mask_terms` takes them.

    Raises:
        InputError: One is no digest.
    """
    return frozenset(parse_digest(text, where=where) for text in digests)


def mask_terms(tokens: Sequence[str], terms: frozenset[str]) -> list[str]:
    """Return tokens with every masked term, the longest first, folded to :data:`MASK`.

    Args:
        tokens: Of a text.
        terms: Digests from :func:`parse_terms`.
    """
    if not terms:
        return list(tokens)
    kept: list[str] = []
    at = 0
    while at < len(tokens):
        for length in range(min(MAX_TERM_TOKENS, len(tokens) - at), 0, -1):
            if _digest_of(" ".join(tokens[at : at + length])) in terms:
                kept.append(MASK)
                at += length
                break
        else:
            kept.append(tokens[at])
            at += 1
    return kept


@lru_cache(maxsize=2**16)
def _digest_of(words: str) -> str:
    return digest_bytes(words.encode())


@lru_cache(maxsize=2**16)
def token_bucket(token: str, dimension: int) -> tuple[int, float]:
    """Return the bucket of a token, 0 to ``dimension`` - 1, and its sign, 1.0 or -1.0."""
    found = hashlib.blake2b(token.encode(), digest_size=8).digest()
    return int.from_bytes(found[:4], "little") % dimension, -1.0 if found[4] & 1 else 1.0


@dataclass(frozen=True)
class HashedEmbedder:
    """Turns a text into a vector.

    Attributes:
        dimension: Buckets.
        weights: One per bucket; None for 1 everywhere.
        terms: Digests of the terms that it masks.
    """

    role: ClassVar[str] = "embed"
    dimension: int = DIMENSION
    weights: np.ndarray | None = None
    terms: frozenset[str] = frozenset()

    def embed(self, text: str) -> np.ndarray:
        """Return the vector of a text: float64, ``dimension`` long, of length 1 or 0."""
        import numpy as np

        vector = np.zeros(self.dimension)
        for token in mask_terms(text_tokens(text), self.terms):
            bucket, sign = token_bucket(token, self.dimension)
            vector[bucket] += sign
        if self.weights is not None:
            vector *= self.weights
        length = float(np.sqrt(vector @ vector))
        return vector / length if length > 0 else vector


def load_embedder(directory: Path) -> HashedEmbedder:
    """Load ``unit.json`` and, where there is one, ``weights.safetensors`` (array ``weights``).

    Raises:
        InputError: A field is wrong.
        DataError: A file is.
    """
    path = directory / UNIT_FILE
    unit: dict[str, Any] = read_object(path)
    dimension = read_count(unit, "dimension", path, most=_MAX_DIMENSION)
    terms = parse_terms(
        read_texts(unit, "masked_terms", path), where=f"{shown(path)}: masked_terms"
    )
    weights = None
    if (directory / "weights.safetensors").exists():
        arrays = read_safetensors(directory / "weights.safetensors", {"weights": (dimension,)})
        weights = arrays["weights"].astype("float64")
    return HashedEmbedder(dimension, weights, terms)
