"""Finding restricted names and exact places in prose and JSON.

Names are compared folded (case, accents, punctuation and spacing away) and fuzzily, so that a
misspelling does not slip through. Places are found as pairs of numbers near each other, in either
order, with signs or hemisphere letters, and as degrees, minutes and seconds. Nothing found here
may be quoted: callers say the file, and what for a place its precision is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KM_PER_DEGREE = 111.32
_MIN_SIMILARITY_PCT = 90.0
_MIN_FUZZY_LENGTH = 6
_REMEMBERED_COUNT, _REMEMBERED_LENGTH = 512, 2**18
_MAX_GAP = 40
_MINUS = "\u2212\u2013"  # typographic minus and en dash stand for a sign in prose
_TO_ASCII_MINUS = str.maketrans(dict.fromkeys(_MINUS, "-"))
_NUMBER = re.compile(
    rf"(?<![^\W_])(?<!\.)([+\-{_MINUS}]?\d{{1,3}})(?:\.(\d{{1,20}}))?(?!\d)(?!\.\d)"
    r"(?:\s*°)?(?:\s*([NSEWnsew])\b)?(?!\w)"
)
_DMS = re.compile(
    r"(\d{1,3})\s*°\s*(\d{1,2})\s*['\u2019\u2032]\s*"
    r"(?:(\d{1,2})(?:\.(\d{1,6}))?\s*(?:[\"\u201d\u2033]|''))?\s*([NSEWnsew])\b"
)


@dataclass(frozen=True)
class Place:
    """A pair of coordinates in a text.

    Attributes:
        lat_deg: Latitude.
        lon_deg: Longitude.
        precision_km: How closely the digits fix the place (geometric mean of both directions).
    """

    lat_deg: float
    lon_deg: float
    precision_km: float


@dataclass(frozen=True)
class _Angle:
    value: float
    precision_deg: float
    hemisphere: str
    start: int
    end: int


def fold(text: str) -> str:
    """Return a text in lower case without accents and punctuation, words parted by one space."""
    # Twice, because each can bring out what the other folds (styled letters, ligatures).
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", letters))


def find_names(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that occur in a text, exactly or misspelt, in the order given.

    Args:
        text: Prose or JSON.
        names: Folded or not.
    """
    words = fold(text).split()
    lexical = [word for word in words if not word.isdigit()]
    windows: dict[int, dict[str, None]] = {}
    return [name for name in names if _occurs(fold(name).split(), words, lexical, windows)]


def _occurs(
    name: list[str], words: list[str], lexical: list[str], windows: dict[int, dict[str, None]]
) -> bool:
    joined = "".join(name)
    if not joined:
        return False
    with_digits = any(word.isdigit() for word in name)
    if with_digits or len(joined) < _MIN_FUZZY_LENGTH:
        return _has_run(words, name)
    from rapidfuzz import fuzz, process

    for size in range(1, len(name) + 2):
        if size not in windows:
            runs = zip(*(lexical[i:] for i in range(size)), strict=False)
            windows[size] = dict.fromkeys("".join(run) for run in runs)
        near = [run for run in windows[size] if abs(len(run) - len(joined)) <= len(joined) // 5]
        if process.extractOne(joined, near, scorer=fuzz.ratio, score_cutoff=_MIN_SIMILARITY_PCT):
            return True
    return False


def _has_run(words: list[str], run: list[str]) -> bool:
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


def find_places(text: str) -> tuple[Place, ...]:
    """Return every pair of numbers that may be a latitude and a longitude.

    A pair without hemisphere letters is tried both ways; which of them is a place somebody cares
    about is for the caller to decide. Texts that are not huge are remembered: a release is
    screened at every move.
    """
    return _remembered(text) if len(text) <= _REMEMBERED_LENGTH else tuple(_pairs(text))


@lru_cache(maxsize=_REMEMBERED_COUNT)
def _remembered(text: str) -> tuple[Place, ...]:
    return tuple(_pairs(text))


def _pairs(text: str) -> Iterator[Place]:
    sexagesimal = list(_dms_angles(text))
    covered = {at for angle in sexagesimal for at in range(angle.start, angle.end)}
    decimal = [angle for angle in _decimal_angles(text) if angle.start not in covered]
    angles = sorted([*sexagesimal, *decimal], key=lambda angle: angle.start)
    for first, second in pairwise(angles):
        if second.start - first.end > _MAX_GAP or second.start < first.end:
            continue
        for lat, lon in ((first, second), (second, first)):
            if lat.hemisphere in "NS" and lon.hemisphere in "EW" and _on_earth(lat, lon):
                precision_deg = math.sqrt(lat.precision_deg * lon.precision_deg)
                # Some grids count longitude from 0 to 360.
                lon_deg = lon.value - 360 if lon.value > 180 else lon.value  # noqa: PLR2004
                yield Place(lat.value, lon_deg, precision_deg * KM_PER_DEGREE)


def _on_earth(lat: _Angle, lon: _Angle) -> bool:
    return abs(lat.value) <= 90.0 and -180.0 <= lon.value <= 360.0  # noqa: PLR2004 - the Earth


def _signed(value: float, hemisphere: str) -> float:
    return -abs(value) if hemisphere in {"S", "W"} else value


def _decimal_angles(text: str) -> Iterator[_Angle]:
    for match in _NUMBER.finditer(text):
        whole, decimals, letter = match.groups()
        hemisphere = (letter or "").upper()
        value = float(f"{whole}.{decimals or 0}".translate(_TO_ASCII_MINUS))
        yield _Angle(
            _signed(value, hemisphere),
            10.0 ** -len(decimals or ""),
            hemisphere,
            match.start(),
            match.end(),
        )


def _dms_angles(text: str) -> Iterator[_Angle]:
    for match in _DMS.finditer(text):
        degrees, minutes, seconds, fraction, letter = match.groups()
        value = int(degrees) + int(minutes) / 60 + float(f"{seconds or 0}.{fraction or 0}") / 3600
        step = 1 / 60 if seconds is None else 10.0 ** -len(fraction or "") / 3600
        hemisphere = letter.upper()
        yield _Angle(_signed(value, hemisphere), step, hemisphere, match.start(), match.end())
