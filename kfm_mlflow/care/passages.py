"""Finding restricted names and exact places in prose and JSON.

Names are compared folded and misspelt (:mod:`~kfm_mlflow.care.passages_names`), places as numbers
and codes (:mod:`~kfm_mlflow.care.passages_places`), each in every reading of the text. Nothing
found here may be quoted: callers say the file, and what for a place its precision is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.care.passages_fold import fold, plain, readings
from kfm_mlflow.care.passages_grids import KM_PER_DEGREE, find_codes
from kfm_mlflow.care.passages_names import NameIndex
from kfm_mlflow.care.passages_places import Place, find_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["KM_PER_DEGREE", "Fixes", "Place", "find_fixes", "find_names", "find_places", "fold"]

_REMEMBERED_COUNT, _REMEMBERED_LENGTH, _LONG_LENGTH = 512, 2**12, 2**18


def find_names(text: str, names: Iterable[str], public_terms: Iterable[str] = ()) -> list[str]:
    """Return the names that occur in a text, exactly or misspelt, in the order given.

    Args:
        text: Prose or JSON.
        names: Folded or not.
        public_terms: Terms that are no misspelling of any of them.
    """
    if len(text) <= _REMEMBERED_LENGTH:
        return list(_remembered(text, tuple(names), tuple(public_terms)))
    index = NameIndex([readings(text)], public_terms)
    return [name for name in names if index.find(name)]


@lru_cache(maxsize=_REMEMBERED_COUNT)
def _remembered(text: str, names: tuple[str, ...], public: tuple[str, ...]) -> tuple[str, ...]:
    # Ids and paths of a regions file are asked about again and again.
    index = NameIndex([readings(text)], public)
    return tuple(name for name in names if index.find(name))


@dataclass(frozen=True)
class Fixes:
    """Everything in a text that may fix a place.

    Attributes:
        places: float64 [n, 3]: latitude, longitude in degrees, precision in km.
        cells: H3 cells.
        short_plus: Plus codes that need a place name beside them.
    """

    places: NDArray[np.float64]
    cells: frozenset[str]
    short_plus: frozenset[str]


def find_fixes(text: str) -> Fixes:
    """Return everything in any reading of a text that may fix a place.

    Texts that are not huge are remembered: releases share many.
    """
    return _fixes(text) if len(text) <= _LONG_LENGTH else _fixes.__wrapped__(text)


@lru_cache(maxsize=_REMEMBERED_COUNT)
def _fixes(text: str) -> Fixes:
    clean = dict.fromkeys(plain(reading) for reading in readings(text))
    codes = [find_codes(reading) for reading in clean]
    spots = [spot for code in codes for spot in code.spots]
    arrays = [find_pairs(reading) for reading in clean]
    return Fixes(
        np.concatenate([*arrays, np.array(spots, dtype=np.float64).reshape(-1, 3)]),
        frozenset(cell for code in codes for cell in code.cells),
        frozenset(short for code in codes for short in code.short_plus),
    )


def find_places(text: str) -> tuple[Place, ...]:
    """Return every place that some reading of a text may fix, each once.

    A pair without hemisphere letters is tried both ways; which of them is a place somebody cares
    about is for the caller to decide.
    """
    return tuple(dict.fromkeys(Place(*row) for row in find_fixes(text).places.tolist()))
